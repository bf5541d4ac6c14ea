"""Augmentation: annotations match the pixels, independent of workers, caches and resuming."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.ops import masks_to_boxes

from libradet.data.cache import ImageCache, cache_bytes
from libradet.data.loader import make_loader
from libradet.data.read import read
from libradet.data.transforms.augmentation import Augmentation
from libradet.data.transforms.copy_paste import count_pixels, mask_boxes
from libradet.data.transforms.crop import MIN_VISIBLE_SHARE
from libradet.errors import UserError
from libradet.geometry.masks import unpack_masks
from libradet.training.datamodule import DetectorData

COLORS = np.array([c for c in product((60, 150, 240), repeat=3) if len(set(c)) > 1])
"""One color per object, whose number is its class. The background is black, that of mosaics gray."""

EVERYTHING = Augmentation(scale_jitter=(0.4, 1.8), mosaic_prob=0.5, copy_paste_prob=0.5, color_jitter=0.4)
SIZES = [(120, 90), (90, 120), (120, 90), (100, 100), (120, 90), (120, 90), (90, 120)]
SIZE = (108, 144)


def build(root, round_=False, sizes=SIZES, last_empty=True):
    """Write images with up to four separate objects: rectangles, or ellipses with segmentations."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, (width, height) in enumerate(sizes):
        image = np.zeros((height, width, 3), np.uint8)
        for cell in range(0 if last_empty and number == len(sizes) - 1 else 1 + number % 4):
            if len(annotations) == len(COLORS):
                break
            w, h = rng.integers(14, width // 2 - 4), rng.integers(14, height // 2 - 4)
            x = cell % 2 * (width // 2) + rng.integers(1, width // 2 - w)
            y = cell // 2 * (height // 2) + rng.integers(1, height // 2 - h)
            annotation = {"id": len(annotations), "image_id": number, "category_id": len(annotations)}
            annotation |= {"bbox": [int(v) for v in (x, y, w, h)], "iscrowd": 0, "area": int(w * h)}
            ys, xs = np.mgrid[:height, :width] + 0.5
            inside = (xs > x) & (xs < x + w) & (ys > y) & (ys < y + h)
            if round_:
                turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
                points = np.stack([x + w / 2 + w / 2 * np.cos(turn), y + h / 2 + h / 2 * np.sin(turn)], 1)
                annotation["segmentation"] = [points.ravel().tolist()]
                inside = ((xs - x - w / 2) / (w / 2)) ** 2 + ((ys - y - h / 2) / (h / 2)) ** 2 < 1
            image[inside] = COLORS[len(annotations)]
            annotations.append(annotation)
        Image.fromarray(image).save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
    categories = [{"id": i, "name": f"c{i}"} for i in range(len(annotations))]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory):
    return made(tmp_path_factory.mktemp("rectangles"))


@pytest.fixture(scope="module")
def ellipses(tmp_path_factory):
    return made(tmp_path_factory.mktemp("ellipses"), round_=True)


def made(root, **options):
    write(root, build(root, **options))
    return read(root)[0]


def write(root, content):
    (root / "annotations.json").write_text(json.dumps(content))


def loader(dataset, augmentation, **changes):
    options = {"size": SIZE, "batch_size": 2, "training": True, "size_divisible": 16, "seed": 5}
    return make_loader(dataset, augmentation=augmentation, **(options | changes))


def images(dataset, augmentation, epochs=(0,), **changes):
    """Yield each image of some epochs: pixels [H, W, 3], boxes, labels, masks, scale in x and y."""
    each = loader(dataset, augmentation, **changes)
    for epoch in epochs:
        each.batch_sampler.set_epoch(epoch)
        for batch in each:
            assert not any(batch.images[row, :, int(h) :].any() for row, (h, _) in enumerate(batch.sizes))
            for row, (height, width) in enumerate(batch.sizes.tolist()):
                held = batch.labels[row] >= 0
                masks = None
                if batch.masks is not None:
                    masks = unpack_masks(batch.masks[row, held], batch.images.shape[3])[:, :height, :width].numpy()
                pixels = batch.images[row, :, :height, :width].permute(1, 2, 0).numpy().astype(int)
                yield pixels, batch.boxes[row, held].numpy(), batch.labels[row, held].numpy(), masks, batch.scales[row]


def where(pixels, label):
    """Return the pixels with the color of an object, without those of its edge."""
    return np.abs(pixels - COLORS[label]).max(2) < 12


def extent(found):
    ys, xs = np.nonzero(found)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


def assert_true(pixels, boxes, labels, scale):
    """Check that every box is inside the image and tight around the pixels of its object, blurred by ``scale``."""
    height, width = pixels.shape[:2]
    slack = max(1.75, 1 + scale / 2)
    for box, label in zip(boxes, labels, strict=True):
        assert (box >= 0).all()
        assert (box <= [width, height, width, height]).all()
        if (box[2:] - box[:2]).min() < 2 * slack + 2 or (labels == label).sum() > 1:
            continue
        # Another part of the object may be elsewhere: too small to be named, or in another quarter of a mosaic.
        left, top, right, bottom = np.rint(box + np.array([-1, -1, 1, 1]) * (slack + 2)).astype(int).clip(0)
        near = np.array([left, top] * 2) + extent(where(pixels, label)[top:bottom, left:right])
        assert np.abs(near - box).max() <= slack


def assert_complete(pixels, labels, areas):
    """Check that less than MIN_VISIBLE_SHARE of each missing object is visible, up to a row of pixels."""
    for label in set(range(len(areas))) - set(labels.tolist()):
        assert where(pixels, label).sum() <= MIN_VISIBLE_SHARE * areas[label] + 2 * areas[label] ** 0.5


def areas_of(dataset, scale):
    each = [(p.boxes[:, 2:] - p.boxes[:, :2]).prod(1) for p in dataset.images]
    return np.concatenate(each) * scale


factors = st.tuples(st.floats(0.2, 2.5), st.floats(0.2, 2.5)).map(sorted).map(tuple)


@settings(max_examples=8)
@given(factors, st.integers(0, 9))
def test_boxes_match_pixels_at_any_scale(rectangles, jitter, epoch):
    for pixels, boxes, labels, _, scale in images(rectangles, Augmentation(scale_jitter=jitter), [epoch]):
        assert_true(pixels, boxes, labels, float(scale.max()))
        assert_complete(pixels, labels, areas_of(rectangles, float(scale.prod())))
        assert 1.08 * jitter[0] - 0.02 < float(scale.mean()) < 1.2 * jitter[1] + 0.02, "relative to the training size"


@pytest.mark.parametrize("jitter", [None, (0.5, 2.0)])
def test_mosaic_annotations_match_pixels(rectangles, jitter):
    augmentation, crowded = Augmentation(mosaic_prob=1.0, scale_jitter=jitter), 0
    for pixels, boxes, labels, _, _ in images(rectangles, augmentation, range(4)):
        assert_true(pixels, boxes, labels, 1.2)
        assert_complete(pixels, labels, areas_of(rectangles, 1.2**2))
        crowded += len(labels) > 4
    assert crowded > 5, "more objects than in any single image"


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
@pytest.mark.parametrize("jitter", [None, (0.5, 1.5)])
def test_copy_paste_annotations_match_pixels(rectangles, mosaic, jitter):
    augmentation, most = Augmentation(copy_paste_prob=1.0, mosaic_prob=mosaic, scale_jitter=jitter), 0
    largest = 1.2 * (1.5 if jitter else 1)
    for pixels, boxes, labels, _, _ in images(rectangles, augmentation, range(3)):
        assert_true(pixels, boxes, labels, largest)
        assert_complete(pixels, labels, areas_of(rectangles, largest**2))
        most = max(most, len(labels))
    assert most > 4


def test_copy_paste_uses_segmentations_without_masks(ellipses):
    """Corners of the box of an ellipse are not pasted."""
    sizes, seen = np.concatenate([p.boxes[:, 2:] - p.boxes[:, :2] for p in ellipses.images]), 0
    for pixels, boxes, labels, masks, _ in images(ellipses, Augmentation(copy_paste_prob=1.0), range(3)):
        assert masks is None
        assert_complete(pixels, labels, areas_of(ellipses, 1.2**2))
        for box, label in zip(boxes, labels, strict=True):
            # Images are enlarged by 1.08 or by 1.2.
            if any(np.abs(box[2:] - box[:2] - sizes[label] * scale).max() < 1 for scale in (1.08, 1.2)):
                left, top, right, bottom = np.rint(box).astype(int)
                found = where(pixels[top:bottom, left:right], label)
                assert not np.array([found[0, 0], found[0, -1], found[-1, 0], found[-1, -1]]).any()
                seen += 1
    assert seen > 20


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(scale_jitter=(0.3, 2.0)),
        Augmentation(mosaic_prob=1.0),
        Augmentation(copy_paste_prob=1.0),
        EVERYTHING,
    ],
    ids=["jitter", "mosaic", "paste", "everything"],
)
def test_masks_match_objects_and_boxes(ellipses, augmentation):
    seen = 0
    plain = replace(augmentation, color_jitter=0.0)
    for pixels, boxes, labels, masks, _ in images(ellipses, plain, range(3), masks=True):
        assert masks.any((1, 2)).all()
        for box, label, mask in zip(boxes, labels, masks, strict=True):
            assert ((extent(mask) - box) * [1, 1, -1, -1]).min() > -1
            once = (labels == label).sum() == 1
            if mask.sum() > 150 and once:
                found = where(pixels, label)
                assert (found & (mask > 0)).sum() > 0.97 * found.sum(), "the mask covers the object"
                assert (found & (mask > 0)).sum() > 0.75 * mask.sum(), "and little else, apart from edges"
                seen += 1
    assert seen > 20


def same(a, b):
    return all((x is None and y is None) or x.equal(y) for x, y in zip(a, b, strict=True))


def batches(dataset, epochs=(0, 1), start=0, **changes):
    each = loader(dataset, EVERYTHING, **changes)
    for epoch in epochs:
        each.batch_sampler.set_epoch(epoch)
        each.batch_sampler.set_start(start)
        yield from each


def test_batches_are_independent_of_workers_and_resuming(ellipses):
    whole = list(batches(ellipses, [0, 3], masks=True))
    for a, b in zip(whole, batches(ellipses, [0, 3], masks=True, num_workers=2), strict=True):
        assert same(a, b)
    for a, b in zip(whole[len(whole) // 2 + 1 :], batches(ellipses, [3], start=1, masks=True), strict=True):
        assert same(a, b)


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_cached_images_give_the_same_batches(rectangles, tmp_path, kind):
    for size in (SIZE, "original") if kind == "ram" else ((40, 60),):
        file = tmp_path / "x.cache" if kind == "disk" else None
        kept = ImageCache(rectangles, size, file, EVERYTHING.max_scale)
        assert kept.starts[-1] == cache_bytes([rectangles], size, EVERYTHING.max_scale)
        options = {"size": size}
        for a, b in zip(batches(rectangles, **options), batches(rectangles, cache=kept, **options), strict=True):
            assert same(a, b)


def test_image_depends_on_seed_and_epoch_only(rectangles):
    def by_index(**changes):
        return {
            int(i): image
            for b in batches(rectangles, [2], **changes)
            for i, image in zip(b.index, b.images, strict=True)
        }

    first, others = by_index(), by_index(batch_size=3)
    assert all(image.equal(others[i]) for i, image in first.items())
    assert any(not image.equal(first[i]) for i, image in by_index(seed=6).items())


def test_padded_sizes_are_those_without_augmentation(rectangles):
    plain = {b.images.shape[2:] for b in loader(rectangles, Augmentation())}
    assert {b.images.shape[2:] for b in batches(rectangles, range(3))} == plain


def test_augmentations_draw_independently(rectangles):
    """Color jitter moves no box, and an augmentation with probability 0 does not change the draws of others."""
    for a, b in zip(batches(rectangles), _with(rectangles, color_jitter=0.0), strict=True):
        assert a.boxes.equal(b.boxes)
        assert not a.images.equal(b.images)
    jitter = Augmentation(scale_jitter=EVERYTHING.scale_jitter, color_jitter=EVERYTHING.color_jitter)
    untouched = [
        same(a, b)
        for a, b in zip(_with(rectangles, mosaic_prob=0.0, copy_paste_prob=0.0), _with(rectangles, jitter), strict=True)
    ]
    assert all(untouched)


def _with(dataset, augmentation=EVERYTHING, **changes):
    each = loader(dataset, replace(augmentation, **changes))
    for epoch in range(2):
        each.batch_sampler.set_epoch(epoch)
        yield from each


def test_mixing_stops_after_mixing_epochs(rectangles):
    closing = replace(EVERYTHING, mixing_epochs=1)
    plain = replace(EVERYTHING, mosaic_prob=0.0, copy_paste_prob=0.0)

    def epoch(augmentation, number):
        each = loader(rectangles, augmentation)
        each.batch_sampler.set_epoch(number)
        return [b._replace(labels=b.labels[:, :8], boxes=b.boxes[:, :8], crowd=b.crowd[:, :8]) for b in each]

    assert all(same(a, b) for a, b in zip(epoch(closing, 0), epoch(EVERYTHING, 0), strict=True))
    assert all(same(a, b) for a, b in zip(epoch(closing, 1), epoch(plain, 1), strict=True))
    assert not all(same(a, b) for a, b in zip(epoch(closing, 0), epoch(plain, 0), strict=True))


def test_evaluation_is_not_augmented(rectangles):
    for a, b in zip(
        loader(rectangles, EVERYTHING, training=False), loader(rectangles, Augmentation(), training=False), strict=True
    ):
        assert same(a, b)


def test_padded_rows_hold_all_objects_of_mixed_images(tmp_path):
    dataset = made(tmp_path, sizes=[(300, 300)] * 6, last_empty=False)
    most = max(len(p.labels) for p in dataset.images)
    rows = [b.labels.shape[1] for b in batches(dataset, range(4), size=(64, 64))]
    assert max(rows) > 8 * -(-most // 8)
    assert set(rows) <= {8, 16, 24, 32}


@pytest.mark.parametrize("size_divisible", [1, 16])
@pytest.mark.parametrize("objects", [True, False])
def test_one_pixel_images_and_datasets_without_objects(tmp_path, size_divisible, objects):
    sizes = [(1, 1), (1, 40), (40, 1), (60, 50)]
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for number, (width, height) in enumerate(sizes):
        Image.new("RGB", (width, height), (240, 60, 60)).save(tmp_path / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        box = {"image_id": number, "category_id": 0, "bbox": [0, 0, width, height], "area": width * height}
        annotations.append(box | {"id": number, "iscrowd": 0})
    write(tmp_path, {"images": images, "annotations": annotations * objects, "categories": [{"id": 0, "name": "c0"}]})
    dataset, _ = read(tmp_path, training=objects)
    for size in ((20, 30), "original"):
        held = 0
        for batch in batches(dataset, range(3), size=size, size_divisible=size_divisible):
            assert (batch.sizes >= 1).all()
            assert (batch.boxes[batch.labels >= 0] <= batch.sizes.max()).all()
            held += int((batch.labels >= 0).sum())
        assert (held > 0) == objects


def test_copy_paste_reads_segmentations(tmp_path):
    root = tmp_path / "set"
    made(root, round_=True)
    plain, pasting = (DetectorData(root, augmentation=Augmentation(copy_paste_prob=p)).train_set for p in (0.0, 0.5))
    assert plain.images[0].segmentations is None
    assert pasting.images[0].segmentations is not None


def test_color_jitter_is_bounded_by_its_strength(rectangles):
    image = next(iter(loader(rectangles, Augmentation(hflip_prob=0.0), training=False))).images
    for strength in (0.05, 0.8):
        each = loader(rectangles, Augmentation(hflip_prob=0.0, color_jitter=strength), batch_size=1)
        plain = {int(b.index): b.images for b in loader(rectangles, Augmentation(hflip_prob=0.0), batch_size=1)}
        away = max(float((b.images.float() - plain[int(b.index)].float()).abs().mean()) for b in each)
        assert away > 0
        assert (away < 6) == (strength < 0.1)
    assert image.dtype == torch.uint8


def test_mixing_with_proposals_is_refused(rectangles):
    from libradet.data.loader import check_mixing

    for mixing in (Augmentation(mosaic_prob=0.1), Augmentation(copy_paste_prob=0.1)):
        with pytest.raises(UserError, match="no precomputed proposals"):
            check_mixing(mixing, has_proposals=True)
    check_mixing(EVERYTHING, has_proposals=False)
    check_mixing(Augmentation(scale_jitter=(0.5, 2.0), color_jitter=0.5), has_proposals=True)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_boxes_and_pixels_of_masks(count):
    masks = (torch.rand(count, 7, 11, generator=torch.Generator().manual_seed(count)) < 0.05).to(torch.uint8)
    masks[:, 3, 2] = 1
    expected = masks_to_boxes(masks) if count else torch.zeros(0, 4)
    assert mask_boxes(masks).tolist() == expected.tolist()
    assert count_pixels(masks).tolist() == masks.long().sum((1, 2)).tolist()

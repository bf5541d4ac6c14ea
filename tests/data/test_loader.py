"""Data loader: the same batches after resuming and with any number of workers and processes."""

import io
import json

import pytest
import torch
from PIL import Image

from libradet.data.collate import prepare_batch
from libradet.data.loader import make_loader
from libradet.data.masks import decode_masks
from libradet.data.read import read
from libradet.data.synthesis.synthetic import synthesize
from libradet.data.transforms.augmentation import Augmentation
from libradet.errors import UserError
from libradet.geometry.masks import unpack_masks
from tests.helpers.data_building import damaged, records, sample_image, write

SIZE = (72, 120)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    synthesize(root, train=11, val=1, size=(96, 72), classes=3)
    return read(root, "train")[0]


def loader(dataset, **changes):
    options = {"size": SIZE, "batch_size": 2, "training": True, "size_divisible": 32, "seed": 5}
    return make_loader(dataset, **(options | changes))


def same(a, b) -> bool:
    return all((x is None and y is None) or x.equal(y) for x, y in zip(a, b, strict=True))


def test_resumed_run_loads_the_same_batches(dataset):
    whole = loader(dataset)
    whole.batch_sampler.set_epoch(3)
    rest = loader(dataset)
    rest.batch_sampler.set_epoch(3)
    rest.batch_sampler.set_start(2)
    for a, b in zip(list(whole)[2:], rest, strict=True):
        assert same(a, b)


@pytest.mark.parametrize("training", [True, False])
def test_batches_are_independent_of_workers(dataset, training):
    alone, helped = loader(dataset, training=training), loader(dataset, training=training, num_workers=2)
    for epoch in range(2):
        for each in (alone, helped):
            each.batch_sampler.set_epoch(epoch)
        for a, b in zip(alone, helped, strict=True):
            assert same(a, b)


def test_two_processes_share_the_joint_batch(dataset):
    whole = loader(dataset, batch_size=4)
    parts = [loader(dataset, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        # The number of padded rows may differ between the processes.
        images, sizes, index, scales = (
            torch.cat([getattr(s, n) for s in shares]) for n in ("images", "sizes", "index", "scales")
        )
        assert images.equal(batch.images)
        assert (sizes.equal(batch.sizes), index.equal(batch.index), scales.equal(batch.scales)) == (True, True, True)
        boxes = [b[label >= 0] for s in shares for b, label in zip(s.boxes, s.labels, strict=True)]
        for own, joint, label in zip(boxes, batch.boxes, batch.labels, strict=True):
            assert own.equal(joint[label >= 0])


def test_flips_depend_on_the_epoch_only(dataset):
    def flipped(epoch, **changes):
        each = loader(dataset, **changes)
        each.batch_sampler.set_epoch(epoch)
        plain = {int(b.index[0]): b.images[0] for b in loader(dataset, training=False, batch_size=1)}
        return {
            int(i): not image.equal(plain[int(i)])
            for batch in each
            for i, image in zip(batch.index, batch.images, strict=True)
        }

    first = flipped(0)
    assert first == flipped(0, batch_size=5)
    assert first != flipped(1)
    assert 0 < sum(first.values()) < len(first)
    assert set(flipped(0, augmentation=Augmentation(hflip_prob=0.0)).values()) == {False}
    assert set(flipped(0, augmentation=Augmentation(hflip_prob=1.0)).values()) == {True}


def test_small_dataset_fills_a_batch(tmp_path):
    dataset, _ = read(write(tmp_path))
    batches = list(loader(dataset, batch_size=16))
    assert len(batches) == 1
    assert batches[0].images.shape[0] == 16
    assert set(batches[0].index.tolist()) == {0, 1, 2, 3}


def test_prediction_is_preprocessed_like_evaluation(dataset):
    batch = next(iter(loader(dataset, training=False, batch_size=3)))
    paths = [dataset.images[i].path for i in batch.index.tolist()]
    prepared = prepare_batch(paths, SIZE, 32)
    assert prepared.images.equal(batch.images)
    assert prepared.sizes.equal(batch.sizes)
    assert prepared.scales.equal(batch.scales)


def test_boxes_enclose_masks_after_resizing_and_flipping(dataset):
    """Masks are transformed like boxes, so each box must enclose its mask."""
    for batch in loader(dataset, masks=True, size=(50, 200)):
        for row in range(len(batch.labels)):
            masks = unpack_masks(batch.masks[row], batch.images.shape[-1])
            for box, label, mask in zip(batch.boxes[row], batch.labels[row], masks, strict=True):
                if label < 0:
                    assert not mask.any()
                    continue
                ys, xs = torch.nonzero(mask, as_tuple=True)
                extent = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
                # Inside its box, and filling it but for tips that are thinner than a pixel.
                assert ((extent - box) * torch.tensor([1, 1, -1, -1])).min() > -1
                assert (extent[2:] - extent[:2]).prod() > 0.6 * (box[2:] - box[:2]).prod()


def test_number_of_padded_rows_is_a_power_of_two(dataset):
    for batch in loader(dataset):
        assert batch.labels.shape[1] in (8, 16)
        assert batch.boxes.shape == (*batch.labels.shape, 4)


def test_missing_masks_are_refused(tmp_path):
    dataset, _ = read(write(tmp_path))
    with pytest.raises(UserError, match="4 of 4 objects have no segmentation"):
        loader(dataset, masks=True)
    with pytest.raises(UserError, match="annotation 100 has no segmentation"):
        decode_masks(dataset.images[0], 48, 64)


@pytest.mark.parametrize("workers", [0, 1])
def test_image_missing_at_load_time_is_reported(tmp_path, workers):
    dataset, _ = read(damaged(tmp_path, lambda content: content["images"].reverse()))
    dataset.images[0].path.unlink()
    with pytest.raises(UserError, match=r"p3\.png: the image is missing"):
        list(loader(dataset, num_workers=workers))
    assert len(records()["images"]) == len(dataset)


@pytest.mark.parametrize("workers", [0, 2])
def test_error_of_a_worker_is_one_line(tmp_path, workers):
    from libradet.data.synthesis.synthetic import synthesize

    synthesize(tmp_path, train=6, val=2, size=(144, 96), classes=2)
    dataset, _ = read(tmp_path, "train")
    loader = make_loader(dataset, size=(64, 96), batch_size=2, training=True, num_workers=workers)
    gone = dataset.images[3].path
    gone.unlink()
    with pytest.raises(UserError) as raised:
        list(loader)
    assert gone.name in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 2
    assert loader._iterator is None, "workers are stopped"


def test_replaced_image_is_refused(tmp_path):
    dataset, _ = read(write(tmp_path))
    loader = make_loader(dataset, size=(32, 64), batch_size=4, training=True, size_divisible=32)
    next(iter(loader))
    sample_image(48, 64).save(dataset.images[0].path)
    with pytest.raises(UserError, match=r"p0\.png: the image was replaced: it is 48x64 and was 64x48"):
        list(loader)


@pytest.mark.parametrize("turned", range(1, 9))
def test_exif_rotated_images_load(tmp_path, turned):
    """In all eight orientations, with boxes of the upright image and with boxes of the stored one."""
    root = write(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = turned
    file = io.BytesIO()
    sample_image(64, 48).save(file, "JPEG", exif=exif)
    (root / "images" / "p0.png").write_bytes(file.getvalue())
    for told in ((64, 48), (48, 64)) if turned >= 5 else ((64, 48),):
        content = records()
        content["images"][0] |= {"width": told[0], "height": told[1]}
        content["annotations"] = [a | {"bbox": [1, 1, 5, 5]} for a in content["annotations"]]
        (root / "annotations.json").write_text(json.dumps(content))
        dataset, _ = read(root)
        assert (dataset.images[0].width, dataset.images[0].height) == told
        list(make_loader(dataset, size=(32, 64), batch_size=4, training=True, size_divisible=32))

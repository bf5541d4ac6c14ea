"""Users' own transforms: boxes, labels, crowd flags and masks follow the pixels; whatever is wrong is named."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from libradet.data.cache import ImageCache
from libradet.data.loader import check_mixing, make_loader
from libradet.data.read import read
from libradet.data.synthesis.synthetic import synthesize
from libradet.data.transforms.augmentation import NO_AUGMENTATION, Augmentation
from libradet.data.transforms.custom import apply_transforms, check_transforms
from libradet.data.transforms.describe import describe
from libradet.data.transforms.seeding import seeded
from libradet.errors import UserError
from tests.helpers.samples import COLOR_STEP, drawn_rectangles

CLASSES = 6
HEIGHT, WIDTH = 60, 80


def drawn(count=CLASSES, masks=True):
    return drawn_rectangles(count, masks)


def extent(pixels):
    ys, xs = torch.nonzero(pixels, as_tuple=True)
    return torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()


def apply(sample, *transforms, seed=0):
    return apply_transforms(sample, transforms, seed, CLASSES, "a.png")


EXACT = [
    v2.RandomHorizontalFlip(1.0),
    v2.RandomVerticalFlip(0.5),
    v2.RandomCrop((30, 40)),
    v2.CenterCrop(31),
    v2.Pad([3, 5, 7, 9]),
    v2.RandomZoomOut(p=1.0),
    v2.RandomIoUCrop(),
    v2.Compose([v2.RandomIoUCrop(), v2.SanitizeBoundingBoxes(), v2.RandomHorizontalFlip()]),
    v2.ConvertBoundingBoxFormat("CXCYWH"),
    v2.RandomChoice([v2.Pad(4), v2.RandomCrop(40)]),
    v2.RandomApply([v2.RandomOrder([v2.RandomVerticalFlip(), v2.Pad(1)])]),
]


@pytest.mark.parametrize("transform", EXACT, ids=lambda t: type(t).__name__)
def test_annotations_are_those_of_the_pixels(transform):
    """Also where objects are cut or lost: who remains is said by color, and agrees with label, crowd flag and mask."""
    for seed in range(15):
        result = apply(drawn(), transform, seed=seed)
        assert result.image.shape[1:] == result.masks.shape[1:]
        present = {int(color) // COLOR_STEP - 1 for color in result.image.unique() if color}
        # The random IoU crop removes objects whose center is outside, though a part of them is visible.
        assert present == set(result.labels.tolist()) or "IoUCrop" in repr(transform)
        assert present >= set(result.labels.tolist())
        assert result.crowd.tolist() == [label % 3 == 2 for label in result.labels.tolist()]
        for box, label, mask in zip(result.boxes, result.labels.tolist(), result.masks, strict=True):
            pixels = result.image[0] == COLOR_STEP * (label + 1)
            assert torch.allclose(box, extent(pixels), atol=1e-4)
            assert torch.equal(mask.bool(), pixels)


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("masks", [False, True])
def test_rotated_boxes_hold_their_objects(expand, masks):
    for seed in range(10):
        result = apply(drawn(masks=masks), v2.RandomRotation(30, expand=expand), seed=seed)
        for box, label in zip(result.boxes, result.labels.tolist(), strict=True):
            inside = extent(result.image[0] == COLOR_STEP * (label + 1))
            assert ((inside - box) * torch.tensor([1, 1, -1, -1]) > -2).all()


@pytest.mark.parametrize(
    "transform",
    [
        *(v2.RandomRotation(10, expand=True), v2.RandomPerspective(p=1.0), v2.ElasticTransform(), v2.RandomIoUCrop()),
        *(v2.RandomZoomOut(p=1.0), v2.RandomPhotometricDistort(), v2.RandomResizedCrop(20), v2.ScaleJitter((50, 50))),
        *(
            v2.RandomAffine(20, (0.1, 0.1), (0.5, 2.0), 10),
            v2.GaussianNoise(),
            v2.JPEG((20, 90)),
            v2.RandomErasing(1.0),
        ),
    ],
    ids=lambda t: type(t).__name__,
)
@pytest.mark.filterwarnings("ignore:RandomErasing")
def test_images_without_objects_are_transformed(transform):
    for masks in (False, True):
        check_transforms(drawn(0, masks), [transform], CLASSES)
        check_transforms(drawn(2, masks), [transform], CLASSES)


def test_lost_boxes_take_their_labels_along_and_cut_ones_are_clipped():
    def move(image, target):
        boxes = target["boxes"] + torch.tensor([-30.0, 0, -30, 0])
        return image, target | {"boxes": tv_tensors.wrap(boxes, like=target["boxes"])}

    result = apply(drawn(masks=False), move)
    assert result.labels.tolist() == [1, 2, 4, 5]
    assert result.crowd.tolist() == [False, True, False, True]
    assert result.boxes[0].tolist() == [0, 4, 16, 23]


def test_objects_without_mask_pixels_are_removed():
    def erase(image, target):
        target["masks"][1] = 0
        return image, target

    result = apply(drawn(), erase)
    assert 1 not in result.labels
    assert len(result.masks) == len(result.labels) == CLASSES - 1


def test_nothing_of_the_input_is_modified():
    def spoil(image, target):
        for tensor in (image, *target.values()):
            tensor.zero_()
        target["boxes"][:, 2:] = 9
        return image, target

    sample, copy = drawn(), drawn()
    assert not apply(sample, spoil).image.any()
    for tensor, original in zip(sample, copy, strict=True):
        assert tensor is None or isinstance(tensor, tuple | int) or torch.equal(tensor, original)


def changed(**fields):
    """Return a transform that replaces a part of what it returns."""

    def change_part(image, target):
        new = {name: value(target) for name, value in fields.items() if name != "image"}
        return fields["image"](image) if "image" in fields else image, target | new

    return change_part


def fail(image, target):
    raise ValueError("not\ntoday")


def corners(values, like, canvas=(HEIGHT, WIDTH)):
    return tv_tensors.BoundingBoxes(values, format="XYXY", canvas_size=canvas, dtype=torch.float32)


WRONG = {
    "float32 [3, 60, 80], not of uint8": changed(image=lambda image: image.float()),
    "type ndarray, not of uint8": changed(image=lambda image: image.numpy()),
    "uint8 [1, 60, 80], not of uint8": v2.Grayscale(),
    "type Image, not of uint8": v2.ToPILImage(),
    "image without pixels": changed(image=lambda image: image[:, :0]),
    "6 boxes and 5 labels": changed(labels=lambda target: target["labels"][:5]),
    "boxes of float32 [6, 4], not tv_tensors": changed(boxes=lambda target: target["boxes"] + 0),
    "boxes of type list": changed(boxes=lambda target: [[0, 0, 1, 1]]),
    "not finite": changed(boxes=lambda target: corners([[0, 0, float("nan"), 1]] * 6, target)),
    "lies before": changed(boxes=lambda target: corners([[9, 0, 3, 1]] * 6, target)),
    "image of [90, 80] (height, width), and one of [60, 80]": changed(
        boxes=lambda target: corners([[0, 0, 3, 1]] * 6, target, (90, 80))
    ),
    "labels of float32": changed(labels=lambda target: target["labels"].float()),
    "labels from 6 to 6; there are 6 classes": changed(labels=lambda target: torch.full((6,), 6)),
    "masks of uint8 [6, 30, 80], not of [6, 60, 80]": changed(masks=lambda target: target["masks"][:, ::2]),
    "other values than 0 and 1": changed(masks=lambda target: target["masks"] * 255),
    "returned uint8 [3, 60, 80], not image and target": lambda image, target: image,
    "returned type NoneType, not image and target": lambda image, target: None,
    "has no boxes, masks": lambda image, target: (image, {"labels": target["labels"]}),
    "ValueError: not today": fail,
}


@pytest.mark.parametrize(("message", "transform"), WRONG.items(), ids=WRONG)
def test_wrong_results_are_refused_in_one_line(message, transform):
    name = getattr(transform, "__name__", type(transform).__name__)
    with pytest.raises(UserError) as error:
        apply(drawn(), v2.Identity(), transform)
    assert str(error.value).startswith(f"augmentation {name}, image a.png: ")
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def draw(image, target):
    """Draw from all global generators."""
    image[0, 0, :3] = torch.tensor([int(torch.randint(256, ())), np.random.randint(256), random.randrange(256)])  # noqa: NPY002
    return image, target


def states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


@pytest.mark.parametrize("seed", [0, 5, 2**32 - 1])
def test_random_numbers_depend_on_the_seed_alone(seed):
    first = apply(drawn(), draw, seed=seed).image[0, 0, :3].tolist()
    torch.manual_seed(8)
    random.seed(8)
    assert apply(drawn(), draw, seed=seed).image[0, 0, :3].tolist() == first


def test_states_of_generators_are_restored():
    before = states()
    with seeded(3):
        draw(torch.zeros(3, 1, 3), {})
    assert states() == before
    with pytest.raises(ValueError, match="not"), seeded(3):
        fail(*draw(torch.zeros(3, 1, 3), {}))
    assert states() == before


def test_different_seeds_draw_differently():
    drawn_values = {tuple(apply(drawn(), draw, seed=seed).image[0, 0, :3].tolist()) for seed in range(50)}
    assert len(drawn_values) == 50


def test_transforms_with_generators_of_their_own_are_refused():
    own = np.random.default_rng(0)

    def shift(image, target):
        return image.roll(int(own.integers(50)), 2), target

    check_transforms(drawn(), [draw, v2.RandomRotation(10)], CLASSES)
    with pytest.raises(UserError, match="augmentation shift: two calls with the same seed differ"):
        check_transforms(drawn(), [v2.RandomRotation(10), shift], CLASSES)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("custom")
    synthesize(folder, train=10, val=1, size=(96, 80), classes=3)
    return read(folder, "train")[0]


OWN = Augmentation(
    transforms=(v2.RandomRotation(15, expand=True), v2.RandomZoomOut(p=0.5), draw, v2.RandomIoUCrop()),
    vflip_prob=0.5,
    rotate90_prob=0.5,
    mixup_prob=0.5,
    gaussian_blur=1.0,
    gaussian_noise=0.1,
)


def batches(dataset, epochs=(0, 3), start=0, augmentation=OWN, **changes):
    options = {"size": (54, 90), "batch_size": 2, "training": True, "size_divisible": 16, "seed": 5}
    loader = make_loader(dataset, augmentation=augmentation, **options | changes)
    for epoch in epochs:
        loader.batch_sampler.set_epoch(epoch)
        loader.batch_sampler.set_start(start)
        yield from loader


def assert_same(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert all(x is y is None or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_batches_are_independent_of_workers_resuming_and_caches(dataset):
    whole = list(batches(dataset))
    assert len({tuple(size) for batch in whole for size in batch.sizes.tolist()}) > 5, "sizes vary"
    assert_same(whole, batches(dataset, num_workers=2))
    torch.manual_seed(77)
    assert_same(whole[len(whole) // 2 + 1 :], batches(dataset, [3], start=1))
    cache = ImageCache(dataset, (54, 90), None, None)
    assert_same(whole, batches(dataset, cache=cache))
    assert_same(whole, batches(dataset, cache=cache))


def test_padded_sizes_are_those_without_augmentation(dataset):
    zoom = Augmentation(transforms=(v2.RandomZoomOut(p=1.0, side_range=(2.0, 3.0)),), hflip_prob=0.0)
    plain = {b.images.shape for b in batches(dataset, augmentation=NO_AUGMENTATION)}
    for batch in batches(dataset, augmentation=zoom):
        assert batch.images.shape in plain
        assert (batch.boxes.amax((1, 2)) <= batch.sizes.amax(1)).all()
        assert (batch.scales < 0.7 * 54 / 80).all(), "images are shrunk, not cropped"


def test_transforms_may_add_objects(dataset):
    def repeat(image, target):
        boxes = tv_tensors.wrap(target["boxes"].repeat(9, 1), like=target["boxes"])
        return image, {"boxes": boxes, "labels": target["labels"].repeat(9)}

    [few, many] = [
        sum(int((b.labels >= 0).sum()) for b in batches(dataset, augmentation=Augmentation(transforms=transforms)))
        for transforms in ((), (repeat,))
    ]
    assert many == 9 * few


def test_transforms_are_those_of_training_only(dataset):
    def fails(image, target):
        raise AssertionError

    used = Augmentation(transforms=(fails,))
    list(batches(dataset, augmentation=used, training=False))
    with pytest.raises(UserError, match=r"augmentation fails, image .*\.(png|jpg): AssertionError"):
        list(batches(dataset, augmentation=used))


def test_other_augmentations_draw_as_before(dataset):
    jittered = Augmentation(scale_jitter=(0.5, 1.5), mosaic_prob=0.5, color_jitter=0.3)
    same = replace(jittered, transforms=(v2.Identity(),))
    assert_same(batches(dataset, augmentation=jittered), batches(dataset, augmentation=same))


def test_precomputed_proposals_are_refused():
    with pytest.raises(UserError, match="do not move precomputed proposals"):
        check_mixing(Augmentation(transforms=(v2.Identity(),)), has_proposals=True)
    with pytest.raises(UserError, match="no precomputed proposals"):
        check_mixing(Augmentation(mixup_prob=0.1), has_proposals=True)


def test_descriptions_hold_every_setting():
    assert describe(v2.RandomRotation(10)) == describe(v2.RandomRotation((-10, 10)))
    others = [
        v2.RandomRotation(10),
        v2.RandomRotation(11),
        v2.RandomRotation(10, interpolation=v2.InterpolationMode.BILINEAR),
        v2.RandomRotation(10, fill=3),
        v2.RandomApply([v2.RandomRotation(10)]),
        v2.RandomApply([v2.RandomRotation(10)], p=0.1),
        v2.Normalize([0.0], [1.0]),
        draw,
        Holder(torch.zeros(3)),
        Holder(torch.ones(3)),
        Holder({"a": {1, 2}}),
    ]
    texts = [describe(transform) for transform in others]
    assert len(set(texts)) == len(texts)
    assert not any(" at 0x" in text for text in texts)


class Holder:
    """A callable with a setting, and a reference to itself."""

    def __init__(self, setting):
        self._setting, self.itself = setting, self

    def __call__(self, image, target):
        return image, target

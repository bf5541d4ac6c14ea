"""Albumentations pipelines: boxes, labels, crowd flags and masks follow the pixels; files and objects are the same."""

import os

import pytest
import torch
import yaml
from torchvision.transforms import v2

from libradet.data.loader import make_loader
from libradet.data.read import read
from libradet.data.synthesis.synthetic import synthesize
from libradet.data.transforms.augmentation import Augmentation
from libradet.data.transforms.build import prepare_transforms
from libradet.data.transforms.custom import apply_transforms, check_transforms
from libradet.data.transforms.describe import describe
from libradet.data.transforms.entries import decode_entry
from libradet.errors import UserError
from tests.helpers.samples import COLOR_STEP, drawn_rectangles

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
A = pytest.importorskip("albumentations")

ToTensorV2 = pytest.importorskip("albumentations.pytorch").ToTensorV2

CLASSES = 6


def extent(pixels):
    ys, xs = torch.nonzero(pixels, as_tuple=True)
    return torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()


def apply(sample, pipeline, seed=0):
    return apply_transforms(sample, prepare_transforms(pipeline)[1], seed, CLASSES, "a.png")


def boxes_of(format_name, **options):
    return A.BboxParams(format_name, label_fields=["class_labels"], **options)


EXACT = {
    "flip": lambda: A.HorizontalFlip(p=1.0),
    "choice": lambda: A.OneOf([A.VerticalFlip(p=1.0), A.Transpose(p=1.0), A.RandomRotate90(p=1.0)], p=1.0),
    "crop": lambda: A.Compose([A.RandomCrop(30, 40)], bbox_params=boxes_of("yolo")),
    "pad": lambda: A.Compose([A.PadIfNeeded(90, 100), A.HorizontalFlip()], bbox_params=boxes_of("coco")),
    "tensor": lambda: A.Compose([A.HorizontalFlip(p=1.0), A.RandomCrop(40, 50), ToTensorV2()]),
    "tensor masks": lambda: A.Compose([A.Transpose(p=1.0), ToTensorV2(transpose_mask=True)]),
    "replay": lambda: A.ReplayCompose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]),
    "sequence": lambda: A.Compose([A.D4(p=1.0), A.RandomSizedBBoxSafeCrop(60, 60, p=0.0), A.CenterCrop(50, 50)]),
}


@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("masks", [True, False])
def test_annotations_are_those_of_the_pixels(make, masks):
    """Also where objects are cut or lost; whatever format and fields the pipeline's own parameters name."""
    for seed in range(6):
        result = apply(drawn_rectangles(CLASSES, masks), make(), seed)
        present = {int(color) // COLOR_STEP - 1 for color in result.image.unique() if color}
        assert present == set(result.labels.tolist())
        assert result.crowd.tolist() == [label % 3 == 2 for label in result.labels.tolist()]
        for i, label in enumerate(result.labels.tolist()):
            pixels = result.image[0] == COLOR_STEP * (label + 1)
            assert torch.allclose(result.boxes[i], extent(pixels), atol=1e-3)
            assert not masks or torch.equal(result.masks[i].bool(), pixels)


def test_thresholds_of_the_pipeline_apply():
    crop = A.Crop(0, 0, 14, 60)
    everything = apply(drawn_rectangles(CLASSES), A.Compose([crop]))
    visible = apply(drawn_rectangles(CLASSES), A.Compose([crop], bbox_params=boxes_of("coco", min_visibility=0.9)))
    assert everything.labels.tolist() == [0, 3]
    assert visible.labels.tolist() == []


@pytest.mark.parametrize("masks", [True, False])
def test_boxes_that_an_earlier_transform_moved_out_of_the_image(masks):
    """Albumentations refuses them; objects that are partly inside keep their own labels and masks."""

    shift = v2.RandomAffine(0, translate=(1.0, 0.0))
    remaining = set()
    for seed in range(8):
        result = apply(drawn_rectangles(CLASSES, masks), [shift, A.HorizontalFlip(p=1.0)], seed)
        remaining.add(len(result.labels))
        for i, label in enumerate(result.labels.tolist()):
            pixels = result.image[0] == COLOR_STEP * (label + 1)
            assert torch.allclose(result.boxes[i], extent(pixels), atol=1e-3)
            assert not masks or torch.equal(result.masks[i].bool(), pixels)
    assert len(remaining) > 1


def test_transforms_that_select_by_label_see_class_numbers():
    hole = dict.fromkeys(("hole_height_range", "hole_width_range"), (1.0, 1.0))
    dropout = A.ConstrainedCoarseDropout(num_holes_range=(9, 9), bbox_labels=[3], fill=7, p=1.0, **hole)
    sample = drawn_rectangles(CLASSES)
    flipped = sample._replace(labels=sample.labels.flip(0), crowd=sample.crowd & False)
    changed = apply(flipped, dropout).image != flipped.image
    assert not changed[:, sample.image[0] == COLOR_STEP * 4].any(), "object 3 has label 2"
    assert changed[:, sample.image[0] == COLOR_STEP * 3].any(), "object 2 has label 3"


@pytest.mark.parametrize("masks", [True, False])
def test_images_without_objects(masks):
    pipeline = A.Compose([A.Affine(rotate=(-20, 20), p=1.0), A.RandomCrop(20, 30), A.GaussNoise(p=1.0)])
    result = apply(drawn_rectangles(0, masks), pipeline)
    assert result.image.shape == (3, 20, 30)
    assert result.masks is None or result.masks.shape == (0, 20, 30)


def random_pipeline():
    steps = [A.Rotate(limit=15, p=0.7), A.RandomBrightnessContrast(p=0.8), A.GaussNoise(p=0.7), A.RandomScale(p=0.5)]
    return A.Compose([A.SomeOf(steps, n=3, p=1.0), A.CoarseDropout(p=0.3)], bbox_params=boxes_of("coco"))


def test_a_pipeline_depends_on_the_seed_alone():
    check_transforms(drawn_rectangles(CLASSES), prepare_transforms(random_pipeline())[1], CLASSES)
    pipeline = random_pipeline()
    first = [apply(drawn_rectangles(CLASSES), pipeline, seed).image for seed in range(12)]
    again = [apply(drawn_rectangles(CLASSES), random_pipeline(), seed).image for seed in range(12)]
    assert all(map(torch.equal, first, again))
    assert len({image.numpy().tobytes() for image in first}) > 6


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_files_describe_the_pipelines_of_python(tmp_path, suffix):
    path = tmp_path / f"pipeline.{suffix}"
    A.save(random_pipeline(), path, data_format=suffix)
    texts, (loaded,) = prepare_transforms({"albumentations": str(path)})
    own_texts, (own,) = prepare_transforms(random_pipeline())
    assert describe(loaded) == describe(own)
    assert texts == own_texts
    path.unlink()
    (again,) = prepare_transforms([yaml.safe_load(yaml.safe_dump(decode_entry(texts[0])))])[1]
    assert describe(again) == describe(own), "a run folder holds all of it"
    other = A.Compose([A.Rotate(limit=16)])
    assert describe(prepare_transforms(other)[1][0]) != describe(own)
    for seed in range(4):
        images = [apply_transforms(drawn_rectangles(CLASSES), [t], seed, CLASSES).image for t in (loaded, own, again)]
        assert torch.equal(images[0], images[1])
        assert torch.equal(images[0], images[2])


def brighter(image, **_):
    return image + 1


def test_pipelines_that_no_file_can_hold_are_described_by_their_settings():
    """A run with one is resumed in another process, where addresses and the order of sets differ."""

    def make(p=1.0, min_area=1.0, name=None):
        return A.Compose([A.Lambda(image=brighter, name=name, p=p)], bbox_params=boxes_of("coco", min_area=min_area))

    texts = [prepare_transforms(m)[0][0] for m in (make(), make(0.5), make(min_area=2.0), make(name="brighter"))]
    assert len(set(texts)) == 4
    for text in texts:
        assert list(decode_entry(text)) == ["python"]
        assert " at 0x" not in text
    pipeline = make()
    apply(drawn_rectangles(CLASSES), pipeline)
    assert prepare_transforms(pipeline)[0][0] == texts[0], "calls change nothing"
    with pytest.raises(UserError, match=r"libradet.train\(resume"):
        prepare_transforms([decode_entry(texts[3])])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: A.ToFloat(), r"Albumentations pipeline \(ToFloat\), image a.png: it returned an image of float32"),
        (lambda: A.Compose([A.Normalize()]), "image of float32"),
        (lambda: A.Compose([A.Normalize(), ToTensorV2()]), "image of float32"),
        (lambda: A.ToGray(num_output_channels=1, p=1.0), r"of uint8 \[60, 80\], not .* three channels"),
        (lambda: A.RandomCrop(500, 500), r"Albumentations pipeline \(RandomCrop\), image a.png: \w+Error: "),
    ],
)
def test_wrong_results_are_refused(make, message):
    with pytest.raises(UserError, match=message) as error:
        apply(drawn_rectangles(CLASSES), make())
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content", ["[1, 2]", "a: 3", "transform: 3", "transform: {__class_fullname__: Sharper}", "{", "transform: {}"]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "pipeline.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match="lbumentations") as error:
        prepare_transforms({"albumentations": str(path)})
    assert len(str(error.value).splitlines()) == 1


def test_batches_are_independent_of_workers_and_resuming(tmp_path):
    synthesize(tmp_path / "data", train=6, val=1, size=(96, 80), classes=3)
    dataset = read(tmp_path / "data", "train")[0]
    augmentation = Augmentation(transforms=prepare_transforms(random_pipeline())[1])

    def batches(start=0, num_workers=0):
        options = {"size": (54, 90), "batch_size": 2, "training": True, "size_divisible": 16, "seed": 5}
        loader = make_loader(dataset, augmentation=augmentation, num_workers=num_workers, epoch=3, **options)
        loader.batch_sampler.set_start(start)
        return list(loader)

    whole = batches()
    for others in (batches(num_workers=2), batches(start=1)):
        for a, b in zip(whole[-len(others) :], others, strict=True):
            assert all(x is y is None or torch.equal(x, y) for x, y in zip(a, b, strict=True))

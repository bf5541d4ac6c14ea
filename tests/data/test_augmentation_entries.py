"""Users' own augmentations in files: torchvision's transforms by class path, and nothing else."""

import json

import pytest
import yaml
from torchvision.transforms import InterpolationMode, v2

from libradet.data.transforms.build import prepare_transforms
from libradet.data.transforms.describe import describe
from libradet.data.transforms.entries import MAX_VALUES, decode_entry, encode_entries
from libradet.errors import UserError

ROTATION = {"class_path": "torchvision.transforms.v2.RandomRotation", "init_args": {"degrees": 10}}
NESTED = """
- class_path: torchvision.transforms.v2.RandomApply
  init_args:
    p: 0.3
    transforms:
    - class_path: RandomChoice
      init_args:
        transforms: [RandomGrayscale, {class_path: GaussianBlur, init_args: {kernel_size: [3, 5]}}]
        p: [0.2, 0.8]
- class_path: RandomAffine
  init_args: {degrees: [-5, 5], scale: [0.5, 2], interpolation: BILINEAR, fill: 114}
- torchvision.transforms.v2.RandomPhotometricDistort
"""


def test_files_describe_the_transforms_of_python():
    texts, transforms = prepare_transforms(encode_entries(yaml.safe_load(NESTED)))
    expected = [
        v2.RandomApply([v2.RandomChoice([v2.RandomGrayscale(), v2.GaussianBlur([3, 5])], p=[0.2, 0.8])], p=0.3),
        v2.RandomAffine([-5, 5], scale=[0.5, 2], interpolation=InterpolationMode.BILINEAR, fill=114),
        v2.RandomPhotometricDistort(),
    ]
    assert [describe(t) for t in transforms] == [describe(t) for t in expected]
    again = prepare_transforms(texts)
    assert again[0] == texts
    assert [describe(t) for t in again[1]] == [describe(t) for t in transforms]


def test_the_parts_of_a_compose_are_transforms_of_their_own():
    compose = v2.Compose([v2.RandomGrayscale(), v2.Compose([v2.RandomInvert()])])
    texts, transforms = prepare_transforms(compose)
    assert [type(t).__name__ for t in transforms] == ["RandomGrayscale", "RandomInvert"]
    entry = {"class_path": "Compose", "init_args": {"transforms": ["RandomGrayscale", "RandomInvert"]}}
    assert [describe(t) for t in prepare_transforms(entry)[1]] == [describe(t) for t in transforms]
    assert decode_entry(texts[0]) == {"python": describe(compose)}


def test_entries_are_text_and_encoded_once():
    assert encode_entries(None) == []
    encoded = encode_entries([ROTATION, "RandomGrayscale"])
    assert [json.loads(text) for text in encoded] == [ROTATION, {"class_path": "RandomGrayscale"}]
    assert encode_entries(encoded) == encoded
    assert encode_entries(ROTATION) == encoded[:1]


def test_a_transform_of_albumentations_is_referred_to_a_file():
    with pytest.raises(
        UserError, match=r"not albumentations\.HorizontalFlip; write a pipeline with albumentations\.save"
    ):
        prepare_transforms(encode_entries(["albumentations.HorizontalFlip"]))


def touch(path):
    """An entry that would create a file, if classes of other modules were created or called."""
    return {"class_path": "os.mkdir", "init_args": {"path": str(path)}}


def test_a_file_executes_nothing_else(tmp_path):
    evil = tmp_path / "evil"
    wrap = {"class_path": "RandomApply", "init_args": {"transforms": [touch(evil)]}}
    functions = [{"class_path": "Lambda", "init_args": {"lambd": "os.getcwd"}}, "os.getcwd", "this.Zen", "Transform"]
    for entry in (touch(evil), wrap, *functions):
        with pytest.raises(UserError, match="files can name transforms of torchvision"):
            prepare_transforms(encode_entries([entry]))
    assert not evil.exists()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("RandomRotaton", r"did you mean torchvision.transforms.v2.RandomRotation\?"),
        ("torchvision.transforms.RandomRotation", r"did you mean torchvision.transforms.v2.RandomRotation\?"),
        ("my.Transform", r"pass others in Python"),
        ({"class_path": "RandomRotation"}, "RandomRotation: .*degrees"),
        ({"class_path": "RandomRotation", "init_args": {"degree": 3}}, r"no argument degree; did you mean degrees\?"),
        ({"class_path": "RandomRotation", "init_args": {"degrees": -3}}, "RandomRotation: .*positive"),
        ({"class_path": "RandomRotation", "init_args": [3]}, "init_args of RandomRotation must be a mapping"),
        (
            {"class_path": "RandomRotation", "init_args": {"degrees": 3, "interpolation": "linear"}},
            "interpolation is linear; it must be one of nearest, ",
        ),
        ({"class_path": "RandomRotation", "degrees": 3}, "is no transform; write class_path and init_args"),
        ({"init_args": {}}, "is no transform"),
        ({"albumentations": "a.json", "init_args": {}}, "is no transform"),
        ({}, "is no transform"),
        (3, "3 is no transform"),
        ({"albumentations": "absent.json"}, "absent.json: cannot be read"),
        ({"python": "my.Rotation(3)"}, r"started from Python with the augmentation my.Rotation\(3\)"),
        ({"class_path": "Pad", "init_args": {"padding": {1, 2}}}, "values must be numbers, text, lists, mappings"),
    ],
)
def test_wrong_entries_are_refused_in_one_line(entry, message):
    with pytest.raises(UserError, match=message) as error:
        prepare_transforms(encode_entries([entry]))
    assert len(str(error.value).splitlines()) == 1


def test_what_cannot_be_called_is_refused():
    with pytest.raises(UserError, match="3 cannot be called"):
        prepare_transforms([3])


def test_nested_aliases_do_not_expand():
    bomb = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    content = yaml.safe_load(bomb)["a59"]
    circle = yaml.safe_load("&a [*a]")
    for value in (content, circle):
        with pytest.raises(UserError, match=f"more than {MAX_VALUES:,} values"):
            encode_entries([{"class_path": "Pad", "init_args": {"padding": value}}])

"""Files from strangers: what would hang, take all memory, be run, or end in a traceback is refused in a line."""

import io
import json
import os

import numpy as np
import pytest
from data_building import damaged, image, records, write
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from libradet.data.headers import read_header
from libradet.data.images import load_image
from libradet.data.loading.loader import make_loader
from libradet.data.proposals.proposal_file import Proposed, read_proposals, write_proposals
from libradet.data.read import check, read, to_coco
from libradet.data.segmentations import _told, compact
from libradet.errors import UserError
from libradet.utils.atomic_io import atomic_json_list, write_json


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [' + "9" * 5000 + "]}",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"images": "\udcff"}',
    ],
)
def test_json_that_python_cannot_hold(tmp_path, text):
    (tmp_path / "annotations.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"annotations\.json: not valid JSON"):
        read(tmp_path)


STRANGE = [
    10**400,
    -(10**400),
    2**64,
    1e300,
    "9" * 5000,
    "٣" * 30,
    float("inf"),
    float("nan"),
    "x" * 5000,
    [],
    {},
    5,
    True,
]
PLACES = [
    *[("images", "id"), ("images", "width"), ("images", "file_name"), ("categories", "id"), ("categories", "name")],
    *[("annotations", key) for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")],
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", STRANGE, ids=lambda v: str(v)[:8])
def test_a_strange_value_anywhere(tmp_path, place, value):
    """It is refused, repaired or left out and counted: every box is somewhere."""
    part, key = place

    def put(content):
        content[part][1][key] = value

    report = check(damaged(tmp_path, put))
    boxes = sum(s["count"] for s in report.skipped if s["what"].startswith("box"))
    assert report.errors or report.boxes + boxes == 4
    assert all(len(text) < 3000 for text in report.errors + report.warnings)
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    "name", ["a/" * 300 + "x.png", "x" * 300 + "/y.png", "\x00.png", "a\x00/b.png", "\ud800/x.png"]
)
def test_names_that_no_file_can_have(tmp_path, name):
    def put(content):
        content["images"][0]["file_name"] = name

    report = check(damaged(tmp_path, put))
    assert "1 of 4 image files are" in report.errors[0]


def test_names_that_are_no_text(tmp_path, capsys):
    name = os.fsdecode(b"p\xff\xfe.png")

    def put(content):
        content["images"][0]["file_name"] = name
        content["annotations"][0]["bbox"] = [0, 0, 0, 0]

    root = damaged(tmp_path / "data", put)
    (root / "images" / "p0.png").rename(root / "images" / name)
    dataset, report = read(root)
    assert any(name in example for finding in report.skipped for example in finding["examples"])
    write_json(tmp_path / "written.json", to_coco(dataset))
    assert json.loads((tmp_path / "written.json").read_text())["images"][0]["file_name"] == name
    with atomic_json_list(tmp_path / "list.json") as add:
        add({"file_name": name})
    assert json.loads((tmp_path / "list.json").read_text()) == [{"file_name": name}]
    found = [Proposed(10, name, 64, 48, np.zeros((1, 4), np.float32), np.ones(1, np.float32))]
    write_proposals(tmp_path / "p.safetensors", found, "rpn")
    assert read_proposals(tmp_path / "p.safetensors").names == [name]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_run_lengths_are_read_as_coco_writes_them(height, width, seed):
    drawn = np.random.default_rng(seed).random((height, width)) < 0.5
    encoded = coco_mask.encode(np.asfortranarray(drawn.astype(np.uint8)))
    runs = _told(encoded["counts"])
    values = np.arange(len(runs)) % 2 == 1
    np.testing.assert_array_equal(np.repeat(values, runs).reshape(width, height).T, drawn)


@given(st.binary(max_size=30))
def test_run_lengths_of_any_bytes_fit_their_image_or_are_refused(counts):
    unfit: list[str] = []
    kept = compact({"segmentation": {"size": [5, 7], "counts": counts}}, 7, 5, False, unfit)
    if kept is None:
        assert unfit or not counts
    else:
        assert 0 < _told(counts).sum() <= 35
        assert coco_mask.decode({"size": [5, 7], "counts": counts}).shape == (5, 7)


@pytest.mark.parametrize(
    "segmentation",
    [
        *[
            [[0, 0, 1e9, 0, 0, 1e9]],
            [[0, 0, 10**400, 0, 0, 1]],
            {"size": 5, "counts": []},
            {"size": ["a", "b"]},
            "x",
            5,
        ],
        *[
            {"size": [48, 64], "counts": "~~~"},
            {"size": [48, 64], "counts": [10**30]},
            {"size": [48, 64], "counts": "o" * 99},
        ],
    ],
)
@pytest.mark.parametrize("boxed", [True, False])
def test_segmentations_that_cannot_be_drawn(tmp_path, segmentation, boxed):
    def put(content):
        content["annotations"][0]["segmentation"] = segmentation
        if not boxed:
            del content["annotations"][0]["bbox"]

    dataset, report = read(damaged(tmp_path, put))
    assert report.boxes == 3 + boxed
    assert all(s is None for p in dataset.images for s in p.segmentations)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    "config",
    [
        *[
            f"{BOMB}train: *a39\nnames: [a]\n",
            f"{BOMB}train: images\nnames: *a39\n",
            f"{BOMB}train: images\nnames: {{0: *a39}}\n",
        ],
        *[
            "train: images\nnc: 1000000000\n",
            "train: 2020-13-45\nnames: [a]\n",
            "train: !!int ''\n",
            "train: !!bool x\n",
        ],
        *[
            "train: images\nnames: {²: a}\n",
            f"train: images\nnames: {{{'9' * 5000}: a}}\n",
            "train: &t [*t]\nnames: [a]\n",
        ],
        *[f"train: {'x' * 5000}\nnames: [a]\n", 'train: "\\0"\nnames: [a]\n', "train: images\npath: [1]\nnames: 5\n"],
        *["train: list.txt\nnames: [a]\n", "[" * 1000, "!!python/object/apply:os.system ['touch mark']"],
    ],
)
def test_yolo_settings(tmp_path, config):
    write(tmp_path, name="unused/x.json")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "data.yaml").write_text(config)
    with pytest.raises(UserError, match=r"data\.yaml|list\.txt|no dataset recognized") as error:
        read(tmp_path)
    assert len(str(error.value)) < 2000


LAUGHS = '<!DOCTYPE l [<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 9}">' for i in range(1, 9))


@pytest.mark.parametrize(
    "text",
    [
        f"{LAUGHS}]><annotation><filename>&a8;</filename></annotation>".encode(),
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>',
        f"<?xml version='1.0' encoding='utf-16'?>{LAUGHS}]><annotation>&a8;</annotation>".encode("utf-16"),
        b"<?xml version='1.0' encoding='utf-7'?><annotation/>",
        b"<?xml version='1.0' encoding='nonsense'?><annotation/>",
        b"<a>" * 10_000,
        b"",
    ],
)
def test_xml_with_entities_and_strange_encodings(tmp_path, text):
    write(tmp_path, name="unused/x.json", images="JPEGImages")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "p0.xml").write_bytes(text)
    with pytest.raises(UserError, match=r"p0\.xml: not valid XML"):
        read(tmp_path)


def test_xml_in_another_encoding_is_read(tmp_path):
    write(tmp_path, name="unused/x.json", images="JPEGImages")
    (tmp_path / "Annotations").mkdir()
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    named = f"<object><name>Kühe &amp; mehr</name>{box}</object>"
    text = f"<?xml version='1.0' encoding='latin-1'?><annotation>{named}</annotation>"
    (tmp_path / "Annotations" / "p0.xml").write_bytes(text.encode("latin-1"))
    assert read(tmp_path)[0].class_names == ["Kühe & mehr"]


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", b"/* XPM */\nstatic char * x[] = {\n"]
)
def test_programs_are_no_images(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    assert read_header(tmp_path / "x.jpg", decode=True).problem == "is not in an image format that can be read"
    with pytest.raises(UserError, match="not in an image format"):
        load_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "TGA"])
def test_formats_that_are_read(tmp_path, kind):
    more = {"save_all": True, "append_images": [image(20, 10, 1)]} if kind == "MPO" else {}
    image(20, 10).save(tmp_path / "x.jpg", kind, **more)
    assert read_header(tmp_path / "x.jpg", decode=True).upright_size == (20, 10)
    assert load_image(tmp_path / "x.jpg").shape == (3, 10, 20)


def test_an_image_that_is_exchanged_is_not_trained_on(tmp_path):
    dataset, _ = read(write(tmp_path))
    loader = make_loader(dataset, size=(32, 64), batch_size=4, training=True, divisor=32)
    next(iter(loader))
    image(48, 64).save(dataset.images[0].path)
    with pytest.raises(UserError, match=r"p0\.png: the image was exchanged: it is 48x64 and was 64x48"):
        list(loader)


@pytest.mark.parametrize("turned", range(1, 9))
def test_turned_images_are_what_they_were(tmp_path, turned):
    """In all eight orientations, with boxes of the upright image and with boxes of the stored one."""
    root = write(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = turned
    file = io.BytesIO()
    image(64, 48).save(file, "JPEG", exif=exif)
    (root / "images" / "p0.png").write_bytes(file.getvalue())
    for told in ((64, 48), (48, 64)) if turned >= 5 else ((64, 48),):
        content = records()
        content["images"][0] |= {"width": told[0], "height": told[1]}
        content["annotations"] = [a | {"bbox": [1, 1, 5, 5]} for a in content["annotations"]]
        (root / "annotations.json").write_text(json.dumps(content))
        dataset, _ = read(root)
        assert (dataset.images[0].width, dataset.images[0].height) == told
        list(make_loader(dataset, size=(32, 64), batch_size=4, training=True, divisor=32))


def test_proposals_without_shape(tmp_path):
    import torch
    from safetensors.torch import save_file

    from libradet.data.proposals.proposal_file import FORMAT

    parts = {"ids": torch.tensor(1), "names": torch.frombuffer(bytearray(b'["a"]'), dtype=torch.uint8)}
    parts |= {"sizes": torch.ones(1, 2, dtype=torch.int32), "offsets": torch.tensor([0, 1])}
    save_file(parts | {"boxes": torch.zeros(1, 4), "scores": torch.tensor(0.5)}, tmp_path / "x", {"format": FORMAT})
    with pytest.raises(UserError, match="do not fit each other"):
        read_proposals(tmp_path / "x")


def test_yolo_lists_that_have_no_end(tmp_path):
    (tmp_path / "data.yaml").write_text("train: /dev/zero\nval: /dev/zero\nnames: [a]\n")
    with pytest.raises(UserError, match="/dev/zero: is not a file"):
        read(tmp_path)


def test_thousands_of_classes_without_ids_are_one_line(tmp_path):
    write(tmp_path, records() | {"categories": [{"name": "a"}] * 4000})
    with pytest.raises(UserError) as refused:
        read(tmp_path)
    assert "categories[0]" in str(refused.value)
    assert len(str(refused.value)) < 1000

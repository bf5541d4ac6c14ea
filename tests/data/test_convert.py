"""Conversion: ground truth is kept, and unsupported information is reported."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from libradet.cli import main
from libradet.data.convert import convert
from libradet.data.image_headers import apply_exif_to_points
from libradet.data.image_io import pil_to_tensor, read_image
from libradet.data.masks import decode_masks
from libradet.data.read import check, read, splits
from libradet.errors import UserError
from tests.helpers.data_building import records, sample_image, write
from tests.helpers.dirty_datasets import DIRTY_CASES

TARGETS = ["coco", "yolo", "voc"]


def truth(root: Path, crowd: bool = True, only: str | None = None) -> dict[str, list]:
    """Return file contents, sizes, class names and exact boxes by split."""
    found = {}
    for split in [only] if only else splits(root):
        dataset, report = read(root, split, training=False)
        assert report.skipped == []
        found[split] = sorted(
            (
                p.path.read_bytes(),
                (p.width, p.height),
                [
                    (dataset.class_names[p.labels[i]], p.boxes[i].tolist(), bool(p.crowd[i]))
                    for i in range(len(p.labels))
                    if crowd or not p.crowd[i]
                ],
            )
            for p in dataset.images
        )
    return found


def chain(source: Path, folder: Path, targets: list[str]) -> list[Path]:
    """Convert from each format to the next."""
    roots = [source]
    for number, to in enumerate(targets):
        convert(roots[-1], folder / f"{number}_{to}", to)
        roots.append(folder / f"{number}_{to}")
    return roots[1:]


NAMES = st.text("ab ä日é._-'&<", min_size=1, max_size=6).map(lambda text: f"p{text}p")
NUMBERS = st.one_of(
    st.integers(0, 40).map(float), st.floats(2**-10, 40, width=32), st.integers(0, 4000).map(lambda n: n / 100)
)


@st.composite
def sets(draw: st.DrawFn) -> dict[str, dict]:
    """Draw COCO records of one to three splits with valid boxes."""
    ids = draw(st.lists(st.integers(1, 90), min_size=1, max_size=4, unique=True))
    categories = [{"id": i, "name": f"class {i}: yes", "supercategory": "things"} for i in ids]
    found = {}
    for split in draw(st.lists(st.sampled_from(["train", "val", "test"]), min_size=1, max_size=3, unique=True)):
        names = draw(st.lists(st.tuples(st.sampled_from(["", "sub/", "a b/c/"]), NAMES), min_size=1, max_size=4))
        content: dict = {"images": [], "annotations": [], "categories": categories}
        for number, name in enumerate(dict.fromkeys(f"{folder}{name}.png" for folder, name in names), start=7):
            width, height = draw(st.integers(44, 60)), draw(st.integers(44, 60))
            image = {"id": number, "file_name": name, "width": width, "height": height, "license": 2}
            content["images"].append(image)
        # Something to train on in every split, and images without a box.
        for row in [0, *draw(st.lists(st.integers(0, len(content["images"]) - 1), max_size=6))]:
            number, image = len(content["annotations"]) + 3, content["images"][row]
            x, y = draw(NUMBERS), draw(NUMBERS)
            w, h = (draw(NUMBERS.map(lambda n, most=most: min(max(n, 0.5), most))) for most in (44 - x, 44 - y))
            crowd = int(number > 3 and draw(st.booleans()))
            x, y, w, h = (x, y, w, h) if number > 3 else (3.5, 4.0, 20.0, 10.0)  # fractions would all be below 1
            record = {"image_id": image["id"], "category_id": draw(st.sampled_from(ids)), "bbox": [x, y, w, h]}
            content["annotations"].append({"id": number, "iscrowd": crowd, "score": 0.5} | record)
        found[split] = content
    return found


def write_set(root: Path, found: dict[str, dict]) -> Path:
    """Write records, and images that all differ."""
    for order, (split, content) in enumerate(found.items()):
        for number, image in enumerate(content["images"]):
            path = root / "images" / split / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = sample_image(image["width"], image["height"], order)
            pixels.putpixel((0, 0), (order, number, 77))
            pixels.save(path)
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    "targets",
    [["coco"], ["yolo", "coco"], ["voc", "coco"], pytest.param(["yolo", "voc", "yolo"], marks=pytest.mark.slow)],
)
@settings(max_examples=5)
@given(found=sets())
def test_round_trip_keeps_ground_truth(targets, found):
    with tempfile.TemporaryDirectory() as place:
        source = write_set(Path(place) / "source", found)
        for root in chain(source, Path(place), targets):
            assert truth(root) == truth(source, crowd="yolo" not in targets)
            assert not [text for text in check(root).warnings if "exact copy" not in text]


@settings(max_examples=5)
@given(found=sets())
def test_coco_keeps_every_field(found):
    with tempfile.TemporaryDirectory() as place:
        source = write_set(Path(place) / "source", {k: v | {"info": {"year": 1}} for k, v in found.items()})
        assert convert(source, Path(place) / "out", "coco").unsupported == [] or len(found) > 1
        for split, content in found.items():
            again = json.loads((Path(place) / "out" / f"{split}.json").read_text())
            assert again["info"] == {"year": 1}
            assert sorted(again["categories"], key=str) == sorted(content["categories"], key=str)
            assert [r["id"] for r in again["images"]] == [r["id"] for r in content["images"]]
            assert all(r["license"] == 2 for r in again["images"])
            ours = {r["id"]: r for r in again["annotations"]}
            for record in content["annotations"]:
                # Numbers as they were written, not as float32 has them.
                assert {k: ours[record["id"]][k] for k in record if k != "bbox"} == {
                    k: v for k, v in record.items() if k != "bbox"
                }
                np.testing.assert_allclose(ours[record["id"]]["bbox"], record["bbox"], atol=1e-5)


@settings(max_examples=5)
@given(found=sets())
def test_pycocotools_and_supervision_read_the_same(found):
    """pycocotools and supervision read the same boxes from our files."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        # supervision looks for labels of images in one folder, and has one list of files.
        found = {split: content for split, content in list(found.items())[:1]}
        for content in found.values():
            for number, image in enumerate(content["images"]):
                image["file_name"] = f"p {number} é.png"
        source = write_set(root / "source", found)
        (split,) = found
        dataset, _ = read(source, split)
        for to in TARGETS:
            convert(source, root / to, to)
        coco = COCO(root / "coco" / f"{split}.json")
        yolo = sv.DetectionDataset.from_yolo(
            *(str(root / "yolo" / part) for part in (f"images/{split}", f"labels/{split}", "data.yaml"))
        )
        voc = sv.DetectionDataset.from_pascal_voc(str(root / "voc/JPEGImages"), str(root / "voc/Annotations"))
        for p in dataset.images:
            names = [dataset.class_names[k] for k in p.labels]
            annotations = coco.loadAnns(coco.getAnnIds(p.id))
            boxes = np.array([a["bbox"] for a in annotations]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            np.testing.assert_allclose(boxes, p.boxes, atol=1e-4)
            assert [coco.cats[a["category_id"]]["name"] for a in annotations] == names
            theirs = yolo.annotations[str(root / "yolo/images" / split / p.path.name)]
            np.testing.assert_allclose(theirs.xyxy, p.boxes[~p.crowd], atol=1e-4)
            assert [yolo.classes[k] for k in theirs.class_id] == [
                n for n, c in zip(names, p.crowd, strict=True) if not c
            ]
            theirs = voc.annotations[str(root / "voc/JPEGImages" / p.path.name)]
            # It takes xmin and ymin to count from one.
            np.testing.assert_allclose(theirs.xyxy + np.array([1, 1, 0, 0]), p.boxes, atol=1e-4)
            assert [voc.classes[k] for k in theirs.class_id] == names


@pytest.mark.parametrize(
    "name", [pytest.param("bccd", marks=pytest.mark.slow), pytest.param("deeppcb", marks=pytest.mark.slow), "coco_cc"]
)
def test_real_sets(shared_data, tmp_path, name):
    source = shared_data / name
    convert(source, tmp_path / "coco", "coco", splits=["val"], image_mode="link")
    roots = chain(tmp_path / "coco", tmp_path, ["yolo", "voc", "coco"])
    wanted = truth(source, crowd=False, only="val")
    assert all(truth(root) == wanted for root in roots)
    before, after = COCO(source / "val.json"), COCO(tmp_path / "coco" / "val.json")
    assert before.cats == after.cats
    assert before.imgs == after.imgs
    assert before.anns.keys() == after.anns.keys()
    for number, record in before.anns.items():
        ours = after.anns[number]
        assert (ours["category_id"], ours["iscrowd"]) == (record["category_id"], record["iscrowd"])
        # Some official boxes leave their image by a hundredth of a pixel.
        np.testing.assert_allclose(ours["bbox"], record["bbox"], atol=0.011)
        if "segmentation" in record:
            assert (after.annToMask(ours) == before.annToMask(record)).all()


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("case", DIRTY_CASES)
def test_damaged_sets(shared_data, tmp_path, case, to):
    source, out = shared_data / "dirty" / case, tmp_path / "out"
    found = check(source)
    if found.errors:
        with pytest.raises(UserError) as raised:
            convert(source, out, to)
        assert str(raised.value) == "\n".join(found.errors)
        assert list(tmp_path.iterdir()) == []
        return
    done = convert(source, out, to)
    assert (done.report.skipped, done.report.warnings) == (found.skipped, found.warnings)
    after = check(out)
    crowd = sum(int(p.crowd.sum()) for p in read(source)[0].images)
    assert (after.images, after.boxes) == (found.images, found.boxes - crowd * (to == "yolo"))
    assert after.skipped + after.warnings + after.errors == []
    assert any("1 crowd region" in loss for loss in done.unsupported) == bool(crowd and to != "coco")


def test_damaged_images_can_be_left_out(shared_data, tmp_path):
    done = convert(shared_data / "dirty" / "02_missing_image_file", tmp_path / "out", "yolo", skip_broken=True)
    assert done.report.skipped[0]["examples"] == ["cells_4.jpg"]
    assert check(tmp_path / "out").images == 3


def test_equal_file_names_are_made_unique(tmp_path):
    """The same name in two splits and two folders, in two cases, with two suffixes."""
    found = {}
    for split in ("train", "val"):
        content = records()
        for image, name in zip(content["images"], ["x.png", "X.png", "sub/x.png", "x.bmp"], strict=True):
            image["file_name"] = name
        found[split] = content
    source = write_set(tmp_path / "source", found)
    for to in TARGETS:
        done = convert(source, tmp_path / to, to)
        assert any("renamed" in loss for loss in done.unsupported)
        assert truth(tmp_path / to) == truth(source)
        files = [p.relative_to(tmp_path / to) for p in (tmp_path / to).rglob("*") if p.is_file()]
        assert len({str(file).casefold() for file in files}) == len(files)


def test_image_in_two_splits_is_written_once(tmp_path):
    source = write(write(tmp_path / "source", name="train.json"), name="val.json")
    convert(source, tmp_path / "coco", "coco")
    convert(tmp_path / "coco", tmp_path / "voc", "voc")
    assert len(list((tmp_path / "coco/images").iterdir())) == len(list((tmp_path / "voc/JPEGImages").iterdir())) == 4
    # YOLO has a folder for each.
    convert(tmp_path / "voc", tmp_path / "yolo", "yolo")
    assert len(list((tmp_path / "yolo/images").rglob("*.png"))) == 8
    assert truth(tmp_path / "yolo") == truth(source)


def test_image_listed_twice_keeps_its_boxes(tmp_path):
    content = records()
    content["images"][1] |= {"file_name": "p0.png", "width": 64, "height": 48}
    content["annotations"][2]["bbox"] = [1, 1, 10, 10]
    source = write(tmp_path / "source", content, name="train.json")
    for to in TARGETS:
        convert(source, tmp_path / to, to)
        assert truth(tmp_path / to) == truth(source)


def test_split_names(tmp_path):
    single = write(tmp_path / "single")
    for to, names in (("coco", ["all"]), ("voc", ["all"]), ("yolo", ["train"])):
        convert(single, tmp_path / to, to)
        assert splits(tmp_path / to) == names
    for name in ("train2017", "minival_2"):
        write(tmp_path / "coco_like", name=f"annotations/instances_{name}.json")
    convert(tmp_path / "coco_like", tmp_path / "again", "coco")
    assert splits(tmp_path / "again") == ["train", "minival_2"]
    convert(tmp_path / "coco_like", tmp_path / "voc2", "voc")
    assert splits(tmp_path / "voc2") == ["train", "minival-2"]
    with pytest.raises(UserError, match="not minival_2: name the splits to convert with --split"):
        convert(tmp_path / "coco_like", tmp_path / "yolo2", "yolo")
    convert(tmp_path / "coco_like", tmp_path / "yolo2", "yolo", splits=["train"])
    assert splits(tmp_path / "yolo2") == ["train"]
    convert(write(tmp_path / "tests", name="test.json"), tmp_path / "yolo3", "yolo")
    assert splits(tmp_path / "yolo3") == ["test"]


def test_polygons_as_yolo_segments(tmp_path):
    """One polygon is kept, several are joined to one with the same pixels, RLE and crowd regions are omitted."""
    content = records()
    polygons = [[[4, 6, 24, 6, 24.25, 36, 4, 36]], [[11, 3, 20, 3, 20, 14], [30, 3, 40, 3, 40, 14, 30, 14]]]
    for record, polygon in zip(content["annotations"], polygons, strict=False):
        record["segmentation"] = polygon
    content["annotations"][3] |= {"segmentation": {"size": [50, 50], "counts": [0, 2500]}, "bbox": [0, 0, 50, 50]}
    source = write(tmp_path / "source", content, name="train.json")
    done = convert(source, tmp_path / "yolo", "yolo", masks=True)
    assert any(loss.startswith("1 mask (RLE) is omitted") for loss in done.unsupported)
    before, after = (read(root)[0].images[0] for root in (source, tmp_path / "yolo"))
    assert decode_masks(before, 48, 64).equal(decode_masks(after, 48, 64))
    plain = convert(source, tmp_path / "boxes", "yolo")
    assert any("3 masks" in loss and "--masks" in loss for loss in plain.unsupported)
    with pytest.raises(UserError, match="COCO keeps them"):
        convert(source, tmp_path / "coco", "coco", masks=True)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_apply_exif_to_points(orientation):
    stored = Image.fromarray(np.zeros((30, 40, 3), np.uint8))
    stored.paste((255, 255, 255), (5, 7, 16, 27))
    stored.getexif()[0x0112] = orientation
    white = pil_to_tensor(stored)[0].nonzero()
    corners = apply_exif_to_points(np.array([[5.0, 7.0], [16.0, 27.0]]), 40, 30, orientation)
    assert corners.min(0).tolist() == white.min(0).values.flip(0).tolist()
    assert corners.max(0).tolist() == (white.max(0).values.flip(0) + 1).tolist()


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("turned", [False, True])
def test_boxes_match_rotated_images(tmp_path, to, turned):
    """Boxes of the stored and of the upright image match the pixels that are read again."""
    stored = Image.new("RGB", (64, 48))
    stored.paste((255, 255, 255), (4, 6, 24, 36))
    exif = Image.Exif()
    exif[0x0112] = 6
    content = records()
    box, size = ([48 - 36, 4, 30, 20], (48, 64)) if turned else ([4, 6, 20, 30], (64, 48))
    polygon = [[box[0], box[1], box[0] + box[2], box[1], box[0] + box[2], box[1] + box[3], box[0], box[1] + box[3]]]
    content["annotations"] = [content["annotations"][0] | {"bbox": box, "segmentation": polygon}]
    content["images"] = [content["images"][0] | {"width": size[0], "height": size[1]}]
    source = write(tmp_path / "source", content)
    stored.save(source / "images/p0.png", exif=exif)
    for masks in [False, True][: 1 + (to == "yolo")]:
        out = tmp_path / f"out{masks}"
        convert(source, out, to, masks=masks)
        (found,) = read(out)[0].images
        white = torch.zeros(found.height, found.width, dtype=torch.bool)
        left, top, right, bottom = found.boxes[0].round().astype(int)
        white[top:bottom, left:right] = True
        assert (read_image(found.path, found.apply_exif)[0] > 128).equal(white)


@pytest.mark.parametrize("how", ["copy", "link"])
def test_images_are_copied_or_linked(tmp_path, how):
    source = write(tmp_path / "source")
    convert(source, tmp_path / "out", "coco", image_mode=how)
    assert (tmp_path / "out/images/p0.png").samefile(source / "images/p0.png") == (how == "link")


def test_voc_attributes_are_kept(tmp_path):
    content = records()
    content["annotations"][0]["attributes"] = {"truncated": "1", "pose": "Left"}
    content["annotations"][1]["attributes"] = {"color": "red"}
    done = convert(write(tmp_path / "source", content), tmp_path / "voc", "voc")
    assert any("attributes (1)" in loss for loss in done.unsupported)
    convert(tmp_path / "voc", tmp_path / "coco", "coco")
    again = json.loads((tmp_path / "coco/annotations.json").read_text())["annotations"]
    assert [a.get("attributes") for a in again] == [{"pose": "Left", "truncated": "1"}, None, None, None]


def test_class_name_not_valid_in_xml_is_refused(tmp_path):
    content = records()
    content["categories"][0]["name"] = " dog"
    with pytest.raises(UserError, match="class ' dog'"):
        convert(write(tmp_path / "source", content), tmp_path / "out", "voc")
    assert not (tmp_path / "out").exists()


def test_existing_folder_is_refused(tmp_path, monkeypatch):
    source = write(tmp_path / "source")
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty", "coco")
    assert truth(tmp_path / "empty") == truth(source)
    for used in ("empty", "source/annotations.json"):
        with pytest.raises(UserError, match="already exists"):
            convert(source, tmp_path / used, "yolo")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="name a new"):
        convert(source, ".", "yolo")
    (tmp_path / "new.partial").mkdir()
    with pytest.raises(UserError, match=r"new\.partial: is being written by another process"):
        convert(source, tmp_path / "new", "yolo")
    assert truth(tmp_path / "empty") == truth(source)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_conversion_leaves_no_files(tmp_path, monkeypatch, error):
    source = write(tmp_path / "source")
    copy, copied = shutil.copyfile, []

    def fail(path, place):
        if copied:
            raise error
        copied.append(copy(path, place))

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else UserError):
        convert(source, tmp_path / "deep/out", "voc")
    assert len(copied) == 1
    assert not (tmp_path / "deep").exists()


def test_command(tmp_path, capsys):
    source, out = write(tmp_path / "source"), tmp_path / "out"
    assert main(["data", "convert", str(source), str(out), "--to", "yolo", "--split", "train"]) == 0
    output = capsys.readouterr().out
    assert "note: ids of categories, images, objects: renumbered" in output
    assert output.splitlines()[-1] == f"{out}: yolo, images: train 4"
    assert main(["data", "check", str(out)]) == 0
    assert main(["data", "convert", str(source), str(out), "--to", "yolo"]) == 2
    assert "already exists" in capsys.readouterr().err

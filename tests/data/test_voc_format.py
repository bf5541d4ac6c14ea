"""Pascal VOC format: folder layouts, and invalid or hostile XML."""

from pathlib import Path

import pytest

from libradet.data.read import read, splits
from libradet.errors import UserError
from tests.helpers.data_building import SIZES, essence, records, write, write_images


def voc_files(folder: Path, difficult: int = 0) -> None:
    """Write XML files for :func:`records`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {1: "cat", 7: "dog", 9: "hen"}
    for row, (w, h) in enumerate(SIZES):
        objects = ""
        for annotation in records()["annotations"]:
            if annotation["image_id"] == 10 + row:
                x, y, bw, bh = annotation["bbox"]
                corners = {"xmin": x, "ymin": y, "xmax": x + bw, "ymax": y + bh}
                box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
                name = names[annotation["category_id"]]
                objects += (
                    f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"
                )
        size = f"<size><width>{w}</width><height>{h}</height></size>"
        text = f"<annotation><filename>p{row}.png</filename>{size}{objects}</annotation>"
        (folder / f"p{row}.xml").write_text(text)


@pytest.mark.parametrize("home", [".", "VOCdevkit/VOC2007"])
def test_voc(tmp_path, reference, home):
    root = tmp_path / "set"
    write_images(root / home / "JPEGImages")
    voc_files(root / home / "Annotations")
    lists = root / home / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("p0\np1\np2\np3\n")
    (lists / "val.txt").write_text("p2\n")
    (lists / "cat_train.txt").write_text("p0 1\n")
    assert splits(root) == ["train", "val"]
    assert essence(root) == reference
    assert essence(root, "val") == [reference[2]]
    # Both splits number the classes alike, though only one of the three occurs here.
    assert read(root, "val")[0].class_names == ["cat", "dog", "hen"]


def test_voc_images_next_to_the_xml(tmp_path, reference):
    write_images(tmp_path / "train")
    voc_files(tmp_path / "train")
    write_images(tmp_path / "flat")
    voc_files(tmp_path / "flat")
    assert splits(tmp_path) == ["train"]
    assert essence(tmp_path) == reference
    assert essence(tmp_path / "flat") == reference


def test_voc_difficult_objects_are_crowd(tmp_path):
    write_images(tmp_path / "JPEGImages")
    voc_files(tmp_path / "Annotations", difficult=1)
    dataset, report = read(tmp_path, strict=False)
    assert all(p.crowd.all() for p in dataset.images)
    assert any("difficult" in note for note in report.notes)
    assert any("no boxes to train on" in error for error in report.errors)


BILLION_LAUGHS = '<!DOCTYPE l [<!ENTITY a0 "ha">' + "".join(
    f'<!ENTITY a{i} "{f"&a{i - 1};" * 9}">' for i in range(1, 9)
)


@pytest.mark.parametrize(
    "text",
    [
        f"{BILLION_LAUGHS}]><annotation><filename>&a8;</filename></annotation>".encode(),
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>',
        f"<?xml version='1.0' encoding='utf-16'?>{BILLION_LAUGHS}]><annotation>&a8;</annotation>".encode("utf-16"),
        b"<?xml version='1.0' encoding='utf-7'?><annotation/>",
        b"<?xml version='1.0' encoding='nonsense'?><annotation/>",
        b"<a>" * 10_000,
        b"",
    ],
)
def test_xml_with_entities_and_unknown_encodings_is_refused(tmp_path, text):
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

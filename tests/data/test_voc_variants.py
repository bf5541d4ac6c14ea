"""Pascal VOC datasets as tools write them: several folders, missing XML files, several boxes, crowd attributes."""

import numpy as np
import pytest
from PIL import Image

from libradet.data.convert import convert
from libradet.data.read import check, read, splits
from libradet.errors import UserError

WIDTH, HEIGHT = 100, 80
BOX, OTHER = (10, 20, 40, 60), (50, 10, 90, 30)


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)


def write_xml(path, file_name, *boxes, name="cat", more=""):
    corners = "".join(
        "<bndbox>"
        + "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox>"
        for box in boxes
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = f"<object><name>{name}</name>{more}{corners}</object>" if boxes else ""
    path.write_text(f"<annotation><filename>{file_name}</filename>{size}{objects}</annotation>")


def write_list(path, *names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


@pytest.mark.parametrize("folders", [("images", "annotations"), ("JPEGImages", "Annotations")])
def test_a_folder_for_each_split(tmp_path, folders):
    for split, name, label in (("train", "a", "cat"), ("train", "b", "dog"), ("valid", "a", "bird")):
        write_image(tmp_path / split / folders[0] / f"{name}.jpg")
        write_xml(tmp_path / split / folders[1] / f"{name}.xml", f"{name}.jpg", BOX, name=label)
    assert splits(tmp_path) == ["train", "valid"]
    train, val = read(tmp_path, "train")[0], read(tmp_path, "val")[0]
    assert train.class_names == val.class_names == ["bird", "cat", "dog"]
    assert [image.path.parent.parent.name for image in (*train.images, *val.images)] == ["train", "train", "valid"]


def test_years_are_joined_and_equal_names_do_not_clash(tmp_path):
    for year, box in (("VOC2007", BOX), ("VOC2012", OTHER)):
        for split in ("train", "val"):
            write_image(tmp_path / year / f"JPEGImages/{split}1.jpg")
            write_xml(tmp_path / year / f"Annotations/{split}1.xml", f"{split}1.jpg", box)
            write_list(tmp_path / year / f"ImageSets/Main/{split}.txt", f"{split}1")
    dataset = read(tmp_path, "train")[0]
    assert [image.path.relative_to(tmp_path).parts[0] for image in dataset.images] == ["VOC2007", "VOC2012"]
    np.testing.assert_array_equal([image.boxes[0] for image in dataset.images], [BOX, OTHER])


def test_listed_image_without_xml_is_background_and_others_are_counted(tmp_path):
    for name in "abcd":
        write_image(tmp_path / f"JPEGImages/{name}.jpg")
    for name in "ab":
        write_xml(tmp_path / f"Annotations/{name}.xml", f"{name}.jpg", BOX)
    write_list(tmp_path / "ImageSets/Main/train.txt", "a", "c")
    write_list(tmp_path / "ImageSets/Main/val.txt", "b")
    dataset, report = read(tmp_path, "train")
    assert [len(image.labels) for image in dataset.images] == [1, 0]
    text = " ".join(report.notes)
    assert "1 listed images have no XML file: used as background" in text
    assert "1 image has no XML file: not used (d)" in text
    write_list(tmp_path / "ImageSets/Main/val.txt", "b", "gone")
    assert "listed in ImageSets/Main, but missing" in " ".join(check(tmp_path).errors)


def test_several_boxes_in_an_object(tmp_path):
    write_image(tmp_path / "JPEGImages/a.jpg")
    write_xml(tmp_path / "Annotations/a.xml", "a.jpg", BOX, OTHER, (60, 40, 80, 70))
    np.testing.assert_array_equal(read(tmp_path)[0].images[0].boxes, [BOX, OTHER, (60, 40, 80, 70)])


@pytest.mark.parametrize("file_name", ["{}/1.jpg", "1.jpg", "1", "/home/x/{}/1.png", "C:\\x\\{}\\1.jpg"])
def test_sub_folders(tmp_path, file_name):
    for folder, box, label in (("s1", BOX, "cat"), ("s2", OTHER, "dog")):
        write_image(tmp_path / f"JPEGImages/{folder}/1.jpg")
        write_xml(tmp_path / f"Annotations/{folder}/1.xml", file_name.format(folder), box, name=label)
    write_list(tmp_path / "ImageSets/Main/train.txt", "s1/1")
    write_list(tmp_path / "ImageSets/Main/val.txt", "s2/1")
    for split, folder, box, label in (("train", "s1", BOX, 0), ("val", "s2", OTHER, 1)):
        dataset = read(tmp_path, split)[0]
        assert dataset.class_names == ["cat", "dog"]
        (image,) = dataset.images
        assert image.path == tmp_path / f"JPEGImages/{folder}/1.jpg"
        np.testing.assert_array_equal(image.boxes, [box])
        assert image.labels.tolist() == [label]


@pytest.mark.parametrize(
    "attribute",
    [
        "<difficult>1</difficult>",
        "<iscrowd>1</iscrowd>",
        "<attributes><attribute><name>is_crowd</name><value>True</value></attribute></attributes>",
    ],
)
def test_crowd(tmp_path, attribute):
    write_image(tmp_path / "JPEGImages/a.jpg")
    write_xml(tmp_path / "Annotations/a.xml", "a.jpg", BOX, more=attribute)
    dataset, report = read(tmp_path, training=False)
    assert dataset.images[0].crowd.tolist() == [True]
    assert "1 object is marked" in " ".join(report.notes)


@pytest.mark.parametrize(("boxes", "noticed"), [([(1, 1, 40, 80)], True), ([(0, 5, 40, 80)], False), ([BOX], False)])
def test_corners_that_count_from_one_are_noticed(tmp_path, boxes, noticed):
    write_image(tmp_path / "JPEGImages/a.jpg")
    write_xml(tmp_path / "Annotations/a.xml", "a.jpg", *boxes)
    assert ("count from 1" in " ".join(read(tmp_path)[1].notes)) is noticed


def test_resource_forks_are_no_annotations(tmp_path):
    write_image(tmp_path / "JPEGImages/a.jpg")
    write_xml(tmp_path / "Annotations/a.xml", "a.jpg", BOX)
    (tmp_path / "Annotations/._a.xml").write_bytes(b"\0\5\26\7")
    (tmp_path / "JPEGImages/._a.jpg").write_bytes(b"\0\5\26\7")
    assert len(read(tmp_path)[0]) == 1


def test_corners_that_count_from_one_are_converted(tmp_path):
    write_image(tmp_path / "voc/JPEGImages/a.jpg")
    write_xml(tmp_path / "voc/Annotations/a.xml", "a.jpg", (1, 1, WIDTH, HEIGHT), (34, 45, 34, 45))
    result = convert(tmp_path / "voc", tmp_path / "coco", "coco", voc_one_based=True)
    boxes = read(tmp_path / "coco")[0].images[0].boxes.tolist()
    assert boxes == [[0, 0, WIDTH, HEIGHT], [33, 44, 34, 45]]
    assert "corners are read as pixels that count from 1" in result.report.notes
    with pytest.raises(UserError, match="--voc_one_based is an option of Pascal VOC"):
        convert(tmp_path / "coco", tmp_path / "again", "coco", voc_one_based=True)
    assert not (tmp_path / "again").exists()


def test_images_named_like_their_xml_file_are_noted(tmp_path):
    write_image(tmp_path / "JPEGImages/a.jpg")
    write_xml(tmp_path / "Annotations/a.xml", "IMG_0001.jpeg", BOX)
    text = "1 image does not exist as <filename> names them: those named like their XML file are used"
    assert f"{text} (a.xml names IMG_0001.jpeg)" in read(tmp_path)[1].notes
    write_xml(tmp_path / "Annotations/a.xml", "a.jpg", BOX)
    assert not any("<filename>" in note for note in read(tmp_path)[1].notes)


@pytest.mark.parametrize("folder", ["Main", ".", "Segmentation"])
def test_lists_in_main_in_image_sets_or_in_another_folder(tmp_path, folder):
    for name in "abc":
        write_image(tmp_path / f"JPEGImages/{name}.jpg")
        write_xml(tmp_path / f"Annotations/{name}.xml", f"{name}.jpg", BOX)
    write_list(tmp_path / "ImageSets" / folder / "train.txt", "a")
    write_list(tmp_path / "ImageSets" / folder / "val.txt", "b")
    assert splits(tmp_path) == ["train", "val"]
    dataset, report = read(tmp_path, "train")
    assert [image.path.name for image in dataset.images] == ["a.jpg"]
    assert any(note.startswith("splits are those of ImageSets") for note in report.notes) == (folder != "Main")


def test_lists_of_single_classes_are_no_splits_and_others_with_underscore_are(tmp_path):
    for name in "abc":
        write_image(tmp_path / f"JPEGImages/{name}.jpg")
        write_xml(tmp_path / f"Annotations/{name}.xml", f"{name}.jpg", BOX)
    write_list(tmp_path / "ImageSets/Main/cat_train.txt", "a  1", "b -1")
    write_list(tmp_path / "ImageSets/Main/fold_1.txt", "a", "b")
    write_list(tmp_path / "ImageSets/Main/fold_2.txt", "c")
    assert splits(tmp_path) == ["fold_1", "fold_2"]


def test_listed_file_names_paths_and_repeated_lines(tmp_path):
    for name in "abc":
        write_image(tmp_path / f"JPEGImages/{name}.jpg")
    write_xml(tmp_path / "Annotations/a.xml", "a.jpg", BOX)
    write_xml(tmp_path / "Annotations/b.XML", "b.jpg", BOX, OTHER)
    write_list(tmp_path / "ImageSets/Main/train.txt", "a.jpg", "VOC/JPEGImages/b.jpg", "JPEGImages/c.jpg", "a", "a.jpg")
    write_list(tmp_path / "ImageSets/Main/val.txt")
    dataset, report = read(tmp_path, "train")
    images = [(image.path.name, len(image.labels)) for image in dataset.images]
    assert images == [("a.jpg", 1), ("b.jpg", 2), ("c.jpg", 0)]
    assert "ImageSets/Main: 2 repeated lines in train.txt: each image is used once" in report.notes
    assert "ImageSets/Main: no image is listed in val.txt" in report.notes


def test_copied_xml_belongs_to_the_image_named_like_itself(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"JPEGImages/{name}.jpg")
    write_xml(tmp_path / "Annotations/a.xml", "a.jpg", BOX)
    write_xml(tmp_path / "Annotations/b.xml", "a.jpg", OTHER)
    dataset, report = read(tmp_path)
    assert [image.path.name for image in dataset.images] == ["a.jpg", "b.jpg"]
    np.testing.assert_array_equal([image.boxes[0] for image in dataset.images], [BOX, OTHER])
    assert "1 XML files name the image of another one: those named like themselves are used (b.xml names a.jpg)" in (
        report.notes
    )


def test_images_that_xml_files_name_are_not_counted_as_unused(tmp_path):
    write_image(tmp_path / "JPEGImages/IMG_1.jpg")
    write_image(tmp_path / "JPEGImages/B.JPG")
    write_xml(tmp_path / "Annotations/a.xml", "IMG_1.jpg", BOX)
    write_xml(tmp_path / "Annotations/b.xml", "b.jpg", BOX)
    assert not any("not used" in note for note in read(tmp_path)[1].notes)


@pytest.mark.parametrize(("flag", "crowd"), [("True", True), ("1.0", True), (" 1 ", True), ("0", False), ("", False)])
def test_difficult_as_tools_write_it(tmp_path, flag, crowd):
    write_image(tmp_path / "JPEGImages/a.jpg")
    write_xml(tmp_path / "Annotations/a.xml", "a.jpg", BOX, more=f"<difficult>{flag}</difficult>")
    assert read(tmp_path, training=False)[0].images[0].crowd.tolist() == [crowd]


def test_class_names_that_differ_by_case_only_are_noticed(tmp_path):
    for name, label in (("a", "cat"), ("b", "Cat"), ("c", "dog")):
        write_image(tmp_path / f"JPEGImages/{name}.jpg")
        write_xml(tmp_path / f"Annotations/{name}.xml", f"{name}.jpg", BOX, name=label)
    assert any("differ by case or spaces only (Cat, cat)" in warning for warning in read(tmp_path)[1].warnings)

"""YOLO datasets as tools write them: keypoints, lists of other machines, split names, class names, linked folders."""

import shutil

import numpy as np
import pytest
from PIL import Image

from libradet.data.image_headers import IMAGE_SUFFIXES
from libradet.data.read import check, read, splits
from libradet.errors import UserError

WIDTH, HEIGHT = 100, 80
BOX = (10.0, 20.0, 40.0, 60.0)
LINE = "0 0.25 0.5 0.3 0.5"


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(path)


@pytest.fixture
def make(tmp_path):
    """Return a function that writes a dataset of two training images and a validation image."""

    def make(yaml, line=LINE, layout="{kind}/{split}"):
        (tmp_path / "data.yaml").write_text(yaml)
        for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
            write_image(tmp_path / layout.format(kind="images", split=split) / f"{name}.png")
            labels = tmp_path / layout.format(kind="labels", split=split) / f"{name}.txt"
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text(f"{line}\n")
        return tmp_path

    return make


def assert_all_read(root, train=2, val=1):
    report = check(root)
    assert not report.errors
    for split, count in (("train", train), ("val", val)):
        dataset, _ = read(root, split)
        assert len(dataset) == count
        for image in dataset.images:
            np.testing.assert_allclose(image.boxes, [BOX], atol=0.01)
    return report


def test_byte_order_marks_and_line_ends_of_windows(make):
    root = make("train: train.txt\nval: images/val\nnames: [cat]\n", f"{LINE}\r")
    (root / "train.txt").write_text("./images/train/a.png\r\n./images/train/b.png\r\n")
    for file in root.rglob("*.*"):
        if file.suffix in (".txt", ".yaml"):
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert_all_read(root)


@pytest.mark.parametrize("shape", [(1, 2), (1, 3), (2, 2), (17, 3), (5, 2)])
def test_keypoints_are_not_polygons(make, shape):
    points = " ".join(["0.9 0.1", "0.95 0.15 2"][shape[1] - 2] for _ in range(shape[0]))
    root = make(f"train: images/train\nval: images/val\nnames: [cat]\nkpt_shape: {list(shape)}\n", f"{LINE} {points}")
    report = assert_all_read(root)
    assert "keypoints" in " ".join(report.notes)
    assert read(root, "train")[0].images[0].segmentations in (None, [None])


def test_lines_of_other_lengths_are_reported_beside_keypoints(make):
    root = make("train: images/train\nval: images/val\nnames: [cat]\nkpt_shape: [2, 2]\n", f"{LINE} 0.1 0.1 0.2 0.2")
    (root / "labels/train/a.txt").write_text(f"{LINE} 0.1 0.1\n{LINE}\n")
    dataset, report = read(root, "train", strict=False)
    assert sum(len(image.labels) for image in dataset.images) == 2
    assert "a.txt:1" in str(report)


@pytest.mark.parametrize("key", ["val", "valid", "validation"])
def test_names_of_the_validation_split(make, key):
    assert_all_read(make(f"train: images/train\n{key}: images/val\nnames: [cat]\n"))


@pytest.mark.parametrize("layout", ["{kind}/{split}", "{split}/{kind}"])
def test_splits_are_those_of_folders_if_none_is_named(make, layout):
    root = make("nc: 1\nnames: [cat]\n", layout=layout)
    assert splits(root) == ["train", "val"]
    assert_all_read(root)


def test_names_remain_text(make):
    names = ["on", "off", "yes", "1", "1.50", "null", "2024-01-01", "0x10", "~", "1e3"]
    for text in (f"[{', '.join(names)}]", "\n" + "".join(f"  {i}: {name}\n" for i, name in enumerate(names))):
        root = make(f"train: images/train\nval: images/val\nnames: {text}\n")
        assert read(root, "train")[0].class_names == names


@pytest.mark.parametrize(
    "prefix", ["./images/train/", "images/train/", "/content/drive/p/images/train/", "C:\\data\\images\\train\\"]
)
@pytest.mark.parametrize("folder", ["", "lists/"])
def test_lists_of_other_machines(make, prefix, folder):
    root = make(f"train: {folder}train.txt\nval: images/val\nnames: [cat]\n")
    (root / folder).mkdir(exist_ok=True)
    (root / folder / "train.txt").write_text("".join(f"{prefix}{name}.png\n" for name in "ab"))
    assert_all_read(root)


def test_images_of_a_list_that_are_missing_are_named(make):
    root = make("train: train.txt\nval: images/val\nnames: [cat]\n")
    (root / "train.txt").write_text("images/train/a.png\nimages/train/lost.png\n")
    with pytest.raises(UserError, match=r"lost\.png"):
        read(root, "train")


def test_linked_folders_are_read_once_and_circles_end(make):
    root = make("train: images/train\nval: images/val\nnames: [cat]\n")
    write_image(root / "store/images/d.png")
    (root / "store/labels").mkdir()
    (root / "store/labels/d.txt").write_text(f"{LINE}\n")
    (root / "images/train/more").symlink_to("../../store/images")
    (root / "labels/train/more").symlink_to("../../store/labels")
    (root / "images/train/again").symlink_to("../../images/train")
    assert_all_read(root, train=3)


def test_a_link_before_the_real_folder_does_not_hide_it(make):
    root = make("train: images\nval: images/val\nnames: [cat]\n")
    (root / "images/a_link").symlink_to("train")
    assert_all_read(root, train=3)


def test_merged_names(make):
    root = make("base: &base {names: [cat]}\n<<: *base\ntrain: images/train\nval: images/val\n")
    assert_all_read(root)


def test_resource_forks_are_no_images(make):
    root = make("train: images/train\nval: images/val\nnames: [cat]\n")
    (root / "images/train/._a.png").write_bytes(b"\0\5\26\7")
    assert_all_read(root)


def test_darknet(tmp_path):
    (tmp_path / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n"
    )
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    for split, names in (("train", "ab"), ("valid", "c")):
        (tmp_path / f"{split}.txt").write_text("".join(f"data/obj_train_data/{name}.png\n" for name in names))
        for name in names:
            write_image(tmp_path / f"obj_train_data/{name}.png")
            (tmp_path / f"obj_train_data/{name}.txt").write_text(f"{LINE}\n")
    assert_all_read(tmp_path)
    assert read(tmp_path, "train")[0].class_names == ["cat", "dog"]


def test_class_list_beside_images_and_labels(make):
    root = make("")
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat\n")
    assert_all_read(root)
    for kind in ("images", "labels"):
        shutil.rmtree(root / kind / "val")
        for path in list((root / kind / "train").iterdir()):
            path.rename(root / kind / path.name)
        (root / kind / "train").rmdir()
    assert splits(root) == ["all"]
    assert len(read(root)[0]) == 2


def test_predictions_with_scores_are_named(make):
    root = make("train: images/train\nval: images/val\nnames: [cat]\n")
    (root / "labels/train/a.txt").write_text(f"{LINE} 0.75\n{LINE}\n{LINE} name\n")
    report = read(root, "train")[1]
    assert (report.boxes, report.skipped[0]["count"]) == (2, 2)
    note = "1 line has a sixth number, the score of a prediction (save_conf): not read (a.txt:1)"
    assert note in report.notes


@pytest.mark.parametrize(("numbers", "refused"), [((1, 2), True), ((0, 1), False), ((1,), False), ((0, 2), False)])
def test_class_numbers_that_count_from_one(make, numbers, refused):
    """SAHI and PyLabel write ids of COCO as class numbers."""
    root = make("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    for name in ("a", "b"):
        lines = [f"{number}{LINE[1:]}" for number in numbers]
        (root / f"labels/train/{name}.txt").write_text("\n".join(lines))
    report = check(root, "train")
    assert any("seem to count from 1" in error for error in report.errors) is refused
    assert bool(report.errors) is (2 in numbers)
    if refused:
        (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: {1: cat, 2: dog}\n")
        assert not check(root, "train").errors


def test_circles_of_links_are_noted(make):
    root = make("train: images/train\nval: images/val\nnames: [cat]\n")
    assert not any("links" in note for note in read(root, "train")[1].notes)
    (root / "images/train/again").symlink_to("../../images/train")
    notes = read(root, "train")[1].notes
    assert any("1 link leads to folders that are listed already: left out" in note for note in notes)


def test_an_image_that_is_listed_twice_is_named_once(make):
    root = make("train: train.txt\nval: images/val\nnames: [cat]\n")
    (root / "train.txt").write_text("images/train/a.png\nimages/train/b.png\n./images/train/a.png\n")
    dataset, report = read(root, "train")
    assert [len(image.boxes) for image in dataset.images] == [1, 1, 1]
    expected = "1 image files are listed several times (a.png): each counts as several images."
    assert report.warnings == [expected]
    assert not any("label files" in note for note in report.notes)


def test_images_that_share_a_label_file_are_noted(make):
    root = make("train: images/train\nval: images/val\nnames: [cat]\n")
    assert not any("label files" in note for note in read(root, "train")[1].notes)
    write_image(root / "images/train/a.jpg")
    dataset, report = read(root, "train")
    assert [len(image.boxes) for image in dataset.images] == [1, 1, 1]
    expected = "1 label file belongs to several images, as only the ending of their names differs (a.jpg and a.png)"
    assert [note for note in report.notes if note.startswith(expected)]


def test_images_of_every_format_are_listed(tmp_path):
    formats = {".mpo": "JPEG", ".jpe": "JPEG", ".pnm": "PPM", ".pbm": "PPM"}
    for suffix in IMAGE_SUFFIXES:
        path = tmp_path / f"images/{suffix[1:]}{suffix.upper() if suffix == '.tga' else suffix}"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(path, format=formats.get(suffix))
        write_label(tmp_path / f"labels/{suffix[1:]}.txt")
    write_label(tmp_path / "labels/classes.txt", "cat")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    of_ultralytics = {".avif", ".bmp", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
    assert of_ultralytics <= IMAGE_SUFFIXES
    report = check(tmp_path)
    assert (report.images, report.boxes, report.errors) == (len(IMAGE_SUFFIXES), len(IMAGE_SUFFIXES), [])
    assert not any("no image" in note for note in report.notes)


def write_label(path, line=LINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{line}\n")


def test_labels_without_an_image_are_named(make):
    root = make("train: images/train\nval: images/val\nnames: [cat]\n")
    for name in ("x", "y.z"):
        write_label(root / f"labels/train/{name}.txt")
    (root / "images/train/x.heic").write_bytes(b"of a telephone")
    assert "2 label files have no image: not used (x.txt, y.z.txt)" in read(root, "train")[1].notes
    assert not any("no image" in note for note in read(root, "val")[1].notes)

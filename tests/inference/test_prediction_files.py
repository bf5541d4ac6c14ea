"""Files, folders and patterns in; drawings and COCO results out."""

import json

import numpy as np
import pytest
import torch
from hotcoco import COCO
from hotcoco.mask import decode
from known_answers import FixedDetector
from PIL import Image

from libradet.errors import UserError
from libradet.inference.prediction_files import describe, number_images, predict_files
from libradet.inference.sights import find_images
from libradet.utils.warnings_filter import supervision as sv


@pytest.fixture
def folder(tmp_path):
    """Three images, one of them broken, a text file, and one more image further down."""
    here = tmp_path / "images"
    (here / "deep").mkdir(parents=True)
    for seed, (name, shape) in enumerate({"b.jpg": (40, 60), "a.PNG": (50, 30), "deep/a.png": (20, 20)}.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(here / name)
    (here / "c.jpg").write_bytes(b"no image at all")
    (here / "notes.txt").write_text("no image either")
    return here


@pytest.fixture
def detector():
    return FixedDetector([(0.25, 0.5, 0.75, 1.0), (0.0, 0.0, 0.5, 0.5)], [0.9, 0.4], [1, 0])


def names(paths):
    return [p.name for p in paths]


def test_finding_images(folder):
    assert names(find_images([folder])) == ["a.PNG", "b.jpg", "c.jpg"]
    assert names(find_images([folder / "*.jpg"])) == ["b.jpg", "c.jpg"]
    assert names(find_images([f"{folder}/**/*"])) == ["a.PNG", "b.jpg", "c.jpg", "a.png"]
    assert names(find_images([folder / "c.jpg", folder, folder / "b.jpg"])) == ["c.jpg", "a.PNG", "b.jpg"]
    # A file that was named is taken whatever it is called: reading it will tell.
    assert names(find_images([folder / "notes.txt"])) == ["notes.txt"]


def test_names_with_pattern_signs_are_files_first(folder):
    odd = folder / "x[1].jpg"
    (folder / "b.jpg").rename(odd)
    assert find_images([odd]) == [odd]


@pytest.mark.parametrize("source", ["absent.jpg", "*.webp", "empty"])
def test_nothing_found_is_an_error_that_names_it(folder, source):
    (folder / "empty").mkdir()
    with pytest.raises(UserError) as error:
        find_images([folder, folder / source])
    assert str(folder / source) in str(error.value)


def test_nothing_named():
    with pytest.raises(UserError, match="No images were named"):
        find_images([])


def test_numbers(folder):
    def numbers(*stems):
        return number_images([folder / f"{s}.jpg" for s in stems])

    assert numbers("000000397133", "17", "0") == [397133, 17, 0]
    assert numbers("17", "a") == [1, 2]
    assert numbers("17", "017") == [1, 2]
    assert numbers("9" * 20) == [1]
    assert numbers("²") == [1]


def test_what_is_written(folder, detector, tmp_path):
    out = tmp_path / "deep" / "out"
    done = predict_files(detector, [folder], out, progress=False)
    results = json.loads((out / "predictions.json").read_text())
    companion = json.loads((out / "images.json").read_text())
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.jpg", "images.json", "predictions.json"]
    assert [(i["id"], i["file_name"].rpartition("/")[2]) for i in companion["images"]] == [(1, "a.PNG"), (2, "b.jpg")]
    assert [(i["width"], i["height"]) for i in companion["images"]] == [(30, 50), (60, 40)]
    assert companion["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert [(r["image_id"], r["category_id"]) for r in results] == [(1, 2), (2, 2)]
    np.testing.assert_allclose([r["bbox"] for r in results], [[7.5, 25, 15, 25], [15, 20, 30, 20]], atol=1e-4)
    assert [r["score"] for r in results] == pytest.approx([0.9, 0.9])
    assert (done.objects, done.images) == (len(results), companion["images"])
    with Image.open(out / "b.jpg") as drawing:
        assert drawing.size == (60 * 11, 40 * 11)


def test_masks_are_drawn_and_written(folder, tmp_path):
    grid = torch.zeros(2, 28, 28)
    grid[:, :, :14] = 1
    detector = FixedDetector([(0.25, 0.5, 0.75, 1.0), (0.0, 0.0, 0.5, 0.5)], [0.9, 0.8], [1, 0])
    predict_files(detector, [folder / "b.jpg"], tmp_path / "plain", progress=False)
    assert "segmentation" not in json.loads((tmp_path / "plain" / "predictions.json").read_text())[0]
    look = detector.forward
    detector.forward = lambda batch: look(batch)._replace(
        masks=torch.cat([grid, torch.zeros(detector.slots - 2, 28, 28)]).expand(len(batch.sizes), -1, -1, -1)
    )
    predict_files(detector, [folder / "b.jpg"], tmp_path / "out", progress=False)
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    masks = [decode(r["segmentation"]) for r in results]
    expected = np.zeros((2, 40, 60), np.uint8)
    expected[0, 20:40, 15:30] = expected[1, 0:20, 0:15] = 1
    np.testing.assert_array_equal(masks, expected)
    with Image.open(tmp_path / "plain" / "b.jpg") as without, Image.open(tmp_path / "out" / "b.jpg") as drawn:
        change = np.abs(np.asarray(drawn, int) - np.asarray(without, int)).mean(2)
    tinted, free = change[22 * 11 : 38 * 11, 17 * 11 : 28 * 11], change[22 * 11 : 38 * 11, 32 * 11 : 43 * 11]
    assert tinted.mean() > 15 > 3 > free.mean()


def test_results_are_coco_results(folder, detector, tmp_path):
    predict_files(detector, [folder], tmp_path / "out", threshold=0.0, progress=False)
    truth = COCO(json.loads((tmp_path / "out" / "images.json").read_text()))
    loaded = truth.load_res(str(tmp_path / "out" / "predictions.json"))
    assert len(loaded.anns) == 4


def test_unreadable_files_are_counted_and_named(folder, detector, tmp_path):
    done = predict_files(detector, [folder], tmp_path / "out", progress=False)
    assert list(done.unreadable) == [folder / "c.jpg"]
    text = describe(done, tmp_path / "out")
    assert text.startswith("2 objects in 2 images")
    assert "1 file could not be read:" in text
    assert "c.jpg" in text
    with pytest.raises(UserError, match=r"None of 1 files? can be read.*c\.jpg"):
        predict_files(detector, [folder / "c.jpg"], tmp_path / "out", progress=False)


def test_namesakes_do_not_replace_each_other(folder, detector, tmp_path):
    done = predict_files(detector, [folder / "**" / "a.*"], tmp_path / "out", progress=False)
    assert [i["drawing"] for i in done.images] == ["a.png", "a_2.png"]
    assert (tmp_path / "out" / "a.png").read_bytes() != (tmp_path / "out" / "a_2.png").read_bytes()


def test_images_are_never_overwritten(folder, detector, tmp_path):
    with pytest.raises(UserError, match="another folder"):
        predict_files(detector, [folder / "b.jpg"], folder, progress=False)
    with pytest.raises(UserError, match="is a file"):
        predict_files(detector, [folder / "b.jpg"], folder / "notes.txt", progress=False)


def test_an_interrupt_leaves_what_was_done(folder, detector, tmp_path, monkeypatch):
    look = FixedDetector.forward

    def interrupted(self, batch):
        if self.seen:
            raise KeyboardInterrupt
        return look(self, batch)

    monkeypatch.setattr(FixedDetector, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_files(detector, [folder], tmp_path / "out", progress=False)
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 1


def test_many_files_show_their_progress(folder, detector, tmp_path, capsys):
    predict_files(detector, [folder], tmp_path / "out")
    assert "3/3" in capsys.readouterr().err


def test_results_carry_the_category_ids_of_the_training_data(folder, detector, tmp_path):
    detector.config.category_ids = (17, 3)
    predict_files(detector, [folder / "b.jpg"], tmp_path / "out", threshold=0.0, progress=False)
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [r["category_id"] for r in results] == [3, 17]
    companion = json.loads((tmp_path / "out" / "images.json").read_text())
    assert companion["categories"] == [{"id": 17, "name": "cat"}, {"id": 3, "name": "dog"}]


def test_videos_come_out_as_videos(folder, detector, tmp_path):
    with sv.VideoSink(str(folder / "clip.mp4"), sv.VideoInfo(64, 48, 10)) as sink:
        for number in range(5):
            sink.write_frame(np.full((48, 64, 3), 20 * number, np.uint8))
    (folder / "broken.avi").write_bytes(b"no film")
    out = tmp_path / "out"
    done = predict_files(detector, [folder], out, batch_size=2, progress=False)
    assert sorted(path.name for path in done.unreadable) == ["broken.avi", "c.jpg"]
    images = json.loads((out / "images.json").read_text())["images"]
    assert [image["id"] for image in images] == list(range(1, 8))
    assert [image["frame"] for image in images if "frame" in image] == list(range(5))
    assert {image["drawing"] for image in images} == {"a.png", "b.jpg", "clip.mp4"}
    info = sv.VideoInfo.from_video_path(str(out / "clip.mp4"))
    assert (info.width, info.height, info.fps) == (640, 480, 10)
    assert len(list(sv.get_video_frames_generator(str(out / "clip.mp4")))) == 5
    results = json.loads((out / "predictions.json").read_text())
    assert [r["image_id"] for r in results] == list(range(1, 8))

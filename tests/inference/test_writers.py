"""Prediction on files: rendered images, COCO results and the summary."""

import json

import numpy as np
import pytest
import torch
from hotcoco import COCO
from hotcoco.mask import decode
from PIL import Image

from libradet.errors import UserError
from libradet.inference.writers import assign_image_ids, format_summary, predict_files
from libradet.utils.quiet_supervision import supervision as sv
from tests.helpers.fake_detectors import FixedDetector


@pytest.fixture
def detector():
    return FixedDetector([(0.25, 0.5, 0.75, 1.0), (0.0, 0.0, 0.5, 0.5)], [0.9, 0.4], [1, 0])


def test_assign_image_ids(folder):
    def ids(*stems):
        return assign_image_ids([folder / f"{s}.jpg" for s in stems])

    assert ids("000000397133", "17", "0") == [397133, 17, 0]
    assert ids("17", "a") == [1, 2]
    assert ids("17", "017") == [1, 2]
    assert ids("9" * 20) == [1]
    assert ids("²") == [1]


def test_output_files(folder, detector, tmp_path):
    out = tmp_path / "deep" / "out"
    summary = predict_files(detector, [folder], out, progress=False)
    results = json.loads((out / "predictions.json").read_text())
    images_file = json.loads((out / "images.json").read_text())
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.jpg", "images.json", "predictions.json"]
    assert [(i["id"], i["file_name"].rpartition("/")[2]) for i in images_file["images"]] == [(1, "a.PNG"), (2, "b.jpg")]
    assert [(i["width"], i["height"]) for i in images_file["images"]] == [(30, 50), (60, 40)]
    assert images_file["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert [(r["image_id"], r["category_id"]) for r in results] == [(1, 2), (2, 2)]
    np.testing.assert_allclose([r["bbox"] for r in results], [[7.5, 25, 15, 25], [15, 20, 30, 20]], atol=1e-4)
    assert [r["score"] for r in results] == pytest.approx([0.9, 0.9])
    assert (summary.num_detections, summary.images) == (len(results), images_file["images"])
    with Image.open(out / "b.jpg") as rendered:
        assert rendered.size == (60 * 11, 40 * 11)


def test_masks_are_rendered_and_written(folder, tmp_path):
    grid = torch.zeros(2, 28, 28)
    grid[:, :, :14] = 1
    detector = FixedDetector([(0.25, 0.5, 0.75, 1.0), (0.0, 0.0, 0.5, 0.5)], [0.9, 0.8], [1, 0])
    predict_files(detector, [folder / "b.jpg"], tmp_path / "plain", progress=False)
    assert "segmentation" not in json.loads((tmp_path / "plain" / "predictions.json").read_text())[0]
    forward = detector.forward
    detector.forward = lambda batch: forward(batch)._replace(
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


def test_large_images_are_rendered_as_reduced_ones_would_be(folder, detector, tmp_path, monkeypatch):
    with Image.open(folder / "a.PNG") as image:
        pixels = np.asarray(image.convert("RGB"))
    (tmp_path / "reduced").mkdir()
    Image.fromarray(pixels[::2, ::2]).save(tmp_path / "reduced" / "a.png")
    predict_files(detector, [tmp_path / "reduced"], tmp_path / "expected", progress=False)
    monkeypatch.setattr("libradet.inference.writers.MAX_RENDERED_SIDE", 25)
    summary = predict_files(detector, [folder / "a.PNG"], tmp_path / "out", progress=False)
    rendered, expected = (np.asarray(Image.open(tmp_path / name / "a.png")) for name in ("out", "expected"))
    np.testing.assert_array_equal(rendered, expected)
    assert (summary.images[0]["width"], summary.images[0]["height"]) == (30, 50)
    (result,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    np.testing.assert_allclose(result["bbox"], [7.5, 25, 15, 25], atol=1e-4)


def test_results_are_coco_results(folder, detector, tmp_path):
    predict_files(detector, [folder], tmp_path / "out", score_thresh=0.0, progress=False)
    truth = COCO(json.loads((tmp_path / "out" / "images.json").read_text()))
    loaded = truth.load_res(str(tmp_path / "out" / "predictions.json"))
    assert len(loaded.anns) == 4


def test_unreadable_files_are_listed(folder, detector, tmp_path):
    summary = predict_files(detector, [folder], tmp_path / "out", progress=False)
    assert list(summary.unreadable) == [folder / "c.jpg"]
    text = format_summary(summary, tmp_path / "out")
    assert text.startswith("2 detections in 2 images")
    assert "1 file could not be read:" in text
    assert "c.jpg" in text
    with pytest.raises(UserError, match=r"none of the 1 files? can be read.*c\.jpg"):
        predict_files(detector, [folder / "c.jpg"], tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()


def test_equal_file_names_are_numbered(folder, detector, tmp_path):
    summary = predict_files(detector, [folder / "**" / "a.*"], tmp_path / "out", progress=False)
    assert [i["output_file"] for i in summary.images] == ["a.png", "a_2.png"]
    assert (tmp_path / "out" / "a.png").read_bytes() != (tmp_path / "out" / "a_2.png").read_bytes()


def test_inputs_are_not_overwritten(folder, detector, tmp_path):
    with pytest.raises(UserError, match="another folder"):
        predict_files(detector, [folder / "b.jpg"], folder, progress=False)
    with pytest.raises(UserError, match="is a file"):
        predict_files(detector, [folder / "b.jpg"], folder / "notes.txt", progress=False)


def test_results_before_an_interrupt_are_written(folder, detector, tmp_path, monkeypatch):
    forward = FixedDetector.forward

    def interrupted(self, batch):
        if self.batches:
            raise KeyboardInterrupt
        return forward(self, batch)

    monkeypatch.setattr(FixedDetector, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_files(detector, [folder], tmp_path / "out", progress=False)
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 1


def test_progress_bar(folder, detector, tmp_path, capsys):
    predict_files(detector, [folder], tmp_path / "out")
    assert "3/3" in capsys.readouterr().err


def test_category_ids_are_those_of_training(folder, detector, tmp_path):
    detector.config.category_ids = (17, 3)
    predict_files(detector, [folder / "b.jpg"], tmp_path / "out", score_thresh=0.0, progress=False)
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [r["category_id"] for r in results] == [3, 17]
    images_file = json.loads((tmp_path / "out" / "images.json").read_text())
    assert images_file["categories"] == [{"id": 17, "name": "cat"}, {"id": 3, "name": "dog"}]


def test_videos_are_rendered_to_videos(folder, detector, tmp_path):
    with sv.VideoSink(str(folder / "clip.mp4"), sv.VideoInfo(64, 48, 10)) as sink:
        for number in range(5):
            sink.write_frame(np.full((48, 64, 3), 20 * number, np.uint8))
    (folder / "broken.avi").write_bytes(b"no film")
    out = tmp_path / "out"
    summary = predict_files(detector, [folder], out, batch_size=2, progress=False)
    assert sorted(path.name for path in summary.unreadable) == ["broken.avi", "c.jpg"]
    images = json.loads((out / "images.json").read_text())["images"]
    assert [image["id"] for image in images] == list(range(1, 8))
    assert [image["frame"] for image in images if "frame" in image] == list(range(5))
    assert {image["output_file"] for image in images} == {"a.png", "b.jpg", "clip.mp4"}
    info = sv.VideoInfo.from_video_path(str(out / "clip.mp4"))
    assert (info.width, info.height, info.fps) == (640, 480, 10)
    assert len(list(sv.get_video_frames_generator(str(out / "clip.mp4")))) == 5
    results = json.loads((out / "predictions.json").read_text())
    assert [r["image_id"] for r in results] == list(range(1, 8))

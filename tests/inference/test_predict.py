"""Prediction on images, folders, generators and videos."""

import numpy as np
import pytest
import torch
from PIL import Image

from libradet.errors import UserError
from libradet.inference.predict import predict
from libradet.utils.quiet_supervision import supervision as sv
from tests.helpers.fake_detectors import FixedDetector

BOXES = [(0.25, 0.5, 0.75, 1.0), (0.0, 0.0, 0.5, 0.5), (-0.5, -0.25, 1.5, 1.25)]


@pytest.fixture
def detector():
    return FixedDetector(BOXES, [0.9, 0.5, 0.2], [1, 0, 1])


def sample_image(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def expected(width, height, count):
    corners = np.clip(np.array(BOXES[:count]), 0, 1) * [width, height, width, height]
    return corners.astype(np.float32)


@pytest.mark.parametrize(("width", "height"), [(100, 67), (67, 100), (640, 480), (33, 33), (7, 300), (1, 1)])
@pytest.mark.parametrize("size", [None, (32, 50), "original"])
def test_boxes_are_in_pixels_of_the_original(detector, width, height, size):
    found = predict(detector, sample_image(width, height), score_thresh=0.0, size=size)
    assert isinstance(found, sv.Detections)
    np.testing.assert_allclose(found.xyxy, expected(width, height, 3), rtol=1e-5, atol=1e-4)
    assert found.xyxy.min() >= 0
    assert (found.xyxy[:, 2:] <= [width, height]).all()
    np.testing.assert_allclose(found.confidence, [0.9, 0.5, 0.2])
    assert found.class_id.tolist() == [1, 0, 1]
    assert found["class_name"].tolist() == ["dog", "cat", "dog"]


def test_size_of_the_resized_image(detector):
    image = sample_image(100, 67)
    for size, resized in ((None, [64, 96]), ((32, 50), [32, 48]), ((64, 80), [54, 80]), ("original", [67, 100])):
        predict(detector, image, size=size)
        assert abs(detector.batches[-1].sizes[0] - torch.tensor(resized)).max() <= 1
        assert detector.batches[-1].images.shape[2] % detector.size_divisible == 0
    assert torch.equal(detector.batches[-1].images[0, :, :67, :100], torch.tensor(image).permute(2, 0, 1))


@pytest.mark.parametrize(("score_thresh", "count"), [(0.0, 3), (0.2, 3), (0.21, 2), (0.5, 2), (0.9, 1), (1.0, 0)])
def test_score_thresh(detector, score_thresh, count):
    found = predict(detector, sample_image(50, 50), score_thresh)
    assert len(found) == count
    assert found.xyxy.shape == (count, 4)
    assert found["class_name"].shape == (count,)


def test_sources_of_one_image_are_equivalent(detector, tmp_path):
    image = sample_image(60, 40)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    for kind in (image, Image.fromarray(image), path, str(path)):
        predict(detector, kind)
    first = detector.batches[0].images
    assert first[0, :, :64, :96].float().std() > 10
    assert all(torch.equal(batch.images, first) for batch in detector.batches)


def test_exif_orientation_is_applied(detector, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(sample_image(80, 40)).save(tmp_path / "turned.jpg", exif=exif)
    found = predict(detector, tmp_path / "turned.jpg", score_thresh=0.0)
    np.testing.assert_allclose(found.xyxy, expected(40, 80, 3), atol=1e-4)


@pytest.mark.parametrize(("batch_size", "batches"), [(1, 5), (2, 3), (5, 2)])
def test_list_of_images(detector, batch_size, batches):
    shapes = [(50, 30), (30, 50), (64, 40), (50, 31), (31, 50)]
    found = predict(detector, [sample_image(*s) for s in shapes], score_thresh=0.0, batch_size=batch_size)
    assert isinstance(found, list)
    # Landscape images share batches, and portrait images.
    assert len(detector.batches) == batches
    assert {batch.images.shape[2:] for batch in detector.batches} == {(64, 96), (96, 64)}
    for (width, height), detections in zip(shapes, found, strict=True):
        np.testing.assert_allclose(detections.xyxy, expected(width, height, 3), rtol=1e-5, atol=1e-4)
    assert predict(detector, []) == []
    assert [len(d) for d in predict(detector, (sample_image(9, 9),), score_thresh=1.0)] == [0]


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(detector, training):
    detector.train(training)
    detector.norm.train(not training)
    predict(detector, sample_image(20, 20))
    assert detector.training is training
    assert detector.norm.training is not training
    with pytest.raises(UserError):
        predict(detector, ["absent.jpg"])
    assert detector.training is training


@pytest.mark.parametrize("score_thresh", [-0.1, 1.1, float("nan")])
def test_invalid_score_thresh(detector, score_thresh):
    with pytest.raises(UserError, match=r"score_thresh.*between 0 and 1"):
        predict(detector, sample_image(20, 20), score_thresh)


def test_invalid_batch_size(detector):
    with pytest.raises(UserError, match="batch_size"):
        predict(detector, sample_image(20, 20), batch_size=0)


def test_error_names_unreadable_file(detector, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no image")
    for path in (broken, tmp_path / "absent.jpg"):
        with pytest.raises(UserError, match=path.name):
            predict(detector, [sample_image(20, 20), path])


def test_folder_and_pattern(detector, tmp_path):
    for number in range(3):
        Image.fromarray(sample_image(40 + number, 30)).save(tmp_path / f"{number}.png")
    for source in (tmp_path, str(tmp_path / "*.png")):
        found = predict(detector, source, score_thresh=0.0)
        assert [round(float(d.xyxy[0, 2])) for d in found] == [30, 31, 32]
    with pytest.raises(UserError, match="no such file or folder"):
        predict(detector, str(tmp_path / "*.webp"))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_generators_are_lazy(detector, batch_size):
    read = []

    def images():
        for width in range(40, 60):
            read.append(width)
            yield sample_image(width, 30)

    found = predict(detector, images(), score_thresh=0.0, batch_size=batch_size)
    assert not read
    np.testing.assert_allclose(next(found).xyxy, expected(40, 30, 3), rtol=1e-5)
    assert len(read) <= 4 * batch_size
    # Between two images, autograd of the caller is enabled.
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert len(list(found)) == 19


@pytest.fixture
def video(tmp_path):
    """A video of twelve frames of increasing brightness."""
    path = tmp_path / "clip.mp4"
    with sv.VideoSink(str(path), sv.VideoInfo(64, 48, 10)) as sink:
        for number in range(12):
            sink.write_frame(np.full((48, 64, 3), 20 * number, np.uint8))
    return path


def test_video_frames(detector, video):
    found = predict(detector, video, score_thresh=0.0, size="original")
    np.testing.assert_allclose(next(found).xyxy, expected(64, 48, 3), rtol=1e-5)
    assert len(list(found)) == 11
    brightness = [float(batch.images[0, :, :48, :64].float().mean()) for batch in detector.batches]
    np.testing.assert_allclose(brightness, np.arange(12) * 20, atol=4)


def test_unreadable_videos(detector, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    for name in ("broken.mp4", "absent.mp4"):
        with pytest.raises(UserError, match=name):
            next(predict(detector, tmp_path / name))


def test_a_video_without_readable_frames_is_refused(detector, video, monkeypatch):
    """As a decoder ends that reads the header, but no frame."""
    monkeypatch.setattr("supervision.get_video_frames_generator", lambda path: iter(()))
    with pytest.raises(UserError, match=r"clip\.mp4: has no frames that can be read"):
        next(predict(detector, video))


@pytest.mark.parametrize("size", [64, 0, (0, 0), (128, 64), (64,), (64.5, 128), "orig"])
def test_invalid_size(detector, size, without_type_checks):
    with pytest.raises(UserError, match=r"size is .*the shorter and the longer side"):
        predict(detector, np.zeros((20, 30, 3), np.uint8), size=size)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 20, 30, dtype=torch.uint8), r"a tensor \[3, 20, 30\] is not an image"),
        (None, "type NoneType is not an image"),
        ({"a": np.zeros((20, 30, 3), np.uint8)}, "type dict is not an image"),
        (b"abc", "type bytes is not an image"),
    ],
)
def test_values_that_are_no_images(detector, images, message, without_type_checks):
    with pytest.raises(UserError, match=message):
        predict(detector, images)


@pytest.mark.filterwarnings("error")
def test_read_only_array(detector):
    image = np.asarray(Image.new("RGB", (30, 20)))
    assert not image.flags.writeable
    predict(detector, image)

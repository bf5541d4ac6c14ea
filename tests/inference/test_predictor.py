"""From images of all kinds to detections in their own pixels."""

import numpy as np
import pytest
import torch
from known_answers import FixedDetector
from PIL import Image

from libradet.errors import UserError
from libradet.inference.predictor import predict
from libradet.utils.warnings_filter import supervision as sv

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
def test_boxes_are_in_the_pixels_of_the_original(detector, width, height, size):
    found = predict(detector, sample_image(width, height), threshold=0.0, size=size)
    assert isinstance(found, sv.Detections)
    np.testing.assert_allclose(found.xyxy, expected(width, height, 3), rtol=1e-5, atol=1e-4)
    assert found.xyxy.min() >= 0
    assert (found.xyxy[:, 2:] <= [width, height]).all()
    np.testing.assert_allclose(found.confidence, [0.9, 0.5, 0.2])
    assert found.class_id.tolist() == [1, 0, 1]
    assert found["class_name"].tolist() == ["dog", "cat", "dog"]


def test_size_decides_what_the_detector_sees(detector):
    image = sample_image(100, 67)
    for size, seen in ((None, [64, 96]), ((32, 50), [32, 48]), ((64, 80), [54, 80]), ("original", [67, 100])):
        predict(detector, image, size=size)
        assert abs(detector.seen[-1].sizes[0] - torch.tensor(seen)).max() <= 1
        assert detector.seen[-1].images.shape[2] % detector.divisor == 0
    assert torch.equal(detector.seen[-1].images[0, :, :67, :100], torch.tensor(image).permute(2, 0, 1))


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 3), (0.2, 3), (0.21, 2), (0.5, 2), (0.9, 1), (1.0, 0)])
def test_threshold(detector, threshold, count):
    found = predict(detector, sample_image(50, 50), threshold)
    assert len(found) == count
    assert found.xyxy.shape == (count, 4)
    assert found["class_name"].shape == (count,)


def test_kinds_of_images_are_the_same(detector, tmp_path):
    image = sample_image(60, 40)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    for kind in (image, Image.fromarray(image), path, str(path)):
        predict(detector, kind)
    first = detector.seen[0].images
    assert first[0, :, :64, :96].float().std() > 10
    assert all(torch.equal(batch.images, first) for batch in detector.seen)


def test_files_are_turned_upright(detector, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(sample_image(80, 40)).save(tmp_path / "turned.jpg", exif=exif)
    found = predict(detector, tmp_path / "turned.jpg", threshold=0.0)
    np.testing.assert_allclose(found.xyxy, expected(40, 80, 3), atol=1e-4)


@pytest.mark.parametrize(("batch_size", "batches"), [(1, 5), (2, 3), (5, 2)])
def test_lists_in_lists_out(detector, batch_size, batches):
    shapes = [(50, 30), (30, 50), (64, 40), (50, 31), (31, 50)]
    found = predict(detector, [sample_image(*s) for s in shapes], threshold=0.0, batch_size=batch_size)
    assert isinstance(found, list)
    # Landscapes go together, and portraits.
    assert len(detector.seen) == batches
    assert {batch.images.shape[2:] for batch in detector.seen} == {(64, 96), (96, 64)}
    for (width, height), detections in zip(shapes, found, strict=True):
        np.testing.assert_allclose(detections.xyxy, expected(width, height, 3), rtol=1e-5, atol=1e-4)
    assert predict(detector, []) == []
    assert [len(d) for d in predict(detector, (sample_image(9, 9),), threshold=1.0)] == [0]


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_left_as_they_were(detector, training):
    detector.train(training)
    detector.norm.train(not training)
    predict(detector, sample_image(20, 20))
    assert detector.training is training
    assert detector.norm.training is not training
    with pytest.raises(UserError):
        predict(detector, ["absent.jpg"])
    assert detector.training is training


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_thresholds_that_are_none(detector, threshold):
    with pytest.raises(UserError, match=r"threshold.*between 0 and 1"):
        predict(detector, sample_image(20, 20), threshold)


def test_batches_that_are_none(detector):
    with pytest.raises(UserError, match="batch_size"):
        predict(detector, sample_image(20, 20), batch_size=0)


def test_unreadable_files_are_named(detector, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no image")
    for path in (broken, tmp_path / "absent.jpg"):
        with pytest.raises(UserError, match=path.name):
            predict(detector, [sample_image(20, 20), path])


def test_folders_and_patterns_are_lists(detector, tmp_path):
    for number in range(3):
        Image.fromarray(sample_image(40 + number, 30)).save(tmp_path / f"{number}.png")
    for source in (tmp_path, str(tmp_path / "*.png")):
        found = predict(detector, source, threshold=0.0)
        assert [round(float(d.xyxy[0, 2])) for d in found] == [30, 31, 32]
    with pytest.raises(UserError, match="no such file or folder"):
        predict(detector, str(tmp_path / "*.webp"))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_generators_are_looked_at_as_they_come(detector, batch_size):
    taken = []

    def images():
        for width in range(40, 60):
            taken.append(width)
            yield sample_image(width, 30)

    found = predict(detector, images(), threshold=0.0, batch_size=batch_size)
    assert not taken
    np.testing.assert_allclose(next(found).xyxy, expected(40, 30, 3), rtol=1e-5)
    assert len(taken) <= 4 * batch_size
    # Between two images, the caller's own computations have gradients.
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert len(list(found)) == 19


@pytest.fixture
def video(tmp_path):
    """Twelve frames that get brighter."""
    path = tmp_path / "clip.mp4"
    with sv.VideoSink(str(path), sv.VideoInfo(64, 48, 10)) as sink:
        for number in range(12):
            sink.write_frame(np.full((48, 64, 3), 20 * number, np.uint8))
    return path


def test_videos_are_looked_at_frame_by_frame(detector, video):
    found = predict(detector, video, threshold=0.0, size="original")
    np.testing.assert_allclose(next(found).xyxy, expected(64, 48, 3), rtol=1e-5)
    assert len(list(found)) == 11
    brightness = [float(batch.images[0, :, :48, :64].float().mean()) for batch in detector.seen]
    np.testing.assert_allclose(brightness, np.arange(12) * 20, atol=4)


def test_videos_that_are_none(detector, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    for name in ("broken.mp4", "absent.mp4"):
        with pytest.raises(UserError, match=name):
            next(predict(detector, tmp_path / name))

"""What is found in an image does not depend on the dataset that it is in, if that is asked for."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detectors import tiny_config, tiny_detector

from libradet.data.read import read
from libradet.evaluation.evaluate import evaluate
from libradet.inference.predictor import predict

# One canvas for all would hold the first; alone, the others have smaller ones.
SIZES = [(250, 120), (120, 120), (250, 20), (130, 120), (20, 120), (250, 120)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    chance = np.random.default_rng(0)
    images, annotations = [], []
    for i, (width, height) in enumerate(SIZES):
        coarse = Image.fromarray(chance.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / "images" / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": width, "height": height})
        annotations.append({"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [2, 2, 15, 15]})
    categories = [{"id": i + 1, "name": f"class_{i}"} for i in range(3)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    return read(folder, "val")[0]


def found_by_measuring(model, dataset, path):
    evaluate(model, dataset, size="original", batch_size=4, workers=0, results=path, progress=False)
    rows = json.loads(path.read_text())
    return [sorted((r["score"] for r in rows if r["image_id"] == p.id), reverse=True) for p in dataset.images]


def worst(one, other):
    return max(
        (max((abs(a - b) for a, b in zip(x, y, strict=True)), default=0.0) if len(x) == len(y) else 1.0)
        for x, y in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("own", [True, False])
def test_measuring_finds_what_predicting_finds(dataset, tmp_path, own):
    config = tiny_config()
    config.image.own_canvas, config.image.divisor = own, 128
    config.detections.score, config.detections.total = 0.0, 20
    model = tiny_detector(config).eval()
    for layer in model.modules():
        # Of a fresh model, zeros stay zeros: padding could not be told from what lies beyond a canvas.
        if getattr(layer, "bias", None) is not None:
            torch.nn.init.normal_(layer.bias, std=0.2)
    alone = [
        sorted(predict(model, p.path, threshold=0.0, size="original").confidence.tolist(), reverse=True)
        for p in dataset.images
    ]
    difference = worst(alone, found_by_measuring(model, dataset, tmp_path / "found.json"))
    if own:
        assert difference < 1e-4
    else:
        assert difference > 1e-3, "these images would not show what company does"


def test_training_batches_stay_full(dataset):
    from libradet.training import DetectorData

    data = DetectorData(dataset, dataset, size="original", batch_size=2, divisor=128, workers=0, own_canvas=True)
    shared = DetectorData(dataset, dataset, size="original", batch_size=2, divisor=128, workers=0)
    assert data.batches_of(1) == shared.batches_of(1)
    assert torch.equal(next(iter(data._loader(0, 1, True, 0))).images, next(iter(shared._loader(0, 1, True, 0))).images)

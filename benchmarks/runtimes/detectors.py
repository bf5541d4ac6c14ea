"""Detectors with many detections, their exported files, inputs and expected outputs."""

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from torch import nn

from libradet.data.collate import prepare_batch
from libradet.data.synthesis.synthetic import draw_scene
from libradet.inference.predict import predict_batch
from libradet.models.detector import Detector
from libradet.models.optimize import optimize
from libradet.models.zoo import make_config

DETECTORS = (
    "faster_rcnn",
    "libra_faster_rcnn",
    "libra_retinanet",
    "libra_mask_rcnn",
    "libra_cascade_rcnn",
    "libra_rpn",
)
IMAGE_SHAPES = tuple((batch, *size) for size in ((240, 320), (201, 277)) for batch in (1, 3))
"""Batch size, height and width of the inputs; one size is odd and of another aspect ratio than the model's."""

STATIC_SHAPES = ((1, 201, 277), (3, 240, 320))
"""Those of the inputs for which files of one shape are exported: both sizes, both batch sizes."""

REPEATS = 5

_HEAD_STDS = {"rpn": (0.3, 0.05), "retinanet": (1.0, 0.05), "roi": (0.02, 0.2)}


class Expected(NamedTuple):
    """Eager outputs by name, as in :data:`runners.common.NAMES`, and the median processor time of a run."""

    outputs: dict[str, ndarray]
    seconds: float


def build_detector(name: str) -> Detector:
    """Return a small detector on ResNet-18 whose random weights cause many detections of varied scores."""
    config = make_config(name, 3, "resnet18")
    config.class_names = ("circle", "square", "triangle")
    config.image.size, config.pyramid.channels = (160, 224), 16
    if config.roi is not None:
        config.roi.fc_dim = 32
    if config.rpn is not None:
        config.rpn.test_proposals.post_nms_top_n = 60
    if config.mask is not None:
        config.mask.channels = 8
    if config.retinanet is not None:
        config.retinanet.num_convs, config.retinanet.prior_prob = 2, 0.3
    torch.manual_seed(0)
    model = Detector(config)
    for layer_name, layer in model.named_modules():
        _spread(layer_name, layer)
    return model.eval()


def _spread(name: str, layer: nn.Module) -> None:
    """Draw the parameters of a layer so that its outputs vary."""
    part, kind = name.split(".")[0], name.split(".")[-1]
    if part in _HEAD_STDS and kind in ("logits", "deltas"):
        nn.init.normal_(layer.weight, std=_HEAD_STDS[part][kind == "deltas"])
    if isinstance(layer, nn.BatchNorm2d):
        layer.running_mean.normal_(0, 0.3)
        layer.running_var.uniform_(0.5, 2)
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.normal_(layer.bias, 0, 0.3)


def draw_inputs() -> Iterator[ndarray]:
    """Yield uint8 RGB batches [B, H, W, 3] of synthetic scenes."""
    rng = np.random.default_rng(0)
    for batch_size, height, width in IMAGE_SHAPES:
        yield np.stack([draw_scene(rng, (width, height), 5)[0] for _ in range(batch_size)])


def write_inputs(folder: Path) -> None:
    """Write each batch as a file that is named after its shape, such as 3x201x277.u8.

    The folders are ``all``, and one for each static shape, named after it.
    """
    for images in draw_inputs():
        name, shape = case_name(images.shape), images.shape[:3]
        for case in ("all", name) if shape in STATIC_SHAPES else ("all",):
            (folder / case).mkdir(parents=True, exist_ok=True)
            images.tofile(folder / case / f"{name}.u8")


def case_name(shape: Sequence[int]) -> str:
    """Return batch size, height and width as text."""
    return "x".join(map(str, shape[:3]))


def run_eager(model: Detector) -> dict[str, Expected]:
    """Return the float32 outputs of the model in PyTorch, by name of the input."""
    fused = optimize(model)
    results = {}
    for images in draw_inputs():
        outputs, seconds = _detect(fused, images), []
        for _ in range(REPEATS):
            start = time.process_time()
            _detect(fused, images)
            seconds.append(time.process_time() - start)
        results[case_name(images.shape)] = Expected(outputs, statistics.median(seconds))
    return results


def _detect(model: Detector, images: ndarray) -> dict[str, ndarray]:
    batch = prepare_batch(list(images), model.image_size, model.size_divisible, None)
    detections = predict_batch(model, batch)
    assert batch.scales is not None
    image_ends = torch.tensor([images.shape[2], images.shape[1]] * 2)
    boxes = torch.minimum(detections.boxes.double() / batch.scales.double().repeat(1, 2)[:, None], image_ends)
    outputs = {"boxes": boxes.float(), "scores": detections.scores, "labels": detections.labels}
    outputs["valid"] = detections.valid
    if detections.masks is not None:
        outputs["masks"] = detections.masks
    return {name: tensor.numpy() for name, tensor in outputs.items()}

"""Detectors that are small enough to be exported in a test, and images and proposals for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jaxtyping
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from libradet.data.synthesis.synthetic import draw_scene
from libradet.models.config import ClassBalanceConfig
from libradet.models.detector import Detector
from tests.helpers.tiny_detectors import lively, tiny_detector, tiny_zoo_config


class ExportedPair(NamedTuple):
    """A detector, its .safetensors file, and the file that was exported from it."""

    model: Detector
    weights: Path
    exported: Path


@contextmanager
def shape_checks_disabled() -> Iterator[None]:
    """Disable the suite's run-time shape checks, which fail on symbolic sizes while tracing."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def small_detector(name: str, class_balance: ClassBalanceConfig | None = None) -> Detector:
    """Return a detector with few layers and varied outputs, for images of 96 x 128 pixels."""
    config = tiny_zoo_config(name)
    if config.roi is not None:
        config.roi.class_balance = class_balance
    config.backbone.name, config.image.size = "test_resnet", (96, 128)
    config.category_ids = (7, 3, 5) if not config.is_proposal_model else ()
    if config.retinanet is not None:
        config.pyramid.num_levels, config.retinanet.num_convs, config.retinanet.topk_candidates = 3, 1, 200
    if config.rpn is not None:
        config.pyramid.num_levels, config.rpn.test_proposals.pre_nms_top_n = 4, 200
    if config.mask is not None:
        config.mask.num_convs = 1
    model = lively(tiny_detector(config))
    for head in model.roi.box_heads if model.roi is not None else []:
        # All scores of equalization loss v2 are low at first.
        torch.nn.init.zeros_(head.logits.bias)
    return model


def scene(height: int, width: int, seed: int = 0) -> ndarray:
    """Return a synthetic image."""
    return draw_scene(np.random.default_rng(seed), (width, height), 3)[0]


def random_proposals(image: ndarray, count: int = 30) -> Tensor:
    """Return boxes inside an image."""
    corners = np.sort(np.random.default_rng(1).uniform(0, 1, (count, 2, 2)), axis=1).reshape(-1, 4)
    return torch.from_numpy(corners * np.tile(image.shape[1::-1], 2)).float()

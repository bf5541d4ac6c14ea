"""Detectors small enough to be exported in a test."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
from tiny_detectors import lively, tiny_detector, tiny_zoo_config

from libradet.models.detector import Detector


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the suite's run-time checks of shapes: what is traced must not be compared with numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def small_detector(name: str) -> Detector:
    """A lively detector with few layers, which sees images at 96 x 128 pixels."""
    config = tiny_zoo_config(name)
    config.backbone.name, config.image.size = "test_resnet", (96, 128)
    config.category_ids = (7, 3, 5) if not config.proposes else ()
    if config.dense is not None:
        config.pyramid.levels, config.dense.convs, config.dense.per_level = 3, 1, 200
    if config.rpn is not None:
        config.pyramid.levels, config.rpn.test_proposals.per_level = 4, 200
    if config.mask is not None:
        config.mask.convs = 1
    return lively(tiny_detector(config))

"""From pictures to detections that people use."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from PIL import Image
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.data.loading.transforms import Size, prepare
from libradet.errors import UserError
from libradet.geometry.masks import paste_masks
from libradet.inference.detections import Detections
from libradet.models.detector import Detector
from libradet.quiet import supervision as sv

Picture = str | Path | Image.Image | ndarray
"""What can be looked at: a file, a Pillow image, or a uint8 RGB array [H, W, 3]."""

Boxes = ndarray | Tensor
"""Corners [P, 4], xyxy in pixels."""


def predict(
    model: Detector,
    images: Picture | Sequence[Picture],
    threshold: float = 0.5,
    size: Size | None = None,
    batch_size: int = 1,
    proposals: Boxes | Sequence[Boxes] | None = None,
) -> sv.Detections | list[sv.Detections]:
    """What the model finds, on the model's device; its mode (training or evaluation) is left as it was.

    Args:
        images: one picture or a list of them. Files and Pillow images are turned upright (EXIF).
        threshold: least score, 0..1. The detector itself drops what scores less than
            ``config.detections.score``.
        size: (short, long) side to resize to; None as trained; "original" for no resizing.
        batch_size: pictures that go through the model together. More than one is faster on a GPU;
            pictures of different shapes are then padded to a common one, which moves scores slightly.
        proposals: for a detector without rpn, where to look for objects: boxes [P, 4], best first, xyxy in
            pixels of the upright picture; a list of them for a list of pictures.

    Returns:
        For one picture, one ``supervision.Detections``; for a list, a list. Best first; ``xyxy`` in pixels
        of the original upright picture and inside it; ``confidence``; ``class_id`` 0..C−1;
        ``data["class_name"]``; ``mask`` [D, H, W] if the detector gives masks.

    Raises:
        UserError: a picture cannot be read, or an argument is out of range.
    """
    check_threshold(threshold)
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: at least one picture goes through the model at a time")
    single = not isinstance(images, list | tuple)
    pictures = [images] if single else list(images)
    given = None
    if proposals is not None:
        given = _given(model, [proposals] if single else list(proposals), len(pictures))
    found: list[sv.Detections] = []
    with evaluating(model):
        for start in range(0, len(pictures), batch_size):
            part = slice(start, start + batch_size)
            batch = prepare(pictures[part], size or model.config.image.size, model.divisor, given and given[part])
            found += to_supervision(model(batch.to(device_of(model))), batch, model.class_names, threshold)
    return found[0] if single else found


def check_threshold(threshold: float) -> None:
    """Raises UserError if no score can be compared with it."""
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold is {threshold}: a score lies between 0 and 1")


def to_supervision(
    detections: Detections, batch: Batch, class_names: Sequence[str], threshold: float = 0.0
) -> list[sv.Detections]:
    """Detections that score at least ``threshold``, one object per picture, in pixels of the original pictures."""
    boxes, scores = (t.cpu().float().numpy() for t in (detections.boxes, detections.scores))
    labels, valid = (t.cpu().numpy() for t in (detections.labels, detections.valid))
    scales = np.ones((len(boxes), 2)) if batch.scales is None else batch.scales.cpu().double().numpy()
    # A resized side is a whole number of pixels, so the original side comes back exactly.
    originals = np.round(batch.sizes.cpu().numpy()[:, ::-1] / scales)
    names = np.array(class_names, dtype=np.str_)
    found: list[sv.Detections] = []
    for i in range(len(boxes)):
        keep = valid[i] & (scores[i] >= threshold)
        corners = boxes[i, keep].reshape(-1, 2, 2) / scales[i]
        masks = None
        if detections.masks is not None:
            width, height = originals[i].astype(int).tolist()
            masks = _paste(detections.masks[i].cpu()[torch.from_numpy(keep)], corners.reshape(-1, 4), height, width)
        found.append(
            sv.Detections(
                xyxy=corners.clip(0, originals[i]).reshape(-1, 4).astype(np.float32),
                confidence=scores[i, keep],
                mask=masks,
                class_id=labels[i, keep].astype(int),
                data={"class_name": names[labels[i, keep]]},
            )
        )
    return found


def _given(model: Detector, proposals: Sequence[Any], pictures: int) -> list[Float[Tensor, "_ 4"]]:
    """Boxes of every picture as tensors, no more than the detector wants."""
    roi = model.config.roi
    if not model.config.takes_proposals or roi is None:
        raise UserError(f"{model.config.model} needs no proposals: leave them out")
    if len(proposals) != pictures:
        raise UserError(f"proposals are given for {len(proposals)} pictures, of which there are {pictures}")
    tensors = [torch.as_tensor(boxes, dtype=torch.float32) for boxes in proposals]
    if any(boxes.ndim != 2 or boxes.shape[1] != 4 for boxes in tensors):
        raise UserError("proposals of a picture are an array [P, 4] of corners x0, y0, x1, y1")
    return [boxes[: roi.test_proposals] for boxes in tensors]


def _paste(masks: Float[Tensor, "D M M"], boxes: Float64[ndarray, "D 4"], height: int, width: int) -> ndarray:
    """Masks [D, height, width] of the original picture, from those of the boxes in it."""
    whole = np.zeros((len(masks), height, width), dtype=bool)
    for i, (rows, columns, pixels) in enumerate(paste_masks(masks.float().numpy(), boxes, height, width)):
        whole[i, rows, columns] = pixels
    return whole


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode without gradients; afterwards every part is in the mode it was in before."""
    before = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, training in before:
            part.training = training


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device

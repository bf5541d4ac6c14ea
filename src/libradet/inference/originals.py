"""Detections of a batch in the pixels of the images that it was made of."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from libradet.data.batch import Batch
from libradet.geometry.masks import paste_masks
from libradet.inference.detections import Detections

if TYPE_CHECKING:
    import supervision


def to_supervision(
    detections: Detections, batch: Batch, class_names: Sequence[str], threshold: float = 0.0
) -> "list[supervision.Detections]":
    """Detections that score at least ``threshold``, one object per image, in pixels of the original images."""
    from libradet.utils.warnings_filter import supervision as sv

    boxes, scores = (t.cpu().float().numpy() for t in (detections.boxes, detections.scores))
    labels, valid = (t.cpu().numpy() for t in (detections.labels, detections.valid))
    scales = np.ones((len(boxes), 2)) if batch.scales is None else batch.scales.cpu().double().numpy()
    # A resized side is a whole number of pixels, so the original side comes back exactly.
    originals = np.round(batch.sizes.cpu().numpy()[:, ::-1] / scales)
    names = np.array(class_names, dtype=np.str_)
    found = []
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


def _paste(masks: Float[Tensor, "D M M"], boxes: Float64[ndarray, "D 4"], height: int, width: int) -> ndarray:
    """Masks [D, height, width] of the original image, from those of the boxes in it."""
    whole = np.zeros((len(masks), height, width), dtype=bool)
    for i, (rows, columns, pixels) in enumerate(paste_masks(masks.float().numpy(), boxes, height, width)):
        whole[i, rows, columns] = pixels
    return whole

"""From the detections of a batch to detections in pixels of the original images."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool
from numpy import ndarray

from libradet.data.batch import Batch
from libradet.geometry.masks import paste_masks
from libradet.inference.compact_masks import MaskWindow, has_compact_masks, to_compact_masks
from libradet.structures import Detections

if TYPE_CHECKING:
    import supervision


def postprocess(
    detections: Detections,
    batch: Batch,
    class_names: Sequence[str],
    score_thresh: float = 0.0,
    compact_masks: bool = False,
) -> "list[supervision.Detections]":
    """Filter by score, rescale to the original images, and return one ``supervision.Detections`` per image.

    Args:
        detections: of ``batch``, in pixels of the resized images.
        class_names: names of labels 0..C-1.
        score_thresh: minimum score, 0..1.
        compact_masks: return masks as ``supervision.CompactMask``, if this version of supervision has it: hundreds of
            masks of a large image do not fit into memory as arrays.
    """
    from libradet.utils.quiet_supervision import supervision as sv

    boxes, scores = (t.cpu().float().numpy() for t in (detections.boxes, detections.scores))
    labels, valid = (t.cpu().numpy() for t in (detections.labels, detections.valid))
    scales = np.ones((len(boxes), 2)) if batch.scales is None else batch.scales.cpu().double().numpy()
    # Resized sides are whole numbers of pixels, so rounding restores the original sides exactly.
    original_sizes = np.round(batch.sizes.cpu().numpy()[:, ::-1] / scales)
    names = np.array(class_names, dtype=np.str_)
    results = []
    for i in range(len(boxes)):
        keep = valid[i] & (scores[i] >= score_thresh)
        corners = boxes[i, keep].reshape(-1, 2, 2) / scales[i]
        masks = None
        if detections.masks is not None:
            width, height = original_sizes[i].astype(int).tolist()
            grids = detections.masks[i].cpu()[torch.from_numpy(keep)].float().numpy()
            windows = paste_masks(grids, corners.reshape(-1, 4), height, width)
            if compact_masks and has_compact_masks():
                masks = to_compact_masks(windows, height, width)
            else:
                masks = _paste(windows, len(grids), height, width)
        results.append(
            sv.Detections(
                xyxy=corners.clip(0, original_sizes[i]).reshape(-1, 4).astype(np.float32),
                confidence=scores[i, keep],
                mask=masks,
                class_id=labels[i, keep].astype(int),
                data={"class_name": names[labels[i, keep]]},
            )
        )
    return results


def _paste(windows: Iterable[MaskWindow], number: int, height: int, width: int) -> Bool[ndarray, "D {height} {width}"]:
    """Return binary masks of the whole image."""
    pasted = np.zeros((number, height, width), dtype=bool)
    for mask, (rows, columns, pixels) in zip(pasted, windows, strict=True):
        mask[rows, columns] = pixels
    return pasted

"""From the detections of a batch to detections in pixels of the original images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numpy import ndarray
from torch import Tensor

from libradet.data.batch import Batch
from libradet.data.segmentations import encode_masks
from libradet.geometry.masks import paste_masks
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
            paste = _paste_compact if compact_masks and hasattr(sv, "CompactMask") else _paste
            masks = paste(detections.masks[i].cpu()[torch.from_numpy(keep)], corners.reshape(-1, 4), height, width)
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


def _paste(
    masks: Float[Tensor, "D M M"], boxes: Float64[ndarray, "D 4"], height: int, width: int
) -> Bool[ndarray, "D {height} {width}"]:
    """Return binary masks of the whole image from mask probabilities inside the boxes."""
    pasted = np.zeros((len(masks), height, width), dtype=bool)
    for i, (rows, columns, pixels) in enumerate(paste_masks(masks.float().numpy(), boxes, height, width)):
        pasted[i, rows, columns] = pixels
    return pasted


def _paste_compact(
    masks: Float[Tensor, "D M M"], boxes: Float64[ndarray, "D 4"], height: int, width: int
) -> "supervision.CompactMask":
    """Return the same masks, each stored inside its window."""
    from libradet.utils.quiet_supervision import supervision as sv

    windows = list(paste_masks(masks.float().numpy(), boxes, height, width))
    # Both ends of supervision's crops are inside.
    crops = [(columns.start, rows.start, columns.stop - 1, rows.stop - 1) for rows, columns, _ in windows]
    encoded = encode_masks(windows, height, width)
    return sv.CompactMask.from_coco_rle(encoded, np.array(crops, np.float64).reshape(-1, 4), (height, width))

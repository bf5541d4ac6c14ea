"""The .pt2 format: programs of torch.export, which need only torch and torchvision to run."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor
from torch.export import ExportedProgram

from libradet.errors import UserError
from libradet.export.metadata import ExportMetadata, RunFunction, decode_metadata, encode_metadata
from libradet.geometry import nms, roi_align  # noqa: F401 (register the package's custom operators)
from libradet.utils.warnings_filter import silence_loggers

METADATA_FILE = "libradet.json"


def write_pt2(program: ExportedProgram, metadata: ExportMetadata, path: Path) -> None:
    """Write program, weights and metadata as one file."""
    with silence_loggers("torch", "torchvision"), path.open("wb") as file:
        portable = program.run_decompositions(DECOMPOSITIONS)
        torch.export.save(portable, file, extra_files={METADATA_FILE: json.dumps(encode_metadata(metadata))})


def open_pt2(path: Path) -> tuple[ExportMetadata, RunFunction]:
    """Return the metadata of a .pt2 file and a function that runs it on the CPU.

    A .pt2 file contains code: torch may execute it while loading.

    Raises:
        UserError: not a .pt2 file that libradet wrote.
    """
    extra_files = {METADATA_FILE: ""}
    try:
        # Read from memory: torch checks the suffix of a path, and a file that is being written has another one.
        with silence_loggers("torch", "torch.export", "torch._export"):
            program = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra_files)
    except Exception as error:  # damaged archives raise nearly any exception
        raise UserError(f"{path}: not a program of torch.export ({str(error).splitlines()[0][:120]})") from error
    metadata = decode_metadata(json.loads(extra_files[METADATA_FILE] or "{}"), path)
    module = program.module()

    def run(arrays: Sequence[ndarray]) -> list[ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in module(*map(torch.from_numpy, arrays))]

    return metadata, run


def batched_nms(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    groups: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    threshold: float,
    size: int,
) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Compute :func:`libradet.geometry.nms.batched_nms` with torchvision's operator.

    One NMS runs over all images and groups, whose boxes are shifted so that they do not overlap each other.
    """
    batch_size, num_boxes = scores.shape
    rows = valid.flatten().nonzero().squeeze(1)
    image = rows // num_boxes
    # In float64, shifted boxes keep all digits.
    boxes_of_rows = boxes.flatten(0, 1)[rows].double()
    span = boxes.amax().double() - boxes.amin().double() + 1
    shift = (image * (groups.amax() + 1) + groups.flatten()[rows]) * span
    scores = scores.flatten()[rows].double()
    # torch.export assumes that torchvision's NMS keeps at least two boxes: two more, without area and with the lowest
    # scores, make that true.
    boxes_of_rows = torch.cat([boxes_of_rows + shift[:, None], boxes_of_rows.new_zeros(2, 4)])
    scores = torch.cat([scores, scores.new_full((2,), -torch.inf)])
    kept = torch.ops.torchvision.nms(boxes_of_rows, scores, float64_iou_threshold(threshold))[:-2]
    image, row = image[kept], rows[kept] % num_boxes
    # Kept boxes are sorted by falling score over all images; number them within their image.
    same_image = image[:, None] == torch.arange(batch_size, device=boxes.device)
    slot = (same_image.cumsum(0) - 1).gather(1, image[:, None]).squeeze(1).clamp(max=size)
    chosen = row.new_zeros(batch_size, size + 1).index_put((image, slot), row)
    filled = valid.new_zeros(batch_size, size + 1).index_put((image, slot), torch.ones_like(row, dtype=torch.bool))
    return chosen[:, :size].clone(), filled[:, :size].clone()


def pyramid_roi_align(
    pyramid: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "B S 4"],
    levels: Int[Tensor, "B S"],
    strides: Sequence[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Tensor, "BS C size size"]:
    """Compute the operator of :mod:`libradet.geometry.roi_align` with torchvision's RoIAlign, level by level."""
    batch_size, num_boxes = levels.shape
    out = boxes.new_zeros(batch_size * num_boxes, pyramid[0].shape[1], size, size)
    for level, (features, stride) in enumerate(zip(pyramid, strides, strict=True)):
        rows = (levels.flatten() == level).nonzero().squeeze(1)
        pooled = roi_align_rows(features, boxes, rows, 1 / stride, size, sampling_ratio, aligned)
        out = out.index_put((rows,), pooled)
    return out


def roi_align_rows(
    features: Float[Tensor, "B C _ _"],
    boxes: Float[Tensor, "B S 4"],
    rows: Int[Tensor, "R"],
    scale: float,
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Tensor, "R C size size"]:
    """Return torchvision's RoIAlign of some boxes at one level, by their rows in ``boxes.flatten(0, 1)``."""
    image = (rows // boxes.shape[1])[:, None].to(boxes.dtype)
    rois = torch.cat([image, boxes.flatten(0, 1)[rows]], 1)
    return torch.ops.torchvision.roi_align(features, rois, scale, size, size, sampling_ratio, aligned)


DECOMPOSITIONS: dict[torch._ops.OperatorBase, Callable] = {
    torch.ops.libradet.batched_nms.default: batched_nms,
    torch.ops.libradet.pyramid_roi_align.default: pyramid_roi_align,
}


# torch computes IoUs in float32 and compares them with the threshold in float64. The following thresholds have the
# same result, also for an IoU next to the threshold, where all is float32 (ONNX) or float64 (above).


def float32_iou_threshold(threshold: float) -> float:
    """Return the largest float32 number up to ``threshold``: float32 IoUs exceed both or neither."""
    nearest = np.float32(threshold)
    return float(np.nextafter(nearest, np.float32(-1)) if float(nearest) > threshold else nearest)


def float64_iou_threshold(threshold: float) -> float:
    """Return the float64 number that float64 IoUs exceed if, rounded to float32, they exceed ``threshold``."""
    below = np.float32(float32_iou_threshold(threshold))
    return (float(below) + float(np.nextafter(below, np.float32(2)))) / 2

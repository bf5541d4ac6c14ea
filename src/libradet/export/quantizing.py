"""ONNX files that compute in eight bits, for processors that multiply those faster."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from libradet.errors import UserError
from libradet.export.description import Description
from libradet.utils.atomic_io import atomic_write
from libradet.utils.warnings_filter import silence_loggers

LAYERS = ["Conv", "Gemm"]
"""What is computed in eight bits; resizing, boxes, scores and suppression stay as they are."""


def refuse_int8(description: Description, suffix: str) -> None:
    """Raises UserError if there is no file of eight bits of such a detector."""
    if suffix != ".onnx":
        raise UserError(f"--int8 is for .onnx files; a {suffix} file computes in float32")
    if description.proposals:
        raise UserError(
            f"--int8 shows a detector images, and {description.model} wants proposals for them; leave it out"
        )


def quantize(path: Path, images: Sequence[ndarray]) -> None:
    """Have a file of ours compute its layers in eight bits, in place.

    Weights have a scale for each output channel. Activations have one for each layer, from the smallest to the largest
    value that it has on ``images`` (uint8 RGB [H, W, 3], such as some dozen of those it was trained on).
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    reader: Any = _Shown(images)  # its own base class must not be imported before it is needed
    options = {"per_channel": True, "op_types_to_quantize": LAYERS, "quant_format": QuantFormat.QDQ}
    kinds = {"weight_type": QuantType.QInt8, "activation_type": QuantType.QUInt8}
    with silence_loggers("root"), atomic_write(path) as partial:
        quantize_static(path, partial, reader, **options, **kinds)


class _Shown:
    """What onnxruntime calls a calibration data reader."""

    def __init__(self, images: Sequence[ndarray]) -> None:
        self._left: Iterator[ndarray] = iter(images)

    def get_next(self) -> dict[str, ndarray] | None:
        image = next(self._left, None)
        return None if image is None else {"images": np.ascontiguousarray(image[None])}

"""Calibration of INT8: the ranges of activations on images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from libradet.data.collate import prepare_batch
from libradet.engines.compiled import join_images
from libradet.engines.fuse_graph import fold_constants
from libradet.engines.packed import trace_dense
from libradet.engines.quantize_graph import ConvolutionRanges, measure_ranges
from libradet.export.verification import RGBImage
from libradet.inference.predict import predict_batch
from libradet.models.detector import Detector
from libradet.models.ops.quantized_layers import ActivationRange, range_of


class Calibration(NamedTuple):
    """Ranges of activations on calibration images.

    Attributes:
        convolutions: of the dense part, in its order.
        layers: inputs of the hidden layers of RoI heads and mask head.
    """

    convolutions: list[ConvolutionRanges]
    layers: dict[nn.Module, ActivationRange]


def calibrate(model: Detector, images: Sequence[RGBImage]) -> Calibration:
    """Run an optimized detector in float32 on images, and return the ranges of activations.

    Args:
        model: detector on the CPU whose layers are not packed yet.
        images: uint8 RGB [H, W, 3], at least one.

    Raises:
        UserError: the detector cannot be traced.
    """
    dense = _MeasuredDense(model)
    kept, model.dense_engine = model.dense_engine, dense
    try:
        with _measured_inputs(_hidden_layers(model)) as layers:
            for image in images:
                predict_batch(model, prepare_batch([image], model.image_size, model.size_divisible, None))
    finally:
        model.dense_engine = kept
    return Calibration(dense.ranges, layers)


class _MeasuredDense:
    """The dense part of a detector, which measures what its convolutions read."""

    def __init__(self, model: Detector) -> None:
        self._model = model
        self._graphs: dict[tuple[int, ...], GraphModule] = {}
        self.ranges: list[ConvolutionRanges] = []

    def __call__(self, images: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            return join_images([self._run(image) for image in images.split(1)])

    def _run(self, image: Tensor) -> list[Tensor]:
        size = tuple(image.shape)
        if size not in self._graphs:
            self._graphs[size] = trace_dense(self._model, image)
            fold_constants(self._graphs[size])
        outputs, ranges = measure_ranges(self._graphs[size], image)
        if self.ranges:
            ranges = [known.union(new) for known, new in zip(self.ranges, ranges, strict=True)]
        self.ranges = ranges
        return outputs


def _hidden_layers(model: Detector) -> list[nn.Module]:
    """Return the layers of RoI heads and mask head before those of the outputs."""
    heads = [*(model.roi.box_heads if model.roi is not None else []), *([] if model.mask is None else [model.mask])]
    return [layer for head in heads for layer in head.hidden_layers()]


@contextmanager
def _measured_inputs(layers: Sequence[nn.Module]) -> Iterator[dict[nn.Module, ActivationRange]]:
    """Measure what layers read, within the context."""
    ranges: dict[nn.Module, ActivationRange] = {}

    def measure(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        own = range_of(inputs[0])
        ranges[layer] = own.union(ranges.get(layer, own))

    hooks = [layer.register_forward_pre_hook(measure) for layer in layers]
    try:
        yield ranges
    finally:
        for hook in hooks:
            hook.remove()

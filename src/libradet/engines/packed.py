"""The engine "packed": torch's operators with packed weights, fused activations and Winograd's convolutions."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from libradet.engines.compiled import join_images
from libradet.engines.fuse_graph import fuse_convolutions
from libradet.engines.quantize_graph import ConvolutionRanges, quantize_convolutions
from libradet.errors import UserError
from libradet.models.detector import Detector


class PackedDense:
    """The dense part of a detector as a list of operators, one for each padded size, made when it first occurs.

    Sizes, constants and the order of operators are fixed; a convolution, a sum and an activation are one operator, and
    weights are packed for it. No compiler is needed, and a list is ready in a second. The images of a batch run one
    after the other, which costs the same time on a CPU.

    Args:
        model: optimized detector on a CPU.
        ranges: of what convolutions read on calibration images, for INT8; without them, convolutions are computed in
            the precision of the detector.
    """

    def __init__(self, model: Detector, ranges: Sequence[ConvolutionRanges] = ()) -> None:
        self._model, self._ranges = model, list(ranges)
        self._graphs: dict[tuple[int, ...], GraphModule] = {}
        self._layers: dict = {}
        self._quantized_layers: dict = {}

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return what :meth:`libradet.models.detector.Detector.compute_dense` does."""
        with torch.inference_mode():
            return join_images([self._graph(image)(image) for image in images.split(1)])

    def _graph(self, image: Tensor) -> GraphModule:
        size = tuple(image.shape)
        if size not in self._graphs:
            graph = trace_dense(self._model, image)
            if self._ranges:
                quantize_convolutions(graph, self._ranges, self._quantized_layers)
            self._graphs[size] = fuse_convolutions(graph, self._layers)
        return self._graphs[size]


def trace_dense(model: Detector, image: Tensor) -> GraphModule:
    """Return the operators of a detector's dense part for images of the size of ``image``, [1, 3, H, W].

    Raises:
        UserError: it cannot be traced.
    """
    example = torch.empty(image.shape, dtype=image.dtype).to(memory_format=torch.channels_last)
    dense = torch.func.functionalize(lambda images: model.compute_dense(images))
    try:
        with torch.inference_mode(False), torch.no_grad():
            return make_fx(dense, tracing_mode="fake", _allow_non_fake_inputs=True)(example)
    except Exception as error:  # the tracer raises nearly any exception
        lines = str(error).strip().splitlines() or [type(error).__name__]
        backbone = model.config.backbone.name
        raise UserError(
            f"{model.name} on {backbone} cannot be traced ({lines[0][:200]}): use the engine eager"
        ) from error

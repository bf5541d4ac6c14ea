"""Convolutions and linear layers in INT8, for inference on a CPU: oneDNN's operators with weights packed once.

Activations are unsigned bytes, value = scale * (byte - zero), with one scale per tensor. Weights are signed bytes with
a scale per output channel. Products are summed in int32; bias, sum, activation and the scale of the output are applied
before a value is written.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor, nn

LEVELS = 255
"""Steps between the smallest and the largest value of an activation."""

ISA_WITHOUT_VNNI = ("SSE41", "AVX", "AVX2", "AVX512_CORE")
"""Values of oneDNN's ONEDNN_MAX_CPU_ISA that exclude VNNI instructions."""

MAX_WEIGHT, MAX_WEIGHT_16_BIT = 127, 63
"""Largest weight, and that where a product of two bytes is summed in 16 bits, without VNNI instructions."""

PACK_ROWS = 256
"""Rows of the input that the order of a linear layer is chosen for; any number of rows can be computed."""

PACK_REGIONS, PACK_SIZE = 100, (14, 14)
"""Number and size of maps that the order of a head's convolutions is chosen for; others can be computed."""


class Scale(NamedTuple):
    """Quantization of a tensor: value = ``scale`` * (byte - ``zero``)."""

    scale: float
    zero: int


class ActivationRange(NamedTuple):
    """Smallest and largest value of an activation on calibration images."""

    low: float
    high: float

    @property
    def scale(self) -> Scale:
        """The quantization that represents the range, and 0 exactly, because layers pad with it."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        scale = max((high - low) / LEVELS, torch.finfo(torch.float32).tiny)
        return Scale(scale, round(-low / scale))

    def union(self, other: "ActivationRange") -> "ActivationRange":
        """Return the range that contains both."""
        return ActivationRange(min(self.low, other.low), max(self.high, other.high))


def range_of(x: Float[Tensor, "*_"]) -> ActivationRange:
    """Return the range of a tensor's values; that of an empty tensor is 0."""
    if not x.numel():
        return ActivationRange(0.0, 0.0)
    low, high = torch.aminmax(x)
    return ActivationRange(float(low), float(high))


def quantize(x: Float[Tensor, "*S"], scale: Scale) -> UInt8[Tensor, "*S"]:
    """Return the nearest bytes; values outside of the range become its ends."""
    return _bytes(torch.quantize_per_tensor(x, scale.scale, scale.zero, torch.quint8))


def max_pool(
    x: UInt8[Tensor, "B C Hi Wi"],
    size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
) -> UInt8[Tensor, "B C Ho Wo"]:
    """Return the maxima of bytes; torch's max pooling refuses large maps of bytes."""
    wrapped = torch._make_per_tensor_quantized_tensor(x, 1.0, 0)
    return _bytes(torch.quantized_max_pool2d(wrapped, size, stride, padding, dilation, ceil_mode))


def has_int8_layers() -> bool:
    """Whether this build of torch has the operators."""
    operators = (torch.ops.onednn, "qconv2d_pointwise"), (torch, "quantize_per_tensor"), (torch, "quantized_max_pool2d")
    return torch.backends.mkldnn.is_available() and all(hasattr(*operator) for operator in operators)


def silence_deprecation() -> None:
    """Suppress torch's warning, once per process, that the type of its quantized tensors is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize(torch.zeros(1), Scale(1.0, 0))


class QuantizedWeight(NamedTuple):
    """Weights as signed bytes, with the scale of each output channel."""

    values: Int8[Tensor, "Co *_"]
    scales: Float[Tensor, " Co"]


def quantize_weight(weight: Float[Tensor, "Co *S"]) -> QuantizedWeight:
    """Quantize each output channel symmetrically, by its largest value."""
    # Without VNNI, two products of bytes are summed in 16 bits: weights of 7 bits exclude an overflow.
    largest = MAX_WEIGHT if uses_vnni() else MAX_WEIGHT_16_BIT
    weight = weight.detach().float()
    rows = weight.flatten(1)
    scales = (rows.abs().amax(1) / largest).clamp(min=torch.finfo(torch.float32).tiny)
    values = (rows / scales[:, None]).round().to(torch.int8)
    return QuantizedWeight(values.view(weight.shape), scales)


class QuantizedConv2d(nn.Module):
    """A convolution in INT8, the sum of its output and another map, and the activation after it.

    Args:
        weight: of the convolution, in float32.
        bias: of the convolution.
        stride, padding, dilation: of the convolution, for both axes.
        groups: of the convolution.
        activation: oneDNN's name of the activation, "relu", "hardswish" or "swish"; "none" without one.
        input_shape: of inputs that weights are packed for; others can be computed.
        input_scale: of the input, which is quantized if it is float32.
        output_scale: of the output; None returns float32.
        other_scale: of the summand; None without one, or if it is float32.
    """

    def __init__(
        self,
        weight: Float[Tensor, "Co Ci _ _"],
        bias: Float[Tensor, " Co"] | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        activation: str,
        input_shape: Sequence[int],
        input_scale: Scale,
        output_scale: Scale | None = None,
        other_scale: Scale | None = None,
    ) -> None:
        super().__init__()
        self.sizes = list(stride), list(padding), list(dilation), groups
        values, self.weight_scales = quantize_weight(weight)
        pointwise = weight.shape[2:] == (1, 1) and self.sizes == ([1, 1], [0, 0], list(dilation), 1)
        self.multiply = _multiply_pixels if pointwise else _convolve
        # Not buffers: a packed tensor can neither be copied nor moved.
        if pointwise:
            batch, channels, height, width = input_shape
            self.packed = torch.ops.onednn.qlinear_prepack(values.flatten(1), [batch * height * width, channels])
        else:
            scales = self.weight_scales, *input_scale
            self.packed = torch.ops.onednn.qconv_prepack(values, *scales, *self.sizes, list(input_shape))
        self.weight_zeros = torch.zeros(len(weight), dtype=torch.long)
        self.bias = None if bias is None else bias.detach().float()
        self.activation = activation
        self.input_scale, self.output_scale, self.other_scale = input_scale, output_scale, other_scale

    def forward(
        self, x: UInt8[Tensor, "B Ci Hi Wi"] | Float[Tensor, "B Ci Hi Wi"], other: Tensor | None = None
    ) -> Tensor:
        """Return the output [B, Co, Ho, Wo]; ``other`` is added before the activation, and its memory overwritten."""
        if x.dtype != torch.uint8:
            x = quantize(x, self.input_scale)
        return self.multiply(self, x, other)

    @property
    def weights(self) -> tuple[Any, ...]:
        """Scale of the input, and weights with their scales."""
        return (*self.input_scale, self.packed, self.weight_scales, self.weight_zeros)

    @property
    def output(self) -> tuple[Any, ...]:
        """Scale and type of the output."""
        if self.output_scale is None:
            return 1.0, 0, torch.float32
        return (*self.output_scale, torch.uint8)


def _convolve(layer: QuantizedConv2d, x: Tensor, other: Tensor | None) -> Tensor:
    settings = (layer.bias, *layer.sizes, *layer.output)
    if other is None:
        return torch.ops.onednn.qconv2d_pointwise(x, *layer.weights, *settings, layer.activation, [], "")
    other_scale = layer.other_scale or Scale(1.0, 0)
    activation = None if layer.activation == "none" else layer.activation
    return torch.ops.onednn.qconv2d_pointwise.binary(
        x, *layer.weights, other, *settings, *other_scale, "sum", 1.0, activation, [], ""
    )


def _multiply_pixels(layer: QuantizedConv2d, x: Tensor, other: Tensor | None) -> Tensor:
    """Compute a 1 x 1 convolution as a linear layer on pixels.

    The order of weights that a convolution is packed in is that for outputs in float32. For bytes, oneDNN wants another
    one for some sizes, and reorders weights at every call, which costs 30 times the product.
    """
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)
    if other is None:
        operator = torch.ops.onednn.qlinear_pointwise
        pixels = operator(rows, *layer.weights, layer.bias, *layer.output, layer.activation, [], "")
    else:
        summand = other.permute(0, 2, 3, 1).flatten(0, 2)
        added = (*(layer.other_scale or Scale(1.0, 0)), "sum", 1.0, layer.activation, [], "")
        operator = torch.ops.onednn.qlinear_pointwise.binary
        pixels = operator(rows, *layer.weights, summand, layer.bias, *layer.output, *added)
    return pixels.view(x.shape[0], *x.shape[2:], -1).permute(0, 3, 1, 2)


class QuantizedLinear(nn.Module):
    """A linear layer in INT8, whose input and output are float32.

    Args:
        weight, bias: of a layer on the CPU, in float32.
        input_scale: of the input.
    """

    def __init__(
        self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None, input_scale: Scale
    ) -> None:
        super().__init__()
        values, self.weight_scales = quantize_weight(weight)
        # Not a buffer: a packed tensor can neither be copied nor moved.
        self.packed = torch.ops.onednn.qlinear_prepack(values, [PACK_ROWS, weight.shape[1]])
        self.weight_zeros = torch.zeros(len(weight), dtype=torch.long)
        self.bias = None if bias is None else bias.detach().float()
        self.input_scale = input_scale

    def forward(self, x: Float[Tensor, "N inputs"]) -> Float[Tensor, "N outputs"]:
        """Return the layer's output."""
        pixels = quantize(x.float(), self.input_scale)
        weight = (self.packed, self.weight_scales, self.weight_zeros, self.bias)
        return torch.ops.onednn.qlinear_pointwise(
            pixels, *self.input_scale, *weight, 1.0, 0, torch.float32, "none", [], ""
        )


def quantize_layers(module: nn.Module, ranges: Mapping[nn.Module, ActivationRange]) -> None:
    """Replace, in place, the convolutions and linear layers whose input has a range."""
    for name, child in module.named_children():
        if child not in ranges:
            quantize_layers(child, ranges)
        elif isinstance(child, nn.Conv2d):
            sizes: Any = child.stride, child.padding, child.dilation, child.groups
            shape = PACK_REGIONS, child.in_channels, *PACK_SIZE
            scale = ranges[child].scale
            layer = QuantizedConv2d(
                child.weight, child.bias, *sizes, activation="none", input_shape=shape, input_scale=scale
            )
            setattr(module, name, layer)
        elif isinstance(child, nn.Linear):
            setattr(module, name, QuantizedLinear(child.weight, child.bias, ranges[child].scale))


def uses_vnni() -> bool:
    """Return whether oneDNN multiplies bytes with VNNI instructions: the processor has them, and the user allows it."""
    return torch.cpu._is_vnni_supported() and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in ISA_WITHOUT_VNNI


def _bytes(x: Tensor) -> UInt8[Tensor, "*_"]:
    """Return the bytes of a quantized tensor, without copying them as ``int_repr`` does."""
    return torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage(), x.storage_offset(), x.shape, x.stride())

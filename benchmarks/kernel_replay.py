"""Lower bound of a step's time: its convolutions and matrix products alone."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
LAYOUTS = ("contiguous", "channels_last", "packed")


class TensorSpec(NamedTuple):
    """Shape and memory order of a tensor."""

    shape: tuple[int, ...]
    transposed: bool


class Call(NamedTuple):
    """Call of a convolution, a matrix product or a gradient of one; ``flops`` counts multiplications and additions."""

    op: Any
    args: Any
    kwargs: Any
    flops: int


def record_calls(step: Callable[[], Any]) -> list[Call]:
    """Return the calls of a step that have FLOPs in torch's registry, in their order."""
    recorder = _Recorder()
    with recorder:
        step()
    return recorder.calls


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in flop_registry:
            flops = int(flop_registry[packet](*args, **kwargs, out_val=out))
            self.calls.append(Call(func, *tree_map_only(Tensor, _spec, (args, kwargs)), flops))
        return out


def _spec(t: Tensor) -> TensorSpec:
    return TensorSpec(tuple(t.shape), t.dim() == 2 and not t.is_contiguous() and t.t().is_contiguous())


class KernelReplay:
    """The recorded calls on random tensors, prepared in advance, in the memory layout that is fastest here.

    Gradients are the recorded ones, without those of frozen layers. In inference, weights may be in oneDNN's own order
    ("packed").

    Attributes:
        flops: multiplications and additions of all calls.
        layout: of images and weights.
    """

    def __init__(self, calls: list[Call], precision: str) -> None:
        self.flops = sum(call.flops for call in calls)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        trains = any("backward" in str(call.op) for call in calls)
        seconds = {}
        for layout in LAYOUTS[:2] if trains else LAYOUTS:
            self._work = _prepare(calls, dtype, layout)
            # The first run is warm-up.
            self.run()
            start = time.perf_counter()
            self.run()
            seconds[layout] = time.perf_counter() - start
        self.layout = min(seconds, key=lambda name: seconds[name])
        self._work = _prepare(calls, dtype, self.layout)
        self.run()

    @torch.no_grad()
    def run(self) -> None:
        """Execute all calls once."""
        for work in self._work:
            work()


def _prepare(calls: list[Call], dtype: torch.dtype, layout: str) -> list[Callable[[], Any]]:
    pool: dict[Any, Tensor] = {}
    work = []
    for call in calls:
        counter = iter(range(99))

        def make(spec: TensorSpec, counter=counter) -> Tensor:
            # Calls share tensors of equal shape, but no call reads one twice.
            key = (next(counter), spec)
            if key not in pool:
                pool[key] = _make(spec, dtype, layout)
            return pool[key]

        args, kwargs = tree_map_only(
            TensorSpec, make, (call.args, call.kwargs), is_leaf=lambda x: isinstance(x, TensorSpec)
        )
        packed = _packed(call, args) if layout == "packed" else None
        work.append(packed or (lambda op=call.op, args=args, kwargs=kwargs: op(*args, **kwargs)))
    return work


def _make(spec: TensorSpec, dtype: torch.dtype, layout: str) -> Tensor:
    t = torch.rand(spec.shape[::-1] if spec.transposed else spec.shape).to(dtype) - 0.5
    if t.dim() == 4 and layout != "contiguous":
        t = t.contiguous(memory_format=torch.channels_last)
    return t.t() if spec.transposed else t


def _packed(call: Call, args: Any) -> Callable[[], Any] | None:
    """Return the convolution with weights in oneDNN's own order; None for other calls."""
    if call.op is not aten.convolution.default or args[6]:
        return None
    x, weight, bias, stride, padding, dilation, _, _, groups = args
    own = torch._C._nn.mkldnn_reorder_conv2d_weight(
        weight.to_mkldnn(), padding, stride, dilation, groups, list(x.shape)
    )
    conv = torch.ops.mkldnn._convolution_pointwise
    return lambda: conv(x, own, bias, padding, stride, dilation, groups, "none", [], "")


def measure_peak_flops(precision: str) -> float:
    """Return the FLOPS of a large convolution or a large matrix product, whichever is faster."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    side, channels, height, width = 2048, 256, 100, 168
    a, b = torch.rand(side, side).to(dtype), torch.rand(side, side).to(dtype)
    x = torch.rand(1, channels, height, width).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(channels, channels, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)
    works = (
        (lambda: a @ b, 2 * side**3),
        (lambda: torch.conv2d(x, weight, padding=1), 2 * 9 * channels**2 * height * width),
    )
    return max(flops / _median_seconds(work) for work, flops in works)


@torch.no_grad()
def _median_seconds(work: Callable[[], Any], times: int = 5) -> float:
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])

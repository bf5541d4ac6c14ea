"""Which arithmetic is fast on this machine."""

from time import perf_counter
from typing import Literal

import torch
import torch.nn.functional as F

from libradet.training.settings import TrainConfig

Precision = Literal["32", "bf16"]


def choose_precision(config: TrainConfig, on_gpu: bool) -> tuple[Precision, str]:
    """The precision to train in, and why, in a few words."""
    if config.precision != "auto":
        return config.precision, "as asked"
    if on_gpu:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU has it") if native else ("32", "the GPU has no bf16")
    speedup = _seconds_of_a_convolution(torch.float32) / _seconds_of_a_convolution(torch.bfloat16)
    if speedup > 1.2:
        return "bf16", f"{speedup:.1f} times as fast as fp32 on this CPU"
    return "32", f"bf16 runs at {speedup:.2g} times the speed of fp32 on this CPU"


@torch.no_grad()
def _seconds_of_a_convolution(dtype: torch.dtype) -> float:
    """Best of a few runs, small enough to take milliseconds where bf16 is emulated a hundred times slower."""
    x = torch.ones(1, 64, 32, 32, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(4):
        start = perf_counter()
        F.conv2d(x, weight, padding=1)
        seconds.append(perf_counter() - start)
    return min(seconds)

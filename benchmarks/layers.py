"""Single layers of the engine "packed", in turns with torch's: convolutions, a linear layer, and RoIAlign before it.

Prints the least milliseconds of processor time of each, and the error relative to the norm of the output in float64.

    python -m benchmarks.layers --threads 1
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libradet.models.box_head import roi_pool
from libradet.models.config import RoIAlignConfig
from libradet.models.ops.packed_conv import PackedConv2d
from libradet.models.ops.packed_linear import PackedLinear
from libradet.models.ops.pooled_linear import PooledLinear
from libradet.models.ops.tiled_winograd import TiledWinograd

STRIDES = (4, 8, 16, 32)


def compare(name: str, functions: dict[str, Callable[[], Tensor]], exact: Tensor, rounds: int) -> None:
    """Print a row for each function."""
    milliseconds: dict[str, list[float]] = {own: [] for own in functions}
    errors = {own: float((function() - exact).norm() / exact.norm()) for own, function in functions.items()}
    for _ in range(rounds):
        for own, function in functions.items():
            start = time.process_time()
            function()
            milliseconds[own].append(1e3 * (time.process_time() - start))
    for own, values in milliseconds.items():
        print(f"{name:52} {own:12} {min(values):8.1f} ms  error {errors[own]:.1e}", flush=True)


def compare_convolutions(channels: int, height: int, width: int, dtype: torch.dtype, rounds: int) -> None:
    """Compare a 3 x 3 convolution and its ReLU, directly and by Winograd's filtering."""
    conv = nn.Conv2d(channels, channels, 3, padding=1, dtype=dtype)
    x = torch.randn(1, channels, height, width).to(dtype, memory_format=torch.channels_last)
    direct = PackedConv2d(conv.weight, conv.bias, [1, 1], [1, 1], [1, 1], 1, "relu", x.shape)
    winograd = TiledWinograd(conv.weight, conv.bias, True, (height, width))
    assert conv.bias is not None
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1).relu()
    name = f"3 x 3, {channels} channels, {height} x {width}, {str(dtype).removeprefix('torch.')}"
    compare(name, {"direct": lambda: direct(x), "Winograd": lambda: winograd(x)}, exact, rounds)


def compare_box_head(rounds: int) -> None:
    """Compare the first linear layer of a box head on 500 rows, and RoIAlign of 1,000 boxes with it."""
    linear, config = nn.Linear(256 * 7 * 7, 1024), RoIAlignConfig()
    packed, rows = PackedLinear(linear.weight, linear.bias), torch.randn(500, linear.in_features)
    exact = F.linear(rows.double(), linear.weight.double(), linear.bias.double())
    compare(
        "first linear layer, 500 rows", {"torch": lambda: linear(rows), "packed": lambda: packed(rows)}, exact, rounds
    )
    levels = [torch.randn(1, 256, 480 // s, 640 // s).to(memory_format=torch.channels_last) for s in STRIDES]
    center, half = torch.rand(1, 1000, 2) * torch.tensor([640.0, 480.0]), 2 ** (3 + 5 * torch.rand(1, 1000, 2))
    boxes = torch.cat([center - half, center + half], -1).clamp(min=0).minimum(torch.tensor([640.0, 480.0] * 2))
    valid, joint = torch.ones(1, 1000, dtype=torch.bool), PooledLinear(linear, STRIDES, config)

    def in_two_steps() -> Tensor:
        return packed(roi_pool(levels, boxes, valid, STRIDES, config).flatten(1))

    steps = {"two steps": in_two_steps, "one step": lambda: joint(levels, boxes, valid)}
    compare("RoIAlign of 1,000 boxes and this layer", steps, in_two_steps().double(), rounds)


@torch.inference_mode()
def main() -> None:
    """Print all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    for dtype in (torch.float32, torch.bfloat16) if has_bf16 else (torch.float32,):
        for shape in ((256, 120, 160), (128, 60, 80)):
            compare_convolutions(*shape, dtype, args.rounds)
    compare_box_head(args.rounds)


if __name__ == "__main__":
    main()

"""RoIAlign over a feature pyramid on a CPU: libradet's operator against torchvision's, level by level.

Both take turns on the same boxes of all sizes. Prints median milliseconds of forward and backward pass, and the median
ratio.

    python benchmarks/roi_align.py --threads 2 1
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from libradet.geometry.roi_align import assign_levels, pyramid_roi_align

STRIDES = (4, 8, 16, 32)
# Images, boxes per image, height, width.
CASES = {"train": (2, 512, 256, 448), "infer": (1, 1000, 480, 640), "infer large": (1, 1000, 800, 1344)}


def make_inputs(case: str, dtype: torch.dtype, channels: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return a pyramid in channels-last layout, as in autocast and inference, boxes and an output gradient."""
    images, number, height, width = CASES[case]
    g = torch.Generator().manual_seed(0)
    pyramid = [torch.randn(images, channels, height // s, width // s, generator=g) for s in STRIDES]
    center = torch.rand(images, number, 2, generator=g) * torch.tensor([width, height])
    half = 2 ** (3 + 5 * torch.rand(images, number, 2, generator=g))
    limit = torch.tensor([width, height, width, height])
    boxes = torch.cat([center - half, center + half], -1).clamp(min=0).minimum(limit)
    grad = torch.randn(images * number, channels, 7, 7, generator=g).to(dtype)
    pyramid = [x.to(dtype, memory_format=torch.channels_last).requires_grad_() for x in pyramid]
    return pyramid, boxes, grad


def ours(pyramid: Sequence[Tensor], boxes: Tensor, ratio: int) -> Tensor:
    """Run libradet's operator on all levels."""
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool)
    return pyramid_roi_align(pyramid, boxes, valid, STRIDES, sampling_ratio=ratio)


def torchvision(pyramid: Sequence[Tensor], boxes: Tensor, ratio: int) -> Tensor:
    """Run torchvision's operator level by level, in float32."""
    levels = assign_levels(boxes, STRIDES).flatten()
    image = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
    rois = torch.cat([image[:, None].float(), boxes.flatten(0, 1)], 1)
    out = pyramid[0].new_zeros(len(rois), pyramid[0].shape[1], 7, 7)
    for i, (features, stride) in enumerate(zip(pyramid, STRIDES, strict=True)):
        rows = (levels == i).nonzero().squeeze(1)
        pooled = roi_align(features.float(), rois[rows], 7, 1 / stride, ratio, True)
        out = out.index_copy(0, rows, pooled.to(out.dtype))
    return out


def time_passes(
    roi_pool: Callable[..., Tensor], pyramid: list[Tensor], boxes: Tensor, grad: Tensor, ratio: int
) -> tuple[float, float]:
    """Return the seconds of forward and backward pass."""
    start = time.perf_counter()
    out = roi_pool(pyramid, boxes, ratio)
    middle = time.perf_counter()
    torch.autograd.grad(out, pyramid, grad, allow_unused=True)
    return middle - start, time.perf_counter() - middle


def compare(case: str, dtype: torch.dtype, ratio: int, args: argparse.Namespace) -> None:
    """Print a row per number of threads."""
    arguments = (*make_inputs(case, dtype, args.channels), ratio)
    for threads in args.threads:
        torch.set_num_threads(threads)
        time_passes(ours, *arguments)  # warm-up
        rounds = [(time_passes(torchvision, *arguments), time_passes(ours, *arguments)) for _ in range(args.rounds)]
        row = f"{case:12}{str(dtype).removeprefix('torch.'):9} ratio {ratio} threads {threads}"
        for i, direction in enumerate(("forward", "backward")):
            theirs, ours_ms = ([r[k][i] * 1e3 for r in rounds] for k in (0, 1))
            speedup = statistics.median(a / b for a, b in zip(theirs, ours_ms, strict=True))
            row += f"  {direction} {statistics.median(theirs):7.1f} -> {statistics.median(ours_ms):6.1f} ms"
            row += f" {speedup:5.1f}x"
        print(row, flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--ratios", type=int, nargs="+", default=[2], help="0: adapted to the box")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    for case in args.cases:
        for dtype in (torch.float32, torch.bfloat16):
            for ratio in args.ratios:
                compare(case, dtype, ratio, args)


if __name__ == "__main__":
    main()

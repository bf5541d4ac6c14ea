"""RoIAlign over a pyramid as one operator: each box reads the level that fits its size (FPN, equation 1)."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import roi_align


def assign_levels(
    boxes: Float[Tensor, "*N 4"], strides: Sequence[int], canonical_size: float = 224.0, canonical_level: int = 4
) -> Int[Tensor, "*N"]:
    """Index into ``strides`` of the level for each box: one of side ``canonical_size`` reads stride
    2^``canonical_level``."""
    side = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1).sqrt()
    level = torch.floor(canonical_level + torch.log2(side / canonical_size + 1e-6))
    lowest = strides[0].bit_length() - 1
    return (level.clamp(lowest, lowest + len(strides) - 1) - lowest).long()


@torch.library.custom_op("libradet::pyramid_roi_align", mutates_args=())
def _pyramid_roi_align(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    strides: Sequence[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    out = pyramid[0].new_zeros((*boxes.shape[:2], pyramid[0].shape[1], size, size))

    def align(level: int, b: slice, c: slice) -> None:
        rows, rois = _rois_of_level(boxes[b], levels[b], level)
        if len(rois):
            features = pyramid[level][b, c].float()
            pooled = roi_align(features, rois, size, 1 / strides[level], sampling_ratio, aligned)
            out[b].view(-1, *out.shape[2:])[rows, c] = pooled.to(out.dtype)

    _for_each(align, pyramid)
    return out.flatten(0, 1)


@_pyramid_roi_align.register_fake
def _(pyramid, boxes, levels, strides, size, sampling_ratio, aligned):
    return pyramid[0].new_empty((boxes.shape[0] * boxes.shape[1], pyramid[0].shape[1], size, size))


@torch.library.custom_op("libradet::pyramid_roi_align_backward", mutates_args=())
def _pyramid_roi_align_backward(
    grad: Tensor,
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    strides: Sequence[int],
    sampling_ratio: int,
    aligned: bool,
) -> list[Tensor]:
    grads = [torch.zeros_like(features) for features in pyramid]
    size = grad.shape[-1]
    grad = grad.unflatten(0, boxes.shape[:2])

    def align(level: int, b: slice, c: slice) -> None:
        rows, rois = _rois_of_level(boxes[b], levels[b], level)
        if len(rois):
            shape = grads[level][b, c].shape
            g = grad[b].flatten(0, 1)[rows, c].float()
            scale = 1 / strides[level]
            grads[level][b, c] = torch.ops.torchvision._roi_align_backward(
                g, rois, scale, size, size, *shape, sampling_ratio, aligned
            )

    _for_each(align, pyramid)
    return grads


@_pyramid_roi_align_backward.register_fake
def _(grad, pyramid, boxes, levels, strides, sampling_ratio, aligned):
    return [torch.empty_like(features) for features in pyramid]


def _rois_of_level(boxes: Tensor, levels: Tensor, level: int) -> tuple[Tensor, Tensor]:
    """Rows, pictures flattened, of the boxes that read ``level``; and those boxes with their picture in front."""
    picture, slot = (levels == level).nonzero(as_tuple=True)
    rois = torch.cat([picture[:, None].float(), boxes[picture, slot].float()], dim=1)
    return picture * boxes.shape[1] + slot, rois


def _for_each(work: Callable[[int, slice, slice], None], pyramid: Sequence[Tensor]) -> None:
    """Run ``work`` on every level: of all pictures and channels at once on a GPU, piece by piece on a CPU.

    torchvision's CPU kernel uses one thread, so pictures, and channels where there are too few pictures, are
    dealt out to threads; each writes to its own part of the result, so the order does not matter.
    """
    # New threads would record gradients, and may not write to tensors made in inference mode.
    work = torch.inference_mode()(work)
    pictures, channels = pyramid[0].shape[:2]
    threads = 1 if pyramid[0].is_cuda else torch.get_num_threads()
    if threads == 1:
        for level in range(len(pyramid)):
            work(level, slice(None), slice(None))
        return
    step = -(-channels // -(-threads // pictures))
    parts = [slice(c, c + step) for c in range(0, channels, step)]
    with ThreadPoolExecutor(threads) as pool:
        jobs = [
            pool.submit(work, level, slice(b, b + 1), c)
            for level in range(len(pyramid))
            for b in range(pictures)
            for c in parts
        ]
    for job in jobs:
        job.result()


def _setup_context(ctx, inputs, output) -> None:
    pyramid, boxes, levels, strides, _, sampling_ratio, aligned = inputs
    ctx.save_for_backward(boxes, levels, *pyramid)
    ctx.arguments = strides, sampling_ratio, aligned


def _backward(ctx, grad):
    boxes, levels, *pyramid = ctx.saved_tensors
    grads = _pyramid_roi_align_backward(grad, pyramid, boxes, levels, *ctx.arguments)
    return grads, None, None, None, None, None, None


_pyramid_roi_align.register_autograd(_backward, setup_context=_setup_context)


def pyramid_roi_align(
    pyramid: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "B S 4"],
    valid: Bool[Tensor, "B S"],
    strides: Sequence[int],
    *,
    size: int = 7,
    sampling_ratio: int = 2,
    aligned: bool = True,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Float[Tensor, "BS C size size"]:
    """Features of each box, ``size`` × ``size`` bins, the pictures' boxes one after the other.

    Boxes that are not ``valid`` cost nothing and give zeros. ``sampling_ratio`` 0 adapts the samples per
    bin to the box. Gradients flow to the pyramid, not to the boxes.
    """
    levels = assign_levels(boxes, strides, canonical_size, canonical_level).masked_fill(~valid, -1)
    return _pyramid_roi_align(list(pyramid), boxes.detach(), levels, list(strides), size, sampling_ratio, aligned)

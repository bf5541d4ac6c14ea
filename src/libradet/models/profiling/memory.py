"""Memory of inference and of training steps over time, measured on tensors without storage."""

import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int64
from numpy import ndarray
from torch import Tensor
from torch.optim import SGD
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from libradet.data.batch import Batch
from libradet.models.detector import Detector


class LinearMemory(NamedTuple):
    """Allocated bytes after each allocation, each linear in the number of images.

    Attributes:
        base: with one image.
        per_image: added by each further image.
    """

    base: Int64[ndarray, " T"]
    per_image: Int64[ndarray, " T"]

    def peak(self, num_images: int) -> int:
        """Return the peak in bytes with ``num_images``, which is at least 1."""
        return int((self.base + (num_images - 1) * self.per_image).max())

    def max_images(self, limit: int) -> int:
        """Return the largest number of images that fit into ``limit`` bytes, 0 if one does not."""
        if self.peak(1) > limit:
            return 0
        growing = self.per_image > 0
        return 1 + int(((limit - self.base[growing]) // self.per_image[growing]).min())


def fit_linear_memory(trace: Callable[[int], list[int]]) -> LinearMemory:
    """Fit a line to each moment of a trace.

    Args:
        trace: allocated bytes over time by the number of images. It is called with two and three images, as some
            copies of larger batches are views with one.
    """
    two, three = np.array(trace(2), np.int64), np.array(trace(3), np.int64)
    if len(two) != len(three):
        two, three = two.max(keepdims=True), three.max(keepdims=True)
    return LinearMemory(2 * two - three, three - two)


def trace_inference(model: Detector, batch: Batch, bf16: bool = False) -> list[int]:
    """Return the bytes of weights, batch and intermediate tensors after each allocation of an inference pass."""
    existing = (*_tensors(batch), *model.parameters(), *model.buffers())
    with torch.no_grad(), MemoryTracker(existing) as tracker, EfficientAttentionMode(), _autocast(bf16):
        model.eval()(batch)
    return tracker.bytes


def trace_training(model: Detector, batch: Batch, bf16: bool = False, ema: bool = False) -> list[int]:
    """Return the same of a training step after the first, with momentum and gradients, and with ``ema`` the average.

    Gradients are allocated in the backward pass and freed before the next step, as in
    :class:`libradet.training.module.DetectorModule`.
    """
    state = [*model.parameters(), *model.buffers()]
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=1e-4)
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    optimizer.zero_grad()
    momentum = [t for values in optimizer.state.values() for t in values.values() if isinstance(t, Tensor)]
    average = [torch.empty_like(t) for t in state] if ema else []
    with MemoryTracker((*_tensors(batch), *state, *momentum, *average)) as tracker, EfficientAttentionMode():
        with _autocast(bf16):
            loss = torch.stack(list(model.train()(batch).values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return tracker.bytes


def _tensors(batch: Batch) -> list[Tensor]:
    return [t for t in batch if t is not None]


def _autocast(bf16: bool) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()


class EfficientAttentionMode(TorchFunctionMode):
    """Attention without the matrix of its weights, as on real devices; on meta tensors torch would materialize it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        query, key, value, mask, *_ = (*args, *[None] * 4)
        options = {"attn_mask": mask, **(kwargs or {})}
        return fused(query, key, value, attn_mask=options["attn_mask"], scale=options.get("scale"))[0]


class MemoryTracker(TorchDispatchMode):
    """Tracks every tensor from its allocation to its release.

    Args:
        existing: tensors that are allocated already.

    Attributes:
        bytes: allocated after each allocation, and in each convolution, including the existing tensors.
    """

    def __init__(self, existing: Iterable[Tensor]) -> None:
        super().__init__()
        self.bytes: list[int] = []
        sizes = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in existing}
        self._current, self._storages = sum(sizes.values()), set(sizes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and t.untyped_storage()._cdata not in self._storages:
                self._add(t.untyped_storage())
        if func is torch.ops.aten.convolution.default:
            # Kernels use copies of the weight in two memory formats, which matters in small batches.
            self.bytes.append(self._current + 2 * args[1].nbytes)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        self._storages.add(address)
        self._current += size
        self.bytes.append(self._current)
        weakref.finalize(storage, self._remove, address, size)

    def _remove(self, address: int, size: int) -> None:
        self._storages.discard(address)
        self._current -= size

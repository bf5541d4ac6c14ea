"""Memory of a detection and of a training step, moment by moment, found by running them on tensors without contents."""

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


class Memory(NamedTuple):
    """Bytes alive at every moment at which a tensor is made: a line in the number of images each.

    Attributes:
        first: with one image.
        more: what each further image adds.
    """

    first: Int64[ndarray, " T"]
    more: Int64[ndarray, " T"]

    def at(self, images: int) -> int:
        """Most bytes alive at once with so many images, at least 1."""
        return int((self.first + (images - 1) * self.more).max())

    def largest(self, limit: int) -> int:
        """The most images that fit into ``limit`` bytes, 0 if not even one does."""
        if self.at(1) > limit:
            return 0
        growing = self.more > 0
        return 1 + int(((limit - self.first[growing]) // self.more[growing]).min())


def memory_by_images(trace: Callable[[int], list[int]]) -> Memory:
    """From the bytes alive at every moment with a given number of images.

    One image is like several but for copies that are views then; so lines go through two and three.
    """
    two, three = np.array(trace(2), np.int64), np.array(trace(3), np.int64)
    if len(two) != len(three):
        two, three = two.max(keepdims=True), three.max(keepdims=True)
    return Memory(2 * two - three, three - two)


def trace_detection(model: Detector, batch: Batch, bf16: bool = False) -> list[int]:
    """Bytes alive whenever a detection makes a tensor: weights, batch and what comes of it."""
    held = (*_tensors(batch), *model.parameters(), *model.buffers())
    with torch.no_grad(), Alive(held) as alive, FusedAttention(), _autocast(bf16):
        model.eval()(batch)
    return alive.bytes


def trace_training(model: Detector, batch: Batch, bf16: bool = False, ema: bool = False) -> list[int]:
    """The same of a training step after the first: weights, their mean with ``ema``, momentum, batch, gradients.

    Gradients come into being in the backward pass and are gone when the next step begins, as in
    :class:`libradet.training.module.DetectorModule`.
    """
    held = [*model.parameters(), *model.buffers()]
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=1e-4)
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    optimizer.zero_grad()
    momentum = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    mean = [torch.empty_like(t) for t in held] if ema else []
    with Alive((*_tensors(batch), *held, *momentum, *mean)) as alive, FusedAttention():
        with _autocast(bf16):
            loss = torch.stack(list(model.train()(batch).values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return alive.bytes


def _tensors(batch: Batch) -> list[Tensor]:
    return [t for t in batch if t is not None]


def _autocast(bf16: bool) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()


class FusedAttention(TorchFunctionMode):
    """Attention without its matrix of weights, as on real devices; tensors without contents would write it out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        query, key, value, mask, *_ = (*args, *[None] * 4)
        given = {"attn_mask": mask, **(kwargs or {})}
        return fused(query, key, value, attn_mask=given["attn_mask"], scale=given.get("scale"))[0]


class Alive(TorchDispatchMode):
    """Follows every tensor from its making to its end.

    Args:
        known: tensors that are there already.

    Attributes:
        bytes: alive after each making of a tensor, and in each convolution; those that were known included.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.bytes: list[int] = []
        sizes = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in known}
        self._now, self._alive = sum(sizes.values()), set(sizes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and t.untyped_storage()._cdata not in self._alive:
                self._begin(t.untyped_storage())
        if func is torch.ops.aten.convolution.default:
            # Kernels work on copies of the weight in two layouts of their own: what counts where images are few.
            self.bytes.append(self._now + 2 * args[1].nbytes)
        return out

    def _begin(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        self._alive.add(address)
        self._now += size
        self.bytes.append(self._now)
        weakref.finalize(storage, self._end, address, size)

    def _end(self, address: int, size: int) -> None:
        self._alive.discard(address)
        self._now -= size

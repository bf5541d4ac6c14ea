"""Activation checkpointing (Chen et al., 2016): blocks keep their input and compute the rest again when gradients flow.

It costs one more forward pass of the blocks and changes no number.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
WEIGHTED = (nn.Conv2d, nn.Linear)


def recompute_blocks(body: nn.Module, wanted: bool = True) -> int:
    """Switch checkpointing of all blocks of a network on or off, in place; parameters keep their names.

    Returns:
        How many blocks there are.
    """
    found = list(blocks(body))
    for block in found:
        if wanted:
            # A bound method is rebound when the module is copied; a closure would call the original.
            object.__setattr__(block, "forward", MethodType(_recomputed, block))
        else:
            block.__dict__.pop("forward", None)
    return len(found)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The repeated units of a network, such as a ResNet's bottlenecks: two weighted layers or more, no units inside.

    A stage that is not made of containers counts as one unit.
    """
    for child in module.children():
        if isinstance(child, CONTAINERS) or _holds_blocks(child):
            yield from blocks(child)
        elif _is_block(child):
            yield child


def _is_block(module: nn.Module) -> bool:
    return sum(isinstance(m, WEIGHTED) for m in module.modules()) >= 2


def _holds_blocks(module: nn.Module) -> bool:
    inside = (m for m in module.modules() if isinstance(m, CONTAINERS))
    return any(_is_block(child) for container in inside for child in container.children())


def _recomputed(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = type(self).forward
    if not torch.is_grad_enabled():
        return forward(self, *args, **kwargs)
    if torch.compiler.is_compiling():
        # The graph moves running statistics once, whatever of it is computed again.
        return checkpoint(forward, self, *args, use_reentrant=False, **kwargs)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _statistics_kept(self)

    return checkpoint(forward, self, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms that train count a batch once: the second time they move copies of their statistics."""
    own = [(m, dict(m._buffers)) for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    for norm, buffers in own:
        norm._buffers.update({name: b if b is None else b.clone() for name, b in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in own:
            norm._buffers.update(buffers)

"""Activation checkpointing (Chen et al., 2016): blocks save their input and recompute the rest in the backward pass.

It costs one more forward pass of the blocks and does not change results.
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


def set_activation_checkpointing(body: nn.Module, enabled: bool = True) -> int:
    """Switch checkpointing of all blocks of a network on or off, in place; parameters keep their names.

    Returns:
        Number of blocks.
    """
    recomputed = list(blocks(body))
    for block in recomputed:
        if enabled:
            # A bound method is rebound when the module is copied; a closure would call the original.
            object.__setattr__(block, "forward", MethodType(_checkpointed_forward, block))
        else:
            block.__dict__.pop("forward", None)
    return len(recomputed)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the repeated units of a network, such as a ResNet's bottlenecks.

    A block has two weighted layers or more and contains no other block. A stage without containers is one block.
    """
    for child in module.children():
        if isinstance(child, CONTAINERS) or _contains_blocks(child):
            yield from blocks(child)
        elif _is_block(child):
            yield child


def _is_block(module: nn.Module) -> bool:
    return sum(isinstance(m, WEIGHTED) for m in module.modules()) >= 2


def _contains_blocks(module: nn.Module) -> bool:
    containers = (m for m in module.modules() if isinstance(m, CONTAINERS))
    return any(_is_block(child) for container in containers for child in container.children())


def _checkpointed_forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = type(self).forward
    if not torch.is_grad_enabled():
        return forward(self, *args, **kwargs)
    if torch.compiler.is_compiling():
        # The graph updates running statistics once, whatever parts of it are recomputed.
        return checkpoint(forward, self, *args, use_reentrant=False, **kwargs)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _running_statistics_kept(self)

    return checkpoint(forward, self, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Let batch norms in training mode update copies of their statistics, as the first pass has counted the batch."""
    own = [(m, dict(m._buffers)) for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    for norm, buffers in own:
        norm._buffers.update({name: b if b is None else b.clone() for name, b in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in own:
            norm._buffers.update(buffers)

"""Whether operations run one by one, here and now: then a custom operator or fixed sizes are not needed."""

import sys

import torch
from torch import Tensor


def is_plain_inference(x: Tensor) -> bool:
    """Whether no gradient is recorded and nothing traces: then an operator does nothing but call its function.

    At the first call of an operator, torch imports its compiler, which lasts longer than to import torch itself.
    """
    is_traced = "torch._dynamo" in sys.modules or torch.jit.is_tracing() or type(x) is not Tensor or x.is_meta
    return not is_traced and not torch.is_grad_enabled()


def is_eager_on_cpu(x: Tensor) -> bool:
    """Return whether sizes may depend on data: nothing waits for a device, and no graph is recorded."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    # Subclasses, such as fake tensors, may have no data.
    return x.device.type == "cpu" and type(x) is Tensor

"""Whether a custom operator is needed, or the function in it can be called."""

import sys

import torch
from torch import Tensor


def is_plain_inference(x: Tensor) -> bool:
    """Whether no gradient is recorded and nothing traces: then an operator does nothing but call its function.

    At the first call of an operator, torch imports its compiler, which lasts longer than to import torch itself.
    """
    is_traced = "torch._dynamo" in sys.modules or torch.jit.is_tracing() or type(x) is not Tensor or x.is_meta
    return not is_traced and not torch.is_grad_enabled()

"""Construction of modules whose weights are loaded at once."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

RANDOM_INIT = frozenset(
    [
        # timm's truncated normal distribution is erfinv of a uniform one.
        *(Tensor.normal_, Tensor.uniform_, Tensor.erfinv_),
        *(torch.nn.init.normal_, torch.nn.init.uniform_, torch.nn.init.trunc_normal_, torch.nn.init.orthogonal_),
        *(torch.nn.init.kaiming_normal_, torch.nn.init.kaiming_uniform_),
        *(torch.nn.init.xavier_normal_, torch.nn.init.xavier_uniform_),
    ]
)


class without_random_init(TorchFunctionMode):
    """Within the context, tensors are not filled with random numbers: their values are undefined.

    For modules of which every parameter is overwritten. Constants, such as buffers that no file has, are set as ever.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor as it is if ``func`` would fill it with random numbers."""
        kwargs = kwargs or {}
        if func in RANDOM_INIT:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)

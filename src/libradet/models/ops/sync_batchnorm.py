"""Batch norm over the joint batch of all processes."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from libradet.utils.quick_timm import timm


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the statistics of all processes, for devices on which torch has none (CPU, gloo)."""

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the normalized input; running statistics are updated with those of the joint batch."""
        if not self.training:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        count = torch.tensor(x.numel() / x.shape[1], dtype=torch.float64)
        dist.all_reduce(count)
        mean = all_reduce(x.sum((0, 2, 3))) / count
        # A second reduction for the variance: mean of squares minus square of mean would lose half of the digits.
        centered = x - mean[:, None, None]
        variance = all_reduce(centered.square().sum((0, 2, 3))) / count
        self._update_running_statistics(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        output = centered * scale[:, None, None]
        return (output + self.bias[:, None, None] if self.affine else output).to(input.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Float[Tensor, " C"], variance: Float[Tensor, " C"]) -> None:
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, factor)
            self.running_var.lerp_(variance, factor)


class SyncBatchNormAct2d(SyncBatchNorm2d):
    """:class:`SyncBatchNorm2d` followed by timm's activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the normalized and activated input."""
        return self.act(self.drop(super().forward(input)))


def convert_sync_batchnorm(model: nn.Module, on_gpu: bool) -> nn.Module:
    """Synchronize the statistics of every batch norm in training mode over all processes; others are not changed."""
    if on_gpu:
        return _replace_on_gpu(model)
    for module in model.modules():
        # Changing the class keeps parameters, buffers and all references to the module.
        if _is_training_norm(module) and isinstance(module, timm.layers.BatchNormAct2d):
            object.__setattr__(module, "__class__", SyncBatchNormAct2d)
        elif _is_training_norm(module) and type(module) is nn.BatchNorm2d:
            object.__setattr__(module, "__class__", SyncBatchNorm2d)
    return model


def _replace_on_gpu(model: nn.Module) -> nn.Module:
    for name, child in model.named_children():
        is_norm = isinstance(child, nn.modules.batchnorm._BatchNorm)
        if not is_norm:
            _replace_on_gpu(child)
        elif _is_training_norm(child):
            setattr(model, name, timm.layers.convert_sync_batchnorm(child))
    return model


def _is_training_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and module.training

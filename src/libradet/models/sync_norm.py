"""Batch norm over the joint batch of all processes."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics are those of all processes, on devices where torch has none (CPU, gloo)."""

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalized input; running statistics move by those of the joint batch."""
        if not self.training:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        count = torch.tensor(x.numel() / x.shape[1], dtype=torch.float64)
        dist.all_reduce(count)
        mean = all_reduce(x.sum((0, 2, 3))) / count
        # A second round for the variance: sum of squares minus square of sums would lose half of the digits.
        centerd = x - mean[:, None, None]
        variance = all_reduce(centerd.square().sum((0, 2, 3))) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        output = centerd * scale[:, None, None]
        return (output + self.bias[:, None, None] if self.affine else output).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Float[Tensor, " C"], variance: Float[Tensor, " C"]) -> None:
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance, share)


class SyncedBatchNormAct2d(SyncedBatchNorm2d):
    """The same with timm's activation behind it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalized and activated input."""
        return self.act(self.drop(super().forward(input)))


def synchronize_norms(model: nn.Module, on_gpu: bool) -> nn.Module:
    """Make every batch norm that trains take its statistics over all processes; others stay as they are."""
    if on_gpu:
        return _replace_on_gpu(model)
    for module in model.modules():
        # A change of class keeps parameters, buffers and everybody's references to the module.
        if _trains(module) and isinstance(module, BatchNormAct2d):
            object.__setattr__(module, "__class__", SyncedBatchNormAct2d)
        elif _trains(module) and type(module) is nn.BatchNorm2d:
            object.__setattr__(module, "__class__", SyncedBatchNorm2d)
    return model


def _replace_on_gpu(model: nn.Module) -> nn.Module:
    for name, child in model.named_children():
        is_norm = isinstance(child, nn.modules.batchnorm._BatchNorm)
        if not is_norm:
            _replace_on_gpu(child)
        elif _trains(child):
            setattr(model, name, convert_sync_batchnorm(child))
    return model


def _trains(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and module.training

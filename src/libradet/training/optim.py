"""Optimizer, learning rate schedule, augmentation settings and seeds: functions of the configuration and the step.

The schedule is a closed form in the step (:func:`lr_lambda` with torch's LambdaLR). A chain of SequentialLR, LinearLR,
MultiStepLR and CosineAnnealingLR multiplies the rate of the previous step, so its rates differ in the last bits.
Parameter groups follow the layers of the backbone, which ``timm.optim.param_groups_layer_decay`` does not support for
feature extractors, and exempt learned loss weights from decay.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, cos, pi, sqrt
from typing import Any

import numpy as np
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from libradet.data.transforms.augmentation import Augmentation
from libradet.models.backbone import Backbone, layer_depths
from libradet.models.config import LOSS_WEIGHTS
from libradet.training.config import TrainConfig

LR_PER_16 = {"sgd": 0.02, "adamw": 1e-4}
"""Peak learning rate for 16 images per step: of the paper (4.1), and of Swin's detectors (Liu et al., 2021, 4.2)."""

WEIGHT_DECAY = {"sgd": 1e-4, "adamw": 0.05}
"""From the same sources."""

PYRAMID_GATE = "balance.gate"
"""Name of the parameter with the gates of a balanced pyramid."""

GATE_LR_FACTOR = 10.0
"""Factor of the learning rate of gates with AdamW, whose steps are about the learning rate: a gate moves by about 0.1,
the weights of a layer by hundredths. Steps of SGD are in proportion to the gradient and need no factor."""


def steps_per_epoch(config: TrainConfig, batches_per_epoch: int) -> int:
    """Return the optimizer steps per epoch; the last may have fewer batches than ``accumulate_grad_batches``."""
    return ceil(batches_per_epoch / config.accumulate_grad_batches)


def total_steps(config: TrainConfig, batches_per_epoch: int) -> int:
    """Return the optimizer steps of the whole run."""
    steps = config.max_epochs * steps_per_epoch(config, batches_per_epoch)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def total_batches(config: TrainConfig, batches_per_epoch: int) -> int:
    """Return the batches of each process in the whole run."""
    epochs, steps = divmod(total_steps(config, batches_per_epoch), steps_per_epoch(config, batches_per_epoch))
    return epochs * batches_per_epoch + steps * config.accumulate_grad_batches


def resolve(config: TrainConfig, batches_per_epoch: int) -> TrainConfig:
    """Return the configuration with learning rate, weight decay, warm-up and milestones filled in."""
    total = total_steps(config, batches_per_epoch)
    lr = default_lr(config) if config.lr is None else config.lr
    decay = WEIGHT_DECAY[config.optimizer] if config.weight_decay is None else config.weight_decay
    warmup = min(500, total // 10) if config.warmup_steps is None else config.warmup_steps
    epochs = total / steps_per_epoch(config, batches_per_epoch)
    milestones = default_milestones(epochs) if config.lr_milestones is None else config.lr_milestones
    rounded = [round(epoch, 3) for epoch in milestones]
    return replace(config, lr=lr, weight_decay=decay, warmup_steps=warmup, lr_milestones=rounded)


def default_milestones(epochs: float) -> list[float]:
    """Return the epochs of the drops of the multistep schedule of a run of this length."""
    return [round(epochs * part, 3) for part in (2 / 3, 11 / 12)]


def default_lr(config: TrainConfig) -> float:
    """Return the peak learning rate for the effective batch size.

    It is linear in the batch size for SGD (Goyal et al., 2017), and grows with its square root for AdamW, which divides
    its steps by the deviation of the gradient (Malladi et al., NeurIPS 2022).
    """
    ratio = config.effective_batch_size / 16
    return LR_PER_16[config.optimizer] * (ratio if config.optimizer == "sgd" else sqrt(ratio))


def make_augmentation(
    config: TrainConfig, batches_per_epoch: int | None = None, transforms: tuple[Callable[..., Any], ...] = ()
) -> Augmentation:
    """Return the augmentation of training images; ``no_aug_epochs`` needs ``batches_per_epoch``.

    ``transforms`` are those of ``config.augmentations``.
    """
    mixing_epochs = None
    if config.no_aug_epochs and batches_per_epoch is not None:
        steps = total_steps(config, batches_per_epoch)
        mixing_epochs = max(0, ceil(steps / steps_per_epoch(config, batches_per_epoch)) - config.no_aug_epochs)
    jitter = None if config.scale_jitter is None else (config.scale_jitter[0], config.scale_jitter[1])
    return Augmentation(
        hflip_prob=config.hflip_prob,
        scale_jitter=jitter,
        mosaic_prob=config.mosaic_prob,
        copy_paste_prob=config.copy_paste_prob,
        color_jitter=config.color_jitter,
        mixing_epochs=mixing_epochs,
        vflip_prob=config.vflip_prob,
        rotate90_prob=config.rotate90_prob,
        mixup_prob=config.mixup_prob,
        gaussian_blur=config.gaussian_blur,
        gaussian_noise=config.gaussian_noise,
        transforms=transforms,
    )


def linear_warmup(step: int, warmup_steps: int, start_factor: float) -> float:
    """Return the factor of linear warm-up from ``start_factor`` to 1."""
    return start_factor + (1 - start_factor) * min(1.0, step / warmup_steps) if warmup_steps else 1.0


def multistep_factor(
    step: int, warmup_steps: int, start_factor: float, milestones: Sequence[int], gamma: float
) -> float:
    """Return the learning rate of a step as a fraction of its peak, with drops at ``milestones``.

    Args:
        step: number of optimizer steps already done.
        warmup_steps: steps of linear warm-up from ``start_factor``.
        milestones: steps, ascending, from which on the rate is multiplied by ``gamma`` once more.
    """
    return linear_warmup(step, warmup_steps, start_factor) * gamma ** bisect_right(milestones, step)


def cosine_factor(step: int, warmup_steps: int, start_factor: float, total: int, min_ratio: float) -> float:
    """Return the learning rate of a step as a fraction of its peak: linear warm-up, then half a cosine.

    Args:
        total: steps of the run, after which ``min_ratio`` is reached.
    """
    progress = min(1.0, max(0, step - warmup_steps) / max(1, total - warmup_steps))
    cosine = min_ratio + (1 - min_ratio) * (1 + cos(pi * progress)) / 2
    return linear_warmup(step, warmup_steps, start_factor) * cosine


def lr_lambda(config: TrainConfig, batches_per_epoch: int, step: int) -> float:
    """Return the learning rate after ``step`` optimizer steps as a fraction of its peak, for a resolved config."""
    assert config.warmup_steps is not None, "not resolved"
    assert config.lr_milestones is not None, "not resolved"
    if config.lr_schedule == "cosine":
        total = total_steps(config, batches_per_epoch)
        return cosine_factor(step, config.warmup_steps, config.warmup_start_factor, total, config.min_lr_ratio)
    per_epoch = steps_per_epoch(config, batches_per_epoch)
    milestones = sorted(round(epoch * per_epoch) for epoch in config.lr_milestones)
    return multistep_factor(step, config.warmup_steps, config.warmup_start_factor, milestones, config.lr_gamma)


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict]:
    """Return parameter groups of the trained parameters, by stage if ``layer_decay`` is set.

    Learned loss weights are exempt from weight decay, and so are norms and biases unless ``decay_norm_bias``. With
    AdamW, gates of a balanced pyramid have a group of their own, see :data:`GATE_LR_FACTOR`.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    gates = [p for name, p in trained if config.optimizer == "adamw" and name.endswith(PYRAMID_GATE)]
    if not gates:
        return _weight_groups(model, trained, config)
    assert config.lr is not None, "not resolved"
    weights = [(name, p) for name, p in trained if not name.endswith(PYRAMID_GATE)]
    gate_group = {"params": gates, "weight_decay": 0.0, "lr": GATE_LR_FACTOR * config.lr}
    return [*_weight_groups(model, weights, config), gate_group]


def _weight_groups(model: nn.Module, trained: list[tuple[str, nn.Parameter]], config: TrainConfig) -> list[dict]:
    if config.layer_decay is None:
        return _split_by_decay(trained, config)
    assert config.lr is not None, "not resolved"
    depths = parameter_depths(model)
    groups: list[dict] = []
    for depth in sorted(set(depths.values())):
        stage = [(name, p) for name, p in trained if depths[name] == depth]
        lr = {"lr": config.lr * config.layer_decay**depth}
        groups += [group | lr for group in _split_by_decay(stage, config) if group["params"]]
    return groups


def parameter_depths(model: nn.Module) -> dict[str, int]:
    """Return how many stages (of a plain ViT: blocks) below the pyramid each parameter is, and 0 outside the backbone.

    See :func:`libradet.models.backbone.layer_depths`.

    Raises:
        UserError: the backbone has no stages.
    """
    depths = {name: 0 for name, _ in model.named_parameters()}
    for prefix, part in model.named_modules():
        if isinstance(part, Backbone):
            depths |= {f"{prefix}.{name}": depth for name, depth in layer_depths(part).items()}
    return depths


def _split_by_decay(parameters: list[tuple[str, nn.Parameter]], config: TrainConfig) -> list[dict]:
    decayed = [p for name, p in parameters if _has_decay(name, p, config)]
    exempt = [p for name, p in parameters if not _has_decay(name, p, config)]
    groups: list[dict] = [{"params": decayed}]
    return [*groups, {"params": exempt, "weight_decay": 0.0}] if exempt or not config.decay_norm_bias else groups


def _has_decay(name: str, parameter: nn.Parameter, config: TrainConfig) -> bool:
    # Norms and biases are exactly the parameters with fewer than two dimensions.
    return not name.startswith(LOSS_WEIGHTS) and (config.decay_norm_bias or parameter.ndim > 1)


def build_optimizer(
    model: nn.Module, config: TrainConfig, batches_per_epoch: int, fused: bool | None = None
) -> tuple[Optimizer, LambdaLR]:
    """Return optimizer and scheduler for a resolved configuration.

    Args:
        fused: whether a step is one pass over the memory of each parameter, in place of one for each operation; None
            leaves it to torch, which does not do so on a CPU. Weights differ in their last bits.

    Raises:
        UserError: like :func:`parameter_depths`.
    """
    assert config.lr is not None, "not resolved"
    assert config.weight_decay is not None, "not resolved"
    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        decay, momentum = config.weight_decay, config.momentum
        optimizer: Optimizer = SGD(groups, lr=config.lr, momentum=momentum, weight_decay=decay, fused=fused)
    else:
        optimizer = AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
    return optimizer, LambdaLR(optimizer, lambda step: lr_lambda(config, batches_per_epoch, step))


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the settings of each parameter group that follow from the configuration."""
    names = ("initial_lr", "weight_decay", "momentum")
    return [{name: group[name] for name in names if name in group} for group in optimizer.param_groups]


def apply_group_settings(optimizer: Optimizer, scheduler: LambdaLR, settings: Sequence[dict[str, Any]]) -> None:
    """Replace settings that were restored from a checkpoint, which has those of the run before it was resumed."""
    scheduler.base_lrs = [group["initial_lr"] for group in settings]
    for group, new, factor in zip(optimizer.param_groups, settings, scheduler.lr_lambdas, strict=True):
        group |= new | {"lr": new["initial_lr"] * factor(scheduler.last_epoch)}


def derive_seed(*numbers: int) -> int:
    """Return a well-distributed 63-bit seed, a pure function of non-negative ``numbers``."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))

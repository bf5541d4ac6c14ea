"""Optimizer, schedule and augmentation: everything a function of the configuration and the number of the step."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, cos, pi, sqrt

import numpy as np
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from libradet.data.loading.augmentation import Augmentation
from libradet.models.backbones import Backbone
from libradet.models.config import LOSS_WEIGHTS
from libradet.models.stages import STAGES, stage_of_parameters
from libradet.training.settings import TrainConfig

LR_PER_16 = {"sgd": 0.02, "adamw": 1e-4}
"""Peak learning rate for 16 images per step: of the paper (4.1), and of Swin's detectors (Liu et al., 2021, 4.2)."""

WEIGHT_DECAY = {"sgd": 1e-4, "adamw": 0.05}
"""From the same places."""


def steps_per_epoch(config: TrainConfig, batches_per_epoch: int) -> int:
    """Optimizer steps per epoch; the last one may hold fewer batches than ``accumulate``."""
    return ceil(batches_per_epoch / config.accumulate)


def total_steps(config: TrainConfig, batches_per_epoch: int) -> int:
    """Optimizer steps of the whole run."""
    steps = config.epochs * steps_per_epoch(config, batches_per_epoch)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def resolve(config: TrainConfig, batches_per_epoch: int) -> TrainConfig:
    """The configuration with learning rate, weight decay, warm-up and steps filled in."""
    total = total_steps(config, batches_per_epoch)
    lr = usual_lr(config) if config.lr is None else config.lr
    decay = WEIGHT_DECAY[config.optimizer] if config.weight_decay is None else config.weight_decay
    warmup = min(500, total // 10) if config.warmup is None else config.warmup
    steps = [config.epochs * 2 / 3, config.epochs * 11 / 12] if config.steps is None else config.steps
    return replace(config, lr=lr, weight_decay=decay, warmup=warmup, steps=[round(s, 3) for s in steps])


def usual_lr(config: TrainConfig) -> float:
    """Peak learning rate for the images of a step.

    That of SGD grows with their number (Goyal et al., 2017), that of AdamW, whose steps are divided by the gradient's
    own deviation, with its square root (Malladi et al., NeurIPS 2022).
    """
    more = config.images_per_step / 16
    return LR_PER_16[config.optimizer] * (more if config.optimizer == "sgd" else sqrt(more))


def augmentation_of(config: TrainConfig, batches_per_epoch: int | None = None) -> Augmentation:
    """What happens to training images; without ``batches_per_epoch``, before ``plain_epochs`` can be counted."""
    mixed = None
    if config.plain_epochs and batches_per_epoch is not None:
        steps = total_steps(config, batches_per_epoch)
        mixed = max(0, ceil(steps / steps_per_epoch(config, batches_per_epoch)) - config.plain_epochs)
    jitter = None if config.scale_jitter is None else (config.scale_jitter[0], config.scale_jitter[1])
    return Augmentation(config.flip, jitter, config.mosaic, config.copy_paste, config.color_jitter, mixed)


def lr_factor(step: int, warmup: int, warmup_from: float, drops: Sequence[int], gamma: float) -> float:
    """Learning rate of a step as a fraction of its peak.

    Args:
        step: number of optimizer steps already done.
        warmup: steps over which the rate grows linearly from ``warmup_from``.
        drops: steps, rising, from which on the rate is multiplied by ``gamma`` once more.
    """
    return rise(step, warmup, warmup_from) * gamma ** bisect_right(drops, step)


def rise(step: int, warmup: int, warmup_from: float) -> float:
    """Linear warm-up as a fraction of the peak."""
    return warmup_from + (1 - warmup_from) * min(1.0, step / warmup) if warmup else 1.0


def cosine_factor(step: int, warmup: int, warmup_from: float, total: int, final: float) -> float:
    """Learning rate of a step as a fraction of its peak: up to it in ``warmup`` steps, then half a cosine.

    Args:
        total: steps of the run, after which ``final`` of the peak is reached.
    """
    done = min(1.0, max(0, step - warmup) / max(1, total - warmup))
    return rise(step, warmup, warmup_from) * (final + (1 - final) * (1 + cos(pi * done)) / 2)


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict]:
    """Trained parameters by stage, if rates differ between stages; apart what does not decay.

    That are learned weights of losses, and norms and biases if they do not.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if config.layer_decay is None:
        return _by_decay(trained, config)
    assert config.lr is not None, "not resolved"
    depths = depth_of_parameters(model)
    groups: list[dict] = []
    for depth in sorted(set(depths.values())):
        some = [(name, p) for name, p in trained if depths[name] == depth]
        rate = {"lr": config.lr * config.layer_decay**depth}
        groups += [group | rate for group in _by_decay(some, config) if group["params"]]
    return groups


def depth_of_parameters(model: nn.Module) -> dict[str, int]:
    """How many stages below the pyramid a parameter is: 1 in the last of the backbone, STAGES + 1 in its stem, else 0.

    Raises:
        UserError: the backbone has no stages of its own.
    """
    depths = {name: 0 for name, _ in model.named_parameters()}
    for prefix, part in model.named_modules():
        if isinstance(part, Backbone):
            stages = stage_of_parameters(part)
            depths |= {f"{prefix}.{name}": STAGES + 1 - stage for name, stage in stages.items()}
    return depths


def _by_decay(parameters: list[tuple[str, nn.Parameter]], config: TrainConfig) -> list[dict]:
    decayed = [p for name, p in parameters if _decays(name, p, config)]
    spared = [p for name, p in parameters if not _decays(name, p, config)]
    groups: list[dict] = [{"params": decayed}]
    return [*groups, {"params": spared, "weight_decay": 0.0}] if spared or not config.decay_norm_bias else groups


def _decays(name: str, parameter: nn.Parameter, config: TrainConfig) -> bool:
    # Norms and biases are exactly the parameters with fewer than two dimensions.
    return not name.startswith(LOSS_WEIGHTS) and (config.decay_norm_bias or parameter.ndim > 1)


def build_optimizer(model: nn.Module, config: TrainConfig, batches_per_epoch: int) -> tuple[Optimizer, LambdaLR]:
    """Optimizer and schedule, for a resolved configuration. Raises UserError as :func:`depth_of_parameters` does."""
    assert config.lr is not None, "not resolved"
    assert config.weight_decay is not None, "not resolved"
    groups, common = parameter_groups(model, config), {"lr": config.lr, "weight_decay": config.weight_decay}
    optimizer = (
        SGD(groups, momentum=config.momentum, **common) if config.optimizer == "sgd" else AdamW(groups, **common)
    )
    return optimizer, LambdaLR(optimizer, lambda step: factor_of(config, batches_per_epoch, step))


def factor_of(config: TrainConfig, batches_per_epoch: int, step: int) -> float:
    """Learning rate after ``step`` optimizer steps as a fraction of its peak, for a resolved configuration."""
    assert config.warmup is not None, "not resolved"
    assert config.steps is not None, "not resolved"
    if config.schedule == "cosine":
        total = total_steps(config, batches_per_epoch)
        return cosine_factor(step, config.warmup, config.warmup_from, total, config.final_lr)
    per_epoch = steps_per_epoch(config, batches_per_epoch)
    drops = sorted(round(epoch * per_epoch) for epoch in config.steps)
    return lr_factor(step, config.warmup, config.warmup_from, drops, config.gamma)


def mix(*numbers: int) -> int:
    """A well-spread 63-bit seed, a pure function of non-negative ``numbers``."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))

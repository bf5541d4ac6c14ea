"""Optimiser and schedule: everything a function of the configuration and the number of the step."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import numpy as np
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from libradet.models.config import LOSS_WEIGHTS
from libradet.training.settings import TrainConfig

LR_PER_16 = 0.02


def steps_per_epoch(config: TrainConfig, batches_per_epoch: int) -> int:
    """Optimiser steps per epoch; the last one may hold fewer batches than ``accumulate``."""
    return ceil(batches_per_epoch / config.accumulate)


def total_steps(config: TrainConfig, batches_per_epoch: int) -> int:
    """Optimiser steps of the whole run."""
    steps = config.epochs * steps_per_epoch(config, batches_per_epoch)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def resolve(config: TrainConfig, batches_per_epoch: int) -> TrainConfig:
    """The configuration with learning rate, warm-up and steps filled in."""
    total = total_steps(config, batches_per_epoch)
    lr = LR_PER_16 * config.pictures_per_step / 16 if config.lr is None else config.lr
    warmup = min(500, total // 10) if config.warmup is None else config.warmup
    steps = [config.epochs * 2 / 3, config.epochs * 11 / 12] if config.steps is None else config.steps
    return replace(config, lr=lr, warmup=warmup, steps=[round(s, 3) for s in steps])


def lr_factor(step: int, warmup: int, warmup_from: float, drops: Sequence[int], gamma: float) -> float:
    """Learning rate of a step as a fraction of its peak.

    Args:
        step: number of optimiser steps already done.
        warmup: steps over which the rate grows linearly from ``warmup_from``.
        drops: steps, rising, from which on the rate is multiplied by ``gamma`` once more.
    """
    rise = warmup_from + (1 - warmup_from) * min(1.0, step / warmup) if warmup else 1.0
    return rise * gamma ** bisect_right(drops, step)


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict]:
    """Trained parameters; apart what does not decay: learned weights of losses, norms and biases if they do not."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in trained if _decays(name, p, config)]
    spared = [p for name, p in trained if not _decays(name, p, config)]
    groups: list[dict] = [{"params": decayed}]
    return [*groups, {"params": spared, "weight_decay": 0.0}] if spared or not config.decay_norm_bias else groups


def _decays(name: str, parameter: nn.Parameter, config: TrainConfig) -> bool:
    # Norms and biases are exactly the parameters with fewer than two dimensions.
    return not name.startswith(LOSS_WEIGHTS) and (config.decay_norm_bias or parameter.ndim > 1)


def build_optimizer(model: nn.Module, config: TrainConfig, batches_per_epoch: int) -> tuple[SGD, LambdaLR]:
    """SGD and its schedule, for a resolved configuration."""
    assert config.lr is not None, "not resolved"
    assert config.warmup is not None, "not resolved"
    assert config.steps is not None, "not resolved"
    groups = parameter_groups(model, config)
    optimizer = SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    per_epoch = steps_per_epoch(config, batches_per_epoch)
    drops = sorted(round(epoch * per_epoch) for epoch in config.steps)
    warmup, start, gamma = config.warmup, config.warmup_from, config.gamma
    return optimizer, LambdaLR(optimizer, lambda step: lr_factor(step, warmup, start, drops, gamma))


def mix(*numbers: int) -> int:
    """A well-spread 63-bit seed, a pure function of non-negative ``numbers``."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))

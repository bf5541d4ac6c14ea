"""Schedule, optimiser and seeds."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from libradet.errors import UserError
from libradet.training.recipe import build_optimizer, lr_factor, mix, parameter_groups, resolve, total_steps
from libradet.training.settings import TrainConfig, check

CONFIG = TrainConfig(data="somewhere")


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.25), (5, 0.625), (10, 1), (99, 1), (100, 0.1), (149, 0.1), (150, 0.01), (10**6, 0.01)]
)
def test_lr_rises_and_falls_in_steps(step, expected):
    assert lr_factor(step, 10, 0.25, (100, 150), 0.1) == pytest.approx(expected)


def test_lr_scales_with_the_pictures_of_a_step():
    assert resolve(CONFIG, 100).lr == pytest.approx(0.005)
    assert resolve(replace(CONFIG, batch_size=2, devices=4, nodes=2, accumulate=3), 100).lr == pytest.approx(0.06)
    assert resolve(replace(CONFIG, lr=0.3, devices=8), 100).lr == 0.3


def test_what_is_left_open_follows_from_the_length_of_the_run():
    short, long = resolve(CONFIG, 100), resolve(CONFIG, 10_000)
    assert (short.warmup, long.warmup) == (120, 500)
    assert short.steps == [8.0, 11.0]
    assert resolve(replace(CONFIG, epochs=24), 10).steps == [16.0, 22.0]
    assert total_steps(replace(CONFIG, accumulate=3), 100) == 12 * 34
    assert total_steps(replace(CONFIG, max_steps=7), 100) == 7


def test_resolving_twice_changes_nothing():
    once = resolve(CONFIG, 77)
    assert resolve(once, 77) == once


def test_optimiser_follows_the_schedule():
    model = nn.Linear(2, 2)
    config = resolve(replace(CONFIG, lr=1.0, epochs=3, warmup=2, warmup_from=0.5, steps=[1.0, 2.5]), 4)
    optimizer, schedule = build_optimizer(model, config, 4)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5, 0.75, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_norms_and_biases_can_be_spared_from_decay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    decayed, spared = parameter_groups(model, replace(CONFIG, decay_norm_bias=False))
    assert [p is q for p, q in zip(decayed["params"], [model[0].weight], strict=True)] == [True]
    assert {id(p) for p in spared["params"]} == {id(p) for p in (model[0].bias, *model[1].parameters(), model[2].bias)}
    assert spared["weight_decay"] == 0
    (everything,) = parameter_groups(model, CONFIG)
    assert len(everything["params"]) == 5


def test_seeds_differ_wherever_any_number_does():
    seeds = {mix(*numbers) for numbers in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 1, 1)]}
    assert len(seeds) == 6
    assert mix(3, 2, 1) == mix(3, 2, 1)
    torch.manual_seed(mix(2**31, 10**9, 63))


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": -1}, {"lr": 0.0}, {"flip": 1.5}, {"ema": -0.1}, {"devices": 0}]
)
def test_values_that_no_run_can_use_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        check(replace(CONFIG, **wrong))


def test_every_field_is_explained():
    described = TrainConfig.__doc__ or ""
    assert all(f"        {f.name}: " in described for f in fields(TrainConfig))

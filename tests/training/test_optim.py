"""Tests of schedule, optimizer, seeds and the ranges of settings."""

import re
from dataclasses import fields, replace

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from libradet.errors import UserError
from libradet.models.config import BackboneConfig
from libradet.models.detector import Detector
from libradet.training.config import TrainConfig
from libradet.training.optim import (
    apply_group_settings,
    build_optimizer,
    cosine_factor,
    derive_seed,
    group_settings,
    lr_lambda,
    make_augmentation,
    multistep_factor,
    parameter_depths,
    parameter_groups,
    resolve,
    total_batches,
    total_steps,
)
from tests.helpers.tiny_detectors import tiny_config

CONFIG = TrainConfig(data="somewhere")


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.25), (5, 0.625), (10, 1), (99, 1), (100, 0.1), (149, 0.1), (150, 0.01), (10**6, 0.01)]
)
def test_multistep_factor(step, expected):
    assert multistep_factor(step, 10, 0.25, (100, 150), 0.1) == pytest.approx(expected)


def test_default_lr_scales_with_the_effective_batch_size():
    assert resolve(CONFIG, 100).lr == pytest.approx(0.005)
    assert resolve(
        replace(CONFIG, batch_size=2, devices=4, num_nodes=2, accumulate_grad_batches=3), 100
    ).lr == pytest.approx(0.06)
    assert resolve(replace(CONFIG, lr=0.3, devices=8), 100).lr == 0.3


def test_warmup_and_milestones_are_resolved_from_the_length_of_the_run():
    short, long = resolve(CONFIG, 100), resolve(CONFIG, 10_000)
    assert (short.warmup_steps, long.warmup_steps) == (120, 500)
    assert short.lr_milestones == [8.0, 11.0]
    assert resolve(replace(CONFIG, max_epochs=24), 10).lr_milestones == [16.0, 22.0]
    assert total_steps(replace(CONFIG, accumulate_grad_batches=3), 100) == 12 * 34
    assert total_steps(replace(CONFIG, max_steps=7), 100) == 7


def test_max_steps_shorten_the_run_that_milestones_refer_to():
    config = resolve(replace(CONFIG, lr=1.0, max_epochs=1000, max_steps=1200), 100)
    assert config.lr_milestones == [8.0, 11.0]
    assert [lr_lambda(config, 100, step) for step in (799, 800, 1099, 1100)] == pytest.approx([1, 0.1, 0.1, 0.01])
    assert resolve(replace(CONFIG, max_steps=1200), 100).lr_milestones == [8.0, 11.0], "a limit that is not reached"
    assert resolve(replace(CONFIG, max_steps=90), 100).lr_milestones == [0.6, 0.825]


@pytest.mark.parametrize(("max_steps", "expected"), [(None, 27), (4, 8), (5, 9), (11, 20), (99, 27)])
def test_batches_of_a_run(max_steps, expected):
    config = replace(CONFIG, max_epochs=3, accumulate_grad_batches=2, max_steps=max_steps)
    assert total_batches(config, 9) == expected


def test_resolve_is_idempotent():
    once = resolve(CONFIG, 77)
    assert resolve(once, 77) == once


def test_settings_of_a_resumed_run_replace_those_of_its_checkpoint():
    model = nn.Linear(2, 2)

    def build(**settings):
        config = resolve(replace(CONFIG, warmup_steps=0, lr_milestones=[1.0], **settings), 10)
        return build_optimizer(model, config, 10)

    before, schedule = build(lr=0.3, momentum=0.5)
    for _ in range(12):
        before.step()
        schedule.step()
    after, resumed = build(lr=0.1, momentum=0.9, weight_decay=0.2)
    settings = group_settings(after)
    after.load_state_dict(before.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    assert after.param_groups[0]["lr"] == pytest.approx(0.03)
    apply_group_settings(after, resumed, settings)
    group = after.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (pytest.approx(0.01), 0.9, 0.2)
    after.step()
    resumed.step()
    assert group["lr"] == pytest.approx(0.01)


def test_optimizer_follows_the_schedule():
    model = nn.Linear(2, 2)
    config = resolve(
        replace(CONFIG, lr=1.0, max_epochs=3, warmup_steps=2, warmup_start_factor=0.5, lr_milestones=[1.0, 2.5]), 4
    )
    optimizer, schedule = build_optimizer(model, config, 4)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5, 0.75, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def rates_of(optimizer, schedule, steps):
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(("warmup", "final"), [(0, 0.01), (7, 0.05), (40, 0.0), (3, 1.0)])
def test_cosine_matches_torch(warmup, final):
    config = replace(
        CONFIG,
        lr=0.5,
        max_epochs=4,
        accumulate_grad_batches=2,
        lr_schedule="cosine",
        warmup_steps=warmup,
        min_lr_ratio=final,
    )
    ours = build_optimizer(nn.Linear(2, 2), resolve(config, 19), 19)
    total = total_steps(config, 19)
    assert total == 40
    theirs = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.5)
    parts = [LinearLR(theirs, config.warmup_start_factor, total_iters=warmup)] if warmup else []
    parts.append(CosineAnnealingLR(theirs, T_max=max(1, total - warmup), eta_min=0.5 * final))
    schedule = SequentialLR(theirs, parts, milestones=[warmup]) if warmup else parts[0]
    expected = rates_of(theirs, schedule, total)
    assert torch.tensor(rates_of(*ours, total)).allclose(torch.tensor(expected), atol=1e-9)


def test_cosine_ends_at_min_lr_ratio_with_max_steps():
    config = resolve(replace(CONFIG, lr=2.0, lr_schedule="cosine", max_steps=50), 10)
    optimizer, schedule = build_optimizer(nn.Linear(2, 2), config, 10)
    rates = [rate for (rate,) in rates_of(optimizer, schedule, 60)]
    assert max(rates) == rates[config.warmup_steps] == 2.0
    assert all(a > b for a, b in zip(rates[config.warmup_steps : 50], rates[config.warmup_steps + 1 : 51], strict=True))
    assert rates[50:] == pytest.approx([0.02] * 10)
    assert cosine_factor(30, 10, 0.3, 50, 0.1) == pytest.approx(0.55), "half way down, half way between"


def test_a_resumed_schedule_gives_the_same_rates():
    config = resolve(replace(CONFIG, max_epochs=3, lr_schedule="cosine"), 10)
    whole = rates_of(*build_optimizer(nn.Linear(2, 2), config, 10), 30)
    optimizer, schedule = build_optimizer(nn.Linear(2, 2), config, 10)
    first = rates_of(optimizer, schedule, 13)
    again, rest = build_optimizer(nn.Linear(2, 2), config, 10)
    again.load_state_dict(optimizer.state_dict())
    rest.load_state_dict(schedule.state_dict())
    assert first + rates_of(again, rest, 17) == whole


def test_default_lr_and_weight_decay_of_adamw():
    config = resolve(replace(CONFIG, optimizer="adamw"), 100)
    assert (config.lr, config.weight_decay) == pytest.approx((0.5e-4, 0.05)), "4 images, a quarter of 16"
    assert resolve(replace(CONFIG, optimizer="adamw", batch_size=16), 100).lr == pytest.approx(1e-4)
    assert resolve(replace(CONFIG, optimizer="adamw", lr=0.3, weight_decay=0.0), 100).weight_decay == 0
    assert resolve(CONFIG, 100).weight_decay == 1e-4
    optimizer, _ = build_optimizer(nn.Linear(2, 2), config, 100)
    assert isinstance(optimizer, torch.optim.AdamW)


def detector_on(backbone, freeze_at=0):
    config = tiny_config(backbone=backbone)
    config.backbone = BackboneConfig(backbone, freeze_at=freeze_at)
    config.image.size_divisible = 32
    with torch.device("meta"):
        return Detector(config)


BACKBONES = ["resnet18", "tf_efficientnet_lite0", "convnext_atto", "swin_tiny_patch4_window7_224", "sam2_hiera_tiny"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("decay_norm_bias", [True, False])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_trained_parameter_is_in_one_group_with_the_rate_of_its_depth(backbone, decay_norm_bias, optimizer):
    model = detector_on(backbone, freeze_at=2 if backbone == "resnet18" else 0)
    config = replace(
        CONFIG, optimizer=optimizer, lr=1.0, layer_decay=0.5, decay_norm_bias=decay_norm_bias, warmup_steps=0
    )
    built, _ = build_optimizer(model, resolve(config, 10), 10)
    rates = {id(p): group["lr"] for group in built.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in built.param_groups) == len(rates)
    assert set(rates) == {id(p) for p in model.parameters() if p.requires_grad}
    decays = {id(p): group["weight_decay"] for group in built.param_groups for p in group["params"]}
    depths = parameter_depths(model)
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert rates[id(p)] == 0.5 ** depths[name]
            assert (decays[id(p)] == 0) == (not decay_norm_bias and p.ndim < 2)
            assert (depths[name] > 0) == name.startswith("backbone.")
    assert built.param_groups[0]["lr"] == 1.0, "that is the one which is logged"


# Where each stage begins, read off the models; a name belongs to the last of these that it does not come before.
STAGES = {
    "resnet18": {r"conv1|bn1": 5, r"layer1": 4, r"layer2": 3, r"layer3": 2, r"layer4": 1},
    "tf_efficientnet_lite0": {
        r"conv_stem|bn1|blocks\.0": 5,
        r"blocks\.1": 4,
        r"blocks\.2": 3,
        r"blocks\.[34]": 2,
        r"blocks\.[56]": 1,
    },
    "convnext_atto": {r"stem": 5, r"stages_0": 4, r"stages_1": 3, r"stages_2": 2, r"stages_3": 1},
}


@pytest.mark.parametrize("backbone", STAGES)
def test_parameter_depths_follow_the_stages(backbone):
    depths = parameter_depths(detector_on(backbone))
    for name, depth in depths.items():
        if name.startswith("backbone.body."):
            found = [
                d for pattern, d in STAGES[backbone].items() if re.match(pattern, name.removeprefix("backbone.body."))
            ]
            assert found == [depth], name


def test_a_backbone_without_stages_is_refused_for_layer_decay():
    with pytest.raises(UserError, match="no separate stages: leave layer_decay out"):
        parameter_depths(detector_on("hrnet_w18_small"))


def test_no_aug_epochs_are_the_last_of_the_run():
    config = replace(CONFIG, mosaic_prob=0.5, max_epochs=10, no_aug_epochs=3, accumulate_grad_batches=2)
    assert make_augmentation(config, 9).mixing_epochs == 7
    assert make_augmentation(replace(config, max_steps=11), 9).mixing_epochs == 0, "the third epoch is the last"
    assert make_augmentation(replace(config, max_steps=26), 9).mixing_epochs == 3
    assert make_augmentation(replace(config, no_aug_epochs=0), 9).mixing_epochs is None
    assert make_augmentation(CONFIG, 9) == make_augmentation(CONFIG)


def test_norms_and_biases_can_be_exempt_from_decay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    decayed, spared = parameter_groups(model, replace(CONFIG, decay_norm_bias=False))
    assert [p is q for p, q in zip(decayed["params"], [model[0].weight], strict=True)] == [True]
    assert {id(p) for p in spared["params"]} == {id(p) for p in (model[0].bias, *model[1].parameters(), model[2].bias)}
    assert spared["weight_decay"] == 0
    (everything,) = parameter_groups(model, CONFIG)
    assert len(everything["params"]) == 5


def test_seeds_differ_wherever_any_number_does():
    seeds = {derive_seed(*numbers) for numbers in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 1, 1)]}
    assert len(seeds) == 6
    assert derive_seed(3, 2, 1) == derive_seed(3, 2, 1)
    torch.manual_seed(derive_seed(2**31, 10**9, 63))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"max_epochs": 0}, {"batch_size": -1}, {"lr": 0.0}, {"hflip_prob": 1.5}, {"ema": -0.1}, {"devices": 0}),
        *(
            {"mosaic_prob": 1.1},
            {"copy_paste_prob": -0.1},
            {"color_jitter": 2.0},
            {"layer_decay": 0.0},
            {"no_aug_epochs": -1},
        ),
        *({"ema": 1.0}, {"momentum": 1.0}),  # weights that never change, and steps that never shrink
        *({"scale_jitter": [0.5]}, {"scale_jitter": [2.0, 0.5]}, {"scale_jitter": [0.0, 1.0]}, {"min_lr_ratio": 1.5}),
    ],
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        replace(CONFIG, **wrong)


def test_every_field_is_documented():
    described = TrainConfig.__doc__ or ""
    assert all(f"        {f.name}: " in described for f in fields(TrainConfig))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_steps_are_those_of_single_operations(name):
    config = resolve(replace(CONFIG, optimizer=name, warmup_steps=0), 10)
    weights = {}
    for fused in (None, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
        optimizer, _ = build_optimizer(model, config, 10, fused)
        assert all(group["fused"] is fused for group in optimizer.param_groups)
        for _ in range(5):
            model(torch.rand(16, 8)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        weights[fused] = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(weights[True], weights[None], rtol=1e-5, atol=1e-6)

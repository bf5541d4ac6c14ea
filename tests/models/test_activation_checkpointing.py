"""Activation checkpointing changes memory, and no results."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from libradet.data.synthesis.synthetic import synthesize
from libradet.models.backbone import Backbone
from libradet.models.config import BackboneConfig
from libradet.models.ops.activation_checkpointing import blocks, set_activation_checkpointing
from libradet.models.serialization import load_model, save_model
from libradet.training.config import TrainConfig
from libradet.training.setup import setup_training
from tests.helpers.tiny_detectors import tiny_batch, tiny_config, tiny_detector

NUMBER = {
    "resnet18": 8,
    "resnet50": 16,
    "resnet18d": 8,
    "convnext_atto": 12,
    "swin_tiny_patch4_window7_224": 12,
    "mobilenetv3_small_050": 11,
    "regnetx_002": 4,
}


def shake(backbone: Backbone) -> Backbone:
    for p in backbone.parameters():
        if p.ndim == 1:
            torch.nn.init.uniform_(p, 0.5, 1.0)
    return backbone


def step(module, images):
    """Return the sum of features, gradients, buffers, and bytes saved for the backward pass."""
    module.zero_grad()
    kept, held = {}, []

    def keep(t):
        # Otherwise another tensor could be allocated at the same address.
        held.append(t)
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = sum(f.square().mean() for f in module(images))
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    size = sum(n for pointer, n in kept.items() if pointer not in weights)
    loss.backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, {name: b.clone() for name, b in module.named_buffers()}, size


@pytest.mark.parametrize("name", NUMBER)
def test_every_block_is_found(name):
    with torch.device("meta"):
        backbone = Backbone(BackboneConfig(name))
    assert set_activation_checkpointing(backbone.body) == NUMBER[name]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "resnet18d", "convnext_atto", "mobilenetv3_small_050", "regnetx_002"])
def test_losses_gradients_and_statistics_are_the_same(name, frozen):
    plain = shake(Backbone(BackboneConfig(name, freeze_at=2 * frozen, frozen_norm=frozen)))
    spared, images = copy.deepcopy(plain), torch.randn(2, 3, 64, 96)
    set_activation_checkpointing(spared.body)
    loss, gradients, buffers, size = step(plain, images)
    its_loss, its_gradients, its_buffers, its_size = step(spared, images)
    torch.testing.assert_close(its_loss, loss, rtol=0, atol=0)
    assert its_gradients.keys() == gradients.keys()
    for part, gradient in gradients.items():
        torch.testing.assert_close(its_gradients[part], gradient, rtol=1e-5, atol=1e-7, msg=part)
    assert its_buffers.keys() == buffers.keys()
    for part, buffer in buffers.items():
        assert torch.equal(its_buffers[part], buffer), part
    assert its_size < size


# A bottleneck with fused norms saves little besides its input: two maps of a quarter of its width.
@pytest.mark.parametrize(("frozen", "share"), [(False, 0.5), (True, 0.9)])
def test_a_deep_network_saves_less(frozen, share):
    backbone = Backbone(BackboneConfig("resnet50", freeze_at=2 * frozen, frozen_norm=frozen))
    images = torch.randn(1, 3, 64, 64)
    before = step(backbone, images)[-1]
    set_activation_checkpointing(backbone.body)
    assert step(backbone, images)[-1] < share * before


def test_it_can_be_switched_off_without_traces():
    backbone = Backbone(BackboneConfig("resnet18"))
    images = torch.randn(1, 3, 64, 64)
    before, names = step(backbone, images)[-1], list(backbone.state_dict())
    set_activation_checkpointing(backbone.body)
    assert list(backbone.state_dict()) == names
    set_activation_checkpointing(backbone.body, False)
    assert step(backbone, images)[-1] == before


def test_a_copy_computes_with_its_own_weights():
    """As an averaged model does, which is a copy of the trained one."""
    backbone = Backbone(BackboneConfig("resnet18")).eval()
    set_activation_checkpointing(backbone.body)
    twin = copy.deepcopy(backbone)
    with torch.no_grad():
        next(blocks(backbone.body)).conv2.norm.bias.add_(1)
    images = torch.randn(1, 3, 64, 64)
    assert not torch.equal(twin(images)[0], backbone(images)[0])


def test_saved_models_do_not_contain_it(tmp_path):
    model = tiny_detector()
    save_model(model, tmp_path / "before.safetensors")
    set_activation_checkpointing(model.backbone.body)
    save_model(model, tmp_path / "after.safetensors")
    assert model.config == tiny_config()
    again = load_model(tmp_path / "after.safetensors").train()
    assert not any("forward" in vars(m) for m in again.modules())
    for name, tensor in load_model(tmp_path / "before.safetensors").state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    torch.manual_seed(3)
    losses = model(tiny_batch())
    torch.manual_seed(3)
    for name, loss in again(tiny_batch()).items():
        torch.testing.assert_close(losses[name], loss)


@pytest.mark.parametrize("wanted", [False, True])
def test_the_setting_of_a_run(wanted, tmp_path):
    synthesize(tmp_path, train=2, val=1, size=(96, 80), classes=2)
    config = TrainConfig(
        str(tmp_path), backbone="test_resnet", batch_size=1, precision="fp32", activation_checkpointing=wanted
    )
    body = setup_training(config).detector.backbone.body
    assert all(("forward" in vars(block)) == wanted for block in blocks(body))


COMPILED = """
import copy
import torch
from libradet.models.backbone import Backbone
from libradet.models.config import BackboneConfig
from libradet.models.ops.activation_checkpointing import recompute_blocks

torch.set_num_threads(1)
torch.manual_seed(0)
plain = Backbone(BackboneConfig("test_resnet"))
spared = copy.deepcopy(plain)
recompute_blocks(spared.body)
images = torch.randn(2, 3, 64, 64)
sum(f.square().mean() for f in plain(images)).backward()
compiled = torch.compile(spared, fullgraph=True, backend="aot_eager")
sum(f.square().mean() for f in compiled(images)).backward()
for (name, a), b in zip(plain.named_parameters(), spared.parameters()):
    torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-5, msg=name)
for (name, a), b in zip(plain.named_buffers(), spared.buffers()):
    torch.testing.assert_close(b, a, msg=name)
"""


@pytest.mark.slow
def test_the_compiled_step_is_one_graph():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED],
        env=environment,
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]

"""Costs agree with counts and measurements that are made in another way."""

import weakref

import pytest
import torch
from tiny_detectors import tiny_batch, tiny_zoo_config
from torch import nn

from libradet.cli import main
from libradet.data.batch import Batch
from libradet.models.backbones import ConvNorm
from libradet.models.cost import measure_cost, measure_zoo
from libradet.models.detector import Detector
from libradet.models.zoo import MODELS, make_config


def count_by_layers(model: Detector, batch: Batch) -> int:
    """Multiply-adds of convolutions and linear layers, from the shapes that go through them."""
    total = 0

    def count(layer, args, out):
        nonlocal total
        layer = layer.conv if isinstance(layer, ConvNorm) else layer
        if isinstance(layer, nn.Linear):
            total += args[0].numel() * layer.out_features
        elif isinstance(layer, nn.ConvTranspose2d):
            total += args[0].numel() * layer.weight[0].numel()
        else:
            total += out.numel() * layer.weight[0].numel()

    folded = {id(m.conv) for m in model.modules() if isinstance(m, ConvNorm)}
    kinds = (ConvNorm, nn.Conv2d, nn.Linear, nn.ConvTranspose2d)
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds) and id(m) not in folded]
    with torch.no_grad():
        model.eval()(batch)
    for hook in hooks:
        hook.remove()
    return total


def filling_batch(height: int, width: int, masks: bool = False) -> Batch:
    batch = tiny_batch(pictures=1, size=(height, width), masks=masks)
    return batch._replace(proposals=batch.boxes[:, :1].expand(-1, 1000, -1))


def test_faster_rcnn_agrees_with_a_count_by_layers_of_a_real_picture():
    config = make_config("faster_rcnn", backbone="resnet50")
    config.image.size = (128, 192)
    cost = measure_cost(config)
    model = Detector(config)
    assert cost.canvas == (128, 192)
    assert cost.multiply_adds == pytest.approx(count_by_layers(model, filling_batch(128, 192)), rel=1e-3)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.weights == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def test_the_arithmetic_of_resnet50_is_the_known_one():
    """4.09 G multiply-adds at 224 × 224 (He et al., 2016), less 2 M of the classifier that a detector leaves out."""
    config = make_config("rpn", backbone="resnet50")
    config.image.size, config.image.divisor = (224, 224), 224
    config.pyramid.channels = 1
    small = measure_cost(config).multiply_adds
    assert small == pytest.approx(4.087e9, rel=5e-3)


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_agrees_with_a_count_by_layers(name):
    config = tiny_zoo_config(name)
    config.image.size = (128, 128)
    cost = measure_cost(config)
    counted = count_by_layers(Detector(config), filling_batch(128, 128))
    # The balanced pyramid's two matrix products are not layers: cells × cells, at stride 16.
    if config.pyramid.balanced is not None:
        cells = (128 // 16) ** 2
        counted += 2 * cells * cells * config.pyramid.channels
    assert cost.multiply_adds == pytest.approx(counted, rel=1e-3)


def test_cost_grows_with_the_picture():
    def cost(size):
        config = tiny_zoo_config("faster_rcnn")
        config.image.size = size
        config.image.divisor = 64
        return measure_cost(config)

    once, twice, thrice = cost((128, 128)), cost((128, 256)), cost((128, 384))
    assert (twice.canvas, twice.weights) == ((128, 256), once.weights)
    # The second stage costs the same, everything before it grows in proportion.
    assert thrice.multiply_adds - twice.multiply_adds == twice.multiply_adds - once.multiply_adds
    assert once.training < twice.training < 2.05 * once.training


@pytest.mark.parametrize("name", ["faster_rcnn", "libra_faster_rcnn", "retinanet", "mask_rcnn"])
def test_memory_of_training_is_that_of_a_real_step(name):
    """The same bookkeeping around real tensors, with objects and chance, comes to nearly the same."""
    from libradet.models import cost as module

    config = tiny_zoo_config(name)
    config.image.size = (256, 256)
    claimed = measure_cost(config).training
    model = Detector(config)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    batch = filling_batch(256, 256, masks=config.mask is not None)
    rows = module.OBJECTS // 2
    batch = batch._replace(
        **{
            k: getattr(batch, k).repeat(1, rows, *[1] * (getattr(batch, k).ndim - 2))
            for k in ("boxes", "labels", "crowd", "masks")
            if getattr(batch, k) is not None
        }
    )
    assert module._training_peak(model, batch) == pytest.approx(claimed, rel=0.02)


def test_the_most_that_is_alive_at_once_is_found():
    from libradet.models.cost import _Peak

    known = torch.empty(1000)
    with _Peak([known]) as peak:
        a = torch.empty(100)
        b = torch.empty(50)
        known.view(10, 100).add_(1)
        a.view(10, 10)
        del a
        c = torch.empty(20)
    assert peak.most == 600
    assert b.numel() + c.numel() == 70
    assert weakref.ref(known)() is known


def test_checkpointing_spares_memory_of_training_only():
    config = make_config("faster_rcnn", backbone="resnet50")
    config.image.size = (256, 256)
    plain, spared = measure_cost(config), measure_cost(config, checkpointing=True)
    assert spared.training < 0.7 * plain.training
    assert spared._replace(training=plain.training) == plain


def test_frozen_norms_and_layers_need_less_memory_to_train():
    names = ["faster_rcnn"]
    plain = measure_zoo(names)["faster_rcnn"]
    frozen = measure_zoo(names, frozen=True)["faster_rcnn"]
    assert frozen.training < 0.7 * plain.training
    assert frozen._replace(training=plain.training) == plain


def test_the_command_prints_a_table_that_fits(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    argv = ["models", "--cost", "--model", "rpn", "libra_cascade_rcnn", "--backbone", "resnet18"]
    assert main([*argv, "--size", "320", "512", "--num_classes", "3"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert [name for name in rows if name in MODELS] == ["rpn", "libra_cascade_rcnn"]
    config = make_config("rpn", 3, "resnet18")
    config.image.size = (320, 512)
    cost = measure_cost(config)
    assert rows["rpn"][1:4] == ["320×512", f"{cost.parameters / 1e6:.2f}", f"{cost.multiply_adds / 1e9:.1f}"]
    assert max(map(len, out.splitlines())) <= 100
    assert "resnet18, 3 classes, 320 × 512" in out


@pytest.mark.parametrize(
    ("argv", "named"),
    [(["--model", "rpm"], "rpn"), (["--backbone", "resnet1888"], "resnet1888"), (["--size", "0", "5"], "size")],
)
def test_mistakes_are_named(argv, named, capsys):
    assert main(["models", "--cost", *argv]) == 2
    assert named in capsys.readouterr().err

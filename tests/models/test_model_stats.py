"""Statistics agree with independent counts and measurements."""

import re
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from libradet.cli import main
from libradet.data.batch import Batch
from libradet.errors import UserError
from libradet.models.detector import Detector
from libradet.models.ops.fuse_conv_bn import ConvNorm
from libradet.models.profiling.memory import MemoryTracker, fit_linear_memory
from libradet.models.profiling.model_stats import OBJECTS_PER_IMAGE, compute_stats, compute_zoo_stats
from libradet.models.profiling.stats_table import parse_bytes, usable_memory
from libradet.models.zoo import MODELS, make_config
from tests.helpers.tiny_detectors import compute_all_slots, tiny_batch, tiny_zoo_config


def count_by_layers(model: Detector, batch: Batch) -> int:
    """Return the multiply-adds of convolutions and linear layers, from the shapes of their inputs and outputs."""
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
    batch = tiny_batch(num_images=1, size=(height, width), masks=masks)
    return batch._replace(proposals=batch.boxes[:, :1].expand(-1, 1000, -1))


def test_faster_rcnn_agrees_with_a_count_by_layers_of_a_real_image(monkeypatch):
    compute_all_slots(monkeypatch)
    config = make_config("faster_rcnn", backbone="resnet50")
    config.image.size = (128, 192)
    cost = compute_stats(config)
    model = Detector(config)
    assert cost.input_size == (128, 192)
    assert cost.multiply_adds == pytest.approx(count_by_layers(model, filling_batch(128, 192)), rel=1e-3)
    assert cost.num_params == sum(p.numel() for p in model.parameters())
    assert cost.weight_bytes == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def test_the_arithmetic_of_resnet50_is_the_known_one():
    """4.09 G multiply-adds at 224 x 224 (He et al., 2016), less 2 M of the classifier that a detector leaves out."""
    config = make_config("rpn", backbone="resnet50")
    config.image.size, config.image.size_divisible = (224, 224), 224
    config.pyramid.channels = 1
    small = compute_stats(config).multiply_adds
    assert small == pytest.approx(4.087e9, rel=5e-3)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("libra_mask_rcnn", "libra_retinanet") else pytest.param(name, marks=pytest.mark.slow)
        for name in MODELS
    ],
)
def test_every_entry_agrees_with_a_count_by_layers(name, monkeypatch):
    compute_all_slots(monkeypatch)
    config = tiny_zoo_config(name, backbone="resnet18")
    config.image.size = (128, 128)
    cost = compute_stats(config)
    counted = count_by_layers(Detector(config), filling_batch(128, 128))
    # The balanced pyramid's two matrix products are not layers: cells x cells, at stride 16.
    if config.pyramid.balanced is not None:
        cells = (128 // 16) ** 2
        counted += 2 * cells * cells * config.pyramid.channels
    assert cost.multiply_adds == pytest.approx(counted, rel=1e-3)


@pytest.mark.slow
def test_stats_grow_with_the_image():
    def cost(size):
        config = tiny_zoo_config("faster_rcnn", backbone="resnet18")
        config.image.size = size
        config.image.size_divisible = 64
        return compute_stats(config)

    once, twice, thrice = cost((128, 128)), cost((128, 256)), cost((128, 384))
    assert (twice.input_size, twice.weight_bytes) == ((128, 256), once.weight_bytes)
    # The box head costs the same, everything before it grows in proportion.
    assert thrice.multiply_adds - twice.multiply_adds == twice.multiply_adds - once.multiply_adds
    assert once.training.peak(1) < twice.training.peak(1) < 2.05 * once.training.peak(1)


def crowded_batch(images: int, side: int, masks: bool) -> Batch:
    """Return a batch with the number of objects that the statistics assume."""
    batch = filling_batch(side, side, masks)
    return Batch(
        images=batch.images.repeat(images, 1, 1, 1),
        sizes=batch.sizes.repeat(images, 1),
        boxes=batch.boxes.repeat(images, OBJECTS_PER_IMAGE // 2, 1),
        labels=batch.labels.repeat(images, OBJECTS_PER_IMAGE // 2),
        crowd=batch.crowd.repeat(images, OBJECTS_PER_IMAGE // 2),
        masks=batch.masks.repeat(images, OBJECTS_PER_IMAGE // 2, 1, 1)[..., : side // 8].contiguous()
        if masks
        else None,
        proposals=batch.proposals.repeat(images, 1, 1),
    )


def two_steps(config, images: int, side: int, bf16: bool, device: str = "cpu") -> None:
    with torch.device(device):
        model = Detector(config).train()
    batch = crowded_batch(images, side, False).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4)
    for _ in range(2):
        with torch.autocast(device, torch.bfloat16) if bf16 else nullcontext():
            loss = torch.stack(list(model(batch).values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        del loss


def allocated(work) -> int:
    """Return the peak of bytes of PyTorch's allocator, including workspaces of kernels."""
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        work()
    now = most = 0
    for event in profile.profiler.kineto_results.events():
        now += event.nbytes() if event.name() == "[memory]" else 0
        most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("name", "images", "bf16"),
    [
        ("faster_rcnn", 1, False),
        pytest.param("libra_faster_rcnn", 3, True, marks=pytest.mark.slow),
        pytest.param("retinanet", 4, False, marks=pytest.mark.slow),
        pytest.param("cascade_rcnn", 2, False, marks=pytest.mark.slow),
    ],
)
def test_training_memory_matches_the_allocator(name, images, bf16):
    config = tiny_zoo_config(name, backbone="resnet18")
    config.image.size = (128, 128)
    claimed = compute_stats(config, bf16=bf16).training.peak(images)
    found = allocated(lambda: two_steps(config, images, 128, bf16))
    assert claimed == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet"])
def test_inference_memory_matches_the_allocator(name):
    config = tiny_zoo_config(name, backbone="resnet18")
    config.image.size = (128, 128)

    def detect() -> None:
        model, batch = Detector(config).eval(), crowded_batch(3, 128, False)
        with torch.no_grad():
            model(batch)

    assert compute_stats(config).inference.peak(3) == pytest.approx(allocated(detect), rel=0.15)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("images", [1, 4])
def test_training_memory_matches_a_gpu(images, bf16):
    config = make_config("faster_rcnn", backbone="resnet50")
    config.image.size = (512, 512)
    torch.cuda.reset_peak_memory_stats()
    two_steps(config, images, 512, bf16, "cuda")
    claimed = compute_stats(config, bf16=bf16).training.peak(images)
    assert claimed == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.15)


def test_max_images_is_the_last_that_fits():
    config = tiny_zoo_config("faster_rcnn", backbone="resnet18")
    config.image.size = (128, 128)
    memory = compute_stats(config).training
    for limit in (memory.peak(1) + 1, 2**28, 2**30 + 12345):
        images = memory.max_images(limit)
        assert memory.peak(images) <= limit < memory.peak(images + 1)
    assert memory.max_images(memory.peak(1)) == 1
    assert memory.max_images(memory.peak(1) - 1) == 0


def test_the_peak_may_move_with_more_images():
    memory = fit_linear_memory(lambda images: [100, 10 + 40 * images, 30 * images])
    assert [memory.peak(n) for n in (1, 2, 3, 4)] == [100, 100, 130, 170]
    assert [memory.max_images(n) for n in (99, 100, 129, 130)] == [0, 2, 2, 3]


def test_the_tracker_counts_allocated_bytes():
    known = torch.empty(1000)
    with MemoryTracker([known, known[3:]]) as alive:
        a = torch.empty(100)
        b = torch.empty(50)
        known.view(10, 100).add_(1)
        a.view(10, 10)
        del a
        c = torch.empty(20)
    assert alive.bytes == [4400, 4600, 4280]
    assert b.numel() + c.numel() == 70
    assert weakref.ref(known)() is known


def test_activation_checkpointing_saves_training_memory_only():
    config = make_config("faster_rcnn", backbone="resnet18")
    config.image.size = (640, 640)
    plain, spared = compute_stats(config), compute_stats(config, activation_checkpointing=True)
    assert spared.training.peak(8) < 0.85 * plain.training.peak(8)
    assert spared.inference.peak(8) == plain.inference.peak(8)
    assert spared[:4] == plain[:4]


@pytest.mark.slow
def test_freezing_saves_training_memory_and_ema_adds_it():
    names = ["faster_rcnn"]
    plain = compute_zoo_stats(names)["faster_rcnn"]
    frozen = compute_zoo_stats(names, freeze=True, ema=True)["faster_rcnn"]
    without = compute_zoo_stats(names, freeze=True)["faster_rcnn"]
    assert without.training.peak(2) < 0.7 * plain.training.peak(2)
    assert frozen.training.peak(2) == without.training.peak(2) + plain.weight_bytes
    assert frozen[:4] == plain[:4]


@pytest.mark.parametrize(
    ("text", "size"), [("24G", 24 * 2**30), ("1.5 GiB", 3 * 2**29), ("512m", 2**29), ("4096", 4096), ("2TB", 2**41)]
)
def test_sizes_of_memory_are_parsed(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "-3G", "24X", "0G", "1e3G"])
def test_invalid_sizes_are_refused(text):
    with pytest.raises(UserError, match=re.escape("--memory")):
        parse_bytes(text)


def test_the_command_prints_a_table_that_fits(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    argv = ["models", "--stats", "--model", "rpn", "libra_cascade_rcnn", "--backbone", "resnet18"]
    argv = [*argv, "--memory", "8G", "--batch_size", "2"]
    assert main([*argv, "--size", "320", "512", "--num_classes", "3"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert [name for name in rows if name in MODELS] == ["rpn", "libra_cascade_rcnn"]
    config = make_config("rpn", 3, "resnet18")
    config.image.size = (320, 512)
    cost = compute_stats(config)
    assert rows["rpn"][1:4] == ["320x512", f"{cost.num_params / 1e6:.2f}", f"{cost.multiply_adds / 1e9:.1f}"]
    sizes = [f"{n / 2**20:.0f}" for n in (cost.inference.peak(2), cost.training.peak(2))]
    fit = [str(memory.max_images(usable_memory(2**33))) for memory in (cost.inference, cost.training)]
    assert rows["rpn"][4:] == [*sizes, *fit]
    assert max(map(len, out.splitlines())) <= 80
    assert "resnet18, 3 classes, 320 x 512" in out


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--model", "rpm"], "rpn"),
        (["--backbone", "resnet1888"], "resnet1888"),
        (["--size", "0", "5"], "size"),
        (["--memory", "24X"], "24G"),
    ],
)
def test_invalid_options_are_named(argv, named, capsys):
    assert main(["models", "--stats", *argv]) == 2
    assert named in capsys.readouterr().err

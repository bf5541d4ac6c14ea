"""Stress test of numerics: finite losses, reported overflow, and results independent of batch, workers and processes.

- losses of every kind over extreme boxes, deltas and logits, and of whole detectors, in float32 and bf16;
- learning rates that overflow: training stops with a message, and saved weights are finite;
- detections of an image alone and in a batch, on its own canvas;
- batches with 0, 1 and 2 loading processes, bit for bit, and training in 1, 2 and 4 processes, within 1e-5.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import yaml

from libradet.data.batch import Batch
from libradet.data.collate import collate, unlabeled_sample
from libradet.data.loader import make_loader
from libradet.data.read import read
from libradet.models import losses
from libradet.models.config import BoxLossConfig, DetectorConfig, FocalConfig
from libradet.models.detector import Detector
from libradet.models.zoo import MODELS, make_config
from libradet.structures import Detections
from libradet.training.resume import read_checkpoint
from stress.common import TINY_CONFIG, AttemptLog
from stress.launcher import launch
from stress.mutation import Rng, pick
from stress.tiny_settings import make_tiny_dataset

SHARES = {"terms": 0.6, "detector": 0.25, "batch_invariance": 0.1, "loaders": 0.05}
EXTREMES = (0.0, 1e-30, 1e-8, 1e-3, 0.5, 1.0, 30.0, 88.0, 1e3, 1e5, 1e10, 1e18)


def main() -> int:
    """Run the stress test; the first four of every thousand attempts are whole training runs."""
    torch.set_num_threads(1)
    attempts = AttemptLog("numbers", __doc__, short=400, long=20_000)
    data = make_tiny_dataset(attempts.folder / "data")
    do: dict[str, Callable[[Rng, Path], str | None]] = {
        "terms": terms,
        "detector": detector,
        "batch_invariance": batch_invariance,
        "loaders": loaders,
        "overflow": overflow,
        "processes": processes,
    }
    for number in attempts.pending():
        rng = attempts.rng(number)
        kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        if number % 1000 < 4:
            kind = "processes" if number % 4 == 3 else "overflow"
        attempts.record(number, kind, do[kind](rng, data))
    return attempts.finish()


def terms(rng: Rng, data: Path) -> str | None:
    """Check that a loss and its gradient are finite for values from tiny to huge."""
    rows = int(rng.integers(1, 6))
    dtype = pick(rng, [torch.float32, torch.bfloat16])
    positive = torch.from_numpy(rng.random((1, rows)) < 0.7)
    count = losses.num_samples_across_ranks(positive)
    kind = pick(rng, [*losses.IOU_LOSSES, "l1", "smooth_l1", "balanced_l1", "class", "focal", "object"])
    if kind in ("class", "focal", "object"):
        logits = _extreme(rng, (1, rows, 3)).to(dtype).requires_grad_()
        labels = torch.from_numpy(rng.integers(0, 3, (1, rows)))
        focal = FocalConfig(gamma=float(pick(rng, [0.0, 1.0, 1.5, 2.0, 5.0])))
        if kind == "object":
            loss = losses.objectness_loss(logits[..., 0], labels > 0, positive, count)
        elif kind == "focal":
            loss = losses.focal_loss(logits, labels, positive, count, focal)
        else:
            loss = losses.class_loss(logits, labels, positive, count, pick(rng, [None, focal]))
        return _finite(f"{kind} in {dtype} with gamma {focal.gamma}", loss, logits)
    deltas = _extreme(rng, (1, rows, 4)).to(dtype).requires_grad_()
    config = BoxLossConfig(type=kind, beta=float(pick(rng, [1.0, 0.11, 1e-3])))
    loss = losses.localization_loss(deltas, _boxes(rng, rows), _boxes(rng, rows), positive, count, config)
    return _finite(f"{kind} in {dtype} with beta {config.beta}", loss, deltas)


def _extreme(rng: Rng, shape: tuple[int, ...]) -> torch.Tensor:
    size = rng.choice(EXTREMES, shape) * rng.choice([-1.0, 1.0], shape)
    return torch.from_numpy(size.astype(np.float32))


def _boxes(rng: Rng, rows: int) -> torch.Tensor:
    """Return boxes of images up to 20,000 pixels, from a hundredth of a pixel, some without area as in padding."""
    low = rng.choice([0.0, 0.5, 10.0, 19_999.0], (1, rows, 2))
    side = rng.choice([0.0, 0.01, 1.0, 33.3, 20_000.0], (1, rows, 2))
    return torch.from_numpy(np.concatenate([low, low + side], 2).astype(np.float32))


def _finite(context: str, loss: torch.Tensor, leaf: torch.Tensor) -> str | None:
    if not loss.isfinite():
        # 1e18 squared, or times a weight, exceeds the range of float32: training stops with a message.
        return None if float(leaf.detach().abs().max()) >= 1e18 else f"{context}: loss {float(loss)} of {leaf.tolist()}"
    loss.backward()
    gradient = leaf.grad
    if gradient is None or gradient.isfinite().all():
        return None
    return f"{context}: loss {float(loss.detach()):g}, gradient {gradient.tolist()} of {leaf.tolist()}"


def _tiny(name: str, rng: Rng) -> Detector:
    settings = yaml.safe_load(TINY_CONFIG.read_text())
    config: DetectorConfig = make_config(name, 3, settings["backbone"])
    config.pyramid.channels, config.image.size = 16, (64, 96)
    if config.rpn is not None:
        config.rpn.train_proposals.post_nms_top_n = config.rpn.test_proposals.post_nms_top_n = 50
    if config.roi is not None:
        config.roi.fc_dim, config.roi.sampling.batch_size_per_image = 32, 64
    if config.mask is not None:
        config.mask.channels = 8
    if config.retinanet is not None:
        config.retinanet.num_convs, config.retinanet.prior_prob = 1, 0.3
    torch.manual_seed(int(rng.integers(2**31)))
    return Detector(config)


def detector(rng: Rng, data: Path) -> str | None:
    """Check losses and gradients of a whole detector with scaled-up heads, on boxes of all sizes."""
    name = pick(rng, list(MODELS))
    model = _tiny(name, rng).train()
    scale = float(pick(rng, [1.0, 1e2, 1e4]))
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if part.startswith(("rpn.", "roi.", "retinanet.", "mask.")):
                parameter.mul_(scale ** (1 / 3))
    batch = _batch(rng, int(pick(rng, [0, 1, 5, 200])), model)
    bf16 = bool(rng.integers(2))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        losses = model(batch)
    context = f"{name} in {'bf16' if bf16 else 'float32'}, head weights scaled by {scale:g}"
    if wrong := [f"{key} {float(value)}" for key, value in losses.items() if not value.isfinite()]:
        return f"{context}: {', '.join(wrong)}"
    torch.stack(list(losses.values())).sum().backward()
    not_finite = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    return f"{context}: gradients of {not_finite[:3]}" if not_finite else None


def _batch(rng: Rng, objects: int, model: Detector) -> Batch:
    side, rows = model.size_divisible, max(objects, 1)
    low = rng.choice([0.0, 1.0, side / 2, side - 0.01], (2, rows, 2))
    high = np.minimum(low + rng.choice([0.01, 1.0, side / 3, side], (2, rows, 2)), side)
    boxes = torch.from_numpy(np.concatenate([low, high], 2).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 3, (2, rows))) if objects else torch.full((2, 1), -1)
    images = torch.from_numpy(rng.integers(0, 256, (2, 3, side, side), dtype=np.uint8))
    crowd = torch.from_numpy(rng.random((2, rows)) < 0.1)
    masks = torch.ones(2, rows, side, side, dtype=torch.uint8) if model.mask is not None else None
    sizes = torch.tensor([[side, side], [side - 5, side // 2]])
    return Batch(
        images, sizes, boxes, labels, crowd, masks, proposals=boxes if model.config.requires_proposals else None
    )


def batch_invariance(rng: Rng, data: Path) -> str | None:
    """Check that detections of an image do not depend on the others of its batch."""
    name = pick(rng, [n for n in MODELS if "fast_rcnn" not in n[-9:] or "faster" in n])
    model = _tiny(name, rng).eval()
    side = model.size_divisible
    sizes = [tuple(int(v) for v in rng.integers(side // 2 + 1, side + 1, 2)) for _ in range(3)]
    images = [torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8)) for size in sizes]
    samples = [unlabeled_sample(p, "original", i) for i, p in enumerate(images)]
    with torch.inference_mode():
        together, alone = model(collate(samples, side)), [model(collate([s], side)) for s in samples]
    for i, one in enumerate(alone):
        if difference := _detection_difference(one, 0, together, i):
            return f"{name}: for an image of {sizes[i]}, {difference} depend on the batch"
    return None


def _detection_difference(one: Detections, row: int, other: Detections, place: int) -> str | None:
    """Return which part of an image's detections has no equal in ``other``; the order of equal scores may differ."""
    worst = float((one.scores[row] - other.scores[place]).abs().max())
    if worst > 1e-4:
        return f"scores by {worst}"
    known, there = one.valid[row], other.valid[place]
    apart = (one.boxes[row][known][:, None] - other.boxes[place][there]).abs().amax(-1)
    apart += 1e6 * (one.labels[row][known][:, None] != other.labels[place][there])
    if len(apart) and (not apart.shape[1] or float(apart.amin(1).max()) > 0.05):
        return "boxes or classes"
    return None


def loaders(rng: Rng, data: Path) -> str | None:
    """Check that batches do not depend on the number of workers."""
    dataset, _ = read(data, "train")
    seed, epoch = int(rng.integers(1000)), int(rng.integers(5))
    options = {"size": (64, 96), "batch_size": 2, "training": True, "seed": seed, "epoch": epoch, "masks": True}
    first, *others = [list(make_loader(dataset, num_workers=workers, **options)) for workers in (0, 1, 2)]
    for workers, batches in enumerate(others, start=1):
        for one, other in zip(first, batches, strict=True):
            pairs = zip(one, other, strict=True)
            if not all((a is None and b is None) or torch.equal(a, b) for a, b in pairs):
                return f"{workers} workers yield different batches (seed {seed}, epoch {epoch})"
    return None


def overflow(rng: Rng, data: Path) -> str | None:
    """Train with a learning rate that is far too high."""
    home = data.parent / "current"
    shutil.rmtree(home, ignore_errors=True)
    lr, clip = float(pick(rng, [1e2, 1e6, 1e12, 1e30, 3e38])), pick(rng, ["null", "35"])
    precision = pick(rng, ["fp32", "bf16"])
    args = [
        "train",
        "--config",
        str(TINY_CONFIG),
        "--model",
        "libra_faster_rcnn",
        "--data",
        str(data),
        "--warmup_steps",
        "0",
    ]
    args += [
        "--output_dir",
        str(home / "run"),
        "--lr",
        str(lr),
        "--gradient_clip_val",
        clip,
        "--precision",
        precision,
        "--save_every_n_steps",
        "1",
    ]
    outcome = launch(args, home)
    context = f"lr {lr:g}, clip {clip}, precision {precision}: {outcome.codes}"
    if outcome.codes not in ([0], [2]) or "Traceback" in outcome.output:
        return f"{context} {outcome.output[-400:]}"
    if outcome.codes == [2] and "not finite" not in outcome.output:
        return f"{context}, without a reason in the output: {outcome.output[-400:]}"
    last = home / "run" / "last.ckpt"
    if not last.exists():
        return None
    state = read_checkpoint(last)["state_dict"]
    not_finite = [name for name, t in state.items() if not t.isfinite().all()]
    return f"{context}; weights in last.ckpt are not finite: {not_finite[:3]}" if not_finite else None


def processes(rng: Rng, data: Path) -> str | None:
    """Train with one, two and four processes; samplers take all candidates, so that no random numbers are involved."""
    home = data.parent / "current"
    shutil.rmtree(home, ignore_errors=True)
    seed, model = int(rng.integers(1000)), "faster_rcnn"
    args = [
        "train",
        "--config",
        str(TINY_CONFIG),
        "--model",
        model,
        "--data",
        str(data),
        "--max_epochs",
        "1",
        "--lr",
        "0.01",
    ]
    for part, size in (("rpn", 4000), ("roi", 400)):
        more = (("batch_size_per_image", size), ("positive_fraction", 0.5))
        args += [word for key, value in more for word in (f"--detector.{part}.sampling.{key}", str(value))]
    args += ["--detector.roi.sampling.positives", "random", "--detector.roi.sampling.negatives", "random"]
    args += ["--seed", str(seed), "--check_val_every_n_epoch", "9", "--gradient_clip_val", "1"]
    states = []
    for count in (1, 2, 4):
        own = ["--devices", str(count), "--batch_size", str(4 // count), "--output_dir", str(home / f"run{count}")]
        outcome = launch([*args, *own], home, processes=count)
        if outcome.codes != [0] * count:
            return f"{model}, {count} processes: {outcome.codes} {outcome.output[-400:]}"
        states.append(read_checkpoint(home / f"run{count}" / "last.ckpt")["state_dict"])
    alone, *shared = states
    for count, state in zip((2, 4), shared, strict=True):
        off = {name: _max_difference(t.float(), state[name].float()) for name, t in alone.items()}
        if (worst := max(off.values())) > 1e-5:
            return f"{model}, seed {seed}: {count} processes differ by {worst} in {max(off, key=lambda n: off[n])}"
    return None


def _max_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest value if that is above 1."""
    return float((one - other).abs().max() / one.abs().max().clamp(min=1))


if __name__ == "__main__":
    sys.exit(main())

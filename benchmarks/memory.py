"""Memory predicted by `libradet models --stats`, compared with measured memory.

Each row is measured in its own process, which runs two steps: the peak of allocated tensors ("allocated"), as counted
by PyTorch's allocator on a CPU or GPU; and, in another process without a profiler, the growth of the resident set
after the imports ("resident"), which includes fragmentation.

    python -m benchmarks.memory --model faster_rcnn retinanet --images 1 2 4 --size 256 320
    python -m benchmarks.memory --model faster_rcnn --backbone vit_small_patch16_dinov3 --frozen
    python -m benchmarks.memory --model faster_rcnn --backbone vit_small_patch16_dinov3 --lora 8
"""

import argparse
import json
import resource
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import torch

from benchmarks.processes import ROOT
from benchmarks.resources import peak_allocated
from libradet.data.batch import Batch
from libradet.models.config import DetectorConfig, LoraConfig
from libradet.models.detector import Detector
from libradet.models.profiling.model_stats import compute_stats
from libradet.models.zoo import MODELS, make_config

OBJECTS = 20


def random_batch(model: Detector, images: int, size: tuple[int, int]) -> Batch:
    """Return random images without padding, with objects."""
    height, width = (-(-side // model.size_divisible) * model.size_divisible for side in size)
    corner = torch.rand(images, OBJECTS, 2) * torch.tensor([width / 2, height / 2])
    boxes = torch.cat([corner, corner + 16 + torch.rand(images, OBJECTS, 2) * height / 2], -1)
    labels = torch.randint(0, model.config.num_classes, (images, OBJECTS))
    masks = torch.randint(0, 256, (images, OBJECTS, height, width // 8), dtype=torch.uint8)
    return Batch(
        images=torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8),
        sizes=torch.tensor([[height, width]] * images),
        boxes=boxes,
        labels=labels,
        crowd=torch.zeros_like(labels, dtype=torch.bool),
        masks=masks if model.config.mask else None,
        proposals=boxes.repeat(1, 1000 // OBJECTS, 1),
    )


def set_backbone(config: DetectorConfig, args: argparse.Namespace) -> None:
    """Set which parts of the backbone are trained."""
    config.backbone.frozen = args.frozen
    config.backbone.lora = LoraConfig(args.lora, args.lora) if args.lora else None


def run(args: argparse.Namespace, device: str) -> None:
    """Build the model and run two training steps or two inferences."""
    config = make_config(args.model[0], backbone=args.backbone, weights="imagenet" if args.freeze else None)
    set_backbone(config, args)
    with torch.device(device):
        model = Detector(config).train(args.task == "train")
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), 1e-6, 0.9, weight_decay=1e-4)
    batch = random_batch(model, args.images[0], args.size).to(device)
    autocast = torch.autocast(device, torch.bfloat16) if args.precision == "bf16" else nullcontext()
    for _ in range(2):
        with autocast, torch.set_grad_enabled(args.task == "train"):
            result = model(batch)
            loss = torch.stack(list(result.values())).sum() if isinstance(result, dict) else None
        del result
        if loss is not None:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            del loss


def allocated_bytes(args: argparse.Namespace) -> int:
    """Return the peak of allocated bytes, as recorded by the allocator."""
    if torch.cuda.is_available():
        run(args, "cuda")
        return torch.cuda.max_memory_allocated()
    return peak_allocated(partial(run, args, "cpu"))


def resident_growth(args: argparse.Namespace) -> int:
    """Return the growth of the process's peak resident set in bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(args, "cpu")
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


QUANTITIES = {"allocated": allocated_bytes, "resident": resident_growth}


def measure(args: argparse.Namespace, name: str, images: int, task: str, precision: str, quantity: str) -> int:
    """Run one measurement in its own process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--quantity", quantity, "--model", name, "--task", task]
    command += ["--images", str(images)]
    command += ["--precision", precision, "--backbone", args.backbone, "--size", *map(str, args.size)]
    command += ["--threads", str(args.threads)] + (["--freeze"] if args.freeze else [])
    command += ["--lora", str(args.lora)] if args.lora else ["--frozen"] if args.frozen else []
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return json.loads(output.splitlines()[-1])


def compare(args: argparse.Namespace, name: str, precision: str) -> None:
    """Print a row for each task and batch size."""
    config = make_config(name, backbone=args.backbone, weights="imagenet" if args.freeze else None)
    config.image.size = tuple(args.size)
    set_backbone(config, args)
    stats = compute_stats(config, bf16=precision == "bf16")
    for task, memory in (("infer", stats.inference), ("train", stats.training)):
        if args.task not in (None, task):
            continue
        for images in args.images:
            predicted = memory.peak(images)
            measured = [measure(args, name, images, task, precision, quantity) for quantity in QUANTITIES]
            row = "  ".join(f"{n / 2**20:8.1f}" for n in (predicted, *measured))
            ratios = "  ".join(f"{predicted / n:6.3f}" for n in measured)
            print(f"{name:20} {task:6} {precision:4} {images:2}  {row}  {ratios}", flush=True)


def main() -> None:
    """Run one measurement (used internally), or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantity", choices=QUANTITIES, help=argparse.SUPPRESS)
    parser.add_argument("--task", choices=["infer", "train"], help="only this one (default: both)")
    parser.add_argument("--model", nargs="+", default=list(MODELS))
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 320))
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--precision", choices=["fp32", "bf16"], nargs="+", default=["fp32"])
    parser.add_argument("--freeze", action="store_true")
    parser.add_argument("--frozen", action="store_true", help="backbone.frozen: no part of the backbone is trained")
    parser.add_argument("--lora", type=int, default=0, metavar="RANK", help="backbone.lora: adapters of that rank")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.quantity:
        args.precision = args.precision[0]
        print(json.dumps(QUANTITIES[args.quantity](args)))
        return
    print(f"{'':34} MiB predicted, allocated, resident; predicted / allocated, predicted / resident")
    for name in args.model:
        for precision in args.precision:
            compare(args, name, precision)


if __name__ == "__main__":
    main()

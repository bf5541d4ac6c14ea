"""Memory that `libradet models --cost` predicts beside memory that is measured.

Each row is a process of its own that takes two steps on this machine. Measured are the most bytes of tensors alive
at once, as PyTorch's allocator counts them on a CPU and on a GPU; and, in another process without a profiler, by how
much the resident set of the process grew beyond what it was after the imports, which has fragmentation in it.

    python benchmarks/memory.py --model faster_rcnn retinanet --images 1 2 4 --size 256 320
"""

import argparse
import json
import resource
import subprocess
import sys
from contextlib import nullcontext

import torch

from libradet.data.batch import Batch
from libradet.models.cost import measure_cost
from libradet.models.detector import Detector
from libradet.models.zoo import MODELS, make_config

OBJECTS = 20


def random_batch(model: Detector, images: int, size: tuple[int, int]) -> Batch:
    """Images that fill their canvas, with objects."""
    height, width = (-(-side // model.divisor) * model.divisor for side in size)
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


def run(args: argparse.Namespace, device: str) -> None:
    """Two steps, or two detections, from nothing."""
    config = make_config(args.model[0], backbone=args.backbone, weights="imagenet" if args.frozen else None)
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


def live(args: argparse.Namespace) -> int:
    """Most bytes of tensors alive at once, from the allocator's own record."""
    if torch.cuda.is_available():
        run(args, "cuda")
        return torch.cuda.max_memory_allocated()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run(args, "cpu")
    now = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def resident(args: argparse.Namespace) -> int:
    """Growth of the process's largest resident set."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(args, "cpu")
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def measured(args: argparse.Namespace, name: str, images: int, task: str, precision: str, what: str) -> int:
    """In a process of its own."""
    command = [sys.executable, __file__, "--what", what, "--model", name, "--images", str(images), "--task", task]
    command += ["--precision", precision, "--backbone", args.backbone, "--size", *map(str, args.size)]
    command += ["--threads", str(args.threads)] + ["--frozen"] * args.frozen
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def compare(args: argparse.Namespace, name: str, precision: str) -> None:
    """A row for each task and number of images."""
    config = make_config(name, backbone=args.backbone, weights="imagenet" if args.frozen else None)
    config.image.size = tuple(args.size)
    cost = measure_cost(config, bf16=precision == "bf16")
    for task, memory in (("detect", cost.detecting), ("train", cost.training)):
        for images in args.images:
            claim = memory.at(images)
            found = [measured(args, name, images, task, precision, what) for what in ("live", "resident")]
            row = "  ".join(f"{n / 2**20:8.1f}" for n in (claim, *found))
            ratios = "  ".join(f"{claim / n:6.3f}" for n in found)
            print(f"{name:20} {task:6} {precision:4} {images:2}  {row}  {ratios}", flush=True)


def main() -> None:
    """Measure one case (used internally), or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=["live", "resident"])
    parser.add_argument("--task", choices=["detect", "train"])
    parser.add_argument("--model", nargs="+", default=list(MODELS))
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 320))
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--precision", choices=["32", "bf16"], nargs="+", default=["32"])
    parser.add_argument("--frozen", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.what:
        args.precision = args.precision[0]
        print(json.dumps({"live": live, "resident": resident}[args.what](args)))
        return
    print(f"{'':34} MiB predicted, live, resident; predicted over live, over resident")
    for name in args.model:
        for precision in args.precision:
            compare(args, name, precision)


if __name__ == "__main__":
    main()

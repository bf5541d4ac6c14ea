"""Side by side with torchvision's Faster R-CNN, ResNet-50 FPN, in one run.

Each contender and task runs in a process of its own, in turns (ours, theirs, ours, theirs, …), so that a
machine that drifts hurts both alike. Printed are medians, the ratio and the peak memory of the process.

    python benchmarks/against_torchvision.py --threads 2 --height 480 --width 640
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch

OBJECTS = 8


def ours(args: argparse.Namespace):
    """A step of our Faster R-CNN (norms frozen and first stage frozen, as torchvision's)."""
    from libradet.data.batch import Batch
    from libradet.models.create import create_model
    from libradet.models.zoo import make_config

    config = make_config(args.model)
    config.backbone.freeze_at, config.backbone.frozen_norm = 2, True
    model = create_model(config=config)
    images, boxes, labels = inputs(args)
    pad = -torch.tensor([args.height, args.width]) % model.divisor
    images = torch.nn.functional.pad(images, (0, int(pad[1]), 0, int(pad[0])))
    sizes = torch.tensor([[args.height, args.width]]).expand(args.batch, -1)
    batch = Batch(images, sizes, boxes, labels, torch.zeros_like(labels, dtype=torch.bool))
    return model, lambda: model(batch)


def theirs(args: argparse.Namespace):
    """The same step of torchvision's, fed with a picture that it need not resize."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    short, long = sorted((args.height, args.width))
    model = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=81, min_size=short, max_size=long, trainable_backbone_layers=3
    )
    for name, parameter in model.backbone.body.named_parameters():
        # As it does itself when it starts from pretrained weights, which cannot be assumed here.
        parameter.requires_grad_(name.startswith(("layer2", "layer3", "layer4")))
    freeze_norms(model)
    images, boxes, labels = inputs(args)
    pictures = list(images.float() / 255)
    targets = [{"boxes": b, "labels": label + 1} for b, label in zip(boxes, labels, strict=True)]
    return model, lambda: model(pictures, targets if model.training else None)


def freeze_norms(module: torch.nn.Module) -> None:
    """Turn batch norms into torchvision's frozen ones: it does so only together with pretrained weights."""
    from torchvision.ops import FrozenBatchNorm2d

    for name, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features))
        else:
            freeze_norms(child)


def inputs(args: argparse.Namespace):
    """Pictures, boxes and labels, the same for both."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (args.batch, 3, args.height, args.width), dtype=torch.uint8, generator=g)
    corner = torch.rand(args.batch, OBJECTS, 2, generator=g) * torch.tensor([args.width / 2, args.height / 2])
    side = 32 + torch.rand(args.batch, OBJECTS, 2, generator=g) * 150
    labels = torch.randint(0, 80, (args.batch, OBJECTS), generator=g)
    return images, torch.cat([corner, corner + side], -1), labels


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Seconds of one step, and the process's peak memory in MiB."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model, call = {"ours": ours, "theirs": theirs}[args.contender](args)
    dtype = {"fp32": None, "bf16": torch.bfloat16}[args.precision]
    model.train(args.task == "train")
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6)

    def step() -> None:
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            if args.task == "infer":
                with torch.inference_mode():
                    call()
                return
            losses = call()
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()

    step()
    seconds = []
    for _ in range(args.steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": statistics.median(seconds), "peak": peak}


def compare(args: argparse.Namespace, task: str, precision: str) -> None:
    """Run both contenders in turns and print a row. Theirs is always measured in fp32."""
    runs = {"ours": [], "theirs": []}
    for _ in range(args.rounds):
        for contender in runs:
            used = precision if contender == "ours" else "fp32"
            command = [sys.executable, __file__, "--contender", contender, "--task", task, "--precision", used]
            for name in ("threads", "height", "width", "batch", "steps", "model"):
                command += [f"--{name}", str(getattr(args, name))]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[contender].append(json.loads(result.stdout.splitlines()[-1]))
    a, b = ([run["seconds"] for run in runs[c]] for c in ("ours", "theirs"))
    ratios = [y / x for x, y in zip(a, b, strict=True)]
    memory = [y["peak"] / x["peak"] for x, y in zip(runs["theirs"], runs["ours"], strict=True)]
    print(
        f"{task:6} {precision:5} ours {statistics.median(a):7.3f} s  torchvision fp32 {statistics.median(b):7.3f} s  "
        f"speed {statistics.median(ratios):5.2f}× ({min(ratios):.2f}–{max(ratios):.2f})  "
        f"peak memory {statistics.median(memory):4.2f}×",
        flush=True,
    )


def main() -> None:
    """Measure one contender (used internally), or compare them on all tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contender", choices=["ours", "theirs"])
    parser.add_argument("--task", choices=["infer", "train"])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32"])
    parser.add_argument("--model", default="faster_rcnn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.contender:
        print(json.dumps(measure(args)))
        return
    print(f"{platform.machine()}, torch {torch.__version__}, {args.threads} threads, load {os.getloadavg()[0]:.1f}")
    for task in ("infer", "train"):
        for precision in args.precisions:
            compare(args, task, precision)


if __name__ == "__main__":
    main()

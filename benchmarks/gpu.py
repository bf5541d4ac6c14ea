"""Training step on a GPU: host-device synchronization, CUDA graph capture, throughput and a profile.

python -m benchmarks.gpu synchronization|graphs|throughput|profile [--size 800 1344] [--batch 16] [--model faster_rcnn]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.cases import Case
from benchmarks.models import build_libradet, sum_losses
from benchmarks.synthetic_inputs import make_inputs, to_batch, to_torchvision
from benchmarks.torchvision_models import build, write_weights

Step = Callable[[], Any]


def make_training_step(model: torch.nn.Module, compute_losses: Callable[[], dict]) -> Step:
    """Return a step: losses in bf16, gradients, and SGD with a learning rate of 0, which keeps the weights."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9, weight_decay=1e-4, fused=True)

    def step() -> Any:
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            losses = compute_losses()
        sum_losses(losses).backward()
        optimizer.step()
        # Not set to None: a replayed CUDA graph writes to the same gradient tensors.
        optimizer.zero_grad(set_to_none=False)
        return losses

    return step


def libradet_step(case: Case, weights: Path, compiled: bool = False) -> Step:
    """Return libradet's training step."""
    model = build_libradet(case, weights).cuda().to(memory_format=torch.channels_last).train()
    batch = to_batch(make_inputs(case), model.size_divisible).to("cuda")
    module = torch.compile(model, dynamic=False) if compiled else model
    return make_training_step(model, lambda: module(batch))


def torchvision_step(case: Case, weights: Path) -> Step:
    """Return torchvision's training step with the same weights."""
    model = build(case.shared_model)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.cuda().to(memory_format=torch.channels_last).train()
    images, targets = to_torchvision(make_inputs(case), int(case.shared_model != "retinanet"))
    images = [p.cuda() for p in images]
    targets = [{key: t.cuda() for key, t in target.items()} for target in targets]
    return make_training_step(model, lambda: model(images, targets))


def synchronization(case: Case, weights: Path) -> None:
    """Run a step in which host-device synchronization is an error."""
    step = libradet_step(case, weights)
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    print("no host-device synchronization in a step")


def graphs(case: Case, weights: Path) -> None:
    """Capture a step as a CUDA graph for landscape, portrait and square images."""
    height, width = case.size
    for size in ((height, width), (width, height), (width, width)):
        step = libradet_step(replace(case, size=size, batch=2), weights)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = step()
        eager, replayed = median(time_steps(step)), median(time_steps(graph.replay))
        times = f"{eager:.4f} s eager, {replayed:.4f} s as a graph, speedup {eager / replayed:.2f}"
        print(f"{size[0]}x{size[1]}, 2 images: {times};", {key: round(loss.item(), 4) for key, loss in losses.items()})


def throughput(case: Case, weights: Path) -> None:
    """Print images per second of libradet, compiled libradet and torchvision."""
    contenders = {
        "ours": libradet_step,
        "ours, compiled": partial(libradet_step, compiled=True),
        "torchvision": torchvision_step,
    }
    for name, make in contenders.items():
        try:
            step = make(case, weights)
            seconds = [s for _ in range(3) for s in time_steps(step, 5)]
        except RuntimeError as e:
            print(f"{name}: failed: {str(e).splitlines()[0]}")
            continue
        rate, peak = case.batch / median(seconds), torch.cuda.max_memory_allocated() / 2**30
        print(
            f"{name}: {rate:.1f} images per second ({case.batch / max(seconds):.1f}-{case.batch / min(seconds):.1f}), "
            f"peak {peak:.1f} GiB"
        )
        del step
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def profile(case: Case, weights: Path) -> None:
    """Print the profile of a step."""
    step = libradet_step(case, weights)
    time_steps(step, 2)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        time_steps(step, 3)
    print(profiler.key_averages().table(sort_by="self_device_time_total", row_limit=40))


def time_steps(step: Step, count: int = 10) -> list[float]:
    """Return the seconds of each step, after two warm-up steps."""
    seconds = []
    for _ in range(count + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[2:]


def main() -> None:
    """Run one part."""
    parts = {f.__name__: f for f in (synchronization, graphs, throughput, profile)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--model", default="faster_rcnn")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344))
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    case = Case("train", args.model, tuple(args.size), args.batch)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {case.name}, bf16")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pth"
        write_weights(replace(case, task="infer", size=(480, 640), batch=1), weights)
        parts[args.part](case, weights)


if __name__ == "__main__":
    main()

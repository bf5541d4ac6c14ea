"""A step on a GPU: does it wait for the device, can it be captured, how fast is it, and where does its time go?

python -m benchmarks.gpu synchronization|graphs|throughput|profile [--size 800 1344] [--batch 16] [--model faster_rcnn]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.cases import Case
from benchmarks.scene import as_batch, as_lists, draw
from benchmarks.sides import our_model, total
from benchmarks.torchvision_models import build, write_weights

Step = Callable[[], Any]


def optimized(model: torch.nn.Module, losses: Callable[[], dict]) -> Step:
    """Losses in bf16, gradients, and SGD's step; weights stay as they are."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9, weight_decay=1e-4, fused=True)

    def step() -> Any:
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            found = losses()
        total(found).backward()
        optimizer.step()
        # Not set to None: a graph writes to the same gradients whenever it is replayed.
        optimizer.zero_grad(set_to_none=False)
        return found

    return step


def ours(case: Case, weights: Path, compiled: bool = False) -> Step:
    """A training step of ours."""
    model = our_model(case, weights).cuda().to(memory_format=torch.channels_last).train()
    batch = as_batch(draw(case), model.divisor).to("cuda")
    form = torch.compile(model, dynamic=False) if compiled else model
    return optimized(model, lambda: form(batch))


def theirs(case: Case, weights: Path) -> Step:
    """torchvision's, with the same weights."""
    model = build(case.alike)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.cuda().to(memory_format=torch.channels_last).train()
    images, targets = as_lists(draw(case), int(case.alike != "retinanet"))
    images = [p.cuda() for p in images]
    targets = [{key: t.cuda() for key, t in target.items()} for target in targets]
    return optimized(model, lambda: model(images, targets))


def synchronization(case: Case, weights: Path) -> None:
    """A step in which everything that waits for the device is an error."""
    step = ours(case, weights)
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    print("a whole step waited for nothing")


def graphs(case: Case, weights: Path) -> None:
    """A step captured as a CUDA graph on a lying, a standing and a square canvas."""
    height, width = case.size
    for size in ((height, width), (width, height), (width, width)):
        step = ours(replace(case, size=size, batch=2), weights)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = step()
        plain, replayed = median(seconds(step)), median(seconds(graph.replay))
        took = f"{plain:.4f} s a step, {replayed:.4f} s as a graph, {plain / replayed:.2f}×"
        print(f"{size[0]}×{size[1]}, 2 images: {took};", {key: round(loss.item(), 4) for key, loss in losses.items()})


def throughput(case: Case, weights: Path) -> None:
    """Images in a second: ours, ours compiled, torchvision."""
    for name, make in (("ours", ours), ("ours, compiled", lambda c, w: ours(c, w, True)), ("torchvision", theirs)):
        try:
            step = make(case, weights)
            taken = [s for _ in range(3) for s in seconds(step, 5)]
        except RuntimeError as e:
            print(f"{name}: does not run: {str(e).splitlines()[0]}")
            continue
        rate, peak = case.batch / median(taken), torch.cuda.max_memory_allocated() / 2**30
        print(
            f"{name}: {rate:.1f} images a second ({case.batch / max(taken):.1f}–{case.batch / min(taken):.1f}), "
            f"peak {peak:.1f} GiB"
        )
        del step
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def profile(case: Case, weights: Path) -> None:
    """Where the time of a step goes."""
    step = ours(case, weights)
    seconds(step, 2)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        seconds(step, 3)
    print(found.key_averages().table(sort_by="self_device_time_total", row_limit=40))


def seconds(step: Step, times: int = 10) -> list[float]:
    """Of each step, after two that do not count."""
    taken = []
    for _ in range(times + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return taken[2:]


def main() -> None:
    """One part."""
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

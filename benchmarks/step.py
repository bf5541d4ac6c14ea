"""Time of a step, of its convolutions and matrix products alone, and the peak memory of the process."""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import other_libraries
from benchmarks.budget import SLOW_STEP
from benchmarks.cases import OURS, Case, Contender
from benchmarks.kernel_replay import KernelReplay, measure_peak_flops, record_calls
from benchmarks.models import ModelUnderTest, build_libradet, prepare_libradet, prepare_torchvision, sum_losses
from benchmarks.synthetic_inputs import SyntheticInputs, make_inputs, to_batch


def measure_step(
    case: Case,
    contender: Contender,
    weights: Path,
    steps: int,
    seconds: float,
    replay_kernels: bool,
    reference: str | None = None,
) -> dict[str, Any]:
    """Return seconds of each step and of the first one, and the process's peak memory at the end and before, in MiB.

    Args:
        steps: timed steps, fewer where they would exceed ``seconds``; at least one.
        replay_kernels: also measure the step's convolutions and matrix products alone, in turns with the steps, and
            the machine's peak FLOPS.
        reference: file with torchvision's detections, compared with this contender's.
    """
    inputs = make_inputs(case)
    start = time.perf_counter()
    subject = prepare_model(case, contender, inputs, weights)
    preparation = time.perf_counter() - start
    step = make_step(subject, case, contender.precision)
    before = peak_mib()
    first = last = _time(step)
    is_warm = first < SLOW_STEP or replay_kernels or contender.variant == "compiled"
    if is_warm:
        last = _time(step)
    steps = max(1, min(steps, int(seconds / last)))
    result: dict[str, Any] = {"preparation": preparation, "first": first, "before": before, "peak": peak_mib()}
    result |= {"seconds": [], "kernels": []}
    replay = None
    if replay_kernels:
        replay = make_kernel_replay(case, contender.precision, weights)
        peak_flops = measure_peak_flops(contender.precision)
        result |= {"flops": replay.flops, "peak_flops": peak_flops, "layout": replay.layout}
    for _ in range(steps):
        result["seconds"].append(_time(step))
        if not is_warm and len(result["seconds"]) == 1:
            result["peak"] = peak_mib()  # after two steps, as that of the others
        if replay is not None:
            result["kernels"].append(_time(replay.run))
    if reference:
        from benchmarks.agreement import compare_detections

        result["matches"] = compare_detections(step(), case, Path(reference))
    return result


def make_step(subject: ModelUnderTest, case: Case, precision: str) -> Callable[[], Any]:
    """Return a function that runs one step: inference, or losses, gradients and the optimizer's step."""
    cast = {"dtype": torch.bfloat16, "enabled": precision == "bf16" and subject.autocast}

    def infer() -> Any:
        with torch.inference_mode(), torch.autocast("cpu", **cast):
            return subject.call()

    if case.task == "infer":
        return infer
    # A learning rate of 0 keeps the weights, so that every step does the same work.
    trained = [p for p in subject.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9, weight_decay=1e-4, fused=subject.training == "fused")

    def train() -> Any:
        with torch.autocast("cpu", **cast):
            losses = subject.call()
        if subject.training == "plain":
            optimizer.zero_grad()
        sum_losses(losses).backward()
        optimizer.step()
        if subject.training != "plain":
            optimizer.zero_grad()
        return losses

    return train


def make_kernel_replay(case: Case, precision: str, weights: Path) -> KernelReplay:
    """Return the convolutions and matrix products of libradet's step, neither optimized for inference nor compiled."""
    model = build_libradet(case, weights)
    inputs = make_inputs(case)
    if case.task == "train":
        subject = prepare_libradet(model, case, Contender(OURS[0], "fp32"), inputs)
        return KernelReplay(record_calls(make_step(subject, case, "fp32")), precision)
    batch = to_batch(inputs, model.size_divisible)
    model.eval()

    @torch.no_grad()
    def infer() -> Any:
        return model(batch)

    return KernelReplay(record_calls(infer), precision)


def _time(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_mib() -> float:
    """Return the peak resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prepare_model(case: Case, contender: Contender, inputs: SyntheticInputs, weights: Path) -> ModelUnderTest:
    """Return the contender's detector.

    Args:
        weights: file written by :func:`benchmarks.torchvision_models.write_weights`.
    """
    if contender.library in OURS:
        model = build_libradet(case, weights)
        return prepare_libradet(model, case, contender, inputs)
    if contender.library == "torchvision":
        return prepare_torchvision(case, contender.variant, inputs, weights)
    return other_libraries.prepare(case, contender.library, inputs, weights)

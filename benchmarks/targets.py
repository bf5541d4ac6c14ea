"""Performance targets of libradet, and whether they are met."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.cases import INFER, LIBRA, SMALL, TRAIN
from benchmarks.machine import kind_of
from benchmarks.results import CaseResults, Results, ratios


@dataclass(frozen=True)
class TargetResult:
    """A target and its measurement.

    Attributes:
        values: one per round; empty if it was not measured.
        min_value, max_value: bounds of their median; without bounds the values are only reported.
        invalid_reason: why the measurement does not count.
        missing_reason: why there is none.
    """

    target: str
    values: list[float]
    min_value: float | None = None
    max_value: float | None = None
    unit: str = "x"
    invalid_reason: str = ""
    missing_reason: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if it was not measured or has no bounds."""
        if not self.values or (self.min_value is None and self.max_value is None):
            return None
        value = median(self.values)
        above = self.min_value is None or value >= self.min_value
        below = self.max_value is None or value <= self.max_value
        return above and below and not self.invalid_reason


INFERENCE_SPEEDS = {"fp32": 2.0, "bf16": 3.5, "int8": 4.0}
TRAINING_SPEEDS = {"fp32": 1.5, "bf16": 3.0}
AVX2_INFERENCE_SPEEDS = {"fp32": 1.8, "int8": 3.0}
AVX2_TRAINING_SPEEDS = {"fp32": 1.3}
"""Wanted speed by precision, compared with torchvision in fp32 in its faster memory layout."""
MAX_OVERHEAD, MAX_MEMORY, MAX_LIBRA, MAX_SMALL = 1.15, 0.7, 1.05, 0.6


def evaluate_targets(results: Results) -> list[TargetResult]:
    """Return all targets, measured or not."""
    infer, train = results.find(INFER), results.find(TRAIN)
    libra = results.find(LIBRA)
    wide = kind_of(results.machine["instructions"]).startswith("avx512")
    precisions = ("fp32", "bf16") if results.has_bf16 else ("fp32",)
    targets = []
    for precision, wanted in (INFERENCE_SPEEDS if wide else AVX2_INFERENCE_SPEEDS).items():
        name = f"inference, best engine, {precision}, vs torchvision fp32"
        targets += [_without_bf16(name, precision, results) or _best_engine(name, infer, precision, wanted)]
    targets += _proposals(results)
    for precision, wanted in (TRAINING_SPEEDS if wide else AVX2_TRAINING_SPEEDS).items():
        name = f"training step, {precision}, vs torchvision fp32"
        targets += [_without_bf16(name, precision, results) or _training(name, train, precision, wanted)]
    targets += [_memory(f"peak memory of training / torchvision's, {p}", train, p) for p in precisions]
    targets += _small_backbones(results)
    targets += [*_sampling(results), *_matching(results)]
    targets += [_libra(f"Libra / Faster R-CNN, training step, {p}", libra, p) for p in precisions]
    targets += _loader(results)
    for task, case in (("inference", infer), ("training", train)):
        targets += [_overhead(f"{task} step / its kernels alone, {p}", case, p) for p in precisions]
        targets += [_bound(f"... speed vs torchvision fp32 of the kernels alone, {p}", case, p) for p in precisions]
    return [*targets, *_evaluation(results), *_scaling(results)]


def ratio_to_kernels(run: dict[str, Any]) -> float:
    """Return the time of a step over that of its kernels alone, paired in the order of measurement."""
    return median(ratios(run["seconds"], run["kernels"]))


def _without_bf16(name: str, precision: str, results: Results) -> TargetResult | None:
    if precision != "bf16" or results.has_bf16:
        return None
    return TargetResult(name, [], missing_reason="this processor has no bf16")


def _best_engine(name: str, case: CaseResults | None, precision: str, wanted: float) -> TargetResult:
    reference = case.best("torchvision", "fp32") if case else None
    best = case.best_engine(precision) if case else None
    if case is None or reference is None or best is None:
        reasons = {r for n, r in case.skipped.items() if n.startswith(f"ours-{precision}")} if case else set()
        return TargetResult(name, [], min_value=wanted, missing_reason="; ".join(sorted(reasons)))
    invalid_reason = case.outputs_differ(best) if precision == "fp32" else ""
    engine = best.removeprefix(f"ours-{precision}").removeprefix("-") or "eager"
    values = ratios(case.seconds(reference), case.seconds(best))
    return TargetResult(f"{name} ({engine})", values, min_value=wanted, invalid_reason=invalid_reason)


def _training(name: str, case: CaseResults | None, precision: str, wanted: float) -> TargetResult:
    reference = case.best("torchvision", "fp32") if case else None
    if case is None or reference is None or f"ours-{precision}" not in case.runs:
        return TargetResult(name, [], min_value=wanted)
    names = [f"ours-{precision}"] + [n for n in case.runs if n == f"ours-{precision}-compiled"]
    best = min(names, key=lambda n: median(case.seconds(n)))
    values = ratios(case.seconds(reference), case.seconds(best))
    name = f"{name} (compiled)" if best.endswith("compiled") else name
    return TargetResult(name, values, min_value=wanted, invalid_reason=case.outputs_differ(best))


def _overhead(target: str, case: CaseResults | None, precision: str) -> TargetResult:
    runs = case.runs.get(f"ours-{precision}", []) if case else []
    return TargetResult(target, [ratio_to_kernels(run) for run in runs if run["kernels"]], max_value=MAX_OVERHEAD)


def _bound(target: str, case: CaseResults | None, precision: str) -> TargetResult:
    """Report the speed that eager steps would have without anything but their convolutions and matrix products."""
    reference = case.best("torchvision", "fp32") if case else None
    if case is None or reference is None:
        return TargetResult(target, [])
    kernels = [median(run["kernels"]) for run in case.runs.get(f"ours-{precision}", []) if run["kernels"]]
    return TargetResult(target, ratios(case.seconds(reference), kernels))


def _memory(target: str, case: CaseResults | None, precision: str) -> TargetResult:
    reference = case.best("torchvision", precision) if case else None
    if case is None or reference is None or f"ours-{precision}" not in case.runs:
        return TargetResult(target, [], max_value=MAX_MEMORY)
    ours, theirs = ([run["peak"] for run in case.runs[name]] for name in (f"ours-{precision}", reference))
    return TargetResult(target, ratios(ours, theirs), max_value=MAX_MEMORY)


def _libra(target: str, case: CaseResults | None, precision: str) -> TargetResult:
    names = f"ours-{precision}", f"faster_rcnn-{precision}"
    if case is None or any(name not in case.runs for name in names):
        return TargetResult(target, [], max_value=MAX_LIBRA)
    return TargetResult(target, ratios(*(case.seconds(name) for name in names)), max_value=MAX_LIBRA)


def _proposals(results: Results) -> Iterator[TargetResult]:
    measured = {m["wanted"]: m for m in results.proposals or []}
    for wanted in (8, 333):
        target, seconds = f"inference with {wanted} proposals / torchvision's, fp32", {}
        invalid_reason = ""
        if m := measured.get(wanted):
            seconds, counts = m["seconds"], m["proposals"]
            if counts["ours"] != counts["torchvision"] or abs(counts["ours"] - wanted) > 0.05 * wanted:
                invalid_reason = f"{counts['ours']} here, {counts['torchvision']} in torchvision"
        values = ratios(seconds.get("ours", []), seconds.get("torchvision", []))
        yield TargetResult(target, values, max_value=0.7, invalid_reason=invalid_reason)


def _operation(results: Results, start: str) -> tuple[dict[str, list[float]], str]:
    """Return the seconds of the last operation whose name starts so, and why they do not count."""
    rows = [row for row in results.operations or [] if row["name"].startswith(start)]
    return (rows[-1]["seconds"], "" if rows[-1]["same"] else "outputs differ") if rows else ({}, "")


def _sampling(results: Results) -> Iterator[TargetResult]:
    seconds, invalid_reason = _operation(results, "256 negatives")
    ours = seconds.get("ours, IoU-balanced", [])
    values = ratios(ours, seconds.get("ours, random", []))
    target = "IoU-balanced / random sampling from 268,569"
    yield TargetResult(target, values, max_value=1.5, invalid_reason=invalid_reason)
    values = ratios(seconds.get("sets, IoU-balanced", []), ours)
    target = "IoU-balanced sampling from 268,569 vs Python sets"
    yield TargetResult(target, values, min_value=20, invalid_reason=invalid_reason)


def _matching(results: Results) -> Iterator[TargetResult]:
    seconds, invalid_reason = _operation(results, "matching")
    ours, many = (seconds.get(f"ours, {n} objects", []) for n in (20, 200))
    for number, own in ((20, ours), (200, many)):
        values = ratios(seconds.get(f"torchvision, {number} objects", []), own)
        target = f"matching 2x268,569 to {number} vs torchvision"
        yield TargetResult(target, values, min_value=2, invalid_reason=invalid_reason)
    target = "matching 2x268,569 to 200 / to 20 objects"
    yield TargetResult(target, ratios(many, ours), max_value=2, invalid_reason=invalid_reason)


def _loader(results: Results) -> Iterator[TargetResult]:
    measured = {(tuple(m["file"]), tuple(m["size"])): m["seconds"] for m in results.loader or []}
    for size in ((480, 640), (800, 1333)):
        seconds = measured.get(((480, 640), size), {})
        values = ratios(seconds.get("torchvision", []), seconds.get("ours", []))
        yield TargetResult(f"loading, images per second and core at {size[1]}, vs torchvision's", values, min_value=2)


def _evaluation(results: Results) -> Iterator[TargetResult]:
    evaluation = results.evaluation or {"seconds": {"ours": [], "pycocotools": []}, "differ": 0}
    seconds = evaluation["seconds"]
    invalid_reason = "metrics differ" if evaluation["differ"] > 1e-9 else ""
    values = ratios(seconds["pycocotools"], seconds["ours"])
    yield TargetResult("evaluation vs pycocotools", values, min_value=50, invalid_reason=invalid_reason)


def _scaling(results: Results) -> Iterator[TargetResult]:
    for quantity, name, largest in (("batch", "images per batch", "8"), ("objects", "objects per image", "100")):
        seconds = (results.scaling or {}).get(quantity, {})
        first = next(iter(seconds), "1")
        for number in [n for n in seconds if n != first] or [largest]:
            values = ratios(seconds.get(number, []), seconds.get(first, []))
            target = f"time per image, {number} / {first} {name}"
            yield TargetResult(target, values, min_value=0.9, max_value=1.1)


def _small_backbones(results: Results) -> Iterator[TargetResult]:
    precision = "bf16" if results.has_bf16 else "fp32"
    for wanted in SMALL:
        case = results.find(wanted)
        target = f"training step on {wanted.backbone}, {precision}, / the other checkout's"
        names = [f"{library}-{precision}" for library in ("ours", "before")]
        if case is None or any(name not in case.runs for name in names):
            reason = "" if "before" in results.machine["commits"] else "needs --against"
            yield TargetResult(target, [], max_value=MAX_SMALL, missing_reason=reason)
        else:
            kernels = [median(run["kernels"]) for run in case.runs[names[0]] if run["kernels"]]
            yield TargetResult(target, ratios(*(case.seconds(name) for name in names)), max_value=MAX_SMALL)
            yield TargetResult(f"... of its kernels alone, {wanted.backbone}", ratios(kernels, case.seconds(names[1])))

"""Performance targets of libradet, and whether they are met."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.results import CaseResults, Results, ratios


@dataclass(frozen=True)
class TargetResult:
    """A target and its measurement.

    Attributes:
        values: one per round; empty if it was not measured.
        min_value, max_value: bounds of their median; without bounds the values are only reported.
        invalid_reason: why the measurement does not count.
    """

    target: str
    values: list[float]
    min_value: float | None = None
    max_value: float | None = None
    unit: str = "x"
    invalid_reason: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if it was not measured or has no bounds."""
        if not self.values or (self.min_value is None and self.max_value is None):
            return None
        value = median(self.values)
        above = self.min_value is None or value >= self.min_value
        below = self.max_value is None or value <= self.max_value
        return above and below and not self.invalid_reason


def evaluate_targets(results: Results) -> list[TargetResult]:
    """Return all targets, measured or not."""
    infer, train = results.find("infer", "faster_rcnn", 1), results.find("train", "faster_rcnn", 2)
    libra = results.find("train", "libra_faster_rcnn", 2)
    targets = [
        _speedup("inference, fp32, vs torchvision fp32", infer, "fp32", "fp32", 1.4),
        _speedup("inference, bf16, vs torchvision fp32", infer, "bf16", "fp32", 2.5),
        _speedup("training step, fp32, vs torchvision fp32", train, "fp32", "fp32", 1.2),
        _speedup("training step, bf16, vs torchvision fp32", train, "bf16", "fp32", 2.2),
        _speedup("training step, bf16, vs torchvision bf16", train, "bf16", "bf16", 1.3),
    ]
    for task, case in (("inference", infer), ("training", train)):
        targets += [_overhead(f"{task} step / its kernels alone, {p}", case, p) for p in ("fp32", "bf16")]
    targets += [_memory(f"peak memory of training / torchvision's, {p}", train, p) for p in ("fp32", "bf16")]
    targets += [_libra(f"Libra / Faster R-CNN, training step, {p}", libra, p) for p in ("fp32", "bf16")]
    return [*targets, *_operations(results), *_evaluation(results), *_scaling(results), *_small_backbones(results)]


def ratio_to_kernels(run: dict[str, Any]) -> float:
    """Return the time of a step over that of its kernels alone, paired in the order of measurement."""
    return median(ratios(run["seconds"], run["kernels"]))


def _speedup(target: str, case: CaseResults | None, ours: str, theirs: str, min_value: float) -> TargetResult:
    reference = case.best("torchvision", theirs) if case else None
    if case is None or reference is None or f"ours-{ours}" not in case.runs:
        return TargetResult(target, [], min_value)
    values = ratios(case.seconds(reference), case.seconds(f"ours-{ours}"))
    return TargetResult(target, values, min_value, invalid_reason=_disagreement(case))


def _disagreement(case: CaseResults) -> str:
    agreement = case.agreement or {}
    if agreement.get("same"):
        return ""
    return "outputs differ" if "same" in agreement else "outputs were not compared"


def _overhead(target: str, case: CaseResults | None, precision: str) -> TargetResult:
    runs = case.runs.get(f"ours-{precision}", []) if case else []
    return TargetResult(target, [ratio_to_kernels(run) for run in runs if run["kernels"]], max_value=1.15)


def _memory(target: str, case: CaseResults | None, precision: str) -> TargetResult:
    reference = case.best("torchvision", precision) if case else None
    if case is None or reference is None or f"ours-{precision}" not in case.runs:
        return TargetResult(target, [], max_value=0.8)
    ours, theirs = ([run["peak"] for run in case.runs[name]] for name in (f"ours-{precision}", reference))
    return TargetResult(target, ratios(ours, theirs), max_value=0.8)


def _libra(target: str, case: CaseResults | None, precision: str) -> TargetResult:
    names = f"ours-{precision}", f"faster_rcnn-{precision}"
    if case is None or any(name not in case.runs for name in names):
        return TargetResult(target, [], max_value=1.1)
    return TargetResult(target, ratios(*(case.seconds(name) for name in names)), max_value=1.1)


def _operations(results: Results) -> Iterator[TargetResult]:
    rows = [row for row in results.operations or [] if "negatives" in row["name"]]
    row = rows[-1] if rows else {"name": "x268,569", "seconds": {}, "same": True}
    seconds, invalid_reason = row["seconds"], "" if row["same"] else "outputs differ"
    ours = seconds.get("ours, IoU-balanced", [])
    number = row["name"].rpartition("x")[2]
    yield TargetResult(
        f"IoU-balanced / random sampling from {number}",
        ratios(ours, seconds.get("ours, random", [])),
        max_value=1.5,
        invalid_reason=invalid_reason,
    )
    yield TargetResult(
        f"IoU-balanced sampling from {number} vs Python sets",
        ratios(seconds.get("sets, IoU-balanced", []), ours),
        min_value=20,
        invalid_reason=invalid_reason,
    )


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
    for backbone in ("tf_efficientnet_lite0", "resnet18"):
        case = results.find("train", "libra_faster_rcnn", 2, backbone)
        seconds = case.seconds("ours-bf16") if case and "ours-bf16" in case.runs else []
        yield TargetResult(f"training step, Libra R-CNN on {backbone}, bf16", seconds, unit=" s")
        if case and "before-bf16" in case.runs:
            yield TargetResult("... vs the other checkout", ratios(case.seconds("before-bf16"), seconds))

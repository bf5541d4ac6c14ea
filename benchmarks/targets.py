"""What libradet wants to reach, and whether it does."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from benchmarks.results import Measured, Results, ratios


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured.

    ``values``: one for each round; empty where it was not measured. ``least``, ``most``: what is wanted of their
    median; neither for what is only looked at. ``spoilt``: why it does not count all the same.
    """

    target: str
    values: list[float]
    least: float | None = None
    most: float | None = None
    unit: str = "×"
    spoilt: str = ""

    @property
    def met(self) -> bool | None:
        """None where nothing was measured, or nothing is wanted."""
        if not self.values or self.least is self.most is None:
            return None
        value = median(self.values)
        enough = (self.least is None or value >= self.least) and (self.most is None or value <= self.most)
        return enough and not self.spoilt


def verdicts(results: Results) -> list[Verdict]:
    """All targets, measured or not."""
    infer, train = results.find("infer", "faster_rcnn", 1), results.find("train", "faster_rcnn", 2)
    libra = results.find("train", "libra_faster_rcnn", 2)
    found = [
        _speed("inference, fp32, against torchvision's fp32", infer, "fp32", "fp32", 1.4),
        _speed("inference, bf16, against torchvision's fp32", infer, "bf16", "fp32", 2.5),
        _speed("training step, fp32, against torchvision's fp32", train, "fp32", "fp32", 1.2),
        _speed("training step, bf16, against torchvision's fp32", train, "bf16", "fp32", 2.2),
        _speed("training step, bf16, against torchvision's bf16", train, "bf16", "bf16", 1.3),
    ]
    for task, measured in (("inference", infer), ("training", train)):
        found += [_floor(f"{task} step ÷ its arithmetic alone, {p}", measured, p) for p in ("fp32", "bf16")]
    found += [_memory(f"peak memory of training ÷ torchvision's, {p}", train, p) for p in ("fp32", "bf16")]
    found += [_libra(f"Libra ÷ Faster R-CNN, training step, {p}", libra, p) for p in ("fp32", "bf16")]
    return [*found, *_operations(results), *_growth(results), *_small_backbones(results)]


def _speed(target: str, measured: Measured | None, own: str, theirs: str, least: float) -> Verdict:
    if (
        measured is None
        or (there := measured.best("torchvision", theirs)) is None
        or f"ours-{own}" not in measured.runs
    ):
        return Verdict(target, [], least)
    values = ratios(measured.seconds(there), measured.seconds(f"ours-{own}"))
    agreement = measured.agreement or {}
    spoilt = "" if agreement.get("same") else "outputs differ" if "same" in agreement else "outputs were not compared"
    return Verdict(target, values, least, spoilt=spoilt)


def _floor(target: str, measured: Measured | None, precision: str) -> Verdict:
    runs = measured.runs.get(f"ours-{precision}", []) if measured else []
    return Verdict(target, [over_floor(run) for run in runs if run["floor"]], most=1.15)


def over_floor(run: dict) -> float:
    """Seconds of a step over those of its arithmetic, each compared with its neighbor."""
    return median(ratios(run["seconds"], run["floor"]))


def _memory(target: str, measured: Measured | None, precision: str) -> Verdict:
    there = measured.best("torchvision", precision) if measured else None
    if measured is None or there is None or f"ours-{precision}" not in measured.runs:
        return Verdict(target, [], most=0.8)
    own, theirs = ([run["peak"] for run in measured.runs[name]] for name in (f"ours-{precision}", there))
    return Verdict(target, ratios(own, theirs), most=0.8)


def _libra(target: str, measured: Measured | None, precision: str) -> Verdict:
    names = f"ours-{precision}", f"faster_rcnn-{precision}"
    if measured is None or any(name not in measured.runs for name in names):
        return Verdict(target, [], most=1.1)
    return Verdict(target, ratios(*(measured.seconds(name) for name in names)), most=1.1)


def _operations(results: Results) -> Iterator[Verdict]:
    rows = [row for row in results.operations or [] if "negatives" in row["name"]]
    seconds, spoilt = (rows[-1]["seconds"], "" if rows[-1]["same"] else "outputs differ") if rows else ({}, "")
    own = seconds.get("ours, IoU-balanced", [])
    number = rows[-1]["name"].rpartition("×")[2] if rows else "268,569"
    yield Verdict(
        f"IoU-balanced ÷ random sampling from {number}",
        ratios(own, seconds.get("ours, random", [])),
        most=1.5,
        spoilt=spoilt,
    )
    yield Verdict(
        f"IoU-balanced sampling from {number} against sets",
        ratios(seconds.get("sets, IoU-balanced", []), own),
        20,
        spoilt=spoilt,
    )
    took = (results.evaluation or {}).get("seconds", {"ours": [], "pycocotools": []})
    away = (results.evaluation or {}).get("differ", 0)
    spoilt = "numbers differ" if away > 1e-9 else ""
    yield Verdict("evaluation against pycocotools", ratios(took["pycocotools"], took["ours"]), 50, spoilt=spoilt)


def _growth(results: Results) -> Iterator[Verdict]:
    for what, of in (("batch", "images in a batch"), ("objects", "objects on an image")):
        table = (results.growth or {}).get(what, {})
        first = next(iter(table), "1")
        for number in [n for n in table if n != first] or ["8" if what == "batch" else "100"]:
            values = ratios(table.get(number, []), table.get(first, []))
            yield Verdict(f"cost of an image, {number} ÷ {first} {of}", values, least=0.9, most=1.1)


def _small_backbones(results: Results) -> Iterator[Verdict]:
    for backbone in ("tf_efficientnet_lite0", "resnet18"):
        measured = results.find("train", "libra_faster_rcnn", 2, backbone)
        own = measured.seconds("ours-bf16") if measured and "ours-bf16" in measured.runs else []
        yield Verdict(f"training step, Libra R-CNN on {backbone}, bf16", own, unit=" s")
        if measured and "before-bf16" in measured.runs:
            yield Verdict("… against the other checkout", ratios(measured.seconds("before-bf16"), own))

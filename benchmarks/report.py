"""Benchmark results as Markdown and JSON."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.results import CaseResults, Results, format_range, ratios
from benchmarks.targets import TargetResult, evaluate_targets, ratio_to_kernels
from libradet.utils.tables import markdown_table


def write_report(results: Results, path: Path) -> None:
    """Write ``path``.md and ``path``.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = asdict(results) | {"targets": [asdict(t) | {"met": t.met} for t in evaluate_targets(results)]}
    names = [m.case.name for m in results.cases]
    content["cases"] = [c | {"name": name} for c, name in zip(content["cases"], names, strict=True)]
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(to_markdown(results)) + "\n")


def to_markdown(results: Results) -> Iterator[str]:
    """Yield the parts of the report."""
    m = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    commits = ", ".join(f"{name} {commit}" for name, commit in m["commits"].items())
    instructions = ", ".join(m["instructions"]) or "no wide vectors"
    yield "# Speed and memory on a CPU\n"
    yield (
        f"{m['date']}, {m['processor']}, {m['cores']} cores ({instructions}; torch uses {m['torch computes in']}), "
        f"{m['threads']} threads, load {m['load']} at the start.\n{versions}; commits: {commits}.\n"
    )
    yield f"```\n{results.command}\n```\n"
    yield (
        "All contenders have the same random weights, scaled so that the RPN and the RoI heads output their maximum "
        "number of boxes, and the same images; stem, first stage and norms are frozen; a training step includes SGD's. "
        "Contenders alternate, each in its own process. Numbers are medians over rounds, with the range in brackets.\n"
    )
    yield "## Targets\n"
    yield _table(("target", "measured", "wanted", "result"), map(target_row, evaluate_targets(results)))
    for case in results.cases:
        yield from _case_section(case)
    if results.scaling:
        yield from _scaling_section(results.scaling)
    if results.operations:
        yield from _operations_section(results.operations)
    if results.evaluation:
        yield from _evaluation_section(results.evaluation)


def target_row(result: TargetResult) -> tuple[str, str, str, str]:
    """Return target, measured value, wanted value and result as text."""
    bounds = []
    if result.min_value is not None:
        bounds.append(f">= {result.min_value:g}")
    if result.max_value is not None:
        bounds.append(f"<= {result.max_value:g}")
    outcome = {True: "met", False: "**not met**", None: "" if result.values else "not measured"}[result.met]
    if result.invalid_reason:
        outcome += f" ({result.invalid_reason})"
    value = format_range(result.values) + result.unit if result.values else "-"
    return result.target, value, " and ".join(bounds) or "-", outcome


def describe_agreement(results: CaseResults) -> str:
    """Return the comparison of outputs with torchvision's as text."""
    a = results.agreement
    if a is None:
        return "No other library has this detector, so outputs were not compared."
    if "error" in a:
        return f"**Outputs could not be compared: {a['error']}**"
    if results.case.task == "train":
        return _describe_losses(a)
    proposals = ""
    if a["proposals"]:
        proposals = f"Proposals: libradet {a['proposals']['ours']}, torchvision {a['proposals']['theirs']}. "
    near = ", ".join(f"{name} {count}" for name, count in a["near"].items())
    return (
        f"{'' if a['same'] else '**Detections differ.** '}{proposals}Of torchvision's {a['theirs']} detections (fp32) "
        f"{a['matched']} match within 0.1 pixels and 0.001 of score (largest differences {a['pixels']:.0e} and "
        f"{a['score']:.0e}); libradet has {a['ours']}. Matches within 8 pixels and 0.1 of score: {near}."
    )


def _describe_losses(a: dict[str, Any]) -> str:
    libraries = []
    for name in ("ours", "torchvision"):
        losses = ", ".join(f"{key} {value:.5f}" for key, value in a[name]["losses"].items())
        gradient = f"gradient norm {a[name]['gradient']:.5g}"
        libraries.append(f"{name}: {losses}, {gradient}, {a[name]['trained']:,} trained parameters")
    return (
        f"{'' if a['same'] else '**Losses differ.** '}Losses of one image with every candidate sampled: "
        f"{'; '.join(libraries)}. Relative differences: sum of losses {a['differ']['total']:.1e}, gradient norm "
        f"{a['differ']['gradient']:.1e}."
    )


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    return markdown_table(list(columns), [list(row) for row in rows]) + "\n"


def _case_section(m: CaseResults) -> Iterator[str]:
    yield f"## {m.case.name}\n"
    yield f"{m.case.objects} objects per image; load {m.load}. {describe_agreement(m)}\n"
    reference = m.best("torchvision", "fp32") or next(iter(m.runs), None)
    if reference is not None:
        columns = ("", "seconds", f"speed vs {reference}", "/ kernels alone", "of peak FLOPS", "peak MiB")
        yield _table(columns, [_contender_row(m, name, reference) for name in m.runs])
    for name, reason in m.skipped.items():
        yield f"{name}: {reason}\n"


def _contender_row(m: CaseResults, name: str, reference: str) -> tuple[str, ...]:
    runs, seconds = m.runs[name], m.seconds(name)
    overhead = [ratio_to_kernels(run) for run in runs if run["kernels"]]
    utilization = [run["flops"] / s / run["peak_flops"] for run, s in zip(runs, seconds, strict=True) if "flops" in run]
    return (
        name,
        f"{median(seconds):.3f} ({min(seconds):.3f}-{max(seconds):.3f})",
        format_range(ratios(m.seconds(reference), seconds)) + "x",
        f"{format_range(overhead)} ({runs[0]['layout']})" if overhead else "",
        f"{median(utilization):.0%}" if utilization else "",
        f"{median(run['peak'] for run in runs):.0f}",
    )


def _scaling_section(scaling: dict[str, Any]) -> Iterator[str]:
    yield "## Scaling\n"
    yield f"{scaling['case']}, {scaling['precision']}: seconds of a training step per image.\n"
    for quantity, name in (("batch", "images per batch (8 objects each)"), ("objects", "objects per image (2 images)")):
        first = next(iter(scaling[quantity].values()))
        rows = [
            (number, f"{median(seconds):.3f}", format_range(ratios(seconds, first)) + "x")
            for number, seconds in scaling[quantity].items()
        ]
        yield _table((name, "seconds", "/ the first"), rows)


def _operations_section(operations: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Operations\n"
    rows = []
    for operation in operations:
        first = next(iter(operation["seconds"].values()))
        same = "yes" if operation["same"] else "**no**"
        for name, seconds in operation["seconds"].items():
            ratio = format_range(ratios(seconds, first)) + "x"
            rows.append((operation["name"], name, f"{1000 * median(seconds):.2f}", ratio, same))
    yield _table(("", "implementation", "ms", "/ the first", "same results"), rows)


def _evaluation_section(e: dict[str, Any]) -> Iterator[str]:
    yield "## Evaluation\n"
    seconds = ", ".join(f"{name} {median(s):.2f} s" for name, s in e["seconds"].items())
    ratio = format_range(ratios(e["seconds"]["pycocotools"], e["seconds"]["ours"]))
    yield (
        f"{e['detections']:,} detections on {e['images']:,} images, AP {e['AP']:.4f}: {seconds}, {ratio}x; "
        f"largest difference of the twelve metrics {e['differ']:.0e}.\n"
    )

"""Benchmark results as Markdown and JSON."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.results import CaseResults, Results, format_range, ratios
from benchmarks.targets import TargetResult, evaluate_targets, ratio_to_kernels
from libradet.utils.tables import markdown_table

METHOD = (
    "All contenders have the same random weights, scaled so that the RPN and the RoI heads output their maximum "
    "number of boxes, and the same images; stem, first stage and norms are frozen; a training step includes SGD's. "
    "From 2026-11-28 08:30 UTC on, libradet's step frees its gradients after the optimizer's step, as its training "
    "does, and that of the others after the next forward pass, as torchvision's training script does. "
    "From 18:30 UTC of that day on, the optimizer of libradet's step is fused in fp32, as in its training. "
    "Contenders alternate, each in its own process. Numbers are medians over rounds, with the range in brackets. "
    "A run has a time budget: what exceeds it is left out and listed.\n"
)
RF_DETR = (
    "rf-detr-fp32 is RF-DETR nano, another detector: random weights, 30.5 million parameters; the image is resized to "
    "384x384 and its 300 detections are returned, after `inference()`.\n"
)


def write_report(results: Results, path: Path) -> None:
    """Write ``path``.md and ``path``.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(to_json(results))
    path.with_suffix(".md").write_text("\n".join(to_markdown(results)) + "\n")


def to_json(results: Results) -> str:
    """Return the results, with the targets, as JSON; :meth:`Results.from_json` reads it."""
    content = asdict(results) | {"targets": [asdict(t) | {"met": t.met} for t in evaluate_targets(results)]}
    return json.dumps(content, indent=1) + "\n"


def to_markdown(results: Results) -> Iterator[str]:
    """Yield the parts of the report."""
    yield "# Speed and memory on a CPU\n"
    yield METHOD
    yield from results_section(results)


def results_section(results: Results, level: int = 2) -> Iterator[str]:
    """Yield the section of the results of one machine, whose heading has this level."""
    m = results.machine
    yield f"{'#' * level} {kind_title(m['instructions'])}\n"
    yield from _describe_run(results)
    for name, reason in results.unavailable.items():
        yield f"{name}: {reason}.\n"
    heading = "#" * (level + 1)
    yield f"{heading} Targets\n"
    yield _table(("target", "measured", "wanted", "result"), map(target_row, evaluate_targets(results)))
    parts: list[Iterator[str]] = [_case_section(case) for case in results.cases]
    parts += [_proposals_section(results.proposals)] if results.proposals else []
    parts += [_loader_section(results.loader)] if results.loader else []
    parts += [_scaling_section(results.scaling)] if results.scaling else []
    parts += [_operations_section(results.operations)] if results.operations else []
    parts += [_evaluation_section(results.evaluation)] if results.evaluation else []
    for part in parts:
        yield f"{heading} {next(part)}\n"
        yield from part


def peers_section(results: Results, level: int = 3) -> Iterator[str]:
    """Yield the section of a run with other libraries and engines, whose heading has this level."""
    heading = "#" * level
    yield f"{heading} Other libraries and engines\n"
    yield from _describe_run(results)
    for case in results.cases:
        part = _case_section(case)
        yield f"{heading}# {next(part)} with other libraries\n"
        yield from part
    if results.loader:
        part = _loader_section(results.loader)
        yield f"{heading}# {next(part)} with other libraries\n"
        yield from part


def group_left_out(names: list[str]) -> list[str]:
    """Return one line for each case and round, with its contenders; other names as they are."""
    groups: dict[str, list[str]] = {}
    for name in names:
        case, _, turn = name.partition(": ")
        contender, _, turn_round = turn.partition(", round ")
        members = groups.setdefault(f"{case}, round {turn_round}" if turn_round else name, [])
        if turn_round:
            members.append(contender)
    return [f"{group}: {', '.join(members)}" if members else group for group, members in groups.items()]


def kind_title(instructions: list[str]) -> str:
    """Return the kind of processors as a heading."""
    width = "AVX-512" if "AVX-512" in instructions else "AVX2" if "AVX2" in instructions else "Without AVX2"
    has_bf16 = {"AVX-512-BF16", "AMX-BF16"} & set(instructions)
    return f"{width} {'with' if has_bf16 else 'without'} bf16"


def _describe_run(results: Results) -> Iterator[str]:
    yield _describe_machine(results)
    yield f"```\n{results.command}\n```\n"
    if results.left_out:
        yield ("Left out:\n\n" + "\n".join(f"- {line}" for line in group_left_out(results.left_out)) + "\n")


def _describe_machine(results: Results) -> str:
    m = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    commits = ", ".join(f"{name} {commit}" for name, commit in m["commits"].items())
    instructions = ", ".join(m["instructions"]) or "no wide vectors"
    if m.get("not used"):
        instructions += f"; {', '.join(m['not used'])} of the processor switched off"
    cores = f"{m['cores']} cores ({instructions}; torch uses {m['torch computes in']})"
    load = f"load {m['load']} at the start; {results.minutes:.0f} minutes"
    return (
        f"{_format_dates(m['date'])}, {m['processor']}, {cores}, {m['threads']} threads, {load}.\n"
        f"{versions}; commits: {commits}.\n"
    )


def _format_dates(dates: str) -> str:
    """Return the start times of joined runs, each day once."""
    times_of_day: dict[str, list[str]] = {}
    for day, time in re.findall(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d) UTC", dates):
        times_of_day.setdefault(day, []).append(time)
    return ", ".join(f"{day} {', '.join(times)} UTC" for day, times in times_of_day.items())


def target_row(result: TargetResult) -> tuple[str, str, str, str]:
    """Return target, measured value, wanted value and result as text."""
    bounds = []
    if result.min_value is not None:
        bounds.append(f">= {result.min_value:g}")
    if result.max_value is not None:
        bounds.append(f"<= {result.max_value:g}")
    missing = f"not measured: {result.missing_reason}" if result.missing_reason else "not measured"
    outcome = {True: "met", False: "**not met**", None: "" if result.values else missing}[result.met]
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
        proposals = f" Proposals: libradet {a['proposals']['ours']}, torchvision {a['proposals']['theirs']}."
    return (
        f"torchvision has {a['detections']} detections in fp32, of which each contender has 'same' ones within 0.1 "
        f"pixels and 0.001 of score, and 'near' ones within 8 pixels and 0.1 of score.{proposals}"
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
    yield m.case.name
    yield f"{m.case.objects} objects per image; load {m.load}. {describe_agreement(m)}\n"
    reference = m.best("torchvision", "fp32") or next(iter(m.runs), None)
    if reference is not None:
        columns = (
            "",
            "seconds",
            f"speed vs {reference}",
            "/ kernels alone",
            "of peak FLOPS",
            "peak MiB",
            "prepared in s",
        )
        columns += ("same, near",) if m.case.task == "infer" else ()
        yield _table(columns, [_contender_row(m, name, reference) for name in m.runs])
    if "rf-detr-fp32" in m.runs:
        yield RF_DETR
    for reason in dict.fromkeys(m.skipped.values()):
        yield f"{', '.join(name for name in m.skipped if m.skipped[name] == reason)}: {reason}.\n"


def _contender_row(m: CaseResults, name: str, reference: str) -> tuple[str, ...]:
    runs, seconds = m.runs[name], m.seconds(name)
    overhead = [ratio_to_kernels(run) for run in runs if run["kernels"]]
    utilization = [run["flops"] / s / run["peak_flops"] for run, s in zip(runs, seconds, strict=True) if "flops" in run]
    row = (
        name,
        f"{median(seconds):.3f} ({min(seconds):.3f}-{max(seconds):.3f})",
        format_range(ratios(m.seconds(reference), seconds)) + "x",
        f"{format_range(overhead)} ({runs[0]['layout']})" if overhead else "",
        f"{median(utilization):.0%}" if utilization else "",
        f"{median(run['peak'] for run in runs):.0f}",
        f"{runs[0]['preparation'] + runs[0]['first']:.1f}",
    )
    if m.case.task == "train":
        return row
    matches = runs[0].get("matches")
    return *row, f"{matches['matched']}, {matches['near']}" if matches else ""


def _proposals_section(proposals: list[dict[str, Any]]) -> Iterator[str]:
    yield "Few proposals"
    yield "infer/faster_rcnn/480x640/b1, fp32: proposals smaller than a number of pixels are removed.\n"
    rows = []
    for p in proposals:
        counts, seconds = p["proposals"], p["seconds"]
        ratio = format_range(ratios(seconds["ours"], seconds["torchvision"])) + "x"
        times = [f"{median(seconds[name]):.3f}" for name in ("ours", "torchvision")]
        rows.append((f"{counts['ours']}, {counts['torchvision']}", *times, p["layout"], ratio))
    columns = (
        "proposals: libradet, torchvision",
        "libradet, s",
        "torchvision, s",
        "its layout",
        "libradet / torchvision",
    )
    yield _table(columns, rows)


def _loader_section(loader: list[dict[str, Any]]) -> Iterator[str]:
    yield "Loading"
    yield "Images per second of one core: decoding of JPEG files, resizing, flipping and batching.\n"
    rows = []
    for m in loader:
        speeds = {name: m["images"] / median(seconds) for name, seconds in m["seconds"].items()}
        ratio = format_range(ratios(m["seconds"]["torchvision"], m["seconds"]["ours"])) + "x"
        file = f"{m['file'][1]}x{m['file'][0]}, {m['bytes'] / 1000:.0f} KB"
        speed = [f"{speeds[name]:.0f}" if name in speeds else "-" for name in ("ours", "torchvision", "ultralytics")]
        rows.append((file, f"{m['size'][0]} x {m['size'][1]}", *speed, ratio))
    columns = ("files", "size", "libradet", "torchvision", "ultralytics", "libradet / torchvision")
    yield _table(columns, rows)


def _scaling_section(scaling: dict[str, Any]) -> Iterator[str]:
    yield "Scaling"
    yield f"{scaling['case']}, {scaling['precision']}: seconds of a training step per image.\n"
    for quantity, name in (("batch", "images per batch (8 objects each)"), ("objects", "objects per image (2 images)")):
        first = next(iter(scaling[quantity].values()))
        rows = [
            (number, f"{median(seconds):.3f}", format_range(ratios(seconds, first)) + "x")
            for number, seconds in scaling[quantity].items()
        ]
        yield _table((name, "seconds", "/ the first"), rows)


def _operations_section(operations: list[dict[str, Any]]) -> Iterator[str]:
    yield "Operations"
    rows = []
    for operation in operations:
        first = next(iter(operation["seconds"].values()))
        same = "yes" if operation["same"] else "**no**"
        for name, seconds in operation["seconds"].items():
            ratio = format_range(ratios(seconds, first)) + "x"
            rows.append((operation["name"], name, f"{1000 * median(seconds):.2f}", ratio, same))
    yield _table(("", "implementation", "ms", "/ the first", "same results"), rows)


def _evaluation_section(e: dict[str, Any]) -> Iterator[str]:
    yield "Evaluation"
    seconds = ", ".join(f"{name} {median(s):.2f} s" for name, s in e["seconds"].items())
    ratio = format_range(ratios(e["seconds"]["pycocotools"], e["seconds"]["ours"]))
    yield (
        f"{e['detections']:,} detections on {e['images']:,} images, AP {e['AP']:.4f}: {seconds}, {ratio}x; "
        f"largest difference of the twelve metrics {e['differ']:.0e}.\n"
    )

"""Results as Markdown and JSON."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.results import Measured, Results, ratios, spread
from benchmarks.targets import Verdict, over_floor, verdicts


def write(results: Results, path: Path) -> None:
    """``path``.md and ``path``.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    judged = [asdict(v) | {"met": v.met} for v in verdicts(results)]
    named = [m.case.name for m in results.cases]
    data = asdict(results) | {"verdicts": judged}
    data["cases"] = [c | {"name": name} for c, name in zip(data["cases"], named, strict=True)]
    path.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(markdown(results)) + "\n")


def markdown(results: Results) -> Iterator[str]:
    """The report, line by line."""
    m = results.machine
    yield "# Side by side with others on a CPU\n"
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    commits = ", ".join(f"{name} {commit}" for name, commit in m["commits"].items())
    yield f"{m['date']}, {m['processor']}, {m['cores']} cores ({', '.join(m['instructions']) or 'no wide vectors'}; "
    yield f"torch computes in {m['torch computes in']}), {m['threads']} threads, load {m['load']} at the start. "
    yield f"{versions}; commits: {commits}.\n"
    yield f"```\n{results.command}\n```\n"
    yield (
        "Everybody has the same random weights, so scaled that the first stage proposes and the second finds as much "
        "as it may, and looks at the same images; stem, first stage and norms are frozen; a training step ends with "
        "SGD's. Contenders take turns, each in a process of its own. Numbers are medians of the rounds, in brackets "
        "the range.\n"
    )
    yield from _verdict_table(verdicts(results))
    for measured in results.cases:
        yield from _case(measured)
    if results.growth:
        yield from _growth(results.growth)
    if results.operations:
        yield from _operations(results.operations)
    if results.evaluation:
        yield from _evaluation(results.evaluation)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A Markdown table."""
    head = list(head)
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def line(verdict: Verdict) -> tuple[str, str, str, str]:
    """Target, what was measured, what is wanted, and the verdict."""
    v = verdict
    bounds = [f"≥ {v.least:g}" if v.least is not None else "", f"≤ {v.most:g}" if v.most is not None else ""]
    says = {True: "met", False: "**not met**", None: "" if v.values else "not measured"}[v.met]
    value = spread(v.values) + v.unit if v.values else "–"
    return v.target, value, " and ".join(b for b in bounds if b) or "–", says + (f" ({v.spoilt})" if v.spoilt else "")


def _verdict_table(found: list[Verdict]) -> Iterator[str]:
    yield "## Targets\n"
    yield from table(("target", "measured", "wanted", "verdict"), map(line, found))


def _case(m: Measured) -> Iterator[str]:
    yield f"## {m.case.name}\n"
    yield f"{m.case.objects} objects on each image; load {m.load}. {agreement_in_words(m)}\n"
    reference = m.best("torchvision", "fp32") or next(iter(m.runs), None)
    if reference is not None:
        rows = [_contender(m, name, reference) for name in m.runs]
        head = ("", "seconds", f"speed against {reference}", "÷ floor", "of the machine's best rate", "peak MiB")
        yield from table(head, rows)
    for name, why in m.skipped.items():
        yield f"{name}: {why}\n"


def _contender(m: Measured, name: str, reference: str) -> tuple[str, ...]:
    runs, own = m.runs[name], m.seconds(name)
    floor = [over_floor(run) for run in runs if run["floor"]]
    rate = [run["flops"] / s / run["rate"] for run, s in zip(runs, own, strict=True) if "flops" in run]
    return (
        name,
        f"{median(own):.3f} ({min(own):.3f}–{max(own):.3f})",
        spread(ratios(m.seconds(reference), own)) + "×",
        f"{spread(floor)} ({runs[0]['layout']})" if floor else "",
        f"{median(rate):.0%}" if rate else "",
        f"{median(run['peak'] for run in runs):.0f}",
    )


def agreement_in_words(m: Measured) -> str:
    """What was compared before anything was timed."""
    a = m.agreement
    if a is None:
        return "No other has this detector, so outputs were not compared."
    if "error" in a:
        return f"**Outputs could not be compared: {a['error']}**"
    if m.case.task == "train":
        return _losses_in_words(a)
    given = a["proposals"]
    proposals = f"Proposals: {given['ours']} here, {given['theirs']} there. " if given else ""
    near = ", ".join(f"{name} {count}" for name, count in a["near"].items())
    return (
        f"{'' if a['same'] else '**Detections differ.** '}{proposals}Of torchvision's {a['theirs']} detections (fp32) "
        f"{a['matched']} are found here within 0.1 pixels and 0.001 of score (at most {a['pixels']:.0e} and "
        f"{a['score']:.0e} apart), {a['ours']} in all. Within 8 pixels and 0.1: {near}."
    )


def _losses_in_words(a: dict[str, Any]) -> str:
    sides = []
    for name in ("ours", "torchvision"):
        losses = ", ".join(f"{key} {value:.5f}" for key, value in a[name]["losses"].items())
        sides.append(f"{name}: {losses}, gradient {a[name]['gradient']:.5g}, {a[name]['trained']:,} numbers trained")
    return (
        f"{'' if a['same'] else '**Losses differ.** '}Losses of one image with every candidate as a sample – "
        f"{'; '.join(sides)}. Their sums differ by {a['differ']['total']:.1e}, gradients by "
        f"{a['differ']['gradient']:.1e}."
    )


def _growth(growth: dict[str, Any]) -> Iterator[str]:
    yield "## Growth\n"
    yield f"{growth['case']}, {growth['precision']}: seconds of a training step for each image.\n"
    for what, of in (("batch", "images in a batch, 8 objects on each"), ("objects", "objects on each of 2 images")):
        first = next(iter(growth[what].values()))
        rows = [
            (number, f"{median(seconds):.3f}", spread(ratios(seconds, first)) + "×")
            for number, seconds in growth[what].items()
        ]
        yield from table((of, "seconds", "÷ the first"), rows)


def _operations(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Operations\n"
    flat = []
    for row in rows:
        first = next(iter(row["seconds"].values()))
        for who, seconds in row["seconds"].items():
            ratio = spread(ratios(seconds, first)) + "×"
            flat.append((row["name"], who, f"{1000 * median(seconds):.2f}", ratio, "yes" if row["same"] else "**no**"))
    yield from table(("", "who", "ms", "÷ the first", "same results"), flat)


def _evaluation(e: dict[str, Any]) -> Iterator[str]:
    yield "## Evaluation\n"
    seconds = ", ".join(f"{who} {median(s):.2f} s" for who, s in e["seconds"].items())
    ratio = spread(ratios(e["seconds"]["pycocotools"], e["seconds"]["ours"]))
    yield (
        f"{e['detections']:,} detections on {e['images']:,} images, AP {e['AP']:.4f}: {seconds}, {ratio}×; "
        f"the twelve numbers differ by {e['differ']:.0e} at most.\n"
    )

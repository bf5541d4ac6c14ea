"""Does the verdict come true: what the report says of a baseline, beside what each switch then brings."""

from collections import Counter
from typing import Any

from libradet.experiments.comparing import heading, measured, reproduce_table
from libradet.experiments.definitions import read_experiment
from libradet.experiments.laboratory import Laboratory, Site
from libradet.experiments.looking import baselines, look_at
from libradet.experiments.runs import Run
from libradet.experiments.tables import Lines, gain_cell, gain_of, to_markdown
from libradet.utils.atomic_io import atomic_write

VERDICT = "verdict"

SWITCHES = {
    "IoU-balanced sampling": ("negatives_roi", "positives_roi"),
    "balanced feature pyramid": ("pyramid",),
    "balanced L1": ("regression_roi",),
}
"""Rows of ``switches``, and the findings of the report that recommend them."""

HEADS = ["switch", "found before, by seed", "what it rests on (mean)", "gain in AP (95 %)", "in AR100 (95 %)"]


def reproduce_verdict(laboratory: Laboratory) -> list[Lines]:
    """Train what is missing of ``switches``, look at the baselines, and write ``verdict.md``."""
    reproduce_table(laboratory, read_experiment("switches"))
    found = baselines(laboratory)
    tables = []
    for site in laboratory.sites:
        own = {seed: run for (where, seed), run in found.items() if where is site}
        reports = [look_at(laboratory, site, run)[0] for run in own.values()]
        tables.append(_of_site(laboratory, site, reports, own))
    parts = [heading(laboratory, "Does the verdict come true?"), *map(to_markdown, tables)]
    with atomic_write(laboratory.out / f"{VERDICT}.md") as partial:
        partial.write_text("\n".join(parts), encoding="utf-8")
    return tables


def _of_site(laboratory: Laboratory, site: Site, reports: list[dict[str, Any]], own: dict[int, Run]) -> Lines:
    gains = _gains(laboratory, site)
    cells = [
        [switch, *_said(reports, keys), *gains.get(switch, ["–", "–"])] for switch, keys in SWITCHES.items() if reports
    ]
    note = f"Reports on baselines of {len(own)} seeds; each switch alone, the same budget, paired by seed."
    return Lines(f"The verdict on {site.name}, and what came of it", HEADS, cells, [note])


def _said(reports: list[dict[str, Any]], keys: tuple[str, ...]) -> list[str]:
    words, numbers = [], []
    for key in keys:
        findings = [f for report in reports for f in report["verdict"]["findings"] if f["key"] == key]
        if findings:
            counted = Counter(f["word"] for f in findings).most_common()
            words.append(f"{findings[0]['title']}: " + ", ".join(f"{word} ({n})" for word, n in counted))
            values = [
                f["numbers"][0]["value"] for f in findings if f["numbers"] and f["numbers"][0]["value"] is not None
            ]
            if values:
                label = findings[0]["numbers"][0]["label"]
                numbers.append(f"{sum(values) / len(values):.2f} {label}")
    return ["; ".join(words) or "–", "; ".join(numbers) or "–"]


def _gains(laboratory: Laboratory, site: Site) -> dict[str, list[str]]:
    experiment = read_experiment("switches")
    results = {
        (site.name, row.name, seed): result
        for row in laboratory.rows(experiment)
        for seed in laboratory.seeds
        if (result := laboratory.run(site, row, seed, experiment.shared_proposals).result) is not None
    }
    known = {row.name: measured(laboratory, row, results, [site]) for row in laboratory.rows(experiment)}
    return {
        name: [gain_cell(gain_of(row, known, "AP")), gain_cell(gain_of(row, known, "AR100"))]
        for name, row in known.items()
    }

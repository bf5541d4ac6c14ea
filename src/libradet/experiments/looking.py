"""The baseline looked at: its imbalance report, made once for each dataset and seed."""

import json
from pathlib import Path
from typing import Any

from libradet.experiments.comparing import propose
from libradet.experiments.definitions import Row
from libradet.experiments.laboratory import Laboratory, Site, carry_out
from libradet.experiments.runs import BEST, Run

BASELINE = Row("baseline", "fast_rcnn", {}, None, {})
"""The paper's ablations begin with it: the second stage on given proposals, nothing balanced."""


def baselines(laboratory: Laboratory) -> dict[tuple[Site, int], Run]:
    """The baseline of every dataset and seed, trained; those that failed are left out."""
    propose(laboratory)
    asked = [(site, seed) for seed in laboratory.seeds for site in laboratory.sites]
    runs = [laboratory.run(site, BASELINE, seed, shared=True) for site, seed in asked]
    done = carry_out(laboratory, runs, [f"{site.name}, {BASELINE.name}, seed {seed}" for site, seed in asked])
    return {asked[i]: runs[i] for i, result in sorted(done, key=lambda found: found[0]) if "metrics" in result}


def look_at(laboratory: Laboratory, site: Site, run: Run) -> tuple[dict[str, Any], Path]:
    """The imbalance report of a trained baseline on its validation images, and its folder."""
    from libradet.analysis.analyze import NUMBERS, analyze
    from libradet.interop.loading import load_any

    folder = run.folder / "report"
    if not (folder / NUMBERS).exists():
        laboratory.say(f"{site.name}: looking at {run.folder.name}")
        analyze(load_any(run.folder / BEST), site.data, folder, proposals=laboratory.proposing(site).proposals)
    return json.loads((folder / NUMBERS).read_text(encoding="utf-8")), folder


def second_stage(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Of parts of a report, one for each stage, that of the second stage."""
    return next(part for part in parts if part["stage"] == "roi")

"""Tables: all rows, seeds and datasets are trained, measured, compared and written, after every run anew."""

import os
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from libradet.experiments.definitions import Experiment, Row
from libradet.experiments.laboratory import Laboratory, Site, carry_out, check_runs
from libradet.experiments.tables import Lines, Measured, gain_cell, gain_of, tabulate, to_markdown
from libradet.utils.atomic_io import atomic_write, write_json

Found = dict[tuple[str, str, int], dict[str, Any]]
"""Results by dataset, row and seed."""


def reproduce_table(laboratory: Laboratory, experiment: Experiment) -> list[Lines]:
    """Train what is missing, and write ``NAME.md`` and ``NAME.json`` into the laboratory's folder.

    Returns:
        a table for each dataset, and one of gains over all of them where there are several.
    """
    rows = laboratory.rows(experiment)
    asked = list(product(laboratory.seeds, laboratory.sites, rows))
    runs = [laboratory.run(site, row, seed, experiment.shared_proposals) for seed, site, row in asked]
    check_runs(runs)
    if experiment.shared_proposals:
        propose(laboratory)
    names = [f"{site.name}, {row.name}, seed {seed}" for seed, site, row in asked]
    found: Found = {}
    for i, result in carry_out(laboratory, runs, names):
        seed, site, row = asked[i]
        found[site.name, row.name, seed] = result
        write(laboratory, experiment, found)
    return write(laboratory, experiment, found)


def propose(laboratory: Laboratory) -> None:
    """Have the proposals made that rows share."""
    runs = [laboratory.proposing(site) for site in laboratory.sites]
    names = [f"{site.name}, RPN whose proposals all rows are given" for site in laboratory.sites]
    for _ in carry_out(laboratory, runs, names):
        pass


def write(laboratory: Laboratory, experiment: Experiment, found: Found) -> list[Lines]:
    """What is known so far."""
    tables = [_of_site(laboratory, experiment, found, site) for site in laboratory.sites]
    if len(laboratory.sites) > 1:
        tables.append(_of_all(laboratory, experiment, found))
    parts = [heading(laboratory, experiment.title), *(to_markdown(lines) for lines in tables)]
    laboratory.out.mkdir(parents=True, exist_ok=True)
    with atomic_write(laboratory.out / f"{experiment.name}.md") as partial:
        partial.write_text("\n".join(parts), encoding="utf-8")
    write_json(laboratory.out / f"{experiment.name}.json", _numbers(laboratory, experiment, found), indent=1)
    return tables


def heading(laboratory: Laboratory, title: str) -> str:
    """How a result came about."""
    preset = laboratory.preset
    now = datetime.now(UTC).strftime("%Y-%m-%d")
    versions = ", ".join(f"{name} {version(name)}" for name in ("libradet", "torch", "torchvision", "timm"))
    sets = "; ".join(f"{site.name}: {site.images} images, {_start(site)}" for site in laboratory.sites)
    changes = ", ".join(f"{key} = {value}" for key, value in laboratory.overrides.items())
    seeds = ", ".join(map(str, laboratory.seeds))
    lines = [
        f"# {title}",
        f"{now}, {versions}, {os.cpu_count()} cores. Seeds {seeds}. {sets}.",
        f"```\n{command()}\n```",
        f"Preset `{preset.name}`: {preset.title}. What differs from the paper: {preset.differs}."
        + (f" Changed for all rows: {changes}." if changes else ""),
    ]
    return "\n\n".join(lines) + "\n"


def command() -> str:
    """The command line as it was given."""
    return shlex.join(["libradet", *sys.argv[1:]])


def _start(site: Site) -> str:
    return f"backbones from {Path(site.weights).name}" if site.weights else "from random weights"


def measured(laboratory: Laboratory, row: Row, found: Found, sites: Sequence[Site]) -> Measured:
    """A row on some of the datasets."""
    metrics, failures = {}, {}
    for site, seed in product(sites, laboratory.seeds):
        result = found.get((site.name, row.name, seed))
        if result is not None and "metrics" in result:
            metrics[site.name, seed] = result["metrics"]
        elif result is not None:
            failures[site.name, seed] = result["failure"].splitlines()[0]
    return Measured(row, metrics, failures)


def _of_site(laboratory: Laboratory, experiment: Experiment, found: Found, site: Site) -> Lines:
    known = [measured(laboratory, row, found, [site]) for row in laboratory.rows(experiment)]
    return tabulate(experiment, known, f"{experiment.title}, on {site.name}", _notes(laboratory, experiment))


def _notes(laboratory: Laboratory, experiment: Experiment) -> list[str]:
    left = [row.name for row in experiment.rows if not laboratory.preset.has(row)]
    notes = ["Hundredths: mean ± standard deviation over seeds, in brackets the paper's"]
    notes[0] += f" ({experiment.source})." if experiment.source else "."
    notes.append("Gains are paired by seed, over the row that the paper compares with.")
    return notes + ([f"Left out, which the preset has no backbone for: {'; '.join(left)}."] if left else [])


def _of_all(laboratory: Laboratory, experiment: Experiment, found: Found) -> Lines:
    known = [measured(laboratory, row, found, laboratory.sites) for row in laboratory.rows(experiment)]
    by_name = {m.row.name: m for m in known}
    cells = []
    for one in known:
        if one.row.against is not None:
            gains = [gain_cell(gain_of(one, by_name, name)) for name in experiment.measures]
            cells.append([one.row.name, str(len(one.metrics)), *gains])
    title = f"{experiment.title}: gains over all {len(laboratory.sites)} datasets"
    notes = ["Hundredths, with 95 % intervals; paired by dataset and seed."]
    return Lines(title, ["", "runs", *experiment.measures], cells, notes)


def _numbers(laboratory: Laboratory, experiment: Experiment, found: Found) -> dict[str, Any]:
    rows = laboratory.rows(experiment)
    return {
        "title": experiment.title,
        "command": command(),
        "preset": laboratory.preset.name,
        "seeds": laboratory.seeds,
        "rows": [
            {
                "name": row.name,
                "model": row.model,
                "set": row.settings,
                "against": row.against,
                "paper": row.paper,
                "results": {
                    site.name: {seed: _short(found.get((site.name, row.name, seed))) for seed in laboratory.seeds}
                    for site in laboratory.sites
                },
            }
            for row in rows
        ],
    }


def _short(result: dict[str, Any] | None) -> dict[str, Any] | None:
    if result is None or "failure" in result:
        return result and {"failure": result["failure"], "seconds": result["seconds"]}
    numbers = {k: v for k, v in result["metrics"].items() if k.startswith(("AP", "AR"))}
    return numbers | {"seconds": result["seconds"]}

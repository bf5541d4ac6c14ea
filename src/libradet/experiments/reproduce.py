"""From the name of a table, a figure or the claims to what is printed."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console, RenderableType

from libradet.errors import UserError
from libradet.experiments.claims import CLAIMS, reproduce_claims
from libradet.experiments.comparing import reproduce_table
from libradet.experiments.definitions import read_experiment
from libradet.experiments.figures import FIGURES, reproduce_figure
from libradet.experiments.foretold import VERDICT, reproduce_verdict
from libradet.experiments.laboratory import Laboratory, make_sites
from libradet.experiments.presets import Preset, read_preset
from libradet.experiments.tables import to_rich
from libradet.utils.atomic_io import require_exists


@dataclass(frozen=True)
class Options:
    """How to reproduce.

    Attributes:
        data: folders of datasets.
        preset: name or file.
        weights: where backbones start; None leaves it to the preset.
        seeds: one run of each row for each.
        out: folder for results and runs; what is finished there is not done again.
        jobs: runs at a time; None goes by cores and preset.
        changes: ``KEY=VALUE`` of ``libradet train``, for all rows.
    """

    data: tuple[Path, ...]
    preset: str = "small"
    weights: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    out: Path = Path("runs/reproduce")
    jobs: int | None = None
    changes: tuple[str, ...] = ()


def reproduce(what: str, options: Options, console: Console) -> Iterator[RenderableType]:
    """Train and measure what is missing, and give what is to be printed.

    Args:
        what: table1 ... table6, libra, switches, bins, recipes, figure3, figure5, figure6, claims, verdict, or a file.

    Raises:
        UserError: unknown names, settings that ``libradet train`` refuses, data that cannot be trained on.
    """
    preset = read_preset(options.preset)
    experiment = None if what in (*FIGURES, CLAIMS, VERDICT) else read_experiment(what)
    laboratory = _laboratory(options, preset, console)
    if what in FIGURES:
        tables = reproduce_figure(laboratory, what)
    elif what == CLAIMS:
        tables = reproduce_claims(laboratory)
    elif what == VERDICT:
        tables = reproduce_verdict(laboratory)
    else:
        assert experiment is not None
        tables = reproduce_table(laboratory, experiment)
    yield from map(to_rich, tables)
    name = what if experiment is None else experiment.name
    yield f"{options.out / name}.md"


def _laboratory(options: Options, preset: Preset, console: Console) -> Laboratory:
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs is {options.jobs}; it has to be 1 or above")
    if len(set(options.seeds)) < len(options.seeds) or min(options.seeds) < 0:
        raise UserError(f"--seeds are {' '.join(map(str, options.seeds))}; each has to be another number from 0 on")
    if options.weights not in (None, "none", "imagenet"):
        require_exists(options.weights)
    sites = make_sites(options.data, preset, options.weights)
    for site in sites:
        console.print(f"{site.data}: {site.images} images, backbones from {site.weights or 'random weights'}")
    jobs = options.jobs or (1 if preset.threads is None else max(1, (os.cpu_count() or 1) // preset.threads))
    changes = dict(_change(text) for text in options.changes)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    return Laboratory(preset, sites, tuple(options.seeds), options.out, jobs, changes, say)


def _change(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise UserError(f"--set {text}: expected KEY=VALUE, such as epochs=3")
    return key, yaml.safe_load(value)

"""Entry point of ``libradet reproduce``: from the name of an experiment to the tables to print."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console, RenderableType

from libradet.errors import UserError
from libradet.experiments.ablation import reproduce_table
from libradet.experiments.baseline_reports import FIGURES, reproduce_figure
from libradet.experiments.claims import CLAIMS, reproduce_claims
from libradet.experiments.definitions import IMAGENET, Preset, list_names, read_experiment, read_preset
from libradet.experiments.runner import ExperimentRunner, make_dataset_entries
from libradet.experiments.verdict_check import VERDICT, reproduce_verdict
from libradet.experiments.yaml_checks import check_row_settings
from libradet.interop.coco_weights import BEST, require_weights
from libradet.training.options import check_settings
from libradet.utils.ranges import MAX_SEED
from libradet.utils.text import counted, suggest


@dataclass(frozen=True)
class ReproduceOptions:
    """Options of ``libradet reproduce``.

    Attributes:
        data: dataset folders.
        preset: name or path.
        weights: initialization of backbones: a path, ``imagenet`` or ``none``; None leaves it to the preset.
        seeds: one run of each row per seed.
        output_dir: folder of results and runs; runs that are finished there are not repeated.
        jobs: number of concurrent runs; None chooses it from cores and preset.
        overrides: ``KEY=VALUE`` settings of ``libradet train`` for all rows.
    """

    data: tuple[Path, ...]
    preset: str = "small"
    weights: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    output_dir: Path = Path("runs/reproduce")
    jobs: int | None = None
    overrides: tuple[str, ...] = ()


def reproduce(name: str, options: ReproduceOptions, console: Console) -> Iterator[RenderableType]:
    """Train and evaluate what is missing, and yield what is to be printed.

    Args:
        name: table1 to table6, libra, components, sampler_bins, samplers, background, switches, balanced, classes,
            finetune, initialization, recipes, figure3, figure5, figure6, claims, verdict, or the path of a YAML file.

    Raises:
        UserError: unknown names, settings that ``libradet train`` rejects, or datasets that cannot be trained on.
    """
    _check_name(name)
    preset = read_preset(options.preset)
    if name in FIGURES:
        tables = reproduce_figure(_make_runner(options, preset, console), name)
    elif name == CLAIMS:
        tables = reproduce_claims(_make_runner(options, preset, console))
    elif name == VERDICT:
        tables = reproduce_verdict(_make_runner(options, preset, console))
    else:
        experiment = read_experiment(name)
        tables = reproduce_table(_make_runner(options, preset, console), experiment)
        name = experiment.name
    yield from (table.to_rich() for table in tables)
    yield f"{options.output_dir / name}.md"


def _check_name(name: str) -> None:
    known = [*list_names(), *FIGURES, CLAIMS, VERDICT]
    if name in known or name.endswith((".yaml", ".yml")):
        return
    similar = suggest(name, known)
    # Another number is no misspelling: table9 does not mean table6.
    is_misspelled = similar is not None and similar.strip("0123456789") != name.strip("0123456789")
    hint = f"did you mean {similar}?" if is_misspelled else f"choose from {', '.join(known)}, or name a .yaml file"
    raise UserError(f"there is no experiment {name}; {hint}")


def _make_runner(options: ReproduceOptions, preset: Preset, console: Console) -> ExperimentRunner:
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs is {options.jobs}; it must be at least 1")
    if len(set(options.seeds)) < len(options.seeds) or not all(0 <= seed <= MAX_SEED for seed in options.seeds):
        raise UserError(f"--seeds are {' '.join(map(str, options.seeds))}; they must be different, 0 to {MAX_SEED}")
    if options.output_dir.exists() and not options.output_dir.is_dir():
        raise UserError(f"--output_dir {options.output_dir}: it is a file; name a folder")
    weights = preset.weights if options.weights is None else options.weights
    is_searched = options.weights is None and weights == "file"
    if weights not in ("none", IMAGENET, BEST) and not is_searched:
        require_weights(weights)
    overrides = dict(_parse_override(text) for text in options.overrides)
    check_row_settings(overrides, "--set")
    check_settings(overrides)
    datasets = make_dataset_entries(options.data, preset, options.weights)
    for dataset in datasets:
        initialization = dataset.weights or "random weights"
        console.print(
            f"{dataset.data}: {counted(dataset.num_images, 'image')}, backbones initialized from {initialization}"
        )

    def log(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    jobs = options.jobs or _default_jobs(preset)
    return ExperimentRunner(preset, datasets, tuple(options.seeds), options.output_dir, jobs, overrides, log)


def _default_jobs(preset: Preset) -> int:
    if preset.threads is None:
        return 1
    return max(1, (os.cpu_count() or 1) // preset.threads)


def _parse_override(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise UserError(f"--set {text}: expected KEY=VALUE, such as max_epochs=3")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as e:
        raise UserError(f"--set {text}: the value is not valid YAML ({' '.join(str(e).split())[:300]})") from e

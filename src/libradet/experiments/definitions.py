"""Experiments and presets, read from YAML: rows of settings to compare, and the scale at which they are trained."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from libradet.errors import UserError
from libradet.experiments.yaml_checks import (
    check_keys,
    check_metrics,
    check_row_names,
    check_row_settings,
    check_types,
    require,
)
from libradet.models.zoo import MODELS
from libradet.training.config import TrainConfig
from libradet.utils.field_types import check_type
from libradet.utils.text import suggest

FOLDER = Path(__file__).parent
IMAGENET = "imagenet"
SHARED_PROPOSALS = "shared"

_EXPERIMENT_KEYS = ("title", "source", "metrics", "deltas", "model", "proposals", "rows")
_ROW_KEYS = ("name", "model", "backbone", "schedule", "baseline", "set", "paper")
_PRESET_SECTIONS = ("settings", "rpn", "roi", "retinanet", "proposals")
_EXPERIMENT_TYPES = {"title": str, "source": str, "metrics": list[str], "deltas": list[str], "model": str, "rows": list}
_ROW_TYPES = {"name": str, "model": str, "backbone": str, "schedule": str, "baseline": str | None}
_ROW_TYPES |= {"set": dict | None, "paper": list[float] | None}
_PRESET_TYPES = {"title": str, "deviations": str, "threads": int | None, "backbones": dict[str, str], "schedules": dict}
_PRESET_KEYS = ("base", "title", "deviations", "weights", "threads", "backbones", "schedules", *_PRESET_SECTIONS)


@dataclass(frozen=True)
class AblationRow:
    """One row of a table.

    Attributes:
        model: name in the zoo.
        settings: of ``libradet train`` by dotted key; they override those of the preset.
        baseline: name of the row that deltas are computed against; None for a row that is a baseline itself.
        paper: the paper's values in percent, by metric; empty if the paper has no such row.
        backbone, schedule: keys of the preset's ``backbones`` and ``schedules``.
    """

    name: str
    model: str
    settings: dict[str, Any]
    baseline: str | None
    paper: dict[str, float]
    backbone: str = "resnet50"
    schedule: str = "1x"


@dataclass(frozen=True)
class Experiment:
    """A table.

    Attributes:
        source: origin of the paper's values.
        metrics: names in :data:`libradet.evaluation.coco.Metrics`; ``AP@2`` is AP in the second validation of a run;
            APr, APc and APf: see :func:`libradet.experiments.row_results.metrics_by_frequency`.
        deltas: those of them whose differences from the baseline are listed.
        shared_proposals: whether all rows train on the proposals of one RPN.
    """

    name: str
    title: str
    source: str
    metrics: tuple[str, ...]
    deltas: tuple[str, ...]
    rows: tuple[AblationRow, ...]
    shared_proposals: bool

    def row(self, name: str) -> AblationRow:
        """Return the row with this name."""
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True)
class Preset:
    """Scale of an experiment: backbones, image size and schedule.

    Attributes:
        deviations: differences from the paper's protocol, as a phrase.
        weights: initialization of backbones: ``imagenet``, ``none``, the path of a file, or ``file`` to search near the
            data for one.
        threads: CPU threads of each training process; None leaves them to torch.
        sections: settings of ``libradet train`` by dotted key. ``settings`` applies to every run; ``rpn``, ``roi`` and
            ``retinanet`` to detectors with such a part; ``proposals`` to the RPN whose proposals are shared.
        backbones: timm names by the names that tables use; rows with other backbones are omitted.
        schedules: settings by the names that tables use; ``images`` (number of training images in total) in place of
            ``max_epochs`` is converted to epochs.
    """

    name: str
    title: str
    deviations: str
    weights: str
    threads: int | None
    sections: dict[str, dict[str, Any]]
    backbones: dict[str, str]
    schedules: dict[str, dict[str, Any]]

    def supports(self, row: AblationRow) -> bool:
        """Return whether the preset has the row's backbone and schedule."""
        return row.backbone in self.backbones and row.schedule in self.schedules


def list_names(folder: str = "tables") -> list[str]:
    """Return the names of the packaged experiments, or with ``"presets"`` of the presets."""
    return sorted(path.stem for path in (FOLDER / folder).glob("*.yaml"))


def read_experiment(name: str) -> Experiment:
    """Read a packaged experiment by name, or one from a YAML file by path.

    Raises:
        UserError: there is none, or an entry is invalid.
    """
    path, tree = _read_yaml(name, "table", "tables")
    check_keys(tree, _EXPERIMENT_KEYS, str(path))
    require(tree, ("title", "metrics", "rows"), path)
    check_types(tree, _EXPERIMENT_TYPES, path)
    proposals = tree.get("proposals")
    if proposals not in (None, SHARED_PROPOSALS):
        raise UserError(f"{path}: proposals is {proposals!r}; it can only be {SHARED_PROPOSALS!r}, or left out")
    metrics = tuple(tree["metrics"])
    check_metrics(metrics, path)
    rows = [_parse_row(entry, tree, metrics, f"{path}, row {i + 1}") for i, entry in enumerate(tree["rows"])]
    check_row_names([row.name for row in rows], path)
    rows = [_with_baseline(row, rows, str(path)) for row in rows]
    shared = proposals == SHARED_PROPOSALS
    deltas = tuple(tree.get("deltas", metrics[:1]))
    if unknown := [name for name in deltas if name not in metrics]:
        raise UserError(f"{path}: deltas has {', '.join(unknown)}, which metrics has not; add it there")
    return Experiment(path.stem, tree["title"], tree.get("source", ""), metrics, deltas, tuple(rows), shared)


def read_preset(name: str) -> Preset:
    """Read a packaged preset by name, or one from a YAML file by path.

    Keys that a preset with ``base`` (a name, or a file relative to its own) leaves out are those of that preset, and so
    are settings that ``settings``, ``rpn``, ``roi``, ``retinanet`` and ``proposals`` leave out.

    Raises:
        UserError: there is none, a key is missing or unknown, or a preset is based on itself.
    """
    path, tree = _read_preset_tree(name, ())
    require(tree, ("title", "backbones", "schedules"), path)
    _check_preset(tree, path)
    return Preset(
        name=path.stem,
        title=tree["title"],
        deviations=tree.get("deviations", ""),
        weights=str(tree.get("weights") or "none") if "weights" in tree else IMAGENET,
        threads=tree.get("threads"),
        sections={key: dict(tree.get(key) or {}) for key in _PRESET_SECTIONS},
        backbones=tree["backbones"],
        schedules=tree["schedules"],
    )


def _check_preset(tree: dict[str, Any], path: Path) -> None:
    check_types(tree, _PRESET_TYPES, path)
    for name, backbone in tree["backbones"].items():
        check_type(f"{path}: backbones, {name}", backbone, str)
    for name, schedule in tree["schedules"].items():
        check_type(f"{path}: schedules, {name}", schedule, dict)
        check_types(schedule, {"images": int, "max_epochs": int}, f"{path}: schedules, {name}")
    for section in _PRESET_SECTIONS:
        check_type(f"{path}: {section}", tree.get(section), dict | None)
        check_row_settings(tree.get(section) or {}, f"{path}: {section}")


def _read_preset_tree(name: str, derived: tuple[Path, ...]) -> tuple[Path, dict[str, Any]]:
    """Return path and keys of a preset with those of its base; ``derived`` are the presets that are based on it."""
    path, tree = _read_yaml(name, "preset", "presets")
    check_keys(tree, _PRESET_KEYS, str(path))
    if path.resolve() in derived:
        raise UserError(f"{path}: base: this preset is based on itself; remove base in one of its files")
    if (base := tree.pop("base", None)) is None:
        return path, tree
    is_file = str(base).endswith((".yaml", ".yml"))
    _, inherited = _read_preset_tree(str(path.parent / base) if is_file else str(base), (*derived, path.resolve()))
    own = {key: value for key in _PRESET_SECTIONS if isinstance(value := tree.get(key), dict)}
    changes = [key for key in tree if key not in ("title", "deviations")]
    if changes and "deviations" not in tree:
        base_deviations = inherited.get("deviations")
        start = f"{base_deviations}; " if base_deviations else ""
        inherited["deviations"] = f"{start}{path.name} changes {', '.join(changes)} of {base}"
    return path, inherited | tree | {key: (inherited.get(key) or {}) | value for key, value in own.items()}


def row_settings(
    preset: Preset, row: AblationRow, num_images: int, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return all settings of a row, by dotted key of ``libradet train``.

    Args:
        num_images: number of images in the training split.
        overrides: settings of all rows, which precede those of the preset and of the row.

    Raises:
        UserError: the preset has no such backbone or schedule.
    """
    if not preset.supports(row):
        raise UserError(
            f"preset {preset.name}: {row.name} needs the backbone {row.backbone} and the schedule {row.schedule}; "
            "add them to backbones and schedules"
        )
    config = MODELS[row.model]()
    parts = [part for part in ("rpn", "roi", "retinanet") if getattr(config, part) is not None]
    settings: dict[str, Any] = {"model": row.model, "backbone": preset.backbones[row.backbone]}
    for section in ("settings", *parts):
        settings |= preset.sections[section]
    own = _expand(row.settings, settings) | dict(overrides or {})
    settings |= _schedule_settings(preset, row.schedule, num_images) | own
    # Only the last epoch is evaluated: the best of several evaluations would favor noisy rows.
    settings["check_val_every_n_epoch"] = own.get("check_val_every_n_epoch", settings["max_epochs"])
    if settings.get("repeat_factor_thresh") and settings.get("max_steps") is None:
        if settings.get("tiles"):
            raise UserError(
                f"{row.name}: repeats images, whose tiles are not counted before training, so that its steps could "
                "differ from those of other rows; add max_steps to all rows, such as --set max_steps=1000"
            )
        settings["max_steps"] = _steps_without_repeats(settings, num_images)
        epochs = settings["max_epochs"]
        if settings.get("lr_milestones") == [epochs * 2 / 3, epochs * 11 / 12]:
            # Of the steps, as by default: epochs are longer than those without repeated images.
            settings["lr_milestones"] = None
    return settings


def _expand(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which a mapping is one entry per field where ``others`` have its fields: it precedes them."""
    expanded: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and any(other.startswith(f"{key}.") for other in others):
            expanded |= _expand({f"{key}.{field}": own for field, own in value.items()}, others)
        else:
            expanded[key] = value
    return expanded


def proposal_settings(preset: Preset, num_images: int, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of the RPN whose proposals are shared; see :func:`row_settings`."""
    rpn = AblationRow("the RPN for shared proposals", "rpn", preset.sections["proposals"], baseline=None, paper={})
    return row_settings(preset, rpn, num_images, overrides)


def resolve_backbone_weights(preset: Preset, requested: str | None, data: Path) -> str | None:
    """Return the initialization of backbones: a path, ``imagenet``, or None for random weights.

    Args:
        requested: value of ``--weights``; None leaves the choice to the preset. A preset with ``weights: file`` uses
            ``weights/BACKBONE*.safetensors`` in the dataset's folder or one of the two above it, if there is one.
    """
    weights = preset.weights if requested is None else requested
    if requested is None and weights == "file":
        backbone = next(iter(preset.backbones.values()))
        folders = [folder / "weights" for folder in (data.resolve(), *data.resolve().parents[:2])]
        files = [path for folder in folders for path in sorted(folder.glob(f"{backbone}*.safetensors"))]
        return str(files[0]) if files else IMAGENET
    return None if weights == "none" else weights


def nest(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings by dotted key as the nested mapping of a configuration file."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = key.split(".")
        branch = tree
        for name in path:
            branch = branch.setdefault(name, {})
        branch[last] = deepcopy(value)
    return tree


def _schedule_settings(preset: Preset, name: str, num_images: int) -> dict[str, Any]:
    settings = dict(preset.schedules[name])
    if total_images := settings.pop("images", None):
        settings["max_epochs"] = max(1, round(total_images / max(1, num_images)))
    if "max_epochs" not in settings:
        raise UserError(f"preset {preset.name}: the schedule {name} has neither images nor max_epochs; add one")
    return settings


def _steps_without_repeats(settings: dict[str, Any], num_images: int) -> int:
    """Return the steps of the same run without repeated images: both train on equally many."""
    batch_size = settings.get("batch_size", TrainConfig.batch_size)
    joint_batch = batch_size * settings.get("devices", 1) * settings.get("num_nodes", 1)
    batches = ceil(num_images / joint_batch)
    return settings["max_epochs"] * ceil(batches / settings.get("accumulate_grad_batches", 1))


def _read_yaml(name: str, kind: str, folder: str) -> tuple[Path, dict[str, Any]]:
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / folder / f"{name}.yaml"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = list_names(folder)
        similar = suggest(name, known)
        hint = f"did you mean {similar}?" if similar else f"choose from {', '.join(known)}, or name a .yaml file"
        raise UserError(f"there is no {kind} {name}; {hint}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise UserError(f"{path}: cannot be read ({' '.join(str(e).split())})") from e
    if not isinstance(tree, dict):
        raise UserError(f"{path}: has no keys; expected lines such as 'title: ...'")
    return path, tree


def _parse_row(entry: Any, tree: dict[str, Any], metrics: tuple[str, ...], where: str) -> AblationRow:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected keys such as 'name: ...'")
    check_keys(entry, _ROW_KEYS, where)
    check_types(entry, _ROW_TYPES, where)
    check_row_settings(entry.get("set") or {}, where)
    model = entry.get("model", tree.get("model"))
    if not entry.get("name"):
        raise UserError(f"{where}: name is missing")
    if model not in MODELS:
        raise UserError(f"{where}: there is no model {model!r}; choose from {', '.join(MODELS)}")
    values = entry.get("paper") or []
    if values and len(values) != len(metrics):
        raise UserError(f"{where}: paper has {len(values)} values for {len(metrics)} metrics; list one per metric")
    optional = {key: entry[key] for key in ("backbone", "schedule") if key in entry}
    paper = dict(zip(metrics, values, strict=False))
    return AblationRow(entry["name"], model, dict(entry.get("set") or {}), entry.get("baseline"), paper, **optional)


def _with_baseline(row: AblationRow, rows: list[AblationRow], where: str) -> AblationRow:
    """Make the first row the baseline of rows without one that have its model, backbone and schedule."""
    if row.baseline is not None and row.baseline not in [other.name for other in rows]:
        raise UserError(f"{where}: baseline {row.baseline!r} of row {row.name!r} is not a row of this table")
    first = rows[0]
    comparable = (row.model, row.backbone, row.schedule) == (first.model, first.backbone, first.schedule)
    if row.baseline is None and row is not first and comparable:
        return replace(row, baseline=first.name)
    return row

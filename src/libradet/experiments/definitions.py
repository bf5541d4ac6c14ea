"""What is compared: rows of settings, read from a file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from libradet.errors import UserError
from libradet.models.zoo import MODELS

FOLDER = Path(__file__).parent
PROPOSALS = "shared"

_KEYS = ("title", "source", "measures", "model", "proposals", "rows")
_ROW_KEYS = ("name", "model", "backbone", "schedule", "against", "set", "paper")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        model: name in the zoo.
        settings: of ``libradet train`` by dotted key, beside those of the preset.
        against: the row that its differences are measured to; None for a row that is such a one itself.
        paper: the paper's numbers, in hundredths, by measure; empty if it has no such row.
        backbone, schedule: as the preset calls them.
    """

    name: str
    model: str
    settings: dict[str, Any]
    against: str | None
    paper: dict[str, float]
    backbone: str = "resnet50"
    schedule: str = "1x"


@dataclass(frozen=True)
class Experiment:
    """A table.

    Attributes:
        source: where the paper's numbers come from.
        measures: names in :data:`libradet.evaluation.coco_metrics.Metrics`; the first one is what is compared.
        shared_proposals: whether all rows are given the proposals of one RPN.
    """

    name: str
    title: str
    source: str
    measures: tuple[str, ...]
    rows: tuple[Row, ...]
    shared_proposals: bool

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


def names(folder: str = "tables") -> list[str]:
    """All that come along."""
    return sorted(path.stem for path in (FOLDER / folder).glob("*.yaml"))


def read_experiment(what: str) -> Experiment:
    """The table of that name, or in that file.

    Raises:
        UserError: there is none, or something in it does not fit.
    """
    path = Path(what) if what.endswith((".yaml", ".yml")) else FOLDER / "tables" / f"{what}.yaml"
    tree = read_tree(path, "table", what, names())
    _refuse_unknown(tree, _KEYS, str(path))
    for key in ("title", "measures", "rows"):
        if not tree.get(key):
            raise UserError(f"{path}: {key} is missing")
    if tree.get("proposals") not in (None, PROPOSALS):
        raise UserError(f"{path}: proposals is {tree['proposals']!r}; it can only be {PROPOSALS!r}, or left out")
    measures = tuple(tree["measures"])
    rows = [_row(entry, tree, measures, f"{path}, row {i + 1}") for i, entry in enumerate(tree["rows"])]
    rows = [_compared(row, rows, str(path)) for row in rows]
    shared = tree.get("proposals") == PROPOSALS
    return Experiment(path.stem, tree["title"], tree.get("source", ""), measures, tuple(rows), shared)


def read_tree(path: Path, kind: str, what: str, known: Sequence[str]) -> dict[str, Any]:
    """The keys of a YAML file. Raises UserError with the nearest name if there is none."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = get_close_matches(what, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}, or name a .yaml file"
        raise UserError(f"there is no {kind} {what}; {hint}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise UserError(f"{path}: cannot be read ({' '.join(str(e).split())})") from e
    if not isinstance(tree, dict):
        raise UserError(f"{path}: holds no keys; expected lines such as 'title: …'")
    return tree


def _row(entry: dict[str, Any], tree: dict[str, Any], measures: tuple[str, ...], where: str) -> Row:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected keys such as 'name: …'")
    _refuse_unknown(entry, _ROW_KEYS, where)
    model = entry.get("model", tree.get("model"))
    if not entry.get("name"):
        raise UserError(f"{where}: name is missing")
    if model not in MODELS:
        raise UserError(f"{where}: there is no model {model!r}; choose from {', '.join(MODELS)}")
    numbers = entry.get("paper") or []
    if numbers and len(numbers) != len(measures):
        raise UserError(f"{where}: paper has {len(numbers)} numbers, measures are {len(measures)}")
    more = {key: entry[key] for key in ("backbone", "schedule") if key in entry}
    paper = dict(zip(measures, numbers, strict=False))
    return Row(entry["name"], model, dict(entry.get("set") or {}), entry.get("against"), paper, **more)


def _compared(row: Row, rows: list[Row], where: str) -> Row:
    """Without a word about it, a row is compared with the first one, if that is the same kind of row."""
    if row.against is not None and row.against not in [other.name for other in rows]:
        raise UserError(f"{where}: row {row.name!r} is against {row.against!r}, which is no row of this table")
    first = rows[0]
    alike = (row.model, row.backbone, row.schedule) == (first.model, first.backbone, first.schedule)
    if row.against is None and row is not first and alike:
        return replace(row, against=first.name)
    return row


def _refuse_unknown(tree: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in tree:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            raise UserError(f"{where}: there is no key {key!r}; {f'did you mean {near[0]}?' if near else known}")

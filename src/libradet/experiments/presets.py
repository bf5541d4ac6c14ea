"""How large a comparison is: backbones, image size, schedule; from the paper's protocol to what two cores can do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libradet.errors import UserError
from libradet.experiments.definitions import FOLDER, Row, names, read_tree
from libradet.models.zoo import MODELS

_SECTIONS = ("settings", "rpn", "roi", "dense", "proposals")
IMAGENET = "imagenet"


@dataclass(frozen=True)
class Preset:
    """A size of experiments.

    Attributes:
        differs: from the paper, in words.
        weights: where backbones start: ``imagenet``, or ``file`` for one that is looked for near the data.
        threads: of each training process on a CPU; None for all that there are.
        settings: of every run, by dotted key of ``libradet train``; ``rpn``, ``roi``, ``dense``: of detectors that have
            such a part; ``proposals``: of the RPN whose proposals are shared.
        backbones: name in a table -> timm's; rows of other backbones are left out.
        schedules: name in a table -> settings, with ``images`` in place of ``epochs`` where so many are to be seen.
    """

    name: str
    title: str
    differs: str
    weights: str
    threads: int | None
    sections: dict[str, dict[str, Any]]
    backbones: dict[str, str]
    schedules: dict[str, dict[str, Any]]

    def has(self, row: Row) -> bool:
        """Whether the row can be run at this size."""
        return row.backbone in self.backbones and row.schedule in self.schedules


def read_preset(name: str) -> Preset:
    """The preset of that name, or in that file. Raises UserError if there is none."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / "presets" / f"{name}.yaml"
    tree = read_tree(path, "preset", name, names("presets"))
    for key in ("title", "backbones", "schedules"):
        if not tree.get(key):
            raise UserError(f"{path}: {key} is missing")
    sections = {key: dict(tree.get(key) or {}) for key in _SECTIONS}
    words = (tree.get("differs", ""), tree.get("weights", IMAGENET))
    return Preset(path.stem, tree["title"], *words, tree.get("threads"), sections, tree["backbones"], tree["schedules"])


def settings_of(preset: Preset, row: Row, images: int) -> dict[str, Any]:
    """All settings of a row, by dotted key of ``libradet train``.

    Args:
        images: in the training split.
    """
    config = MODELS[row.model]()
    sections = ["settings", *(part for part in ("rpn", "roi", "dense") if getattr(config, part) is not None)]
    own: dict[str, Any] = {"model": row.model, "backbone": preset.backbones[row.backbone]}
    for section in sections:
        own |= preset.sections[section]
    return own | _schedule(preset.schedules[row.schedule], images) | row.settings


def proposer(preset: Preset, images: int) -> dict[str, Any]:
    """Settings of the RPN whose proposals are shared."""
    return settings_of(preset, Row("RPN", "rpn", {}, None, {}), images) | preset.sections["proposals"]


def _schedule(schedule: dict[str, Any], images: int) -> dict[str, Any]:
    wanted = dict(schedule)
    if seen := wanted.pop("images", None):
        wanted["epochs"] = max(1, round(seen / max(1, images)))
    # Only what comes out at the end is compared: the best of several measurements would favor noisy rows.
    return wanted | {"eval_every": wanted["epochs"]}


def find_weights(preset: Preset, given: str | None, data: Path) -> str | None:
    """Where backbones start: what was given, or a file ``weights/BACKBONE*.safetensors`` in the dataset's folder or
    one of the two above it; ImageNet's weights of the model hub if there is none."""
    if given is not None:
        return None if given == "none" else given
    if preset.weights == "file":
        backbone = next(iter(preset.backbones.values()))
        places = [folder / "weights" for folder in (data.resolve(), *data.resolve().parents[:2])]
        found = [path for place in places for path in sorted(place.glob(f"{backbone}*.safetensors"))]
        if found:
            return str(found[0])
    return IMAGENET


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted key as the tree that a configuration file holds."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = key.split(".")
        branch = tree
        for name in path:
            branch = branch.setdefault(name, {})
        branch[last] = dict(value) if isinstance(value, dict) else value
    return tree

"""Settings of a YOLO dataset: splits, class names and keypoints."""

from pathlib import Path, PurePath
from typing import Any, NamedTuple

import yaml

from libradet.data.records import normalize_id
from libradet.errors import UserError
from libradet.utils.atomic_io import read_text

MAX_UNNAMED_CLASSES = 100_000
"""Largest ``nc`` of a file without class names; a larger number is an error, or would exhaust memory."""

_MAX_REASON_CHARS = 300
_SPLIT_KEYS = (("train",), ("val", "valid", "validation"), ("test",))
_SPLIT_NAMES = ("train", "val", "valid", "validation", "test")


class YoloConfig(NamedTuple):
    """Settings of a dataset.

    Attributes:
        file: that they are read from.
        settings: as read; ``names`` with all names as text.
        splits: entry or entries (folders, image lists) of each split.
    """

    file: Path
    settings: dict[str, Any]
    splits: dict[str, Any]

    @property
    def num_keypoint_values(self) -> int:
        """Numbers of keypoints behind the box of an object; 0 for boxes and polygons."""
        shape = self.settings.get("kpt_shape")
        if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) and n > 0 for n in shape):
            return shape[0] * shape[1]
        return 0

    @property
    def root(self) -> Path:
        """Folder that relative entries refer to, where it exists."""
        path = self.settings.get("path")
        base = self.file.parent / path if isinstance(path, str) else self.file.parent
        return base if base.is_dir() else self.file.parent


def read_config(root: Path) -> YoloConfig | None:
    """Return the settings of the dataset in a folder; None if there is none in YOLO format.

    They are in ``data.yaml`` or the first YAML file that describes a dataset, in Darknet's ``obj.data``, or class names
    alone are in ``classes.txt`` or ``obj.names`` beside ``images`` and ``labels``.

    Raises:
        UserError: ``data.yaml`` is damaged.
    """
    files = [root / "data.yaml", root / "dataset.yaml", *sorted(root.glob("*.yaml")), *sorted(root.glob("*.yml"))]
    for file in dict.fromkeys(files):
        if file.is_file() and (config := read_file(file)):
            return config
    return _read_darknet(root) or _read_class_list(root)


def read_file(file: Path) -> YoloConfig | None:
    """Return the settings in a YAML file; None if it describes no dataset.

    Raises:
        UserError: ``data.yaml`` is damaged.
    """
    settings = _read_yaml(file)
    splits = _splits(file.parent, settings) if settings else {}
    return YoloConfig(file, settings, splits) if settings and splits else None


def class_names(config: YoloConfig) -> dict[int, str]:
    """Return the names of the classes by number. Raises UserError if there are none."""
    names = config.settings.get("names")
    num_classes = normalize_id(config.settings.get("nc"))
    if names is None and isinstance(num_classes, int) and num_classes <= MAX_UNNAMED_CLASSES:
        names = [str(i) for i in range(num_classes)]
    if isinstance(names, list):
        names = dict(enumerate(names))
    # With YAML aliases, a name that is a list may be short in the file and endless as text.
    if isinstance(names, dict) and names and not any(isinstance(name, list | dict) for name in names.values()):
        numbered = {key: str(name) for key, name in ((normalize_id(key), name) for key, name in names.items())}
        by_number = {key: name for key, name in numbered.items() if isinstance(key, int) and key >= 0}
        if len(by_number) == len(numbered):
            return dict(sorted(by_number.items()))
    raise UserError(f"{config.file}: 'names' must list the class names (a list, or a mapping from number to name).")


def _read_yaml(file: Path) -> dict[str, Any] | None:
    try:
        text = read_text(file)
        config = yaml.safe_load(text)
        # Names are text, also those that YAML resolves to booleans, numbers, dates or null.
        as_text = yaml.load(text, Loader=yaml.BaseLoader)
    except UserError:
        if file.name != "data.yaml":
            return None
        raise
    except Exception as error:  # PyYAML raises almost any exception, such as IndexError for an empty !!int
        if file.name != "data.yaml":
            return None
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: not valid YAML ({reason[:_MAX_REASON_CHARS]}).") from None
    if not isinstance(config, dict):
        return None
    if config.get("names") is not None and isinstance(as_text, dict) and "names" in as_text:
        config["names"] = as_text["names"]
    return config


def _splits(root: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of each split; if none is named, those of folders, provided that classes are."""
    named = {}
    for keys in _SPLIT_KEYS:
        used = [key for key in keys if settings.get(key)]
        named |= {key: settings[key] for key in used[:1]}
    if {"train", "val", "valid", "validation"} & named.keys() or (named and "names" in settings):
        return named
    return _split_folders(root) if {"names", "nc"} & settings.keys() else {}


def _split_folders(root: Path) -> dict[str, str]:
    """Return ``images/train`` or ``train/images`` and the like; ``images`` as the only split if there is none."""
    folders = {}
    for name in _SPLIT_NAMES:
        for folder in (f"images/{name}", f"{name}/images"):
            if (root / folder).is_dir():
                folders.setdefault(name, folder)
    if folders or not (root / "images").is_dir():
        return folders
    return {"all": "images"}


def _read_darknet(root: Path) -> YoloConfig | None:
    """Return the settings in ``obj.data``: lines ``key = value``."""
    file = root / "obj.data"
    if not file.is_file():
        return None
    pairs = (line.partition("=") for line in read_text(file).splitlines())
    settings: dict[str, Any] = {key.strip(): value.strip() for key, sign, value in pairs if sign}
    splits = {name: settings[name] for name in _SPLIT_NAMES if settings.get(name)}
    names = root / PurePath(str(settings.get("names", "obj.names"))).name
    if not splits or not names.is_file():
        return None
    return YoloConfig(file, {"names": _read_lines(names)}, splits)


def _read_class_list(root: Path) -> YoloConfig | None:
    if not (root / "labels").is_dir():
        return None
    for name in ("classes.txt", "obj.names"):
        if (root / name).is_file() and (splits := _split_folders(root)):
            return YoloConfig(root / name, {"names": _read_lines(root / name)}, splits)
    return None


def _read_lines(file: Path) -> list[str]:
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]

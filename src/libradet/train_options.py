"""From a command line and a YAML file to the configuration of a run.

The dataclasses are the only schema: every field of them is a key of the file and an option of that name.
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from libradet.errors import UserError
from libradet.models.config import DetectorConfig
from libradet.models.pretrained import BackboneWeights
from libradet.models.zoo import make_config
from libradet.training.settings import CONFIG, TrainConfig
from libradet.utils.atomic_io import require_exists

EPILOG = """\
Every field of the detector is an option, and every option a key of the --config file. The three components of
Libra R-CNN are switches on their own:
  --detector.roi.sampling.negatives random --detector.roi.sampling.positives random    no balanced sampling
  --detector.pyramid.balanced null                                                     no balanced pyramid
  --detector.roi.box_loss.kind smooth_l1                                               no balanced L1
--detector.rpn.help, --detector.roi.help and --detector.pyramid.balanced.help list what these hold.
--resume FOLDER continues a run; options beside it change its configuration.
Class names and their number come from the data."""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the epilog's lines as they are."""


_SWITCHES = [f"--{f.name}" for f in fields(TrainConfig) if f.type is bool]
_LISTS = ("--logger", "--monitor")
_OWN = ("config", "resume", "help", "print_config")


@dataclass(frozen=True)
class TrainRequest:
    """What was asked for; ``resume`` is the folder of a run to continue."""

    config: TrainConfig
    detector: DetectorConfig
    resume: Path | None = None


def parse_train(argv: Sequence[str]) -> TrainRequest:
    """The run that a command line asks for. Help is printed and ends the program.

    Raises:
        UserError: unknown keys, with the nearest valid one; values that do not fit; files that cannot be read.
    """
    known, rest = _first_look(_with_values(argv))
    file = _read_files([Path(known.resume) / CONFIG] if known.resume else known.config)
    _refuse_unknown((arg[2:].split("=")[0] for arg in rest if arg.startswith("--")), "--")
    _refuse_unknown(_flatten(file), "")
    _refuse_strange(file)
    asked = {name: getattr(known, name) for name in ("model", "backbone", "weights") if getattr(known, name)}
    if asked.keys() & {"backbone", "weights"} and file.get("detector"):
        # They also decide what the file's section on the backbone would decide.
        file["detector"].pop("backbone", None)
    file |= asked
    if file.get("weights") == "none":
        file["weights"] = None
    parsed = _parse(_base(file, bool(known.resume) and not known.weights), ["--config", yaml.safe_dump(file), *rest])
    detector = parsed.pop("detector")
    config = TrainConfig(**{f.name: parsed[f.name] for f in fields(TrainConfig)})
    if detector.model != config.model:
        raise UserError(f"detector.model is {detector.model}, model is {config.model}; leave detector.model out")
    config = replace(config, backbone=detector.backbone.name)
    return TrainRequest(config, detector, Path(known.resume) if known.resume else None)


def _with_values(argv: Sequence[str]) -> list[str]:
    """A switch that stands alone is on; it may be written with dashes. Words after a list's name are its values."""
    argv = _with_lists(argv)
    switches = {spelling: name for name in _SWITCHES for spelling in (name, "--" + name[2:].replace("_", "-"))}
    return [
        f"{switches[a]}=true" if a in switches and after.startswith("-") else switches.get(a, a)
        for a, after in pairwise([*argv, "--"])
    ]


def _with_lists(argv: Sequence[str]) -> list[str]:
    found: list[str] = []
    values: list[str] | None = None
    for word in [*argv, "--"]:
        if values is not None and word.startswith("-"):
            found.append(values[0] if len(values) == 1 and values[0][:1] == "[" else f"[{', '.join(values)}]")
            values = None
        if values is not None:
            values.append(word)
        else:
            found.append(word)
            values = [] if word in _LISTS else None
    return found[:-1]


def _first_look(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What decides on the defaults of everything else, and the rest of the command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="append", default=[])
    for name in ("resume", "model", "backbone", "weights"):
        parser.add_argument(f"--{name}")
    try:
        known, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as e:
        raise UserError(str(e)) from e
    if known.config and known.resume:
        raise UserError("--config and --resume exclude each other: a run continues with its own configuration")
    return known, rest


def _refuse_strange(file: dict[str, Any]) -> None:
    """What is looked at before the schema is."""
    for name in ("model", "backbone", "weights"):
        if not isinstance(file.get(name), str | None):
            raise UserError(f"{name} is {str(file[name])[:40]}: a name is needed")
    detector = file.get("detector")
    if not isinstance(detector, dict | None):
        raise UserError(f"detector is {str(detector)[:40]}: a tree of fields is needed")


def _read_files(paths: Iterable[str | Path]) -> dict[str, Any]:
    """What the files say together; a later one overrides the keys it has."""
    tree: dict[str, Any] = {}
    for path in paths:
        tree = _overridden(tree, _read_file(path))
    return tree


def _overridden(tree: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _overridden(tree[key], value)
        for key, value in other.items()
        if isinstance(value, dict) and isinstance(tree.get(key), dict)
    }
    return tree | other | both


def _read_file(path: str | Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})") from e
    except Exception as e:  # PyYAML raises nearly anything, such as IndexError for an empty !!int
        raise UserError(f"{path}: not valid YAML ({' '.join(str(e).split())[:300]})") from e
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path}: holds no keys; expected lines such as 'epochs: 12'")
    return content or {}


def _base(file: dict[str, Any], continues: bool) -> DetectorConfig:
    """The zoo's configuration, which file and command line override."""
    weights = file.get("weights")
    # A run that continues describes its detector in full, and the file that it started from may be gone.
    if weights not in (None, "imagenet"):
        weights = None if continues else _describe_weights(weights)
    config = make_config(file.get("model") or TrainConfig.model, backbone=file.get("backbone"), weights=weights)
    described = (file.get("detector") or {}).get("model", config.model)
    if described != config.model:
        raise UserError(
            f"the file describes a {described} in full, which --model {config.model} cannot change; "
            "leave --model out, or the file's detector section"
        )
    return config


def _describe_weights(path: str) -> DetectorConfig | BackboneWeights:
    require_exists(path)
    from libradet.interop.loading import read_any_config

    return read_any_config(path)


def _parse(base: DetectorConfig, args: list[str]) -> dict[str, Any]:
    parser = ArgumentParser(
        prog="libradet train",
        description="Train a detector.",
        epilog=EPILOG,
        formatter_class=_HelpFormatter,
        exit_on_error=False,
    )
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file with any of the options below as keys; of several, later ones override.",
    )
    parser.add_argument("--resume", help="Run folder to continue.")
    parser.add_class_arguments(TrainConfig)
    parser.add_argument("--detector", type=DetectorConfig, default=base)
    try:
        return dict(parser.instantiate(parser.parse_args(args)).items())
    except argparse.ArgumentError as e:
        raise UserError(_explain(str(e))) from e
    except (ValueError, TypeError) as e:  # what only shows when the parts are made
        raise UserError(f"the settings cannot be used: {' '.join(str(e).split())[:300]}") from e


def _explain(message: str) -> str:
    """One line out of jsonargparse's account of everything it tried."""
    keys = re.findall(r'Parser key "([^"]+)"', message)
    if missing := re.search(r"arguments are required: (.+)", message):
        return f"--{missing[1]} is missing"
    values = re.findall(r"Got value: (.+)", message) or re.findall(r"Given value: (.+)", message)
    key = ".".join(keys)
    if key not in _schema() or not values:
        return " ".join(message.split())
    return f"--{key}: {values[0]} is not {_describe(_schema()[key])}"


def _describe(annotation: Any) -> str:
    text = getattr(annotation, "__name__", "") if isinstance(annotation, type) else str(annotation)
    if options := re.findall(r"'([^']+)'", text):
        return f"one of {', '.join(options)}"
    return f"of type {text.replace('typing.', '')}"


def _refuse_unknown(names: Iterable[str], prefix: str) -> None:
    for name in names:
        bare = name.removesuffix(".help")
        if bare in _schema() or bare in _OWN:
            continue
        leaves = {key.rpartition(".")[2]: key for key in _schema()}
        near = get_close_matches(bare, _schema(), n=1) or [
            leaves[leaf] for leaf in get_close_matches(bare.rpartition(".")[2], leaves, n=1)
        ]
        hint = f"did you mean {prefix}{near[0]}?" if near else "see libradet train --help"
        raise UserError(f"there is no {'option' if prefix else 'key'} {prefix}{name}; {hint}")


@cache
def _schema() -> dict[str, Any]:
    """Type of every key, by dotted name."""
    return {**_keys(TrainConfig, ""), "detector": DetectorConfig, **_keys(DetectorConfig, "detector.")}


def _keys(schema: type, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, annotation in get_type_hints(schema).items():
        found[prefix + name] = annotation
        for part in (annotation, *get_args(annotation)):
            if is_dataclass(part) and isinstance(part, type):
                found |= _keys(part, f"{prefix}{name}.")
    return found


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterable[str]:
    for name, value in tree.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")

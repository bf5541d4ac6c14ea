"""Command lines and YAML files of ``libradet train`` as the configuration of a run.

The dataclasses :class:`libradet.training.config.TrainConfig` and :class:`libradet.models.config.DetectorConfig` are the
only schema: every field is an option of the command and a key of its YAML files.
"""

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from libradet.data.transforms.entries import encode_entries
from libradet.errors import UserError
from libradet.interop.coco_weights import BEST, best_weights, require_weights
from libradet.models.config import BackboneConfig, DetectorConfig
from libradet.models.load_pretrained import BackboneWeights
from libradet.models.unused_settings import refuse_unused_settings
from libradet.models.zoo import make_config
from libradet.training.config import TrainConfig
from libradet.training.run_files import CONFIG
from libradet.utils.field_types import describe_type
from libradet.utils.option_names import last_value, suggest_option
from libradet.utils.text import suggest, summarize_list

EPILOG = """\
Every field of the detector is an option, and every option a key of the --config file. The three components of
Libra R-CNN can be switched off one by one:
  --detector.roi.sampling.negatives random --detector.roi.sampling.positives random    no IoU-balanced sampling
  --detector.pyramid.balanced null                                                     no balanced feature pyramid
  --detector.roi.box_loss.type smooth_l1                                               no balanced L1 loss
--detector.rpn.help, --detector.roi.help and --detector.pyramid.balanced.help list their fields.
--resume FOLDER resumes a run; other options change its configuration.
Class names and their number come from the data."""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Help formatter that keeps the lines of the epilog."""


_FLAGS = [f"--{f.name}" for f in fields(TrainConfig) if f.type is bool]
_OTHER_OPTIONS = ("config", "resume", "help", "print_config")
_NAMES = ("model", "backbone", "weights")


@dataclass(frozen=True)
class TrainRequest:
    """Parsed command line of a run.

    Attributes:
        resume: folder of the run to resume.
    """

    config: TrainConfig
    detector: DetectorConfig
    resume: Path | None = None


def parse_train(argv: Sequence[str]) -> TrainRequest:
    """Parse the command line of a run. Help is printed and ends the program.

    Raises:
        UserError: unknown keys, with the most similar known one; invalid values; files that cannot be read.
    """
    known, rest = _parse_known(_join_lists_and_flags(argv))
    if known.resume:
        _require_run(Path(known.resume))
    tree = _read_files([Path(known.resume) / CONFIG] if known.resume else known.config)
    if known.augmentations is not None:
        tree["augmentations"] = _read_value("augmentations", known.augmentations)
    if "augmentations" in tree:
        # As text, since jsonargparse creates an object of any class that is named in a mapping of unknown type.
        tree["augmentations"] = encode_entries(tree["augmentations"])
    _refuse_unknown_options(arg[2:].split("=")[0] for arg in rest if arg.startswith("--"))
    if known.resume:
        _refuse_other_versions(_flatten(tree), Path(known.resume) / CONFIG)
    _refuse_unknown_keys(_flatten(tree))
    _check_types(tree)
    sections = [pair for pair in pairwise(rest) if is_dataclass(_schema().get(pair[0][2:]))]
    _check_sections({option[2:]: _read_value(option[2:], value) for option, value in sections}, "")
    names = {name: getattr(known, name) for name in _NAMES if getattr(known, name)}
    if names.keys() & {"backbone", "weights"} and tree.get("detector"):
        # These options also determine the detector.backbone section of the file.
        tree["detector"].pop("backbone", None)
    tree |= names
    if tree.get("weights") == "none":
        tree["weights"] = None
    tree |= _chosen_weights(tree, last_value(rest, "--detector.backbone.name"))
    default = _default_detector(tree, is_resumed=bool(known.resume) and not known.weights)
    parsed = _parse(default, ["--config", yaml.safe_dump(tree), *rest])
    detector = parsed.pop("detector")
    config = TrainConfig(**{f.name: parsed[f.name] for f in fields(TrainConfig)})
    if detector.model != config.model:
        raise UserError(f"detector.model is {detector.model}, but model is {config.model}; remove detector.model")
    if not known.resume:
        refuse_unused_settings(detector, default)
    config = replace(config, backbone=detector.backbone.name)
    return TrainRequest(config, detector, Path(known.resume) if known.resume else None)


def read_detector(
    values: Mapping[str, Any], model: str, backbone: str | None = None, weights: str | None = None
) -> DetectorConfig:
    """Return the detector of the zoo with the fields in ``values``, as in the ``detector`` section of a YAML file.

    Args:
        values: nested mapping; its ``model`` overrides that argument.
        model, backbone, weights: see :func:`libradet.models.zoo.make_config`.

    Raises:
        UserError: unknown keys, with the most similar known one; invalid values.
    """
    tree: dict[str, Any] = {"data": "", "model": values.get("model", model), "backbone": backbone, "weights": weights}
    tree["detector"] = dict(values)
    tree |= _chosen_weights(tree)
    _refuse_unknown_keys(_flatten(tree))
    _check_types(tree)
    default = _default_detector(tree, is_resumed=False)
    detector = _parse(default, ["--config", yaml.safe_dump(tree)])["detector"]
    refuse_unused_settings(detector, default)
    return detector


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check settings by dotted key, before there is a run: all names, and the values outside the detector.

    Raises:
        UserError: unknown keys, with the most similar known one; invalid values.
    """
    _refuse_unknown_keys(settings)
    of_run = {key: value for key, value in settings.items() if key in {f.name for f in fields(TrainConfig)}}
    of_run |= {key: encode_entries(value) for key, value in of_run.items() if key == "augmentations"}
    _parse(make_config(TrainConfig.model), ["--config", yaml.safe_dump({"data": "", **of_run})])


def _join_lists_and_flags(argv: Sequence[str]) -> list[str]:
    """Set flags without a value to true, and join the words after a list option.

    Flags may also be written with dashes in place of underscores.
    """
    argv = _join_lists(argv)
    flags = {spelling: name for name in _FLAGS for spelling in (name, "--" + name[2:].replace("_", "-"))}
    words = []
    for word, next_word in pairwise([*argv, "--"]):
        has_no_value = word in flags and next_word.startswith("-")
        words.append(f"{flags[word]}=true" if has_no_value else flags.get(word, word))
    return words


def _join_lists(argv: Sequence[str]) -> list[str]:
    lists = _list_options()
    words: list[str] = []
    items: list[str] | None = None
    for word in [*argv, "--"]:
        if items is not None and word.startswith("-"):
            is_list = len(items) == 1 and (items[0].startswith("[") or items[0] == "null")
            words.append(items[0] if is_list else f"[{', '.join(items)}]")
            items = None
        if items is not None:
            items.append(word)
        else:
            words.append(word)
            items = [] if word in lists else None
    return words[:-1]


def _list_options() -> set[str]:
    """Return the options whose items may be separate words."""
    parts = {key: (annotation, *get_args(annotation)) for key, annotation in _schema().items()}
    lists = {key for key, annotations in parts.items() if {get_origin(part) for part in annotations} & {list, tuple}}
    return {f"--{key}" for key in lists if key != "augmentations"}


def _parse_known(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the options that determine the defaults of all others; return them and the rest of the command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="append", default=[])
    for name in ("resume", "augmentations", *_NAMES):
        parser.add_argument(f"--{name}")
    try:
        known, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as e:
        raise UserError(str(e)) from e
    if known.config and known.resume:
        raise UserError("--config and --resume exclude each other: a run is resumed with its own configuration")
    return known, rest


def _require_run(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"--resume {folder}: no such folder; name the folder of a run, such as runs/NAME")
    if not (folder / CONFIG).exists():
        raise UserError(f"--resume {folder}: not the folder of a run: it has no {CONFIG}")


def _check_types(tree: dict[str, Any]) -> None:
    """Check the keys that are used before the schema is applied."""
    for name in _NAMES:
        if not isinstance(tree.get(name), str | None):
            raise UserError(f"{name} is {str(tree[name])[:40]}: it must be a name")
    detector = tree.get("detector")
    if not isinstance(detector, dict | None):
        raise UserError(f"detector is {str(detector)[:40]}: it must be a mapping of fields")
    _check_sections(detector or {}, "detector.")


def _check_sections(tree: dict[str, Any], prefix: str) -> None:
    for name, value in tree.items():
        if isinstance(value, dict):
            _check_sections(value, f"{prefix}{name}.")
        elif is_dataclass(_schema().get(f"{prefix}{name}")):
            raise UserError(f"--{prefix}{name}: {str(value)[:40]} is not a mapping of fields")


def _read_files(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Return the merged contents of YAML files; later files override earlier ones key by key."""
    tree: dict[str, Any] = {}
    for path in paths:
        tree = _merge(tree, _read_file(path))
    return tree


def _merge(tree: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    nested = {
        key: _merge(tree[key], value)
        for key, value in other.items()
        if isinstance(value, dict) and isinstance(tree.get(key), dict)
    }
    return tree | other | nested


def _read_file(path: str | Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); check the path") from e
    except Exception as e:  # PyYAML raises nearly any exception, such as IndexError for an empty !!int
        raise UserError(f"{path}: not valid YAML ({' '.join(str(e).split())[:300]})") from e
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path}: contains no keys; expected lines such as 'max_epochs: 12'")
    return content or {}


def _read_value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise UserError(f"--{name}: not valid YAML ({' '.join(str(e).split())[:300]})") from e


def _chosen_weights(tree: dict[str, Any], backbone: str | None = None) -> dict[str, str]:
    """Return the name of the published weights that ``weights: coco`` means for a ``backbone``, by default that of
    ``tree``; {} for other weights."""
    if tree.get("weights") != BEST:
        return {}
    detector = tree.get("detector") or {}
    section = detector.get("backbone")
    backbone = backbone or tree.get("backbone") or (section.get("name") if isinstance(section, dict) else None)
    model = tree.get("model") or detector.get("model") or TrainConfig.model
    return {"weights": best_weights(str(model), str(backbone or BackboneConfig().name)).name}


def _default_detector(tree: dict[str, Any], is_resumed: bool) -> DetectorConfig:
    """Return the configuration of the zoo, which file and command line override."""
    weights = tree.get("weights")
    # A resumed run has a complete description of its detector, and the file it was started from may be deleted.
    if weights not in (None, "imagenet"):
        weights = None if is_resumed else _read_weights_config(weights)
    config = make_config(tree.get("model") or TrainConfig.model, backbone=tree.get("backbone"), weights=weights)
    model = (tree.get("detector") or {}).get("model", config.model)
    if model != config.model:
        raise UserError(
            f"the file contains a complete {model}, which --model {config.model} cannot change; "
            "remove --model, or the detector section of the file"
        )
    return config


def _read_weights_config(path: str) -> DetectorConfig | BackboneWeights:
    require_weights(path)
    from libradet.interop.loading import read_config_any

    return read_config_any(path)


def _parse(default: DetectorConfig, args: list[str]) -> dict[str, Any]:
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
        help="YAML file with any of the options below as keys; may be repeated, later files override earlier ones.",
    )
    parser.add_argument("--resume", help="Run folder to resume.")
    parser.add_class_arguments(TrainConfig)
    parser.add_argument("--detector", type=DetectorConfig, default=deepcopy(default))
    try:
        return dict(parser.instantiate(parser.parse_args(args)).items())
    except argparse.ArgumentError as e:
        raise UserError(_simplify(str(e))) from e
    except (ValueError, TypeError) as e:  # raised when the dataclasses are instantiated
        raise UserError(f"invalid settings: {' '.join(str(e).split())[:300]}") from e


def _simplify(message: str) -> str:
    """Return one line for jsonargparse's report of all types it tried."""
    keys = dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message))
    if missing := re.search(r"arguments are required: (.+)", message):
        return f"--{missing[1]} is missing"
    values = re.findall(r"Got value: (.+)", message) or re.findall(r"Given value: (.+)", message)
    key = ".".join(keys)
    if key not in _schema() or not values:
        return " ".join(message.split())
    nested = re.search(r"NestedArg\(key=.*, val='?(.*?)'?\)", values[0])
    return f"--{key}: {nested[1] if nested else values[0]} is not {describe_type(_schema()[key])}"


def _refuse_unknown_options(names: Iterable[str]) -> None:
    for name in names:
        key = name.removesuffix(".help")
        if not _is_known(key):
            similar = _suggest_key(key)
            hint = f"did you mean --{similar}?" if similar else "see libradet train --help"
            raise UserError(f"there is no option --{name}; {hint}")


def _refuse_unknown_keys(keys: Iterable[str]) -> None:
    for key in keys:
        if not _is_known(key):
            similar = _suggest_key(key)
            hint = f"did you mean {similar}?" if similar else "see libradet train --help"
            raise UserError(f"there is no key {key}; {hint}")


def _refuse_other_versions(keys: Iterable[str], path: Path) -> None:
    unknown = [key for key in keys if not _is_known(key)]
    if unknown:
        raise UserError(
            f"{path}: written by another version of libradet (unknown: {summarize_list(unknown, 3)}); start a new run"
        )


def _is_known(key: str) -> bool:
    return key in _schema() or key in _OTHER_OPTIONS


def _suggest_key(key: str) -> str | None:
    """Return the key that ``key`` abbreviates, the most similar field of its section, or the most similar key."""
    section, _, field = key.rpartition(".")
    top_level = [known for known in _schema() if "." not in known]
    if not section and (similar := suggest_option(key, top_level) or suggest_option(key, _schema())):
        return similar
    completed = [known for known in _schema() if len(key) > 1 and known.startswith(key)]
    if completed:
        return min(completed, key=len)
    siblings = [known for known in _schema() if section and known.rpartition(".")[0] == section]
    if siblings:
        similar = suggest(field, [known.rpartition(".")[2] for known in siblings])
        return f"{section}.{similar}" if similar else section
    leaves = {known.rpartition(".")[2]: known for known in _schema()}
    leaf = suggest(field, leaves)
    return suggest(key, _schema()) or (leaves[leaf] if leaf else None)


@cache
def _schema() -> dict[str, Any]:
    """Return the type of every key, by dotted name."""
    return {**_keys(TrainConfig, ""), "detector": DetectorConfig, **_keys(DetectorConfig, "detector.")}


def _keys(schema: type, prefix: str) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for name, annotation in get_type_hints(schema).items():
        keys[prefix + name] = annotation
        for part in (annotation, *get_args(annotation)):
            if is_dataclass(part) and isinstance(part, type):
                keys |= _keys(part, f"{prefix}{name}.")
    return keys


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterable[str]:
    for name, value in tree.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")

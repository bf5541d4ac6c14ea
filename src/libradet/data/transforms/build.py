"""Users' own augmentations from entries of configuration files (:mod:`libradet.data.transforms.entries`)."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torchvision.transforms import InterpolationMode, v2

from libradet.data.transforms.albumentations import (
    AlbumentationsTransform,
    is_pipeline,
    load_pipeline,
    pipeline_content,
)
from libradet.data.transforms.describe import describe
from libradet.data.transforms.entries import decode_entry, encode_entries
from libradet.errors import UserError
from libradet.utils.atomic_io import read_text
from libradet.utils.text import suggest

MODULE = "torchvision.transforms.v2"
NOT_FROM_FILES = frozenset({"Lambda", "Transform"})
"""Classes of that module that execute other code, or do nothing."""


def prepare_transforms(augmentations: Any) -> tuple[list[str], tuple[Callable[..., Any], ...]]:
    """Return entries as a run folder keeps them, as text and independent of other files, and their transforms.

    Args:
        augmentations: list of entries and transforms, or a single one.

    Raises:
        UserError: an entry does not describe a transform, its class does not accept its arguments, or an
            Albumentations file cannot be read.
    """
    listed = augmentations if isinstance(augmentations, list | tuple) else [augmentations]
    texts = [_describe_entry(value) for value in listed]
    # Transforms that were passed are used as they are: not all of them can be created from text.
    built = (
        _build(text if isinstance(value, str | Mapping) else value) for text, value in zip(texts, listed, strict=True)
    )
    return texts, tuple(transform for member in built for transform in _flatten(member))


def _describe_entry(value: Any) -> str:
    if not isinstance(value, str | Mapping):
        content = pipeline_content(value) if is_pipeline(value) else None
        value = {"python": describe(_build(value))} if content is None else {"albumentations": content}
    [text] = encode_entries([value])
    content = decode_entry(text).get("albumentations")
    return encode_entries({"albumentations": _read_file(Path(content))})[0] if isinstance(content, str) else text


def _read_file(path: Path) -> Any:
    try:
        return yaml.safe_load(read_text(path))  # JSON is YAML, too
    except Exception as e:  # PyYAML raises nearly any exception
        reason = " ".join(str(e).split())[:300]
        raise UserError(f"augmentations: {path}: cannot be read as an Albumentations pipeline ({reason})") from e


def _build(value: Any) -> Callable[..., Any]:
    if is_pipeline(value):
        return AlbumentationsTransform(value)
    if isinstance(value, str | Mapping):
        return _build_entry(decode_entry(*encode_entries([value])))
    if not callable(value):
        raise UserError(
            f"augmentations: {str(value)[:100]} cannot be called; a transform is called with image and target"
        )
    return value


def _build_entry(entry: Mapping[str, Any]) -> Callable[..., Any]:
    if "python" in entry:
        raise UserError(
            f"the run was started from Python with the augmentation {str(entry['python'])[:100]}, which its "
            "configuration cannot create; resume it with libradet.train(resume=..., augmentations=[...])"
        )
    if "albumentations" in entry:
        return load_pipeline(entry["albumentations"])
    return _instantiate(entry["class_path"], entry.get("init_args") or {})


def _instantiate(class_path: Any, init_args: Any) -> Callable[..., Any]:
    cls = _class_of(class_path)
    name = cls.__name__
    if not isinstance(init_args, Mapping):
        raise UserError(f"augmentations: init_args of {name} must be a mapping of its arguments")
    parameters = inspect.signature(cls).parameters
    for key in init_args:
        if key not in parameters:
            similar = suggest(str(key), parameters)
            hint = f"did you mean {similar}?" if similar else f"it has {', '.join(parameters) or 'none'}"
            raise UserError(f"augmentations: {name} has no argument {key}; {hint}")
    arguments = {key: _argument(value, parameters[key]) for key, value in init_args.items()}
    try:
        return cls(**arguments)
    except Exception as e:  # constructors check their arguments in many ways
        raise UserError(f"augmentations: {name}: {' '.join(str(e).split())[:300]}") from e


def _argument(value: Any, parameter: inspect.Parameter) -> Any:
    """Return an argument as the constructor expects it: with transforms and interpolation modes in place of names."""
    if isinstance(value, list):
        return [_argument(item, parameter) for item in value]
    if isinstance(value, Mapping) and "class_path" in value:
        return _build(value)
    if not isinstance(value, str):
        return value
    if parameter.name == "transforms":
        return _instantiate(value, {})
    if parameter.name == "interpolation":
        modes = {mode.name.lower(): mode for mode in InterpolationMode}
        if value.lower() not in modes:
            raise UserError(f"augmentations: {parameter.name} is {value}; it must be one of {', '.join(modes)}")
        return modes[value.lower()]
    return value


def _class_of(class_path: Any) -> type:
    """Return a transform of torchvision; a name in a file executes nothing else."""
    module, _, name = str(class_path).rpartition(".")
    known = {
        n: c
        for n, c in vars(v2).items()
        if isinstance(c, type) and issubclass(c, v2.Transform) and n not in NOT_FROM_FILES
    }
    if module in ("", MODULE) and name in known:
        return known[name]
    similar = suggest(name, known) if module in ("", MODULE, "torchvision.transforms") else None
    hint = "pass others in Python: libradet.train(augmentations=[...])"
    if module.partition(".")[0] == "albumentations":
        hint = "write a pipeline with albumentations.save, and name its file: {albumentations: FILE}"
    elif similar:
        hint = f"did you mean {MODULE}.{similar}?"
    raise UserError(f"augmentations: files can name transforms of {MODULE} only, not {str(class_path)[:100]}; {hint}")


def _flatten(transform: Callable[..., Any]) -> Sequence[Callable[..., Any]]:
    """Return the transforms of a Compose, so that each of them is checked and named in messages."""
    if type(transform) is not v2.Compose:
        return [transform]
    return [part for member in transform.transforms for part in _flatten(_build(member))]

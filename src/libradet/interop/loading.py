"""Detectors from other toolboxes' checkpoints, recognized by the names of their tensors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from libradet.errors import UserError
from libradet.interop import detectron2, mmdetection, torchvision_models
from libradet.interop.family import Family, Tensors
from libradet.interop.reading import read_tensors
from libradet.interop.rows import background_to_last, sizes_to_last
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.models.model_file import load_model
from libradet.models.pretrained import BackboneWeights
from libradet.models.saved_config import FORMAT, read_config

STRANGE = (IndexError, ValueError, TypeError, ArithmeticError, AttributeError, RuntimeError)
"""What reading shapes and settings that make no sense can end in."""

DETECTOR_PARTS = ("backbone.", "neck.", "rpn", "roi_heads.", "bbox_head.", "proposal_generator.", "detector.")

FAMILIES: tuple[Family, ...] = (mmdetection.FAMILY, torchvision_models.FAMILY, detectron2.FAMILY)


class Loaded(NamedTuple):
    """A detector and what did not fit: empty unless a partial load was asked for.

    Attributes:
        missing: our tensors that the file does not have.
        surplus: the file's tensors that our detector does not have.
        misshapen: the file's tensors of another shape than ours.
    """

    model: Detector
    family: str
    missing: list[str]
    surplus: list[str]
    misshapen: list[str]


def load_any(path: str | Path, device: str | torch.device = "cpu") -> Detector:
    """A detector from our own file or another toolbox's checkpoint, in evaluation mode.

    Raises:
        UserError: not a checkpoint, of unknown origin, or its tensors do not fit.
    """
    return load_checkpoint(path).model.to(device)


def load_checkpoint(path: str | Path, allow_partial: bool = False, norm_eps: float | None = None) -> Loaded:
    """The same on the CPU, with what is known about it.

    Args:
        allow_partial: what does not fit stays random, and is named.
        norm_eps: what the backbone's batch norms add to their variances, where the file does not say and the
            toolbox's rule (see :mod:`libradet.interop.torchvision_models`) is not what the model was trained with.
    """
    tensors, meta = read_tensors(path)
    if meta.get("format") == FORMAT:
        return Loaded(load_model(path), "libradet", [], [], [])
    family, tensors, config = _describe(tensors, meta, path)
    config.backbone.norm_eps = config.backbone.norm_eps if norm_eps is None else norm_eps
    loaded = _fill(Detector(config), tensors, family)
    if not allow_partial and any(loaded[2:]):
        raise UserError(f"{path}: a checkpoint of {family.name} that does not fit; {explain(loaded)}")
    return loaded


def start_from(
    weights: str | Path | None, allow_partial: bool = False
) -> tuple[str | Detector | BackboneWeights | None, list[str]]:
    """What :func:`libradet.models.create.create_model` takes as weights, and tensors that the file does not have.

    Args:
        weights: None, ``"imagenet"``, the path of any file that :func:`load_checkpoint` reads, or of a backbone's
            own state under timm's or torchvision's names.
    """
    if weights is None or weights == "imagenet":
        return None if weights is None else "imagenet", []
    if (alone := _alone(weights)) is not None:
        return alone, []
    loaded = load_checkpoint(weights, allow_partial)
    return loaded.model, [*loaded.missing, *loaded.misshapen]


def _alone(path: str | Path) -> BackboneWeights | None:
    """The weights of a backbone, if that is what is in the file."""
    tensors, meta = read_tensors(path)
    known = meta.get("format") == FORMAT or any(family.recognizes(tensors) for family in FAMILIES)
    # A detector of another kind names its parts; a backbone of timm's or torchvision's begins with its stem.
    if known or any(name.startswith(DETECTOR_PARTS) for name in tensors):
        return None
    return BackboneWeights(Path(path), tensors)


def read_any_config(path: str | Path) -> DetectorConfig | BackboneWeights:
    """The configuration of the detector in such a file, without building it; a backbone's weights as they are.

    Raises UserError as loading does.
    """
    if (alone := _alone(path)) is not None:
        return alone
    tensors, meta = read_tensors(path)
    return read_config(path) if meta.get("format") == FORMAT else _describe(tensors, meta, path)[2]


def _describe(
    tensors: Tensors, meta: Mapping[str, Any], path: str | Path
) -> tuple[Family, dict[str, Tensor], DetectorConfig]:
    family = recognize(tensors, path)
    try:
        tensors = family.normalize(tensors)
        return family, tensors, family.describe(tensors, meta)
    except UserError as e:
        raise UserError(f"{path}: a checkpoint of {family.name}, but {e}") from e
    except KeyError as e:
        raise UserError(f"{path}: a checkpoint of {family.name}, but {e} is missing") from e
    except STRANGE as e:
        raise UserError(f"{path}: a checkpoint of {family.name}, but its tensors make no detector ({e})") from e


def recognize(tensors: Tensors, path: str | Path) -> Family:
    """Whose tensors these are. Raises UserError if nobody's that we know."""
    for family in FAMILIES:
        if family.recognizes(tensors):
            return family
    some = ", ".join(list(tensors)[:3])
    names = ", ".join(family.name for family in FAMILIES)
    raise UserError(f"{path}: not a detector of libradet, {names}; its tensors are called {some}, …")


def explain(loaded: Loaded) -> str:
    """One sentence with the names of all that did not fit."""
    parts = (("missing", loaded.missing), ("surplus", loaded.surplus), ("misshapen", loaded.misshapen))
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)


def _fill(model: Detector, tensors: Tensors, family: Family) -> Loaded:
    layout, own = family.layout(tensors, model.config), model.state_dict()
    here = dict(layout.pairs)
    found: dict[str, Tensor] = {}
    surplus: list[str] = []
    misshapen: list[str] = []
    for name, t in tensors.items():
        layer, _, kind = name.rpartition(".")
        ours = f"{here.get(layer)}.{kind}"
        if ours not in own:
            surplus += [] if name.startswith(layout.ignored) and layout.ignored else [name]
            continue
        t = background_to_last(ours, t) if layout.background_first else t
        if layout.sizes_first and model.config.dense is not None:
            a = model.config.dense.anchors
            t = sizes_to_last(ours, t, len(a.scales), len(a.ratios))
        if t.shape == own[ours].shape:
            found[ours] = t
        else:
            misshapen.append(f"{name} {_shape(t)} instead of {_shape(own[ours])}")
    model.load_state_dict(found, strict=False)
    lost = {name.split(" ")[0] for name in misshapen}
    there = {ours: theirs for theirs, ours in layout.pairs}
    missing = [n for n in own if n not in found and not n.endswith("num_batches_tracked")]
    missing = [n for n in missing if f"{there.get(n.rpartition('.')[0])}.{n.rpartition('.')[2]}" not in lost]
    return Loaded(model.eval(), family.name, missing, surplus, misshapen)


def _shape(t: Tensor) -> Sequence[int]:
    return list(t.shape)

"""Loading of other toolboxes' checkpoints, whose format is detected by the names of their tensors."""

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from libradet.errors import UserError
from libradet.interop import detectron2, mmdetection, torchvision_models
from libradet.interop.averaged_weights import split_ema_buffers
from libradet.interop.checkpoint_format import CheckpointFormat, StateDictLayout, Tensors
from libradet.interop.class_order import background_to_last, sizes_to_last
from libradet.interop.reading import Checkpoint, read_checkpoint, read_metadata
from libradet.interop.weights_cache import local_weights
from libradet.interop.wrappers import strip_wrappers
from libradet.models.config import CLASS_BALANCE, DetectorConfig
from libradet.models.detector import Detector
from libradet.models.load_pretrained import BackboneWeights
from libradet.models.random_init import without_random_init
from libradet.models.serialization import is_model_format, load_model, read_config
from libradet.utils.devices import check_device
from libradet.utils.text import summarize_list

CORRUPT_ERRORS = (IndexError, ValueError, TypeError, ArithmeticError, AttributeError, RuntimeError)
"""Exceptions that inconsistent shapes and settings can raise."""

DETECTOR_PREFIXES = ("backbone.", "neck.", "rpn", "roi_heads.", "bbox_head.", "proposal_generator.", "detector.")
"""Prefixes of tensors in detectors of any toolbox, which a backbone alone does not have."""

CHECKPOINT_FORMATS: tuple[CheckpointFormat, ...] = (mmdetection.FORMAT, torchvision_models.FORMAT, detectron2.FORMAT)


class LoadedCheckpoint(NamedTuple):
    """A detector and the tensors that did not fit, which there are only if partial loading was allowed.

    Attributes:
        model: the detector, in evaluation mode.
        source: name of the toolbox.
        missing: our tensors that the file does not have.
        unexpected: the file's tensors that our detector does not have.
        mismatched: the file's tensors whose shape differs from ours, with both shapes.
        notes: which weights were loaded, if the file has two sets.
    """

    model: Detector
    source: str
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]
    notes: tuple[str, ...] = ()


def load_checkpoint_any(path: str | Path, device: str | torch.device = "cpu", use_ema: bool | None = None) -> Detector:
    """Return the detector of a file of ours or another toolbox's checkpoint, in evaluation mode.

    A warning says which weights were loaded if the file has two sets, see :func:`load_checkpoint`.

    Args:
        path: the file, or the name of published weights (:mod:`libradet.interop.coco_weights`).

    Raises:
        UserError: not a checkpoint, not one of a supported toolbox, or its tensors do not fit; or published weights
            cannot be downloaded.
    """
    check_device(device)
    path, metadata = local_weights(path)
    loaded = load_checkpoint(path, use_ema=use_ema, metadata=metadata)
    _warn_of_notes(loaded, path)
    return loaded.model.to(device)


def _warn_of_notes(loaded: LoadedCheckpoint, path: str | Path) -> None:
    for note in loaded.notes:
        warnings.warn(f"{path}: {note}", stacklevel=3)


def load_checkpoint(
    path: str | Path,
    allow_partial: bool = False,
    norm_eps: float | None = None,
    use_ema: bool | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> LoadedCheckpoint:
    """Load a detector on the CPU from a file of ours or another toolbox's checkpoint.

    Args:
        allow_partial: leave tensors that do not fit at their random initialization, and list them.
        norm_eps: epsilon of the backbone's batch norms, if the file does not contain it and the toolbox's rule (see
            :mod:`libradet.interop.torchvision_models`) does not hold for the model.
        use_ema: of two sets of weights, load the moving average (True) or what was trained (False); None loads those
            that the toolbox's own test command uses.
        metadata: in place of the metadata in another toolbox's file, such as its version and settings.

    Raises:
        UserError: as :func:`load_checkpoint_any`; or ``use_ema`` is set and the file has one set of weights, or
            ``norm_eps`` and the file is ours.
    """
    if _is_saved_model(path):
        if use_ema is not None:
            raise _one_set_of_weights(path)
        if norm_eps is not None:
            raise UserError(
                f"{path}: is a file of libradet, which contains the epsilon of its norms; leave out norm_eps"
            )
        return LoadedCheckpoint(load_model(path), "libradet", [], [], [])
    tensors, meta, note = _read(path, use_ema)
    checkpoint_format, tensors, config = _infer_config(tensors, meta if metadata is None else metadata, path)
    config.backbone.norm_eps = config.backbone.norm_eps if norm_eps is None else norm_eps
    with nullcontext() if allow_partial else without_random_init():
        model = Detector(config)
    loaded = _load_tensors(model, tensors, checkpoint_format)
    if not allow_partial and (loaded.missing or loaded.unexpected or loaded.mismatched):
        mismatches = summarize_mismatches(loaded)
        raise UserError(f"{path}: tensors of this {checkpoint_format.name} checkpoint do not fit; {mismatches}")
    return loaded._replace(notes=(note,) if note else ())


def summarize_mismatches(loaded: LoadedCheckpoint) -> str:
    """Return one line with names of tensors that did not fit, five of each kind; empty if there are none."""
    parts = (("missing", loaded.missing), ("unexpected", loaded.unexpected), ("mismatched", loaded.mismatched))
    return "; ".join(f"{kind}: {summarize_list(names)}" for kind, names in parts if names)


def resolve_init_weights(
    weights: str | Path | None, allow_partial: bool = False
) -> tuple[str | Detector | BackboneWeights | None, list[str]]:
    """Return the weights in the form that :func:`libradet.models.build.create_model` accepts.

    Args:
        weights: None, ``"imagenet"``, the name of published weights, the path of any file that
            :func:`load_checkpoint` reads, or of a backbone's state dict under timm's or torchvision's names.

    Returns:
        The weights, and the names of our tensors that the file does not have.
    """
    if weights is None or weights == "imagenet":
        return (None if weights is None else "imagenet"), []
    weights, metadata = local_weights(weights)
    if (backbone := _read_backbone_weights(weights)) is not None:
        return backbone, []
    loaded = load_checkpoint(weights, allow_partial, metadata=metadata)
    _warn_of_notes(loaded, weights)
    return loaded.model, [*loaded.missing, *loaded.mismatched]


def read_config_any(path: str | Path) -> DetectorConfig | BackboneWeights:
    """Return the configuration of the detector in a file, without building it, or the weights of a backbone.

    ``path`` may also be the name of published weights.

    Raises:
        UserError: as :func:`load_checkpoint_any`.
    """
    path, metadata = local_weights(path)
    if _is_saved_model(path):
        return read_config(path)
    if (backbone := _read_backbone_weights(path)) is not None:
        return backbone
    tensors, meta, _ = _read(path)
    return _infer_config(tensors, meta if metadata is None else metadata, path)[2]


def _is_saved_model(path: str | Path) -> bool:
    return is_model_format(read_metadata(path).get("format"))


def _one_set_of_weights(path: str | Path) -> UserError:
    return UserError(f"{path}: has one set of weights, no moving average beside it; leave out use_ema")


def _read(path: str | Path, use_ema: bool | None = None) -> Checkpoint:
    """Read a checkpoint and undo what wrappers and moving averages have changed in its names."""
    tensors, meta, note = read_checkpoint(path, use_ema)
    tensors, buffer_note = split_ema_buffers(strip_wrappers(tensors, _is_detector), use_ema)
    note = note or buffer_note
    if use_ema is not None and not note:
        raise _one_set_of_weights(path)
    return Checkpoint(tensors, meta, note)


def _is_detector(tensors: Tensors) -> bool:
    return any(known.matches(tensors) for known in CHECKPOINT_FORMATS)


def is_backbone_only(tensors: Tensors, meta: Mapping[str, Any]) -> bool:
    """Return whether tensors are those of a backbone alone, without the prefixes of a detector's parts."""
    is_detector = is_model_format(meta.get("format")) or _is_detector(tensors)
    return not is_detector and not any(name.startswith(DETECTOR_PREFIXES) for name in tensors)


def _read_backbone_weights(path: str | Path) -> BackboneWeights | None:
    if _is_saved_model(path):
        return None
    tensors, meta, _ = _read(path)
    return BackboneWeights(Path(path), tensors) if is_backbone_only(tensors, meta) else None


def detect_format(tensors: Tensors, path: str | Path) -> CheckpointFormat:
    """Return the format that the tensors have. Raises UserError if it is none of the supported ones."""
    for checkpoint_format in CHECKPOINT_FORMATS:
        if checkpoint_format.matches(tensors):
            return checkpoint_format
    if any(name.startswith("detector.") for name in tensors):
        raise UserError(f"{path}: is the resume state of a run; load best.safetensors in the same folder")
    toolboxes = ", ".join(checkpoint_format.name for checkpoint_format in CHECKPOINT_FORMATS)
    raise UserError(
        f"{path}: not a detector of libradet, {toolboxes}; its tensors are {summarize_list(list(tensors), 3)}"
    )


def _infer_config(
    tensors: Tensors, meta: Mapping[str, Any], path: str | Path
) -> tuple[CheckpointFormat, dict[str, Tensor], DetectorConfig]:
    """Return the format, the tensors under the names of its newest version, and the configuration."""
    checkpoint_format = detect_format(tensors, path)
    try:
        tensors = checkpoint_format.normalize_keys(tensors)
        return checkpoint_format, tensors, checkpoint_format.infer_config(tensors, meta)
    except UserError as error:
        raise UserError(f"{path}: this {checkpoint_format.name} checkpoint cannot be loaded: {error}") from error
    except KeyError as error:
        raise UserError(f"{path}: this {checkpoint_format.name} checkpoint has no {error}") from error
    except CORRUPT_ERRORS as error:
        name = checkpoint_format.name
        raise UserError(f"{path}: the tensors of this {name} checkpoint do not form a detector ({error})") from error


def _load_tensors(model: Detector, tensors: Tensors, checkpoint_format: CheckpointFormat) -> LoadedCheckpoint:
    layout, own = checkpoint_format.layout(tensors, model.config), model.state_dict()
    our_layers = dict(layout.key_map)
    state: dict[str, Tensor] = {}
    unexpected: list[str] = []
    mismatched: dict[str, str] = {}
    for name, t in tensors.items():
        layer, _, parameter = name.rpartition(".")
        ours = f"{our_layers.get(layer)}.{parameter}"
        if ours not in own:
            if not (layout.ignored and name.startswith(layout.ignored)):
                unexpected.append(name)
            continue
        t = _convert_order(ours, t, layout, model.config)
        if t.shape == own[ours].shape:
            state[ours] = t
        else:
            mismatched[ours] = f"{name} {list(t.shape)} instead of {list(own[ours].shape)}"
    model.load_state_dict(state, strict=False)
    present = state.keys() | mismatched.keys()
    # Losses begin to count from zero.
    missing = [name for name in own if name not in present and not _is_counted(name)]
    return LoadedCheckpoint(model.eval(), checkpoint_format.name, missing, unexpected, list(mismatched.values()))


def _is_counted(name: str) -> bool:
    return name.endswith("num_batches_tracked") or CLASS_BALANCE in name


def _convert_order(name: str, rows: Tensor, layout: StateDictLayout, config: DetectorConfig) -> Tensor:
    """Return the rows of the tensor that we call ``name`` in our order of classes and anchors."""
    rows = background_to_last(name, rows) if layout.background_first else rows
    if layout.sizes_first and config.retinanet is not None:
        anchors = config.retinanet.anchors
        return sizes_to_last(name, rows, len(anchors.scales), len(anchors.ratios))
    return rows

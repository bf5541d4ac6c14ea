"""Albumentations pipelines as augmentations; the library is imported only where there is one."""

import json
import os
import warnings
from collections.abc import Mapping
from copy import deepcopy
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.tv_tensors import Image, Mask

from libradet.data.transforms.custom import corner_boxes
from libradet.data.transforms.describe import describe
from libradet.errors import UserError

INSTALL_HINT = "pip install '.[albumentations]' in the folder of libradet"

_LABELS = "labels"
_ROWS = "rows"
MIN_SIDE = 0.01
"""Shortest side in pixels of boxes that a pipeline receives; relative to the image, sides below it may round to 0."""

_THRESHOLDS = ("min_area", "min_visibility", "min_width", "min_height", "max_accept_ratio")

_NO_SETTINGS = frozenset(
    {"transforms", "processors", "check_each_transform", "params", "random_generator", "py_random"}
)
"""Attributes of transforms that are described otherwise, or change with each call."""


class AlbumentationsTransform:
    """An Albumentations pipeline, called like a v2 transform (:mod:`libradet.data.transforms.custom`).

    The pipeline's own ``bbox_params`` need not name a format or label fields: boxes are passed as corners in pixels,
    and labels, crowd flags and masks are those of the boxes that remain. Their thresholds (``min_visibility``,
    ``min_area``, ...) apply. Transforms that select boxes by label see class numbers.

    Args:
        pipeline: ``albumentations.Compose``, or a single transform.
    """

    def __init__(self, pipeline: Any) -> None:
        self._original = pipeline
        self._pipeline = _with_own_params(pipeline)
        self._accepts_seed = "invocation_seed" in signature(self._pipeline.__call__).parameters
        members = getattr(pipeline, "transforms", [pipeline])
        self.name = f"Albumentations pipeline ({', '.join(type(member).__name__ for member in members)})"

    def describe(self) -> str:
        """Return the pipeline with all its settings as text."""
        content = pipeline_content(self._original)
        return _describe_member(self._original) if content is None else json.dumps(content["transform"], sort_keys=True)

    def __call__(self, image: Tensor, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Transform an image and its target."""
        # The pipeline has generators of its own; torch's is seeded for each sample.
        seed = int(torch.randint(2**31, ()))
        self._pipeline.set_random_seed(seed)
        masks = target.get("masks")
        corners, rows = _boxes_inside(target["boxes"], *image.shape[1:])
        inputs = {
            "image": np.ascontiguousarray(image.permute(1, 2, 0).numpy()),
            "bboxes": corners.numpy(),
            _LABELS: target["labels"][rows].numpy(),
            _ROWS: rows.numpy(),
        }
        if masks is not None and len(rows):
            inputs["masks"] = masks[rows].numpy()
        # AlbumentationsX adds the number of the worker to any other seed.
        result = self._pipeline(**inputs, **{"invocation_seed": seed} if self._accepts_seed else {})
        pixels = _channels_first(result["image"])
        if pixels.ndim != 3:
            return pixels, target  # which is refused
        height, width = pixels.shape[1:]
        left = np.asarray(result[_ROWS], np.int64)
        remaining = torch.from_numpy(np.asarray(result["bboxes"], np.float32).reshape(-1, 4))
        changed: dict[str, Any] = {
            "boxes": corner_boxes(remaining, height, width),
            "labels": target["labels"][left],
        }
        if masks is not None:
            inside = np.searchsorted(rows.numpy(), left)
            changed["masks"] = Mask(_masks_of(result.get("masks"), inside, height, width))
        return Image(pixels), changed


def is_pipeline(value: Any) -> bool:
    """Return whether a value is a transform of Albumentations."""
    return any(cls.__module__.partition(".")[0] == "albumentations" for cls in type(value).__mro__)


def pipeline_content(pipeline: Any) -> dict[str, Any] | None:
    """Return a pipeline as ``albumentations.save`` writes it; None if it has parts that no file can hold."""
    library = _library()
    try:
        content = json.loads(json.dumps(library.to_dict(pipeline)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library.from_dict(content)  # fails for named Lambdas: only their names are written
        return content
    except Exception:  # transforms with functions or arrays raise any exception
        return None


def load_pipeline(content: Any) -> AlbumentationsTransform:
    """Return the pipeline of a file that ``albumentations.save`` wrote; nothing in it is executed.

    Raises:
        UserError: the content is none, or Albumentations is not installed.
    """
    library = _library()
    if not isinstance(content, Mapping) or "transform" not in content:
        raise UserError("augmentations: not an Albumentations pipeline; write it with albumentations.save")
    try:
        return AlbumentationsTransform(library.from_dict(dict(content)))
    except Exception as e:  # raised by constructors of transforms
        raise UserError(f"augmentations: Albumentations cannot load it: {' '.join(str(e).split())[:300]}") from e


def _describe_member(member: Any) -> str:
    """Return a transform that no file can hold, or one that contains some, with its settings as text."""
    names = [name for name in sorted(vars(member)) if not name.startswith("_") and name not in _NO_SETTINGS]
    settings = [f"{name}={describe(getattr(member, name))}" for name in names]
    parts = [_describe_member(part) for part in getattr(member, "transforms", ())]
    annotations = [f"{name}={describe(vars(p.params))}" for name, p in getattr(member, "processors", {}).items()]
    return f"{type(member).__name__}({', '.join(settings + annotations + parts)})"


def _library() -> ModuleType:
    # Otherwise the import asks a server for the newest version.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        return import_module("albumentations")
    except ImportError as e:
        raise UserError(f"augmentations: Albumentations is not installed: {INSTALL_HINT}") from e


def _with_own_params(pipeline: Any) -> Any:
    library = _library()
    params = getattr(getattr(pipeline, "processors", {}).get("bboxes"), "params", None)
    thresholds = {name: getattr(params, name) for name in _THRESHOLDS if hasattr(params, name)}
    own = library.BboxParams("pascal_voc", label_fields=[_LABELS, _ROWS], **thresholds)
    is_composed, is_recorded = isinstance(pipeline, library.Compose), isinstance(pipeline, library.ReplayCompose)
    # A ReplayCompose has its members record their parameters, which only itself can receive.
    members = deepcopy(pipeline.transforms) if is_recorded else pipeline.transforms if is_composed else [pipeline]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got processor for bboxes")  # a pipeline may change pixels only
        composed = library.Compose(list(members), p=pipeline.p if is_composed else 1.0, bbox_params=own)
    if is_recorded:
        composed.set_deterministic(False)
    return composed


def _boxes_inside(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return boxes clipped to the image, and the numbers of those of which something is in it.

    Albumentations refuses others, which an earlier transform may have moved there.
    """
    corners = boxes.as_subclass(Tensor).clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    rows = (corners[:, 2:] - corners[:, :2] >= MIN_SIDE).all(1).nonzero().flatten()
    return corners[rows], rows


def _channels_first(pixels: Any) -> Tensor:
    """Return pixels as [C, H, W]: those that ``ToTensorV2`` returned already are."""
    if isinstance(pixels, Tensor):
        return pixels
    array = torch.from_numpy(np.array(pixels))
    return array.permute(2, 0, 1) if array.ndim == 3 else array


def _masks_of(masks: Any, rows: np.ndarray, height: int, width: int) -> Tensor:
    if masks is None:
        return torch.zeros(0, height, width, dtype=torch.uint8)
    # ToTensorV2 makes each of several masks, or all of them, a tensor.
    stacked = masks if isinstance(masks, np.ndarray | Tensor) else np.stack([np.asarray(mask) for mask in masks])
    return torch.from_numpy(np.asarray(stacked)[rows])

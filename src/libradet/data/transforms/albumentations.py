"""Albumentations pipelines as augmentations; the library is imported only where there is one."""

import json
import os
from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.tv_tensors import Image, Mask

from libradet.data.transforms.custom import corner_boxes
from libradet.errors import UserError

INSTALL_HINT = "pip install '.[albumentations]' in the folder of libradet"

_ROWS = "rows"
_THRESHOLDS = ("min_area", "min_visibility", "min_width", "min_height", "max_accept_ratio")


class AlbumentationsTransform:
    """An Albumentations pipeline, called like a v2 transform (:mod:`libradet.data.transforms.custom`).

    The pipeline's own ``bbox_params`` need not name a format or label fields: boxes are passed as corners in pixels,
    and labels, crowd flags and masks are those of the boxes that remain. Their thresholds (``min_visibility``,
    ``min_area``, ...) apply.

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
        return repr(self._original) if content is None else json.dumps(content["transform"], sort_keys=True)

    def __call__(self, image: Tensor, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Transform an image and its target."""
        # The pipeline has generators of its own; torch's is seeded for each sample.
        seed = int(torch.randint(2**31, ()))
        self._pipeline.set_random_seed(seed)
        boxes, masks = target["boxes"].as_subclass(Tensor), target.get("masks")
        inputs = {
            "image": np.ascontiguousarray(image.permute(1, 2, 0).numpy()),
            "bboxes": boxes.numpy(),
            _ROWS: np.arange(len(boxes)),
        }
        if masks is not None and len(masks):
            inputs["masks"] = masks.numpy()
        # AlbumentationsX adds the number of the worker to any other seed.
        result = self._pipeline(**inputs, **{"invocation_seed": seed} if self._accepts_seed else {})
        pixels = result["image"]
        if not (isinstance(pixels, np.ndarray) and pixels.ndim == 3):
            return pixels, target
        height, width = pixels.shape[:2]
        rows = np.asarray(result[_ROWS], np.int64)
        corners = torch.from_numpy(np.asarray(result["bboxes"], np.float32).reshape(-1, 4))
        changed: dict[str, Any] = {
            "boxes": corner_boxes(corners, height, width),
            "labels": target["labels"][rows],
        }
        if masks is not None:
            changed["masks"] = Mask(_masks_of(result.get("masks"), rows, height, width))
        return Image(torch.from_numpy(np.array(pixels)).permute(2, 0, 1)), changed


def is_pipeline(value: Any) -> bool:
    """Return whether a value is a transform of Albumentations."""
    return any(cls.__module__.partition(".")[0] == "albumentations" for cls in type(value).__mro__)


def pipeline_content(pipeline: Any) -> dict[str, Any] | None:
    """Return a pipeline as ``albumentations.save`` writes it; None if it has parts that no file can hold."""
    try:
        return json.loads(json.dumps(_library().to_dict(pipeline)))
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
    own = library.BboxParams("pascal_voc", label_fields=[_ROWS], **thresholds)
    if not isinstance(pipeline, library.Compose):
        return library.Compose([pipeline], bbox_params=own)
    return library.Compose(list(pipeline.transforms), p=pipeline.p, bbox_params=own)


def _masks_of(masks: Any, rows: np.ndarray, height: int, width: int) -> Tensor:
    if masks is None:
        return torch.zeros(0, height, width, dtype=torch.uint8)
    return torch.from_numpy(np.asarray(masks)[rows])

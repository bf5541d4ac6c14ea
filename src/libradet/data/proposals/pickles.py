"""mmdetection's proposals, from the pickles that it writes, without executing anything.

Version 2 (and 1) writes a list of arrays [P, 5] (xyxy and score; [P, 4] without), one for each image in the order of
the annotation file. Version 3 writes a dictionary from the path of an image to its ``bboxes`` and ``scores``.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32
from numpy import ndarray
from torch import Tensor

from libradet import unpickling
from libradet.errors import UserError


class Listed(NamedTuple):
    """Proposals image by image, xyxy in pixels of the files.

    ``scores`` is None if any image has none; ``names`` is None if images are in the annotation file's order.
    """

    boxes: list[Float32[ndarray, "P 4"]]
    scores: list[Float32[ndarray, " P"]] | None
    names: list[str] | None


class _Fields(unpickling.Inert):
    """Stands for mmengine's InstanceData: keeps its fields and does nothing."""

    fields: dict[str, Any] = {}  # noqa: RUF012 (the class is sealed, instances get their own)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.fields = state


class _Unpickler(unpickling.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in ("mmengine", "mmdet") and name == "InstanceData":
            return _Fields
        return super().find_class(module, name)


def read_pickle(path: Path) -> Listed:
    """The proposals in a pickle of mmdetection.

    Raises:
        UserError: something else is in it; or it wants more than to be data, and then what.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="latin1").load()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except unpickling.DAMAGED as error:
        raise UserError(f"{path}: is not a proposal file, neither .safetensors nor a pickle ({error})") from error
    if isinstance(content, dict) and content and all(isinstance(name, str) for name in content):
        names, entries = list(content), list(content.values())
    elif isinstance(content, list) and content:
        names, entries = None, content
    else:
        raise UserError(
            f"{path}: is not a proposal file: it holds a {type(content).__name__} and neither arrays [P, 5] in the "
            "order of the annotation file nor a dictionary of them by image"
        )
    parts = [_split(entry, path, names[i] if names else f"image {i + 1}") for i, entry in enumerate(entries)]
    scores = [scores for _, scores in parts if scores is not None]
    return Listed([boxes for boxes, _ in parts], scores if len(scores) == len(parts) else None, names)


def _split(entry: Any, path: Path, name: str) -> tuple[Float32[ndarray, "P 4"], Float32[ndarray, " P"] | None]:
    """Boxes and scores of one image."""
    fields = entry.fields if isinstance(entry, _Fields) else entry
    if isinstance(fields, dict):
        boxes, scores = _numbers(fields.get("bboxes")), _numbers(fields.get("scores"))
    else:
        rows = _numbers(fields)
        boxes = rows if rows is None or rows.ndim != 2 or rows.shape[1] != 5 else rows[:, :4]
        scores = None if rows is boxes or rows is None else rows[:, 4]
    if boxes is not None and boxes.size == 0:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    if (
        boxes is None
        or boxes.ndim != 2
        or boxes.shape[1] != 4
        or (scores is not None and scores.shape != boxes[:, 0].shape)
    ):
        raise UserError(f"{path}: what it holds for {name} is not proposals, an array [P, 5] or bboxes and scores")
    return boxes, scores


def _numbers(value: Any) -> Float32[ndarray, "..."] | None:
    """An array of float32, or None if it is not made of real numbers."""
    value = value.numpy() if isinstance(value, Tensor) else value
    return value.astype(np.float32) if isinstance(value, ndarray) and value.dtype.kind in "fiu" else None

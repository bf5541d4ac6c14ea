"""Proposal files of mmdetection: pickles, read without executing their code.

Version 2 (and 1) writes a list of arrays [P, 5] (xyxy and score; [P, 4] without), one for each image in the order of
the annotation file. Version 3 writes a dictionary from the path of an image to its ``bboxes`` and ``scores``.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32
from numpy import ndarray
from torch import Tensor

from libradet.errors import UserError
from libradet.utils import safe_pickle


class ProposalLists(NamedTuple):
    """Proposals by image, xyxy in pixels of the files.

    ``scores`` is None if any image has none; ``names`` is None if images are in the annotation file's order.
    """

    boxes: list[Float32[ndarray, "P 4"]]
    scores: list[Float32[ndarray, " P"]] | None
    names: list[str] | None


def read_pickle(path: Path) -> ProposalLists:
    """Read the proposals in a pickle of mmdetection.

    Raises:
        UserError: it holds something else, or asks for more than data; the message names it.
    """
    try:
        with path.open("rb") as file:
            content = safe_pickle.load(file, encoding="latin1")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except safe_pickle.READ_ERRORS as error:
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
    parsed = [_parse_entry(entry, path, names[i] if names else f"image {i + 1}") for i, entry in enumerate(entries)]
    scores = [scores for _, scores in parsed if scores is not None]
    return ProposalLists([boxes for boxes, _ in parsed], scores if len(scores) == len(parsed) else None, names)


def _parse_entry(entry: Any, path: Path, name: str) -> tuple[Float32[ndarray, "P 4"], Float32[ndarray, " P"] | None]:
    """Return the boxes and scores of one image."""
    fields = entry.fields if isinstance(entry, safe_pickle.InstanceDataPlaceholder) else entry
    if isinstance(fields, dict):
        boxes, scores = _to_float_array(fields.get("bboxes")), _to_float_array(fields.get("scores"))
    else:
        boxes, scores = _to_float_array(fields), None
        if boxes is not None and boxes.ndim == 2 and boxes.shape[1] == 5:
            boxes, scores = boxes[:, :4], boxes[:, 4]
    if boxes is not None and boxes.size == 0:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    is_valid = boxes is not None and boxes.ndim == 2 and boxes.shape[1] == 4
    if boxes is None or not is_valid or (scores is not None and scores.shape != boxes[:, 0].shape):
        raise UserError(f"{path}: the entry of {name} is not proposals, an array [P, 5] or bboxes and scores")
    return boxes, scores


def _to_float_array(value: Any) -> Float32[ndarray, "..."] | None:
    """Return an array of float32, or None if the value does not consist of real numbers."""
    value = value.numpy() if isinstance(value, Tensor) else value
    return value.astype(np.float32) if isinstance(value, ndarray) and value.dtype.kind in "fiu" else None

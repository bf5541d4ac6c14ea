"""The one road from images to detections in their own pixels."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy import ndarray
from PIL import Image
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.data.loading.transforms import Sample, Size, canvas_of, collate, unlabeled
from libradet.errors import UserError
from libradet.inference.detections import Detections
from libradet.inference.finder import Finder, size_for
from libradet.inference.originals import to_supervision
from libradet.inference.sights import Sight, find_images, frames, is_video, sights

if TYPE_CHECKING:
    import supervision

ImageInput = str | Path | Image.Image | ndarray
"""What can be looked at: a file, a Pillow image, or a uint8 RGB array [H, W, 3]."""

Boxes = ndarray | Tensor
"""Corners [P, 4], xyxy in pixels."""

AHEAD = 4
"""Batches of images that are read before the first is looked at, so that those of one canvas come together."""


def predict(
    model: Finder,
    images: ImageInput | Iterable[ImageInput],
    threshold: float = 0.5,
    size: Size | None = None,
    batch_size: int = 1,
    proposals: Boxes | Sequence[Boxes] | None = None,
) -> "supervision.Detections | list[supervision.Detections] | Iterator[supervision.Detections]":
    """What the model finds, on the model's device; its mode (training or evaluation) is left as it was.

    Args:
        images: one image; a list of them; a folder or pattern of files; a video file; or anything else that
            gives images one by one, such as a generator. Files and Pillow images are turned upright (EXIF).
        threshold: least score, 0..1. The detector itself drops what scores less than
            ``config.detections.score``.
        size: (short, long) side to resize to; None as trained; "original" for no resizing.
        batch_size: images that go through the model together, if their canvases are the same. More than one is
            faster on a GPU.
        proposals: for a detector without rpn, where to look for objects: boxes [P, 4], best first, xyxy in
            pixels of the upright image; a list of them for a list of images.

    Returns:
        For one image, one ``supervision.Detections``; for a list, folder or pattern, a list; for a video or a
        generator, an iterator that looks as it is asked. Best first; ``xyxy`` in pixels
        of the original upright image and inside it; ``confidence``; ``class_id`` 0..C-1;
        ``data["class_name"]``; ``mask`` [D, H, W] if the detector gives masks.

    Raises:
        UserError: an image cannot be read, or an argument is out of range.
    """
    check_threshold(threshold)
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: at least one image goes through the model at a time")
    if proposals is not None and not model.proposals_wanted:
        raise UserError(f"{model.name} needs no proposals: leave them out")
    options = threshold, size, batch_size
    if isinstance(images, str | Path) and is_video(Path(images)):
        return _found(look(model, frames(Path(images)), *options))
    if isinstance(images, str | Path) and _names_many(images):
        images = find_images([images])
    if isinstance(images, str | Path | Image.Image | ndarray):
        alone = sights([images], None if proposals is None else [proposals])
        return next(_found(look(model, alone, *options)))
    if proposals is not None and isinstance(images, list | tuple) and len(proposals) != len(images):
        raise UserError(f"proposals are given for {len(proposals)} images, of which there are {len(images)}")
    found = _found(look(model, sights(images, proposals), *options))
    return list(found) if isinstance(images, list | tuple) else found


def look(
    model: Finder,
    images: Iterable[Sight],
    threshold: float = 0.0,
    size: Size | None = None,
    batch_size: int = 1,
) -> "Iterator[tuple[Sight, supervision.Detections]]":
    """Every image with what is found in it, in order, a few batches at a time; see :func:`predict`."""
    coming = iter(images)
    size = size_for(model, size)
    # Alone, an image is shown as soon as it is there.
    while seen := list(islice(coming, batch_size * AHEAD if batch_size > 1 else 1)):
        samples = [_sample(model, sight, size, row) for row, sight in enumerate(seen)]
        found: dict[int, supervision.Detections] = {}
        for batch in batches_of(samples, model.divisor, batch_size):
            assert batch.index is not None
            ours = to_supervision(find(model, batch), batch, model.class_names, threshold)
            found |= zip(batch.index.tolist(), ours, strict=True)
        yield from ((sight, found[row]) for row, sight in enumerate(seen))


def find(model: Finder, batch: Batch) -> Detections:
    """Detections of one batch, on the model's device and without gradients."""
    with evaluating(model):
        return model(batch.to(model.device, non_blocking=True))


def check_threshold(threshold: float) -> None:
    """Raises UserError if no score can be compared with it."""
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold is {threshold}: a score lies between 0 and 1")


@contextmanager
def evaluating(model: Finder) -> Iterator[None]:
    """In evaluation mode without gradients; afterwards every part is in the mode it was in before."""
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    before = [(part, part.training) for part in parts]
    if isinstance(model, nn.Module):
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, training in before:
            part.training = training


def _found(looked: "Iterator[tuple[Sight, supervision.Detections]]") -> "Iterator[supervision.Detections]":
    return (found for _, found in looked)


def _names_many(source: str | Path) -> bool:
    path = Path(source)
    return path.is_dir() or (not path.is_file() and any(sign in str(source) for sign in "*?["))


def _sample(model: Finder, sight: Sight, size: Size, row: int) -> Sample:
    given = sight.proposals
    if model.proposals_wanted and given is None:
        raise UserError(
            f"{model.name} looks for objects in proposals that it is given, and {_name(sight)} has none "
            "(libradet predict writes them with a model that proposes, such as rpn)"
        )
    if given is not None:
        given = given[: model.proposals_wanted]
    return unlabeled(sight.image, size, row, given)


def _name(sight: Sight) -> str:
    if sight.path is None:
        return "the image"
    return f"{sight.path}" if sight.frame is None else f"{sight.path}, frame {sight.frame}"


def batches_of(samples: Sequence[Sample], divisor: int, batch_size: int) -> Iterator[Batch]:
    """Batches of images on one canvas, so that none looks different for the company it is in."""
    canvases = np.array([canvas_of(sample, divisor) for sample in samples])
    for canvas in np.unique(canvases, axis=0):
        rows = np.flatnonzero((canvases == canvas).all(1))
        for start in range(0, len(rows), batch_size):
            yield collate([samples[row] for row in rows[start : start + batch_size]], canvas=tuple(canvas.tolist()))

"""From input images to batches."""

from collections.abc import Iterator, Sequence

import numpy as np

from libradet.data.batch import Batch
from libradet.data.collate import collate, padded_size_of, unlabeled_sample
from libradet.data.transforms.resize import Size
from libradet.data.transforms.sample import Sample
from libradet.errors import UserError
from libradet.inference.inputs import InputImage
from libradet.predictor import Predictor


def preprocess(model: Predictor, inputs: Sequence[InputImage], size: Size, batch_size: int) -> Iterator[Batch]:
    """Resize images and yield them in batches; ``Batch.index`` is the position in ``inputs``.

    Raises:
        UserError: the model needs proposals and an image has none.
    """
    samples = [_to_sample(model, image, size, row) for row, image in enumerate(inputs)]
    return iter_batches(samples, model.size_divisible, batch_size)


def iter_batches(samples: Sequence[Sample], size_divisible: int, batch_size: int) -> Iterator[Batch]:
    """Yield batches of images of equal padded size, so that padding does not depend on the other images."""
    padded_sizes = np.array([padded_size_of(sample, size_divisible) for sample in samples])
    for padded_size in np.unique(padded_sizes, axis=0):
        rows = np.flatnonzero((padded_sizes == padded_size).all(1))
        for start in range(0, len(rows), batch_size):
            group = [samples[row] for row in rows[start : start + batch_size]]
            yield collate(group, padded_size=tuple(padded_size.tolist()))


def _to_sample(model: Predictor, image: InputImage, size: Size, row: int) -> Sample:
    proposals = image.proposals
    if model.num_proposals and proposals is None:
        raise UserError(
            f"{model.name} needs precomputed proposals, and {_describe(image)} has none: pass proposals "
            "(libradet predict writes them with a proposal model such as rpn)"
        )
    if proposals is not None:
        proposals = proposals[: model.num_proposals]
    return unlabeled_sample(image.image, size, row, proposals)


def _describe(image: InputImage) -> str:
    if image.path is None:
        return "the image"
    return f"{image.path}" if image.frame is None else f"{image.path}, frame {image.frame}"

"""Which images are looked at, and their ground truth in the detector's own terms."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from libradet.data.batch import Batch
from libradet.data.proposals.given import GivenProposals
from libradet.data.records import Dataset
from libradet.evaluation.classes import match_classes
from libradet.models.detector import Detector


def spread_evenly(total: int, limit: int) -> list[int]:
    """At most ``limit`` of ``total`` rows, first and last among them, at equal distances."""
    return sorted(set(np.linspace(0, total - 1, min(limit, total)).round().astype(int).tolist()))


def subset(dataset: Dataset, rows: Sequence[int]) -> Dataset:
    """The dataset with these images alone."""
    return replace(dataset, images=[dataset.images[row] for row in rows])


def proposals_of(given: GivenProposals | None, rows: Sequence[int]) -> GivenProposals | None:
    """Those of these images alone."""
    return None if given is None else replace(given, rows=given.rows[np.asarray(rows)])


def with_objects(dataset: Dataset, limit: int) -> list[int]:
    """At most ``limit`` rows of images that hold objects, spread evenly."""
    rows = [row for row, image in enumerate(dataset.images) if (~image.crowd).any()]
    return [rows[i] for i in spread_evenly(len(rows), limit)] if rows else []


class Relabel:
    """Ground truths in the detector's own labels; objects of classes it does not know are treated as crowds."""

    def __init__(self, model: Detector, dataset: Dataset) -> None:
        self.known = torch.arange(len(dataset.class_names))
        if not model.config.proposes:
            of_detector = match_classes(model.class_names, dataset.class_names).labels
            self.known = torch.tensor([_position(of_detector, label) for label in range(len(dataset.class_names))])

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its labels, and crowds, replaced."""
        known = self.known.to(batch.labels.device)
        labels = known[batch.labels.clamp(min=0)]
        present = batch.labels >= 0
        return batch._replace(
            labels=torch.where(present, labels.clamp(min=0), -1), crowd=batch.crowd | (present & (labels < 0))
        )


def _position(of_detector: list[int], label: int) -> int:
    return of_detector.index(label) if label in of_detector else -1

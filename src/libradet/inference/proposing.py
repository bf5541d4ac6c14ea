"""From a detector that proposes to proposal files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from libradet.data.batch import Batch
from libradet.data.proposals.proposal_file import Proposed, write_proposals
from libradet.data.records import Dataset, ImageRecord
from libradet.errors import UserError
from libradet.inference.data_sets import look_through
from libradet.inference.detections import Detections
from libradet.inference.finder import Finder


@dataclass
class ProposalCollector:
    """Keeps what is proposed in the images of a dataset that pass through :meth:`update`."""

    dataset: Dataset
    found: dict[int, Proposed] = field(default_factory=dict)

    def update(self, detections: Detections, batch: Batch) -> None:
        """Take in the proposals of one batch, whose ``index`` and ``scales`` say what they were found in."""
        assert batch.index is not None, "Batch.index is missing: a batch to be kept knows its images"
        assert batch.scales is not None, "Batch.scales is missing: a batch to be kept knows its files' sizes"
        boxes, scores, scales = (t.cpu().double().numpy() for t in (detections.boxes, detections.scores, batch.scales))
        valid = detections.valid.cpu().numpy()
        for i, index in enumerate(batch.index.tolist()):
            image, keep = self.dataset.images[index], valid[i]
            original = (boxes[i, keep] / np.tile(scales[i], 2)).clip(0, [image.width, image.height] * 2)
            name = _name(image, self.dataset.root)
            arrays = original.astype(np.float32), scores[i, keep].astype(np.float32)
            self.found[index] = Proposed(image.id, name, image.width, image.height, *arrays)


def propose(model: Finder, dataset: Dataset, path: Path, **settings: Any) -> int:
    """Write the proposals of every image of a dataset to ``path`` (:mod:`libradet.data.proposals.proposal_file`).

    Args:
        settings: ``size``, ``batch_size``, ``workers``, ``device`` and ``progress`` of
            :func:`libradet.evaluation.evaluate.evaluate`; with the same, recall is what that measures.

    Returns:
        how many proposals there are. Raises UserError if the model does not propose, or the file cannot be written.
    """
    check_proposing(model)
    try:  # before an hour's work, not after it
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be a folder for proposals ({error.strerror})") from error
    collector = ProposalCollector(dataset)
    look_through(model, dataset, collector.update, **settings)
    found = [collector.found[index] for index in range(len(dataset))]
    write_proposals(path, found, model.name)
    return sum(len(image.scores) for image in found)


def check_proposing(model: Finder) -> None:
    """Raises UserError if the model's detections are no proposals."""
    if not model.proposes:
        raise UserError(
            f"{model.name} does not propose, rpn and libra_rpn do; libradet evaluate --results writes what "
            "other models find in a dataset"
        )


def _name(image: ImageRecord, root: Path) -> str:
    inside = image.path.is_relative_to(root)
    return (image.path.relative_to(root) if inside else image.path).as_posix()

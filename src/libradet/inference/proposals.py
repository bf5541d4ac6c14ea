"""Precomputed proposals: which models need them, loading them for a dataset, and writing those of a proposal model."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from libradet.data.batch import Batch
from libradet.data.proposals.precomputed import PrecomputedProposals, proposals_for_dataset
from libradet.data.proposals.proposal_file import ImageProposals, write_proposals
from libradet.data.records import Dataset, ImageRecord
from libradet.errors import UserError
from libradet.inference.dataset_runner import run_on_dataset
from libradet.models.config import DetectorConfig
from libradet.predictor import Predictor
from libradet.structures import Detections
from libradet.utils.atomic_io import require_writable


def check_config_proposals(config: DetectorConfig, path: str | Path | None) -> None:
    """Check that proposals are named if and only if a detector of this configuration needs them, and that they exist.

    Fast, so it is called before slow steps. Raises UserError.
    """
    _check(config.model, config.requires_proposals, path)


def check_predictor_proposals(model: Predictor, path: str | Path | None) -> None:
    """Check the same as :func:`check_config_proposals` for a model. Raises UserError."""
    _check(model.name, bool(model.num_proposals), path)


def load_config_proposals(
    config: DetectorConfig, path: str | Path | None, dataset: Dataset, training: bool
) -> PrecomputedProposals | None:
    """Return the proposals of a dataset for a detector that needs them, None for other detectors. Raises UserError."""
    check_config_proposals(config, path)
    if path is None:
        return None
    assert config.roi is not None
    limit = config.roi.train_proposals if training else config.roi.test_proposals
    return proposals_for_dataset(path, dataset, limit)


def load_predictor_proposals(
    model: Predictor, path: str | Path | None, dataset: Dataset
) -> PrecomputedProposals | None:
    """Return the proposals of a dataset for a model that needs them, None for other models. Raises UserError."""
    check_predictor_proposals(model, path)
    return None if path is None else proposals_for_dataset(path, dataset, model.num_proposals)


def check_is_proposal_model(model: Predictor) -> None:
    """Raise UserError unless the model's detections are proposals."""
    if not model.is_proposal_model:
        raise UserError(
            f"{model.name} is not a proposal model: use rpn or libra_rpn, or write the detections of this model on a "
            "dataset with libradet evaluate --coco_results"
        )


def write_dataset_proposals(model: Predictor, dataset: Dataset, path: Path, **settings: Any) -> int:
    """Write the proposals of every image of a dataset to ``path`` (:mod:`libradet.data.proposals.proposal_file`).

    Args:
        settings: ``size``, ``batch_size``, ``num_workers``, ``device`` and ``progress`` of
            :func:`libradet.inference.dataset_runner.run_on_dataset`.

    Returns:
        the number of proposals.

    Raises:
        UserError: the model is not a proposal model, or the file cannot be written.
    """
    check_is_proposal_model(model)
    require_writable(path)
    collector = ProposalCollector(dataset)
    run_on_dataset(model, dataset, collector.update, **settings)
    images = [collector.proposals[index] for index in range(len(dataset))]
    write_proposals(path, images, model.name)
    return sum(len(image.scores) for image in images)


@dataclass
class ProposalCollector:
    """Collects the proposals of a dataset's images, by dataset index, in pixels of the original files."""

    dataset: Dataset
    proposals: dict[int, ImageProposals] = field(default_factory=dict)

    def update(self, detections: Detections, batch: Batch) -> None:
        """Add the proposals of one batch, which needs ``index`` and ``scales``."""
        assert batch.index is not None, "Batch.index is required to assign proposals to images"
        assert batch.scales is not None, "Batch.scales is required to rescale proposals to the files' pixels"
        boxes, scores, scales = (t.cpu().double().numpy() for t in (detections.boxes, detections.scores, batch.scales))
        valid = detections.valid.cpu().numpy()
        for i, index in enumerate(batch.index.tolist()):
            image, keep = self.dataset.images[index], valid[i]
            original = (boxes[i, keep] / np.tile(scales[i], 2)).clip(0, [image.width, image.height] * 2)
            name = _relative_name(image, self.dataset.root)
            arrays = original.astype(np.float32), scores[i, keep].astype(np.float32)
            self.proposals[index] = ImageProposals(image.id, name, image.width, image.height, *arrays)


def _check(name: str, required: bool, path: str | Path | None) -> None:
    if required and path is None:
        raise UserError(
            f"{name} needs precomputed proposals: name their file with --proposals "
            "(libradet predict writes one with a proposal model such as rpn)"
        )
    if path is None:
        return
    if not required:
        raise UserError(f"{name} uses no precomputed proposals: leave out {path}, or use fast_rcnn")
    if not Path(path).exists():
        raise UserError(f"{path}: no such proposal file; check the path")


def _relative_name(image: ImageRecord, root: Path) -> str:
    inside = image.path.is_relative_to(root)
    return (image.path.relative_to(root) if inside else image.path).as_posix()

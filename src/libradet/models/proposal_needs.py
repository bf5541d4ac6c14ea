"""Which detectors are given proposals, and how they get them."""

from pathlib import Path

from libradet.data.proposals.given import GivenProposals, give_to_dataset
from libradet.data.records import Dataset
from libradet.errors import UserError
from libradet.inference.finder import Finder
from libradet.models.config import DetectorConfig


def check_proposals(config: DetectorConfig, path: str | Path | None) -> None:
    """Refuse a detector that lacks proposals, one that has no use for them, and a path where nothing is.

    Cheap, so that it comes before all that takes time. Raises UserError.
    """
    _check(config.model, config.takes_proposals, path)


def check_finder(finder: Finder, path: str | Path | None) -> None:
    """The same for whatever looks at images."""
    _check(finder.name, bool(finder.proposals_wanted), path)


def give(config: DetectorConfig, path: str | Path | None, dataset: Dataset, training: bool) -> GivenProposals | None:
    """The proposals of a dataset for a detector that takes them, None for any other. Raises UserError."""
    check_proposals(config, path)
    return None if path is None else give_to_dataset(path, dataset, _limit(config, training))


def give_to_finder(finder: Finder, path: str | Path | None, dataset: Dataset) -> GivenProposals | None:
    """The proposals that are looked at in a dataset, None if the finder looks for objects itself. Raises UserError."""
    check_finder(finder, path)
    return None if path is None else give_to_dataset(path, dataset, finder.proposals_wanted)


def _check(name: str, wanted: bool, path: str | Path | None) -> None:
    if wanted and path is None:
        raise UserError(
            f"{name} looks for objects in proposals that it is given: name their file with --proposals "
            "(libradet predict writes one with a model that proposes, such as rpn)"
        )
    if path is None:
        return
    if not wanted:
        raise UserError(f"{name} needs no proposals: leave --proposals {path} out, or take fast_rcnn")
    if not Path(path).exists():
        raise UserError(f"{path}: no such file of proposals")


def _limit(config: DetectorConfig, training: bool) -> int:
    assert config.roi is not None
    return config.roi.train_proposals if training else config.roi.test_proposals

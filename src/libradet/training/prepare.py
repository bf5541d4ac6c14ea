"""From a configuration to all that a run needs, before anything is written."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from libradet.data.checks.report import Report, merge
from libradet.data.layouts.formats import choose_split, find_layout
from libradet.data.loading.loader import make_loader
from libradet.data.proposals.given import GivenProposals
from libradet.data.read import read
from libradet.data.records import Dataset
from libradet.data.segmentations import require_masks
from libradet.errors import UserError
from libradet.evaluation.classes import match_classes
from libradet.interop.loading import start_from
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.models.given import check_proposals, give
from libradet.models.recompute import recompute_blocks
from libradet.models.zoo import create_model, make_config
from libradet.training.checkpoint import Circumstances, Standing, circumstances, read_standing
from libradet.training.folder import LAST, choose_folder
from libradet.training.precision import choose_precision
from libradet.training.quietly import quietly
from libradet.training.recipe import resolve
from libradet.training.settings import TrainConfig, check
from libradet.training.sync_norm import synchronise_norms


@dataclass(frozen=True)
class Plan:
    """A run that can start.

    Attributes:
        config: resolved.
        train_set, val_set: pictures; None where there is nothing to measure on.
        train_proposals, val_proposals: of these pictures; None unless the model is given proposals.
        report: what the check of the data found.
        batches_per_epoch: of each process.
        standing: where the run continues.
        why_precision: in a few words.
    """

    config: TrainConfig
    detector: Detector
    folder: Path
    train_set: Dataset
    val_set: Dataset | None
    train_proposals: GivenProposals | None
    val_proposals: GivenProposals | None
    report: Report
    batches_per_epoch: int
    standing: Standing
    circumstances: Circumstances
    on_gpu: bool
    why_precision: str

    def train_loader(self, rank: int, processes: int) -> DataLoader:
        """Training batches of one process."""
        return _loader(self.config, self.detector, self.train_set, self.train_proposals, rank, processes, training=True)

    def val_loader(self, rank: int, processes: int) -> DataLoader:
        """One process's share of the validation pictures."""
        assert self.val_set is not None
        return _loader(self.config, self.detector, self.val_set, self.val_proposals, rank, processes, training=False)

    @property
    def finished(self) -> bool:
        """Whether all training is done already."""
        most, total = self.config.max_steps, self.config.epochs * self.batches_per_epoch
        return self.standing.batches >= total or (most is not None and self.standing.steps >= most)


def prepare(
    config: TrainConfig,
    detector: DetectorConfig | Detector | None = None,
    resume: Path | None = None,
    show: Callable[[Report], None] = lambda report: None,
) -> Plan:
    """Read and check the data, build the detector, fill in what the configuration leaves open.

    Args:
        detector: configuration, or a built detector to train on; that behind ``config.model`` if None.
        resume: run folder to continue in.
        show: called with the report on the data as soon as it is known.

    Raises:
        UserError: anything that keeps the run from starting.
    """
    check(config)
    tree = detector.config if isinstance(detector, Detector) else detector or make_config(config.model)
    masks = tree.mask is not None
    for given in (config.proposals, config.val_proposals or config.proposals):
        check_proposals(tree, given)
    train_set, val_set, report = _read_data(config, masks)
    show(report)
    for dataset in (train_set, val_set) if masks else ():
        if dataset is not None:
            require_masks(dataset)
    on_gpu = torch.cuda.is_available()
    _check_devices(config, on_gpu)
    given, val_given = _give(config, tree, train_set, val_set)
    model = _build(config, detector, train_set.class_names, resume is not None)
    model.config.category_ids = tuple(train_set.category_ids)
    recompute_blocks(model.backbone.body, config.checkpointing)
    folder = resume or choose_folder(config, model.config.backbone.name)
    now = circumstances(config, len(train_set), train_set.class_names)
    standing = read_standing(folder / LAST, now) if resume else Standing()
    if config.world_size > 1:
        synchronise_norms(model, on_gpu)
    batches = len(_loader(config, model, train_set, given, 0, config.world_size, training=True))
    if batches == 0:
        raise UserError(
            f"{config.data}: {len(train_set)} training pictures do not fill one batch of {config.batch_size} for each "
            f"of {config.world_size} processes; lower --batch_size"
        )
    precision, why = choose_precision(config, on_gpu)
    config = resolve(replace(config, precision=precision), batches)
    sets = (train_set, val_set, given, val_given)
    return Plan(config, model, folder, *sets, report, batches, standing, now, on_gpu, why)


def _give(
    config: TrainConfig, tree: DetectorConfig, train_set: Dataset, val_set: Dataset | None
) -> tuple[GivenProposals | None, GivenProposals | None]:
    """Proposals to train on and to measure with."""
    given = give(tree, config.proposals, train_set, training=True)
    if val_set is None:
        return given, None
    return given, give(tree, config.val_proposals or config.proposals, val_set, training=False)


def _read_data(config: TrainConfig, masks: bool) -> tuple[Dataset, Dataset | None, Report]:
    data = Path(config.data)
    layout = find_layout(data)
    train_split = choose_split(layout, config.train_split, data)
    try:
        val_split = choose_split(layout, config.val_split, data)
    except UserError:
        if config.val_split != "val":
            raise
        val_split = train_split
    train_set, report = read(data, train_split, masks=masks)
    # One split for everything serves to measure on only if that is what was asked for.
    if val_split == train_split and config.val_split != train_split:
        report.notes.append("no split to measure on: nothing is measured, the latest weights are kept as the best")
        return train_set, None, report
    val_set, val_report = read(data, val_split, training=False, masks=masks)
    match_classes(train_set.class_names, val_set.class_names)
    return train_set, val_set, merge({train_split: report, val_split: val_report})


def _check_devices(config: TrainConfig, on_gpu: bool) -> None:
    present = torch.cuda.device_count()
    if on_gpu and config.devices > present:
        raise UserError(f"devices is {config.devices}, but this machine has {present} GPU(s)")


def _build(
    config: TrainConfig, detector: DetectorConfig | Detector | None, class_names: list[str], resumed: bool
) -> Detector:
    torch.manual_seed(config.seed)
    if isinstance(detector, Detector):
        if detector.class_names != class_names:
            raise UserError(
                f"the model knows {', '.join(detector.class_names)}, the data set has {', '.join(class_names)}: "
                "give the model's file as weights instead, which keeps all but the last layers"
            )
        return detector.train()
    # A run that continues has its weights already.
    weights, lost = start_from(None if resumed else config.weights, config.allow_partial)
    with quietly("huggingface_hub"):
        model = create_model(
            config.model,
            backbone=config.backbone,
            weights=weights,
            class_names=class_names,
            config=detector,
            allow_partial=config.allow_partial,
        )
    model.fresh += lost
    return model.train()


def _loader(
    config: TrainConfig,
    detector: Detector,
    dataset: Dataset,
    proposals: GivenProposals | None,
    rank: int,
    processes: int,
    training: bool,
) -> DataLoader:
    cores = os.cpu_count() or 1
    workers = min(8, max(1, cores // (2 * config.devices))) if config.workers is None else config.workers
    return make_loader(
        dataset,
        size=detector.config.image.size,
        batch_size=config.batch_size,
        training=training,
        divisor=detector.divisor,
        workers=workers,
        seed=config.seed,
        flip=config.flip,
        masks=training and detector.config.mask is not None,
        proposals=proposals,
        rank=rank,
        world_size=processes,
    )

"""From a configuration to all that a run needs, before anything is written."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import yaml

from libradet.data.checks.report import Report
from libradet.data.loading.cache import check_room
from libradet.data.loading.loader import check_mixing
from libradet.data.proposals.given import GivenProposals
from libradet.data.records import Dataset
from libradet.data.segmentations import require_masks
from libradet.errors import UserError
from libradet.interop.loading import start_from
from libradet.models.config import DetectorConfig
from libradet.models.create import create_model
from libradet.models.detector import Detector
from libradet.models.precision import choose_precision
from libradet.models.proposal_needs import check_proposals, give
from libradet.models.recompute import recompute_blocks
from libradet.models.sync_norm import synchronize_norms
from libradet.models.zoo import make_config
from libradet.training.datamodule import DetectorData, read_splits
from libradet.training.recipe import augmentation_of, depth_of_parameters, resolve
from libradet.training.settings import CONFIG, Circumstances, TrainConfig, check
from libradet.training.standing import LAST, PREVIOUS, Standing, circumstances, read_standing
from libradet.utils.atomic_io import atomic_write
from libradet.utils.warnings_filter import silence_loggers


@dataclass(frozen=True)
class Plan:
    """A run that can start.

    Attributes:
        config: resolved.
        data: images, and their proposals if the model is given some.
        report: what the check of the data found.
        batches_per_epoch: of each process.
        standing: where the run continues.
        why_precision: in a few words.
    """

    config: TrainConfig
    detector: Detector
    folder: Path
    data: DetectorData
    report: Report
    batches_per_epoch: int
    standing: Standing
    circumstances: Circumstances
    on_gpu: bool
    why_precision: str

    @property
    def finished(self) -> bool:
        """Whether all training is done already."""
        most, total = self.config.max_steps, self.config.epochs * self.batches_per_epoch
        patience = self.config.patience
        given_up = patience is not None and self.standing.unimproved >= patience
        return self.standing.batches >= total or (most is not None and self.standing.steps >= most) or given_up


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
    check_mixing(augmentation_of(config), config.proposals is not None)
    train_set, val_set, report = read_splits(
        Path(config.data), config.train_split, config.val_split, masks, train_masks=config.copy_paste > 0
    )
    show(report)
    for dataset in (train_set, val_set) if masks else ():
        if dataset is not None:
            require_masks(dataset)
    on_gpu = torch.cuda.is_available()
    _check_devices(config, on_gpu)
    given, val_given = _give(config, tree, train_set, val_set)
    # Before its first checkpoint a run has nothing to go on from but what it started with.
    trained = resume is not None and any((resume / name).exists() for name in (LAST, PREVIOUS))
    model = _build(config, detector, train_set.class_names, trained)
    model.config.category_ids = tuple(train_set.category_ids)
    recompute_blocks(model.backbone.body, config.checkpointing)
    if config.layer_decay is not None:
        depth_of_parameters(model)
    folder = resume or choose_folder(config, model.config.backbone.name)
    now = circumstances(config, train_set, val_set)
    standing = read_standing(folder, now, train_set, val_set) if resume else Standing()
    if config.world_size > 1:
        synchronize_norms(model, on_gpu)
    data = _data(config, model, train_set, val_set, given, val_given)
    if config.cache:
        check_room(config.cache, data.cache_bytes * config.devices, folder)
    batches = data.batches_of(config.world_size)
    if batches == 0:
        raise UserError(
            f"{config.data}: {len(train_set)} training images do not fill one batch of {config.batch_size} for each "
            f"of {config.world_size} processes; lower --batch_size"
        )
    precision, why = choose_precision(config.precision, "cuda" if on_gpu else "cpu")
    config = resolve(replace(config, precision=precision), batches)
    data.augmentation = augmentation_of(config, batches)
    return Plan(config, model, folder, data, report, batches, standing, now, on_gpu, why)


def _give(
    config: TrainConfig, tree: DetectorConfig, train_set: Dataset, val_set: Dataset | None
) -> tuple[GivenProposals | None, GivenProposals | None]:
    """Proposals to train on and to measure with."""
    given = give(tree, config.proposals, train_set, training=True)
    if val_set is None:
        return given, None
    return given, give(tree, config.val_proposals or config.proposals, val_set, training=False)


def _check_devices(config: TrainConfig, on_gpu: bool) -> None:
    present = torch.cuda.device_count()
    if on_gpu and config.devices > present:
        raise UserError(f"devices is {config.devices}, but this machine has {present} GPU(s)")


def _build(
    config: TrainConfig, detector: DetectorConfig | Detector | None, class_names: list[str], trained: bool
) -> Detector:
    torch.manual_seed(config.seed)
    if isinstance(detector, Detector):
        if detector.class_names != class_names:
            raise UserError(
                f"the model knows {', '.join(detector.class_names)}, the dataset has {', '.join(class_names)}: "
                "give the model's file as weights instead, which keeps all but the last layers"
            )
        return detector.train()
    # A run that continues takes its weights from its checkpoint.
    weights, lost = start_from(None if trained else config.weights, config.allow_partial)
    with silence_loggers("huggingface_hub"):
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


def _data(
    config: TrainConfig,
    model: Detector,
    train_set: Dataset,
    val_set: Dataset | None,
    given: GivenProposals | None,
    val_given: GivenProposals | None,
) -> DetectorData:
    return DetectorData(
        train_set,
        val_set,
        size=model.config.image.size,
        batch_size=config.batch_size,
        divisor=model.divisor,
        workers=config.workers,
        seed=config.seed,
        augmentation=augmentation_of(config),
        masks=model.config.mask is not None,
        train_proposals=given,
        val_proposals=val_given,
        cache=config.cache,
        own_canvas=model.config.image.own_canvas,
    )


def is_first_process() -> bool:
    """Whether this process, of all that train together, is the one that speaks and writes."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def choose_folder(config: TrainConfig, backbone: str) -> Path:
    """Where the run goes: ``out``, or the next free runs/MODEL-BACKBONE.

    The first process decides; the others write nothing, and find the folder in use already.

    Raises:
        UserError: ``out`` holds a run already.
    """
    if config.out is not None:
        folder = Path(config.out)
        if is_first_process() and (folder / CONFIG).exists():
            raise UserError(
                f"{folder} holds a run already: continue it with --resume {folder}, choose another --out, or delete it"
            )
        return folder
    name = f"{config.model}-{backbone.split('.')[0]}"
    numbered = (Path("runs", name if i == 1 else f"{name}-{i}") for i in range(1, 10**6))
    return next(folder for folder in numbered if not folder.exists())


def write_config(folder: Path, config: TrainConfig, detector: DetectorConfig) -> None:
    """Write all fields, so that the file alone repeats the run; where it goes is left to the next run."""
    tree = asdict(replace(config, out=None)) | {"detector": asdict(detector)}
    with atomic_write(folder / CONFIG) as partial:
        partial.write_text(yaml.safe_dump(_plain(tree), sort_keys=False, allow_unicode=True))


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value

"""Prepare a training run before anything is written: read data, build the detector, resolve the configuration."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from libradet.data.cache import check_free_space
from libradet.data.loader import check_mixing
from libradet.data.proposals.precomputed import PrecomputedProposals
from libradet.data.records import Dataset
from libradet.data.repeat_factors import count_objects
from libradet.data.segmentations import require_masks
from libradet.data.transforms.build import prepare_transforms
from libradet.data.transforms.entries import decode_entry
from libradet.data.validation.report import Report
from libradet.errors import UserError
from libradet.inference.proposals import check_config_proposals, load_config_proposals
from libradet.interop.coco_weights import BEST, best_weights, by_name
from libradet.interop.loading import resolve_init_weights
from libradet.models.build import create_model
from libradet.models.class_balance import needs_frequencies
from libradet.models.config import DetectorConfig
from libradet.models.config_validation import validate_settings
from libradet.models.detector import Detector
from libradet.models.ops.activation_checkpointing import set_activation_checkpointing
from libradet.models.ops.sync_batchnorm import convert_sync_batchnorm
from libradet.models.optimize import choose_precision
from libradet.models.zoo import make_config
from libradet.training.config import TrainConfig
from libradet.training.datamodule import DetectorData, read_splits
from libradet.training.optim import make_augmentation, parameter_depths, resolve
from libradet.training.resume import ResumeState, RunIdentity, has_checkpoint, load_resume_state, run_identity
from libradet.training.resume_layers import check_layers
from libradet.training.run_files import CONFIG
from libradet.training.unused_run_settings import refuse_unused
from libradet.utils.atomic_io import atomic_write
from libradet.utils.nested import tuples_to_lists
from libradet.utils.text import counted
from libradet.utils.warnings_filter import silence_loggers


@dataclass(frozen=True)
class TrainSetup:
    """A training run that is ready to start.

    Attributes:
        config: resolved.
        data: images, and precomputed proposals for a detector without RPN.
        report: of the validation of the data.
        batches_per_epoch: of each process.
        resume_state: progress of a resumed run.
        precision_reason: why this precision was chosen, as a phrase.
        started_length: that with which a resumed run was started or last resumed, in words; empty for a new run.
    """

    config: TrainConfig
    detector: Detector
    folder: Path
    data: DetectorData
    report: Report
    batches_per_epoch: int
    resume_state: ResumeState
    identity: RunIdentity
    on_gpu: bool
    precision_reason: str
    started_length: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether no training is left to do."""
        return bool(self.finished_reason)

    @property
    def finished_reason(self) -> str:
        """Why no training is left to do, with the setting that would change it; empty if some is."""
        config, state = self.config, self.resume_state
        if state.batches >= config.max_epochs * self.batches_per_epoch:
            return f"all {config.max_epochs} epochs are done; raise --max_epochs to train further"
        if config.max_steps is not None and state.steps >= config.max_steps:
            return f"max_steps {config.max_steps} is reached; raise it, or remove it by --max_steps null"
        waited = state.validations_without_improvement
        if config.patience is not None and waited >= config.patience:
            return f"{counted(waited, 'validation')} without improvement; raise --patience"
        return ""


def setup_training(
    config: TrainConfig,
    detector: DetectorConfig | Detector | None = None,
    resume: Path | None = None,
    on_report: Callable[[Report], None] = lambda report: None,
    transforms: tuple[Callable[..., Any], ...] | None = None,
) -> TrainSetup:
    """Read and validate the data, build the detector, and resolve the configuration.

    Args:
        detector: configuration, or a built detector to train; that of ``config.model`` if None.
        resume: run folder to resume.
        on_report: called with the report on the data as soon as it is available.
        transforms: those that ``config.augmentations`` describes; created from it if None.

    Raises:
        UserError: the run cannot start.
    """
    if transforms is None:
        texts, transforms = prepare_transforms(config.augmentations)
        config = replace(config, augmentations=texts)
    started = read_saved_settings(resume)
    if resume is not None and config.output_dir is not None and Path(config.output_dir) != resume:
        raise UserError(f"--output_dir {config.output_dir}: the run in {resume} is resumed there; leave it out")
    detector_config = detector.config if isinstance(detector, Detector) else detector or make_config(config.model)
    if config.weights == BEST:
        backbone = config.backbone or detector_config.backbone.name
        config = replace(config, weights=best_weights(detector_config.model, backbone).name)
    _check_settings(config, detector_config, transforms)
    refuse_unused(config, detector_config, started)
    train_set, val_set, report = _read_data(config, with_masks=detector_config.mask is not None, on_report=on_report)
    on_gpu = torch.cuda.is_available()
    _check_devices(config, on_gpu)
    train_proposals, val_proposals = _read_proposals(config, detector_config, train_set, val_set)
    # Before its first checkpoint, a run is resumed from the weights that it was started with.
    from_checkpoint = resume is not None and has_checkpoint(resume)
    model = _build(config, detector, train_set, from_checkpoint)
    if config.patience != started.get("patience"):
        _check_patience(config, val_set)
    folder = resume or choose_run_dir(config, model.config.backbone.name)
    identity = run_identity(config, train_set, val_set, transforms, (train_proposals, val_proposals))
    resume_state = load_resume_state(folder, identity, train_set, val_set) if resume else ResumeState()
    if config.world_size > 1:
        convert_sync_batchnorm(model, on_gpu)
    data = _make_data(config, model, train_set, val_set, train_proposals, val_proposals)
    if needs_frequencies(model.config):
        model.set_class_frequencies(count_objects(data.train_set))
    data.check_transforms(transforms)
    if config.cache:
        check_free_space(config.cache, data.cache_bytes * config.devices, folder)
    batches_per_epoch = _count_batches(config, data)
    precision, reason = choose_precision(config.precision, "cuda" if on_gpu else "cpu")
    if config.precision != "auto" and started.get("precision") == config.precision:
        reason = reason.replace("as requested", "as before")
    config = resolve(replace(config, precision=precision), batches_per_epoch)
    if resume_state.path is not None:
        check_layers(resume_state.path, model, config, started)
    data.augmentation = make_augmentation(config, batches_per_epoch, transforms)
    length = describe_length(started["max_epochs"], started.get("max_steps")) if started else ""
    return TrainSetup(
        config, model, folder, data, report, batches_per_epoch, resume_state, identity, on_gpu, reason, length
    )


def describe_length(max_epochs: int, max_steps: int | None) -> str:
    """Return the length of a run in words."""
    limit = "" if max_steps is None else f", at most {counted(max_steps, 'step')}"
    return counted(max_epochs, "epoch") + limit


def _check_settings(
    config: TrainConfig, detector_config: DetectorConfig, transforms: tuple[Callable[..., Any], ...]
) -> None:
    """Refuse settings that exclude each other, before the data are read."""
    validate_settings(detector_config)
    for path in (config.proposals, config.val_proposals or config.proposals):
        check_config_proposals(detector_config, path)
    check_mixing(make_augmentation(config, transforms=transforms), config.proposals is not None)
    if config.tiles is not None and detector_config.requires_proposals:
        raise UserError(f"{detector_config.model} uses precomputed proposals, those of whole images: leave out tiles")


def _read_data(
    config: TrainConfig, with_masks: bool, on_report: Callable[[Report], None]
) -> tuple[Dataset, Dataset | None, Report]:
    train_set, val_set, report = read_splits(
        Path(config.data), config.train_split, config.val_split, with_masks, train_masks=config.copy_paste_prob > 0
    )
    on_report(report)
    if with_masks:
        require_masks(train_set)
        if val_set is not None:
            require_masks(val_set)
    return train_set, val_set, report


def _read_proposals(
    config: TrainConfig, detector_config: DetectorConfig, train_set: Dataset, val_set: Dataset | None
) -> tuple[PrecomputedProposals | None, PrecomputedProposals | None]:
    """Return the precomputed proposals for training and validation."""
    train_proposals = load_config_proposals(detector_config, config.proposals, train_set, training=True)
    if val_set is None:
        return train_proposals, None
    return train_proposals, load_config_proposals(
        detector_config, config.val_proposals or config.proposals, val_set, training=False
    )


def _check_devices(config: TrainConfig, on_gpu: bool) -> None:
    available = torch.cuda.device_count()
    if on_gpu and config.devices > available:
        raise UserError(f"devices is {config.devices}, but this machine has {available} GPU(s)")


def _apply_activation_checkpointing(model: Detector, config: TrainConfig) -> None:
    num_blocks = set_activation_checkpointing(model.backbone.body, config.activation_checkpointing)
    if config.activation_checkpointing and not num_blocks:
        name = model.config.backbone.name
        raise UserError(f"activation_checkpointing: {name} has no blocks to recompute; leave it out")


def _check_patience(config: TrainConfig, val_set: Dataset | None) -> None:
    if config.patience is not None and val_set is None:
        raise UserError(f"patience is {config.patience}, but {config.data} has no validation split; leave it out")


def _count_batches(config: TrainConfig, data: DetectorData) -> int:
    batches_per_epoch = data.count_batches(config.world_size)
    if batches_per_epoch == 0:
        raise UserError(
            f"{config.data}: {counted(len(data.train_set), 'training image does not', 'training images do not')} "
            f"fill one batch of {config.batch_size} for each of {config.world_size} processes; lower --batch_size"
        )
    return batches_per_epoch


def _build(
    config: TrainConfig, detector: DetectorConfig | Detector | None, train_set: Dataset, from_checkpoint: bool
) -> Detector:
    model = _with_classes(config, detector, train_set.class_names, from_checkpoint)
    model.config.category_ids = tuple(train_set.category_ids)
    _apply_activation_checkpointing(model, config)
    if config.layer_decay is not None:
        parameter_depths(model)  # refuses a backbone without stages
    return model


def _with_classes(
    config: TrainConfig, detector: DetectorConfig | Detector | None, class_names: list[str], from_checkpoint: bool
) -> Detector:
    torch.manual_seed(config.seed)
    if isinstance(detector, Detector):
        if detector.class_names != class_names:
            raise UserError(
                f"the model has the classes {', '.join(detector.class_names)}, the dataset has "
                f"{', '.join(class_names)}; pass the file of the model as weights, which replaces the class layers"
            )
        return detector.train()
    # A resumed run loads its weights from its checkpoint.
    weights, lost = resolve_init_weights(None if from_checkpoint else config.weights, config.allow_partial)
    # Published weights start any model with what fits: a Libra model from a plain detector, for example.
    is_published = config.weights is not None and by_name(config.weights) is not None
    with silence_loggers("huggingface_hub"):
        model = create_model(
            config.model,
            backbone=config.backbone,
            weights=weights,
            class_names=class_names,
            config=detector,
            allow_partial=config.allow_partial or is_published,
        )
    model.reinitialized_layers += lost
    return model.train()


def _make_data(
    config: TrainConfig,
    model: Detector,
    train_set: Dataset,
    val_set: Dataset | None,
    train_proposals: PrecomputedProposals | None,
    val_proposals: PrecomputedProposals | None,
) -> DetectorData:
    return DetectorData(
        train_set,
        val_set,
        size=model.config.image.size,
        batch_size=config.batch_size,
        size_divisible=model.size_divisible,
        num_workers=config.num_workers,
        seed=config.seed,
        augmentation=make_augmentation(config),
        masks=model.config.mask is not None,
        train_proposals=train_proposals,
        val_proposals=val_proposals,
        cache=config.cache,
        batch_invariant_padding=model.config.image.batch_invariant_padding,
        bit_depth=model.bit_depth,
        repeat_factor_thresh=config.repeat_factor_thresh,
        tiles=config.tiles,
        tile_min_area_ratio=config.tile_min_area_ratio,
        tile_empty_fraction=config.tile_empty_fraction,
    )


def is_first_process() -> bool:
    """Return whether this is the process, of all that train together, that prints and writes."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def choose_run_dir(config: TrainConfig, backbone: str) -> Path:
    """Return the run folder: ``output_dir``, or the next unused runs/MODEL-BACKBONE.

    Only the first process checks it, since the others may run after that one has written to it.

    Raises:
        UserError: ``output_dir`` contains a run.
    """
    if config.output_dir is not None:
        folder = Path(config.output_dir)
        if folder.is_file():
            raise UserError(f"{folder}: is a file; name a folder for the run with --output_dir")
        if is_first_process() and (folder / CONFIG).exists():
            raise UserError(
                f"{folder} contains a run: resume it with --resume {folder}, choose another --output_dir, or delete it"
            )
        return folder
    name = f"{config.model}-{backbone.split('.')[0]}"
    numbered = (Path("runs", name if i == 1 else f"{name}-{i}") for i in range(1, 10**6))
    return next(folder for folder in numbered if not folder.exists())


def read_saved_settings(folder: Path | None) -> dict[str, Any]:
    """Return the settings that a run folder was last trained with; empty without a folder or file."""
    path = None if folder is None else folder / CONFIG
    if path is None or not path.exists():
        return {}
    settings = yaml.safe_load(path.read_text())
    return settings if isinstance(settings, dict) else {}


def write_config(folder: Path, config: TrainConfig, detector: DetectorConfig) -> None:
    """Write all settings but the output folder, so that the file alone reproduces the run."""
    tree = asdict(replace(config, output_dir=None)) | {"detector": asdict(detector)}
    tree["augmentations"] = [decode_entry(text) for text in config.augmentations]
    with atomic_write(folder / CONFIG) as partial:
        partial.write_text(yaml.safe_dump(tuples_to_lists(tree), sort_keys=False, allow_unicode=True))

"""Training run, from its configuration to its results."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.callbacks import DeviceStatsMonitor, EarlyStopping, EMAWeightAveraging, LearningRateMonitor
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from rich.console import Console

from libradet.evaluation.coco import MASK_METRICS, STANDARD_METRICS, Metrics
from libradet.evaluation.curves import plot_curves
from libradet.evaluation.tables import print_metrics
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.models.optimize import compile_in_place
from libradet.training.callbacks import LogValPredictions, LossLogger, ProgressLines, TrainingProgressBar
from libradet.training.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint, read_best_metrics
from libradet.training.config import TrainConfig
from libradet.training.error_translation import translate_errors
from libradet.training.loggers import CSVMetricsLogger, check_loggers, make_loggers, refuse_unlogged
from libradet.training.loss_reader import StepLosses
from libradet.training.module import DetectorModule
from libradet.training.run_files import (
    BEST_METRICS,
    BEST_MODEL,
    BEST_PREDICTIONS,
    CURVES,
    LAST_CHECKPOINT,
    METRICS_CSV,
)
from libradet.training.setup import TrainSetup, is_first_process, setup_training, write_config
from libradet.training.signals import Interrupted, SignalHandler
from libradet.training.summary import summarize_setup
from libradet.utils.console import stdout_console
from libradet.utils.malloc import keep_freed_memory
from libradet.utils.warnings_filter import silence_loggers


class TrainResult(NamedTuple):
    """Result of a training run.

    Attributes:
        folder: of the run.
        weights: the best model, for ``load_model``.
        metrics: of the best model (see :func:`libradet.evaluation.coco.coco_metrics`), and its ``epoch``; None without
            validation images, and in other processes than the first.
    """

    folder: Path
    weights: Path
    metrics: Metrics | None


def train(
    config: TrainConfig,
    detector: DetectorConfig | Detector | None = None,
    resume: Path | None = None,
    console: Console | None = None,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Logger] = (),
    transforms: tuple[Callable[..., Any], ...] | None = None,
) -> TrainResult:
    """Train and validate a detector, and write the results to a run folder.

    Args:
        detector: configuration, or a built detector to train; that of ``config.model`` if None.
        resume: run folder to resume, with the configuration it was started with.
        console: for progress; stdout if None.
        callbacks, loggers: additional ones.
        transforms: those that ``config.augmentations`` describes; created from it if None.

    Raises:
        UserError: the run cannot start, or its loss is NaN or infinite.
        Interrupted: SIGINT or SIGTERM; the checkpoint is saved.
    """
    check_loggers(config.logger)
    if resume is None and not loggers:
        refuse_unlogged(config)
    is_first = is_first_process()
    console = (console or stdout_console()) if is_first else Console(quiet=True)
    setup = setup_training(
        config, detector, resume, lambda report: console.print(report.render(f"Dataset {config.data}")), transforms
    )
    console.print(summarize_setup(setup))
    with translate_errors(setup.folder, setup.config.world_size):
        _run(setup, list(callbacks), list(loggers), console, is_first)
        return _finish(setup, console, is_first)


def _run(
    setup: TrainSetup, callbacks: list[pl.Callback], loggers: list[Logger], console: Console, is_first: bool
) -> None:
    if is_first:
        setup.folder.mkdir(parents=True, exist_ok=True)
        write_config(setup.folder, setup.config, setup.detector.config)
    metric_names = (*STANDARD_METRICS, *MASK_METRICS) if setup.detector.config.mask else STANDARD_METRICS
    with silence_loggers("lightning.pytorch", "lightning.fabric", "mlflow"):
        own_loggers = make_loggers(setup.config, setup.folder, metric_names, setup.resume_state.steps)
        module = DetectorModule(setup.detector, setup.config, setup.identity)
        _run_missed_validation(setup, module, own_loggers, console)
        if not setup.is_finished:
            _fit(setup, module, [*own_loggers, *loggers], callbacks, console)


def _fit(
    setup: TrainSetup, module: DetectorModule, loggers: list[Logger], callbacks: list[pl.Callback], console: Console
) -> None:
    config = setup.config
    if config.compile:
        compile_in_place(setup.detector)
    if not setup.on_gpu:
        keep_freed_memory()
    progress = _make_progress(setup, console)
    with SignalHandler(progress.print_line) as signals:
        last = LastCheckpoint(
            setup.folder, config, signals, lambda losses, step: _describe_failure(setup, losses, step)
        )
        own_callbacks = [*_make_callbacks(setup), _make_best_checkpoint(setup, progress), progress, last]
        trainer = _make_trainer(setup, [*own_callbacks, *callbacks], loggers, console)
        try:
            trainer.fit(module, datamodule=setup.data, ckpt_path=setup.resume_state.path, weights_only=True)
        except SystemExit as e:  # Lightning translates a second SIGINT into SystemExit
            raise KeyboardInterrupt from e
        if last.interrupted:
            raise Interrupted(signals.received or signal.SIGTERM, setup.folder)


def _make_progress(setup: TrainSetup, console: Console) -> TrainingProgressBar | ProgressLines:
    if console.is_terminal:
        return TrainingProgressBar(console)
    return ProgressLines(console, setup.config)


def _make_callbacks(setup: TrainSetup) -> list[pl.Callback]:
    """Return the callbacks that draw, average, log and stop, in the order in which Lightning calls them."""
    config = setup.config
    callbacks: list[pl.Callback] = [LogValPredictions(setup.folder, config.num_val_images_logged)]
    if config.ema:
        callbacks.append(EMAWeightAveraging(decay=config.ema))
    callbacks.append(LossLogger(config.log_every_n_steps))
    if config.log_lr:
        callbacks.append(LearningRateMonitor("step"))
    if config.log_device_stats:
        callbacks.append(DeviceStatsMonitor())
    monitor = _monitored_metric(setup)
    if config.patience is not None and monitor is not None:
        callbacks.append(
            EarlyStopping(
                monitor, patience=config.patience, mode="max", check_finite=False, check_on_train_epoch_end=False
            )
        )
    return callbacks


def _make_best_checkpoint(setup: TrainSetup, progress: TrainingProgressBar | ProgressLines) -> BestCheckpoint:
    return BestCheckpoint(setup.folder, _monitored_metric(setup), progress.print_line)


def _monitored_metric(setup: TrainSetup) -> str | None:
    """Return the metric that decides on the best weights; None without validation images."""
    if setup.data.val_set is None:
        return None
    return "val/mask_AP" if setup.detector.config.mask else "val/AP"


def _make_trainer(
    setup: TrainSetup, callbacks: list[pl.Callback], loggers: list[Logger], console: Console
) -> pl.Trainer:
    config = setup.config
    strategy: DDPStrategy | str = "auto"
    if config.world_size > 1 or config.strategy == "ddp":
        # Batch norms are synchronized, so their buffers are equal in all processes without being broadcast.
        strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    return pl.Trainer(
        accelerator="gpu" if setup.on_gpu else "cpu",
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=strategy,
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        max_epochs=config.max_epochs,
        accumulate_grad_batches=config.accumulate_grad_batches,
        gradient_clip_val=config.gradient_clip_val,
        benchmark=setup.on_gpu,
        callbacks=callbacks,
        logger=loggers,
        log_every_n_steps=config.log_every_n_steps,
        check_val_every_n_epoch=config.check_val_every_n_epoch,
        plugins=[AtomicCheckpointIO(setup.detector.config)],
        default_root_dir=setup.folder,
        use_distributed_sampler=False,
        enable_progress_bar=console.is_terminal,
        enable_model_summary=False,  # the summary of the run has more
        num_sanity_val_steps=0,  # random weights need no validation
    )


def _run_missed_validation(setup: TrainSetup, module: DetectorModule, loggers: list[Logger], console: Console) -> None:
    """Run the validation that was due when the run was killed, before training is resumed."""
    state, config = setup.resume_state, setup.config
    epochs, batches = divmod(state.batches, setup.batches_per_epoch)
    is_due = state.batches > 0 and batches == 0 and epochs % config.check_val_every_n_epoch == 0
    if state.path is None or setup.data.val_set is None or not (is_due or setup.is_finished):
        return
    csv_logger = loggers[0]
    assert isinstance(csv_logger, CSVMetricsLogger)
    # All processes read the file that the first one wrote, so they decide alike.
    if csv_logger.has_validation_row(state.steps):
        return
    if config.compile:
        compile_in_place(setup.detector)
    progress = _make_progress(setup, console)
    callbacks: list[pl.Callback] = [
        LogValPredictions(setup.folder, config.num_val_images_logged),
        _make_best_checkpoint(setup, progress),
        progress,
    ]
    trainer = _make_trainer(setup, callbacks, loggers, console)
    trainer.validate(module, datamodule=setup.data, ckpt_path=state.path, verbose=False, weights_only=True)


def _describe_failure(setup: TrainSetup, losses: StepLosses, step: int) -> str:
    terms = ", ".join(f"{name} {value:g}" for name, value in losses.losses.items())
    images = ", ".join(setup.data.train_set.images[i].name for i in losses.image_indices)
    subject = "weights are" if losses.is_finite else "the loss is"
    kept = f"; {LAST_CHECKPOINT} is from an earlier step" if (setup.folder / LAST_CHECKPOINT).exists() else ""
    return (
        f"{subject} not finite (step {step}: {terms}); images in the batch: {images}\n"
        f"Check these images and their boxes, lower --lr, or raise --warmup_steps{kept}."
    )


def _finish(setup: TrainSetup, console: Console, is_first: bool) -> TrainResult:
    folder = setup.folder
    has_metrics = is_first and setup.data.val_set is not None and (folder / BEST_METRICS).exists()
    metrics = read_best_metrics(folder / BEST_METRICS) if has_metrics else None
    if is_first:
        plot_curves(folder / METRICS_CSV, folder / CURVES)
        if metrics is not None:
            print_metrics(metrics, f"{folder / BEST_MODEL}, from epoch {metrics['epoch']}", console)
        names = (BEST_MODEL, BEST_METRICS, CURVES, BEST_PREDICTIONS)
        files = ", ".join(name for name in names if (folder / name).exists())
        console.print(f"In {folder}: {files}", markup=False, highlight=False, soft_wrap=True)
    return TrainResult(folder, folder / BEST_MODEL, metrics)

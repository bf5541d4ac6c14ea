"""A training run from its configuration to its results."""

import json
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from rich.console import Console

from libradet.evaluation.coco_metrics import MASK_STANDARD, STANDARD, Metrics
from libradet.evaluation.curves import plot_curves
from libradet.evaluation.tables import show
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.training.checkpoint import AtomicCheckpointIO, read_checkpoint
from libradet.training.folder import BEST, is_first_process, write_config
from libradet.training.keeper import Keeper
from libradet.training.measuring import METRICS, SHEET, Measurer
from libradet.training.milestones import Milestones
from libradet.training.module import DetectorTraining
from libradet.training.prepare import Plan, prepare
from libradet.training.progress import ProgressDisplay
from libradet.training.quietly import quietly
from libradet.training.record import Record
from libradet.training.reporter import Reporter
from libradet.training.settings import TrainConfig
from libradet.training.stopping import Interrupted, SignalWatch
from libradet.training.summary import summarise
from libradet.training.watch import Measured

CURVES = "curves.png"


class TrainResult(NamedTuple):
    """Attributes:
    folder: of the run.
    weights: the best model, for ``load_model``.
    metrics: those of the best model (see :func:`libradet.evaluation.coco_metrics.coco_metrics`) and the
        ``epoch`` it comes from; None if there was nothing to measure on.
    """

    folder: Path
    weights: Path
    metrics: Metrics | None


def train(
    config: TrainConfig,
    detector: DetectorConfig | Detector | None = None,
    resume: Path | None = None,
    console: Console | None = None,
) -> TrainResult:
    """Train, measure, and write everything into a run folder.

    Args:
        detector: configuration, or a built detector to train on; that behind ``config.model`` if None.
        resume: run folder to continue in, with the configuration it was started with.
        console: where to say how it goes; stdout if None.

    Raises:
        UserError: the run cannot start, or its loss is not finite any more.
        Interrupted: Ctrl-C or SIGTERM; everything is saved.
    """
    first = is_first_process()
    console = (console or Console()) if first else Console(quiet=True)
    plan = prepare(config, detector, resume, lambda report: console.print(report.render(f"Data set {config.data}")))
    summarise(plan, console)
    if first:
        write_config(plan.folder, plan.config, plan.detector.config)
    names = (*STANDARD, *MASK_STANDARD) if plan.detector.config.mask else STANDARD
    record = Record(plan.folder, names, plan.standing.steps) if first else None
    total = plan.config.epochs * plan.batches_per_epoch
    display = ProgressDisplay(console, plan.config.epochs, total, plan.standing.batches, visible=first)
    measurer = Measurer(
        plan.folder,
        plan.val_set,
        lambda: plan.val_loader(*_place()),
        plan.config.samples,
        record,
        display,
        plan.val_proposals,
    )
    try:
        if plan.finished:
            _catch_up(plan, measurer, first)
        else:
            _fit(plan, record, display, measurer)
    finally:
        display.stop()
        if record is not None:
            record.close()
    return _finish(plan, console, first)


def _place() -> tuple[int, int]:
    """Rank and number of processes."""
    running = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if running else (0, 1)


def _fit(plan: Plan, record: Record | None, display: ProgressDisplay, measurer: Measurer) -> None:
    config = plan.config
    module = DetectorTraining(plan.detector, config, plan.train_loader, plan.batches_per_epoch, plan.circumstances)
    with quietly("lightning.pytorch", "lightning.fabric"), SignalWatch(display.say) as signals:
        keeper = Keeper(plan.folder, config, signals, lambda failure, step: _describe(plan, failure, step))
        averaging = EMAWeightAveraging(decay=config.ema) if config.ema else None
        callbacks: list[pl.Callback] = [Reporter(record, display, config.log_every), keeper]
        callbacks.append(Milestones(config, measurer, keeper, averaging))
        trainer = _trainer(plan, [averaging, *callbacks] if averaging else callbacks)
        try:
            trainer.fit(module, ckpt_path=plan.standing.path, weights_only=True)
        except SystemExit as e:  # what Lightning makes of a second Ctrl-C
            raise KeyboardInterrupt from e
        if keeper.stopping:
            raise Interrupted(signals.received or signal.SIGTERM, plan.folder)


def _trainer(plan: Plan, callbacks: list[pl.Callback]) -> pl.Trainer:
    config = plan.config
    distributed = config.world_size > 1 or config.strategy == "ddp"
    return pl.Trainer(
        accelerator="gpu" if plan.on_gpu else "cpu",
        devices=config.devices,
        num_nodes=config.nodes,
        # Norms see the joint batch, so their buffers are the same everywhere without being sent.
        strategy=DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True) if distributed else "auto",
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        max_epochs=config.epochs,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip,
        benchmark=plan.on_gpu,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=plan.folder,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )


def _describe(plan: Plan, failure: Measured, step: int) -> str:
    terms = ", ".join(f"{name} {value:g}" for name, value in failure.losses.items())
    names = ", ".join(plan.train_set.pictures[i].path.name for i in failure.pictures)
    return (
        f"the loss is not finite any more (step {step}: {terms}); pictures in the batch: {names}\n"
        "Look at these pictures and their boxes, lower --lr, or lengthen --warmup; last.ckpt is from before."
    )


def _catch_up(plan: Plan, measurer: Measurer, first: bool) -> None:
    """All steps are done; what a kill during the last measurement left out is made up for."""
    if not first or not (measurer.missing(plan.standing.steps) or not (plan.folder / BEST).exists()):
        return
    assert plan.standing.path is not None
    weights = read_checkpoint(plan.standing.path)["state_dict"]
    plan.detector.load_state_dict({name.removeprefix("detector."): value for name, value in weights.items()})
    cast = torch.autocast("cpu", torch.bfloat16) if plan.config.precision == "bf16" else nullcontext()
    epoch = (plan.standing.batches - 1) // plan.batches_per_epoch
    measurer.measure(plan.detector, step=plan.standing.steps, epoch=epoch, cast=cast)


def _finish(plan: Plan, console: Console, first: bool) -> TrainResult:
    folder = plan.folder
    measured = first and plan.val_set is not None and (folder / METRICS).exists()
    metrics = json.loads((folder / METRICS).read_text()) if measured else None
    if first:
        plot_curves(folder / "metrics.csv", folder / CURVES)
        if metrics is not None:
            show(metrics, f"{folder / BEST}, from epoch {metrics['epoch']}", console)
        files = [name for name in (BEST, METRICS, CURVES, SHEET) if (folder / name).exists()]
        console.print(f"In {folder}: {', '.join(files)}", markup=False, highlight=False, soft_wrap=True)
    return TrainResult(folder, folder / BEST, metrics)

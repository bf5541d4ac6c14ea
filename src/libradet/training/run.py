"""A training run from its configuration to its results."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.callbacks import DeviceStatsMonitor, EarlyStopping, EMAWeightAveraging, LearningRateMonitor
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from rich.console import Console
from rich.table import Table
from rich.text import Text

from libradet.data.loading.cache import in_words
from libradet.evaluation.coco_metrics import MASK_STANDARD, STANDARD, Metrics
from libradet.evaluation.curves import plot_curves
from libradet.evaluation.tables import show
from libradet.models.compiling import compile_in_place
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.training.callbacks import LossLogging, SampleSheets
from libradet.training.checkpoints import BEST, METRICS, SHEET, BestWeights, LastCheckpoint, RunFiles, read_measured
from libradet.training.loggers import RunCSV, check_loggers, make_loggers
from libradet.training.module import DetectorModule, Measured
from libradet.training.prepare import Plan, is_first_process, prepare, write_config
from libradet.training.progress import RunProgress
from libradet.training.recipe import total_steps
from libradet.training.settings import TrainConfig
from libradet.training.stopping import Interrupted, SignalWatch
from libradet.training.troubles import told
from libradet.utils.warnings_filter import silence_loggers

CURVES = "curves.png"
OPTIMIZERS = {"sgd": "SGD", "adamw": "AdamW"}


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
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Logger] = (),
) -> TrainResult:
    """Train, measure, and write everything into a run folder.

    Args:
        detector: configuration, or a built detector to train on; that behind ``config.model`` if None.
        resume: run folder to continue in, with the configuration it was started with.
        console: where to say how it goes; stdout if None.
        callbacks, loggers: more of Lightning's, or anybody's.

    Raises:
        UserError: the run cannot start, or its loss is not finite any more.
        Interrupted: Ctrl-C or SIGTERM; everything is saved.
    """
    check_loggers(config.logger)
    first = is_first_process()
    console = (console or Console()) if first else Console(quiet=True)
    plan = prepare(config, detector, resume, lambda report: console.print(report.render(f"Dataset {config.data}")))
    console.print(summary(plan))
    with told(plan.folder, plan.config.world_size):
        _run(plan, list(callbacks), list(loggers), console, first)
        return _finish(plan, console, first)


def _run(plan: Plan, callbacks: list[pl.Callback], loggers: list[Logger], console: Console, first: bool) -> None:
    if first:
        plan.folder.mkdir(parents=True, exist_ok=True)
        write_config(plan.folder, plan.config, plan.detector.config)
    names = (*STANDARD, *MASK_STANDARD) if plan.detector.config.mask else STANDARD
    with silence_loggers("lightning.pytorch", "lightning.fabric", "mlflow"):
        made = make_loggers(plan.config, plan.folder, names, plan.standing.steps)
        module = DetectorModule(plan.detector, plan.config, plan.circumstances)
        _catch_up(plan, module, made, console)
        if not plan.finished:
            _fit(plan, module, [*made, *loggers], callbacks, console)


def _fit(
    plan: Plan, module: DetectorModule, loggers: list[Logger], callbacks: list[pl.Callback], console: Console
) -> None:
    config = plan.config
    if config.compile:
        compile_in_place(plan.detector)
    progress = RunProgress(console, config.epochs, visible=is_first_process())
    with SignalWatch(progress.say) as signals:
        last = LastCheckpoint(plan.folder, config, signals, lambda failure, step: _describe(plan, failure, step))
        parts = [*_parts(plan, progress), progress, last, *callbacks]
        trainer = _trainer(plan, parts, loggers)
        try:
            trainer.fit(module, datamodule=plan.data, ckpt_path=plan.standing.path, weights_only=True)
        except SystemExit as e:  # what Lightning makes of a second Ctrl-C
            raise KeyboardInterrupt from e
        finally:
            progress.stop()
        if last.stopping:
            raise Interrupted(signals.received or signal.SIGTERM, plan.folder)


def _parts(plan: Plan, progress: RunProgress) -> list[pl.Callback]:
    """What logs, averages, measures and stops, in the order in which Lightning calls them."""
    config = plan.config
    parts: list[pl.Callback] = [SampleSheets(plan.folder, config.samples)]
    if config.ema:
        parts.append(EMAWeightAveraging(decay=config.ema))
    parts.append(LossLogging(config.log_every))
    parts += [LearningRateMonitor("step")] * ("lr" in config.monitor)
    parts += [DeviceStatsMonitor()] * ("device" in config.monitor)
    monitor = _monitored(plan)
    if config.patience is not None and monitor is not None:
        parts.append(
            EarlyStopping(
                monitor, patience=config.patience, mode="max", check_finite=False, check_on_train_epoch_end=False
            )
        )
    return [*parts, BestWeights(plan.folder, monitor, progress.say)]


def _monitored(plan: Plan) -> str | None:
    """What decides on the best weights."""
    if plan.data.val_set is None:
        return None
    return "val/mask_AP" if plan.detector.config.mask else "val/AP"


def _trainer(plan: Plan, callbacks: list[pl.Callback], loggers: list[Logger]) -> pl.Trainer:
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
        logger=loggers,
        log_every_n_steps=config.log_every,
        check_val_every_n_epoch=config.eval_every,
        plugins=[RunFiles(plan.detector.config)],
        default_root_dir=plan.folder,
        use_distributed_sampler=False,
        # The summary of a run says more than Lightning's, and random weights need no measurement.
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _catch_up(plan: Plan, module: DetectorModule, loggers: list[Logger], console: Console) -> None:
    """What a kill during a validation left out is made up for, before the run goes on."""
    standing, config = plan.standing, plan.config
    epochs, rest = divmod(standing.batches, plan.batches_per_epoch)
    due = standing.batches > 0 and rest == 0 and epochs % config.eval_every == 0
    if standing.path is None or plan.data.val_set is None or not (due or plan.finished):
        return
    book = loggers[0]
    assert isinstance(book, RunCSV)
    # Only the first process reads what it wrote, but all have to come to the same.
    if book.has_measured(standing.steps):
        return
    if config.compile:
        compile_in_place(plan.detector)
    progress = RunProgress(console, config.epochs, visible=is_first_process())
    parts = [SampleSheets(plan.folder, config.samples), BestWeights(plan.folder, _monitored(plan), progress.say)]
    trainer = _trainer(plan, [*parts, progress], loggers)
    trainer.validate(module, datamodule=plan.data, ckpt_path=standing.path, verbose=False, weights_only=True)
    progress.stop()


def _describe(plan: Plan, failure: Measured, step: int) -> str:
    terms = ", ".join(f"{name} {value:g}" for name, value in failure.losses.items())
    names = ", ".join(plan.data.train_set.images[i].path.name for i in failure.images)
    what = "weights are" if failure.finite else "the loss is"
    return (
        f"{what} not finite any more (step {step}: {terms}); images in the batch: {names}\n"
        "Look at these images and their boxes, lower --lr, or lengthen --warmup; last.ckpt is from before."
    )


def _finish(plan: Plan, console: Console, first: bool) -> TrainResult:
    folder = plan.folder
    measured = first and plan.data.val_set is not None and (folder / METRICS).exists()
    metrics = read_measured(folder / METRICS) if measured else None
    if first:
        plot_curves(folder / "metrics.csv", folder / CURVES)
        if metrics is not None:
            show(metrics, f"{folder / BEST}, from epoch {metrics['epoch']}", console)
        files = [name for name in (BEST, METRICS, CURVES, SHEET) if (folder / name).exists()]
        console.print(f"In {folder}: {', '.join(files)}", markup=False, highlight=False, soft_wrap=True)
    return TrainResult(folder, folder / BEST, metrics)


def summary(plan: Plan) -> Table:
    """Model, images, precision, schedule and folder of a run."""
    lines = {
        "model": _model(plan),
        "images": _images(plan),
        **_proposals(plan),
        **_augmentation(plan),
        **_cache(plan),
        "precision": f"{plan.config.precision} ({plan.why_precision})",
        "schedule": _schedule(plan),
        "folder": str(plan.folder),
    }
    if plan.detector.backbone.origin:
        lines["backbone"] = plan.detector.backbone.origin
    if plan.detector.fresh:
        lines["at random"] = f"{', '.join(plan.detector.fresh)}: not taken from {plan.config.weights}"
    if plan.standing.path is not None:
        epoch, batch = divmod(plan.standing.batches, plan.batches_per_epoch)
        why = f", from {plan.standing.path.name}: {plan.standing.note}" if plan.standing.note else ""
        lines["continues"] = f"in epoch {epoch + 1} after batch {batch}{why}"
    table = Table.grid(padding=(0, 2))
    for name, text in lines.items():
        table.add_row(Text(name, "bold"), Text(text))
    return table


def _model(plan: Plan) -> str:
    config, parameters = plan.config, list(plan.detector.parameters())
    total = sum(p.numel() for p in parameters) / 1e6
    trained = sum(p.numel() for p in parameters if p.requires_grad) / 1e6
    start = (
        f"weights from {config.weights}" if config.weights else "random weights (--weights imagenet starts from others)"
    )
    return f"{config.model} on {config.backbone}, {trained:.1f} of {total:.1f} M parameters trained, {start}"


def _images(plan: Plan) -> str:
    config = plan.config
    short, long = plan.detector.config.image.size
    where = f"{config.world_size} {'GPU' if plan.on_gpu else 'CPU'} process{'es' if config.world_size > 1 else ''}"
    return f"short side {short}, long side at most {long}; {config.images_per_step} per step on {where}"


def _proposals(plan: Plan) -> dict[str, str]:
    given = [g for g in (plan.data.train_proposals, plan.data.val_proposals) if g is not None]
    files = dict.fromkeys(f"{g.file.path} (the best {g.count} of an image)" for g in given)
    return {"proposals": ", ".join(files)} if files else {}


def _cache(plan: Plan) -> dict[str, str]:
    kind, each = plan.data.cache, in_words(plan.data.cache_bytes)
    where = {"ram": "in shared memory", "disk": "in the run folder, deleted at the end"}
    return {"cache": f"{each} of images for each process, {where[kind]}"} if kind else {}


def _augmentation(plan: Plan) -> dict[str, str]:
    """What happens to images beside the usual flip."""
    config, augment = plan.config, plan.data.augmentation
    mixed = f" until epoch {augment.mixed_epochs}" if augment.mixed_epochs is not None else ""
    said = [
        *([f"scale × {augment.scale_jitter[0]:g} to {augment.scale_jitter[1]:g}"] if augment.scale_jitter else []),
        *([f"mosaic {config.mosaic:g}{mixed}"] if config.mosaic else []),
        *([f"copy-paste {config.copy_paste:g}{mixed}"] if config.copy_paste else []),
        *([f"color ± {config.color_jitter:g}"] if config.color_jitter else []),
    ]
    return {"augmented": ", ".join([f"flip {config.flip:g}", *said])} if said else {}


def _schedule(plan: Plan) -> str:
    config = plan.config
    rates = f", × {config.layer_decay:g} from stage to stage of the backbone" if config.layer_decay else ""
    drops = " and ".join(f"{step:g}" for step in config.steps or [])
    falls = f"× {config.gamma:g} after epochs {drops or '–'}"
    if config.schedule == "cosine":
        steps = total_steps(config, plan.batches_per_epoch)
        falls = f"cosine to {config.final_lr:g} of it after {steps} steps"
    return (
        f"{config.epochs} epochs of {plan.batches_per_epoch} batches, {OPTIMIZERS[config.optimizer]}, lr {config.lr:g}"
        f"{rates} after {config.warmup} steps of warm-up, {falls}"
    )

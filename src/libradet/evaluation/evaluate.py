"""From a detector and a data set to COCO's numbers."""

import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist

from libradet.bars import progress_bar
from libradet.data.batch import Batch
from libradet.data.loading.loader import make_loader
from libradet.data.loading.transforms import Size
from libradet.data.proposals.given import GivenProposals
from libradet.data.records import Dataset
from libradet.data.segmentations import describe_missing
from libradet.evaluation.classes import match_classes
from libradet.evaluation.coco_evaluator import CocoEvaluator
from libradet.evaluation.coco_metrics import Metrics
from libradet.files import write_json
from libradet.inference.detections import Detections
from libradet.inference.predictor import device_of, evaluating
from libradet.models.detector import Detector
from libradet.models.proposal_needs import give

Take = Callable[[Detections, Batch], None]
"""Takes in the detections of one batch, whose ``index`` and ``scales`` say what they were found in."""


def evaluate(
    model: Detector,
    dataset: Dataset,
    *,
    size: Size | None = None,
    batch_size: int = 4,
    workers: int | None = None,
    device: str | torch.device | None = None,
    precision: Literal["32", "bf16"] = "32",
    results: Path | None = None,
    proposals: str | Path | None = None,
    progress: bool = True,
) -> Metrics:
    """Measure ``model`` on every picture of ``dataset``; its mode and device are left as they were.

    In a job of several processes each measures its share, and all return the same numbers.

    Args:
        size: (short, long) side to resize to; None as trained; "original" for no resizing.
        batch_size: pictures that go through the model together, per process.
        workers: processes that load pictures; half the cores, at most four, if None.
        device: where to compute; where the model is, if None.
        results: write the detections there, as COCO results with the data set's own ids.
        proposals: file or folder with those of the pictures, for a detector without rpn.
        progress: show a bar on stderr.

    Returns:
        see :func:`libradet.evaluation.coco_metrics.coco_metrics`; of a detector with masks also ``mask_AP``,
        ``mask_AP50``, …, ``mask_per_class``. A data set in which objects lack segmentations is measured by
        boxes alone, and ``notes`` says so.

    Raises:
        UserError: model and data set have no class in common, a picture cannot be read, or proposals are
            missing or of no use.
    """
    agnostic = model.config.proposes
    classes = None if agnostic else match_classes(model.class_names, dataset.class_names)
    no_masks = describe_missing(dataset) if model.config.mask else ""
    evaluator = CocoEvaluator(
        dataset,
        class_map=[0] if classes is None else classes.labels,
        class_agnostic=agnostic,
        masks=bool(model.config.mask) and not no_masks,
    )
    given = give(model.config, proposals, dataset, training=False)
    options = {"size": size, "batch_size": batch_size, "workers": workers, "device": device, "precision": precision}
    look_through(model, dataset, evaluator.update, given, **options, progress=progress)
    metrics = evaluator.compute()
    unmeasured = [f"Masks are not measured: {no_masks}."] if no_masks else []
    metrics["notes"] = [*(classes.notes if classes else []), *unmeasured, *metrics["notes"]]
    if results is not None and not (_in_a_job() and dist.get_rank()):
        write_json(results, evaluator.results())
    return metrics


def look_through(
    model: Detector,
    dataset: Dataset,
    take: Take,
    proposals: GivenProposals | None = None,
    *,
    size: Size | None = None,
    batch_size: int = 4,
    workers: int | None = None,
    device: str | torch.device | None = None,
    precision: Literal["32", "bf16"] = "32",
    progress: bool = True,
) -> None:
    """Show ``model`` every picture of ``dataset``, and ``take`` what it finds; see :func:`evaluate`."""
    loader = make_loader(
        dataset,
        size=size or model.config.image.size,
        batch_size=batch_size,
        training=False,
        divisor=model.divisor,
        workers=min(4, (os.cpu_count() or 1) // 2) if workers is None else workers,
        seed=0,
        rank=dist.get_rank() if _in_a_job() else 0,
        world_size=dist.get_world_size() if _in_a_job() else 1,
        proposals=proposals,
    )
    home = device_of(model)
    model.to(device or home)
    try:
        _run(model, loader, take, precision, progress and not (_in_a_job() and dist.get_rank()))
    finally:
        model.to(home)


def _run(model: Detector, loader: Iterable[Batch], take: Take, precision: str, progress: bool) -> None:
    device = device_of(model)
    cast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    with evaluating(model), cast, progress_bar(progress) as bar:
        for batch in bar.track(loader, description="measuring"):
            batch = batch.to(device, non_blocking=True)
            take(model(batch), batch)


def _in_a_job() -> bool:
    return dist.is_available() and dist.is_initialized()

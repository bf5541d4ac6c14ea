"""From a detector and a dataset to COCO's numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist

from libradet.data.loading.transforms import Size
from libradet.data.records import Dataset
from libradet.data.segmentations import describe_missing
from libradet.evaluation.classes import match_classes
from libradet.evaluation.coco_evaluator import CocoEvaluator
from libradet.evaluation.coco_metrics import Metrics
from libradet.inference.data_sets import in_a_job, look_through
from libradet.inference.finder import Finder
from libradet.models.detector import Detector
from libradet.models.inference_form import optimize_finder
from libradet.models.proposal_needs import give_to_finder
from libradet.models.several_views import in_views
from libradet.utils.atomic_io import write_json


def evaluate(
    model: Finder,
    dataset: Dataset,
    *,
    size: Size | None = None,
    batch_size: int = 4,
    workers: int | None = None,
    device: str | torch.device | None = None,
    precision: Literal["auto", "32", "bf16"] = "32",
    compiled: bool = False,
    results: Path | None = None,
    proposals: str | Path | None = None,
    flip: bool = False,
    sizes: Sequence[int | Size] = (),
    progress: bool = True,
) -> Metrics:
    """Measure ``model`` on every image of ``dataset``; its mode and device are left as they were.

    In a job of several processes each measures its share, and all return the same numbers.

    Args:
        size: (short, long) side to resize to; None as trained; "original" for no resizing.
        batch_size: images that go through the model together, per process.
        workers: processes that load images; half the cores, at most four, if None.
        device: where to compute; where the model is, if None.
        precision, compiled: as in :func:`libradet.models.inference_form.optimize`; an exported model has its own.
        results: write the detections there, as COCO results with the dataset's own ids.
        proposals: file or folder with those of the images, for a detector without rpn.
        flip, sizes: look several times, also at mirrored images and at each of these sizes, see
            :func:`libradet.models.several_views.in_views`.
        progress: show a bar on stderr.

    Returns:
        see :func:`libradet.evaluation.coco_metrics.coco_metrics`; of a detector with masks also ``mask_AP``,
        ``mask_AP50``, ..., ``mask_per_class``. A dataset in which objects lack segmentations is measured by
        boxes alone, and ``notes`` says so.

    Raises:
        UserError: model and dataset have no class in common, an image cannot be read, or proposals are
            missing or of no use.
    """
    agnostic = model.proposes
    classes = None if agnostic else match_classes(model.class_names, dataset.class_names)
    no_masks = describe_missing(dataset) if model.gives_masks else ""
    evaluator = CocoEvaluator(
        dataset,
        class_map=[0] if classes is None else classes.labels,
        class_agnostic=agnostic,
        masks=model.gives_masks and not no_masks,
    )
    given = give_to_finder(model, proposals, dataset)
    options = {"size": size, "batch_size": batch_size, "workers": workers, "device": device, "progress": progress}
    options["own_canvas"] = isinstance(model, Detector) and model.config.image.own_canvas
    finder = in_views(optimize_finder(model, precision, compiled), flip, sizes, size)
    look_through(finder, dataset, evaluator.update, given, **options)
    metrics = evaluator.compute()
    unmeasured = [f"Masks are not measured: {no_masks}."] if no_masks else []
    metrics["notes"] = [*(classes.notes if classes else []), *unmeasured, *metrics["notes"]]
    if results is not None and not (in_a_job() and dist.get_rank()):
        write_json(results, evaluator.results())
    return metrics

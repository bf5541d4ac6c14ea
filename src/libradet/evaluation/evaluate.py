"""Evaluation of a model on a dataset with COCO metrics."""

from pathlib import Path
from typing import Literal

import torch

from libradet.data.bit_depth import describe_bit_depth
from libradet.data.records import Dataset
from libradet.data.segmentations import describe_missing_masks
from libradet.data.transforms.resize import Scales, Size
from libradet.evaluation.coco import Metrics
from libradet.evaluation.evaluator import build_evaluator
from libradet.geometry.tiles import TilesLike
from libradet.inference.dataset_runner import run_on_dataset
from libradet.inference.proposals import load_predictor_proposals
from libradet.inference.tiles import TileMerge, make_tiling
from libradet.inference.tta import with_tta
from libradet.models.detector import Detector
from libradet.models.optimize import optimize_predictor
from libradet.predictor import Predictor, bit_depth_of
from libradet.utils.arguments import check_arguments
from libradet.utils.atomic_io import require_writable, write_json
from libradet.utils.distributed import rank
from libradet.utils.ranges import NonNegativeInt, PositiveInt


@check_arguments
def evaluate(
    model: Predictor,
    dataset: Dataset,
    *,
    size: Size | None = None,
    batch_size: PositiveInt = 4,
    num_workers: NonNegativeInt | None = None,
    device: str | torch.device | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    compile: bool = False,
    coco_results: str | Path | None = None,
    proposals: str | Path | None = None,
    tta_flip: bool = False,
    tta_scales: Scales = (),
    tiles: TilesLike | None = None,
    tile_merge: TileMerge = "nms",
    progress: bool = True,
) -> Metrics:
    """Evaluate ``model`` on every image of ``dataset``; mode and device of the model are restored afterwards.

    Each process of a distributed job evaluates its share, and all of them return the same metrics.

    Args:
        size: (short, long) side to resize to; None for the size of training; "original" for no resizing.
        batch_size: images per batch, per process.
        num_workers: data loading processes; half of the cores, at most four, if None.
        device: device to run on; that of the model if None.
        precision, compile: as in :func:`libradet.models.optimize.optimize`; not for exported models.
        coco_results: file to write the detections to, as COCO results with the dataset's ids.
        proposals: proposal file, or folder with one for each split, for a detector without RPN.
        tta_flip, tta_scales: test-time augmentation by flipping and at several scales, see
            :func:`libradet.inference.tta.with_tta`.
        tiles, tile_merge: size and overlap of tiles, such as (640, 0.2), each resized to ``size``, of which
            ``batch_size`` are a batch; and how their detections are merged; see
            :func:`libradet.inference.tiles.make_tiling`.
        progress: show a progress bar on stderr.

    Returns:
        see :func:`libradet.evaluation.coco.coco_metrics`; for a detector with masks also ``mask_AP``, ``mask_AP50``,
        ..., ``mask_per_class``. If objects of the dataset lack segmentations, only boxes are evaluated, and ``notes``
        says so.

    Raises:
        UserError: model and dataset have no class in common, an image cannot be read, proposals are missing or not
            needed, or ``coco_results`` cannot be written.
    """
    if coco_results is not None:
        require_writable(coco_results)
    tiling = make_tiling(model, tiles, tile_merge)
    missing_masks = describe_missing_masks(dataset) if model.has_masks else ""
    evaluator, notes = build_evaluator(model, dataset, masks=model.has_masks and not missing_masks)
    precomputed = load_predictor_proposals(model, proposals, dataset)
    predictor = with_tta(optimize_predictor(model, precision, compile), tta_flip, tta_scales, size)
    run_on_dataset(
        predictor,
        dataset,
        evaluator.update,
        precomputed,
        size=size,
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
        progress=progress,
        batch_invariant_padding=isinstance(model, Detector) and model.config.image.batch_invariant_padding,
        tiling=tiling,
    )
    metrics = evaluator.compute()
    if dark := describe_bit_depth([image.path for image in dataset.images], bit_depth_of(model)):
        notes = [*notes, f"{dark}."]
    if missing_masks:
        notes = [*notes, f"Masks are not evaluated: {missing_masks}."]
    metrics["notes"] = [*notes, *metrics["notes"]]
    if coco_results is not None and rank() == 0:
        write_json(coco_results, evaluator.results())
    return metrics

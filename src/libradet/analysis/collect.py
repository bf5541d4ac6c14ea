"""Collect the measurements of a report: one pass over all images for statistics, one over few of them for gradients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import DataLoader

from libradet.analysis.candidates import (
    Activations,
    Candidates,
    Stage,
    candidates_of,
    capture_activations,
    first_roi_config,
    stages_of,
    without_mask_head,
)
from libradet.analysis.levels.classes import ClassLosses
from libradet.analysis.levels.feature import PyramidStatistics, count_by_level_and_size, size_category
from libradet.analysis.levels.gradient import GradientStatistics, measure_gradients
from libradet.analysis.levels.objective import RegressionErrors
from libradet.analysis.levels.sample import SampleStatistics, sample_as_trained, sample_candidates
from libradet.data.batch import Batch
from libradet.data.loader import make_loader
from libradet.data.proposals.precomputed import PrecomputedProposals
from libradet.data.records import Dataset
from libradet.data.transforms.resize import Size, check_size
from libradet.evaluation.classes import match_classes
from libradet.evaluation.coco import Metrics
from libradet.evaluation.evaluator import build_evaluator
from libradet.geometry.indexing import gather_rows
from libradet.geometry.matching import IGNORED, Matches
from libradet.geometry.roi_align import assign_levels
from libradet.inference.run_model import eval_mode, on_device
from libradet.models.detector import Detector
from libradet.models.sampling import SampledIndices
from libradet.utils.progress import progress_bar
from libradet.utils.ranges import NonNegativeInt, PositiveInt, Seed, check_ranges
from libradet.utils.spacing import evenly_spaced
from libradet.utils.workers import default_num_workers


@dataclass(frozen=True)
class AnalysisOptions:
    """Options of an analysis.

    Args:
        max_images: maximum number of images, evenly spaced over the split.
        gradient_images: number of these for the gradients.
        visualized_images: number of these on which samples are drawn.
        seed: seed of sampling and resampling.
        size: (short, long) side to resize to; as trained if None.
        batch_size: images per forward pass.
        num_workers: processes that load images; half the cores, at most four, if None.
        device: device to compute on; that of the model if None.
        progress: show progress bars on stderr.
    """

    max_images: PositiveInt = 200
    gradient_images: PositiveInt = 16
    visualized_images: NonNegativeInt = 3
    seed: Seed = 0
    size: Size | None = None
    batch_size: PositiveInt = 2
    num_workers: NonNegativeInt | None = None
    device: str | torch.device | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        """Check the values. Raises UserError with field, value and range."""
        check_ranges(self)
        if self.size is not None:
            check_size(self.size)


@dataclass
class SampleVisualization:
    """Negatives that two samplers draw in one image, for a figure.

    Attributes:
        stage: the stage that the candidates belong to.
        index: row of the image in the analyzed dataset.
        gt_boxes: [G, 4] ground truths, xyxy in pixels of the original image.
        sampled: by sampler: boxes [S, 4] and their IoU [S].
    """

    stage: str
    index: int
    gt_boxes: Float[Tensor, "_ 4"]
    sampled: dict[str, tuple[Tensor, Tensor]]


@dataclass
class Measurements:
    """All numbers of the report that need the model.

    Attributes:
        detections: rows of image number, x, y, width, height, score, label + 1 (``CocoEvaluator.rows``).
        visualizations: samples to draw.
        class_losses: shares of each class of the dataset, and last of the background, see :class:`ClassLosses`; empty
            for proposal models.
    """

    metrics: Metrics
    detections: np.ndarray
    samples: list[dict[str, Any]]
    features: dict[str, Any]
    levels: dict[str, Any]
    errors: list[dict[str, Any]]
    gradients: dict[str, Any]
    visualizations: list[SampleVisualization]
    class_losses: list[dict[str, Any]]


def collect(
    model: Detector, dataset: Dataset, options: AnalysisOptions, proposals: PrecomputedProposals | None = None
) -> Measurements:
    """Run the model on every image of ``dataset``; its mode and device are restored.

    Raises:
        UserError: model and data have no class in common, an image cannot be read, or the device cannot be used.
    """
    with on_device(model, options.device), without_mask_head(model):
        collector = _collect_statistics(model, dataset, options, proposals)
        gradients = _collect_gradients(model, dataset, options, proposals)
    return collector.compute(gradients)


def _collect_statistics(
    model: Detector, dataset: Dataset, options: AnalysisOptions, proposals: PrecomputedProposals | None
) -> "_Collector":
    collector = _Collector(model, dataset, options)
    loader = _make_loader(model, dataset, options, options.batch_size, proposals)
    with (
        eval_mode(model),
        torch.inference_mode(),
        capture_activations(model) as activations,
        progress_bar(options.progress) as bar,
    ):
        for batch in bar.track(loader, description="analyzing"):
            collector.update(batch.to(model.device), activations)
    return collector


class _Collector:
    """Everything that is accumulated over batches."""

    def __init__(self, model: Detector, dataset: Dataset, options: AnalysisOptions) -> None:
        self.model, self.dataset, self.options = model, dataset, options
        self.remap_labels = RemapLabels(model, dataset)
        self.evaluator, self.notes = build_evaluator(model, dataset, masks=False)
        self.stages = stages_of(model.config)
        self.samples = [SampleStatistics(stage, options.seed) for stage in self.stages]
        self.errors = [RegressionErrors(stage.beta, stage.box_loss) for stage in self.stages]
        num_levels = len(model.strides)
        self.target = self._target_level()
        self.before, self.after = PyramidStatistics(self.target), PyramidStatistics(self.target)
        self.positive_levels = {stage.key: torch.zeros(num_levels, 3, dtype=torch.int64) for stage in self.stages}
        self.roi_levels = torch.zeros(num_levels, 3, dtype=torch.int64)
        self.class_losses = None if model.config.is_proposal_model else ClassLosses(model.config.num_classes)
        self.visualized = set(select_images_with_objects(dataset, options.visualized_images))
        self.visualizations: list[SampleVisualization] = []

    def _target_level(self) -> int:
        """Return the level to whose size the pyramid is resized, in the model or in a model of its kind."""
        if self.model.config.pyramid.balanced:
            return self.model.config.pyramid.balanced.level
        default = 1 if self.model.retinanet else 2
        return min(default, len(self.model.strides) - 1)

    def update(self, batch: Batch, activations: Activations) -> None:
        """Run the model on a batch and add it."""
        self.evaluator.update(self.model(batch), batch)
        self.before.update(activations.pyramid, batch.sizes, self.model.strides)
        if self.model.balance is not None:
            self.after.update(activations.balanced, batch.sizes, self.model.strides)
        batch = self.remap_labels(batch)
        objects, areas = ((batch.labels >= 0) & ~batch.crowd).cpu(), self._areas(batch)
        self._count_roi_levels(batch, objects, areas)
        for stage, samples, errors in zip(self.stages, self.samples, self.errors, strict=True):
            with torch.random.fork_rng():
                # Boxes that training generates around objects are random.
                torch.manual_seed(self._seed_of(batch))
                candidates = _to_cpu(candidates_of(stage, self.model, activations, batch))
            self._update_stage(stage, candidates, objects, areas, samples, errors, batch)

    def _seed_of(self, batch: Batch) -> int:
        assert batch.index is not None
        return self.options.seed * 1_000_003 + int(batch.index[0])

    def _update_stage(
        self,
        stage: Stage,
        candidates: Candidates,
        objects: Bool[Tensor, "B G"],
        areas: Float[Tensor, "B G"],
        samples: SampleStatistics,
        errors: RegressionErrors,
        batch: Batch,
    ) -> None:
        seed = self._seed_of(batch)
        samples.update(candidates, objects, areas, seed)
        positive = candidates.matches.gt >= 0
        sizes = size_category(gather_rows(areas, candidates.matches.gt))
        counts = count_by_level_and_size(candidates.levels[positive], sizes[positive], len(self.model.strides))
        self.positive_levels[stage.key] += torch.tensor(counts)
        if stage.uses_sampling:
            # As in training: drawn by the model's own sampler, with ground truths added to the proposals.
            own = sample_as_trained(stage, candidates, objects.shape[1], seed)
            errors.update(gather_rows(candidates.errors, own.index), own.valid & own.positive)
            self._update_class_losses(candidates, own)
        else:
            errors.update(candidates.errors, positive)
            self._update_class_losses(candidates, None)
        if stage is self.stages[-1]:
            self._visualize_samples(stage, candidates, objects, seed, batch)

    def _update_class_losses(self, candidates: Candidates, own: SampledIndices | None) -> None:
        """Add the classification loss of the samples of ``own``, or of all candidates that are not ignored."""
        labels, loss, gradient = candidates.labels, candidates.class_loss, candidates.gradient
        if self.class_losses is None or labels is None or loss is None or gradient is None:
            return
        if own is None:
            self.class_losses.update(labels, candidates.matches.gt != IGNORED, loss, gradient)
            return
        labels, loss, gradient = (gather_rows(values, own.index) for values in (labels, loss, gradient))
        if own.weight is not None:
            loss, gradient = own.weight * loss, own.weight * gradient
        self.class_losses.update(labels, own.valid, loss, gradient)

    def _areas(self, batch: Batch) -> Float[Tensor, "B G"]:
        assert batch.index is not None
        areas = torch.zeros(batch.labels.shape, dtype=torch.float64)
        for row, index in enumerate(batch.index.tolist()):
            annotated = torch.from_numpy(self.dataset.images[index].area)
            areas[row, : len(annotated)] = annotated
        return areas

    def _count_roi_levels(self, batch: Batch, objects: Tensor, areas: Tensor) -> None:
        if self.model.config.roi is None:
            return
        align = first_roi_config(self.model.config).align
        strides = self.model.strides[: align.num_levels]
        levels = assign_levels(batch.boxes, strides, align.canonical_size, align.canonical_level).cpu()
        sizes = size_category(areas)
        counts = count_by_level_and_size(levels[objects], sizes[objects], len(self.model.strides))
        self.roi_levels += torch.tensor(counts)

    def _visualize_samples(
        self, stage: Stage, candidates: Candidates, objects: Tensor, seed: int, batch: Batch
    ) -> None:
        assert batch.index is not None
        assert batch.scales is not None
        for row, index in enumerate(batch.index.tolist()):
            if index not in self.visualized:
                continue
            scale = batch.scales[row].cpu().repeat(2)
            sampled = {}
            for name, negatives in (("random", "random"), ("iou_balanced_paper_3", "iou_balanced")):
                changes = {"negatives": negatives, "bins": "paper", "num_bins": 3}
                samples = sample_candidates(stage, candidates, objects.shape[1], seed, **changes)
                negatives_drawn = samples.index[row][samples.valid[row] & ~samples.positive[row]]
                sampled[name] = (
                    candidates.boxes[row, negatives_drawn] / scale,
                    candidates.matches.iou[row, negatives_drawn],
                )
            gt_boxes = batch.boxes[row].cpu()[objects[row]] / scale
            self.visualizations.append(SampleVisualization(stage.key, index, gt_boxes, sampled))

    def compute(self, gradients: dict[str, Any]) -> Measurements:
        """Return all numbers."""
        seed, metrics = self.options.seed, self.evaluator.compute()
        gate = None if self.model.balance is None else self.model.balance.gate
        metrics["notes"] = [*self.notes, *metrics["notes"]]
        features = {
            "strides": self.model.strides,
            "target": self.target,
            "balanced": self.model.balance is not None,
            "gates": None if gate is None else gate.detach().float().tolist(),
            "before": self.before.compute(),
            "after": self.after.compute() if self.model.balance is not None else None,
        }
        levels = {
            "positives": {key: counts.tolist() for key, counts in self.positive_levels.items()},
            "roi_level_counts": self.roi_levels.tolist() if self.model.config.roi is not None else None,
        }
        errors = [
            {
                "stage": stage.key,
                "type": stage.box_loss.type,
                "configured_beta": stage.box_loss.beta,
                "weights": _loss_weights(stage),
                **errors.compute(seed),
            }
            for stage, errors in zip(self.stages, self.errors, strict=True)
        ]
        samples = [samples.compute() for samples in self.samples]
        detections = self.evaluator.rows()
        classes = self._compute_class_losses()
        return Measurements(
            metrics, detections, samples, features, levels, errors, gradients, self.visualizations, classes
        )

    def _compute_class_losses(self) -> list[dict[str, Any]]:
        """Return the shares of each class of the dataset; a class that the detector does not have has none."""
        if self.class_losses is None:
            return []
        *by_class, background = self.class_losses.compute()
        absent = {"samples": 0, "loss": 0.0, "gradient": 0.0}
        labels = self.remap_labels.to_detector.tolist()
        return [*(by_class[label] if label >= 0 else absent for label in labels), background]


def _collect_gradients(
    model: Detector, dataset: Dataset, options: AnalysisOptions, proposals: PrecomputedProposals | None
) -> dict[str, Any]:
    rows = select_images_with_objects(dataset, options.gradient_images)
    remap_labels, statistics = RemapLabels(model, dataset), GradientStatistics()
    loader = _make_loader(model, subset(dataset, rows), options, 1, subset_proposals(proposals, rows))
    with progress_bar(options.progress) as bar:
        batches = (remap_labels(batch.to(model.device)) for batch in bar.track(loader, description="gradients"))
        measure_gradients(model, batches, statistics, options.seed)
    return statistics.compute(options.seed)


def _make_loader(
    model: Detector, dataset: Dataset, options: AnalysisOptions, batch_size: int, proposals: PrecomputedProposals | None
) -> DataLoader:
    return make_loader(
        dataset,
        size=options.size or model.config.image.size,
        batch_size=batch_size,
        training=False,
        size_divisible=model.size_divisible,
        num_workers=default_num_workers() if options.num_workers is None else options.num_workers,
        proposals=proposals,
        bit_depth=model.bit_depth,
    )


def _loss_weights(stage: Stage) -> dict[str, float]:
    weights = {"box": stage.box_loss.weight}
    return weights if stage.cls_loss_weight is None else weights | {"class": stage.cls_loss_weight}


def _to_cpu(candidates: Candidates) -> Candidates:
    boxes, matches, loss, errors, levels, *by_class = candidates
    gt, iou = matches
    moved = (values if values is None else values.cpu() for values in by_class)
    return Candidates(boxes.cpu(), Matches(gt.cpu(), iou.cpu()), loss.cpu(), errors.cpu(), levels.cpu(), *moved)


def subset(dataset: Dataset, rows: Sequence[int]) -> Dataset:
    """Return the dataset with these images only."""
    return replace(dataset, images=[dataset.images[row] for row in rows])


def subset_proposals(proposals: PrecomputedProposals | None, rows: Sequence[int]) -> PrecomputedProposals | None:
    """Return the precomputed proposals of these images only."""
    return None if proposals is None else replace(proposals, rows=proposals.rows[np.asarray(rows)])


def select_images_with_objects(dataset: Dataset, limit: int) -> list[int]:
    """Return at most ``limit`` rows of images that contain objects, evenly spaced."""
    rows = [row for row, image in enumerate(dataset.images) if image.has_objects]
    return [rows[i] for i in evenly_spaced(len(rows), limit)] if rows else []


class RemapLabels:
    """Maps ground-truth labels to those of the detector; objects of classes that it does not have become crowds."""

    def __init__(self, model: Detector, dataset: Dataset) -> None:
        self.to_detector = torch.arange(len(dataset.class_names))
        if not model.config.is_proposal_model:
            to_dataset = match_classes(model.class_names, dataset.class_names).labels
            labels = range(len(dataset.class_names))
            self.to_detector = torch.tensor([to_dataset.index(x) if x in to_dataset else -1 for x in labels])

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with labels and crowds replaced."""
        labels = self.to_detector.to(batch.labels.device)[batch.labels.clamp(min=0)]
        present = batch.labels >= 0
        return batch._replace(
            labels=torch.where(present, labels.clamp(min=0), -1), crowd=batch.crowd | (present & (labels < 0))
        )

"""One walk through the images on which everything is counted, and a second one through few of them for gradients."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import DataLoader

from libradet.analysis.candidates import Candidates, Stage, candidates_of, first_second_stage, stages
from libradet.analysis.choosing import Relabel, proposals_of, subset, with_objects
from libradet.analysis.feature_level import PyramidTally, level_table, size_of
from libradet.analysis.gradient_level import GradientTally, measure_gradients
from libradet.analysis.objective_level import ErrorTally
from libradet.analysis.sample_level import SampleTally, draw
from libradet.analysis.watching import watching, without_masks
from libradet.data.batch import Batch
from libradet.data.loading.loader import make_loader
from libradet.data.loading.transforms import Size
from libradet.data.proposals.given import GivenProposals
from libradet.data.records import Dataset
from libradet.evaluation.coco_evaluator import evaluator_of
from libradet.evaluation.coco_metrics import Metrics
from libradet.geometry.matching import Matches
from libradet.geometry.roi_align import assign_levels
from libradet.inference.predictor import evaluating
from libradet.models.detector import Detector
from libradet.models.samples import take
from libradet.utils.progress import progress_bar


@dataclass(frozen=True)
class Options:
    """How to look.

    Args:
        images: at most so many, spread evenly over the split.
        gradient_images: of those, for gradients.
        drawn: of those, to draw samples on.
        seed: of sampling, resampling and drawing.
        size: (short, long) side to resize to; as trained if None.
        batch_size: images that go through the model together.
        workers: processes that load images; half the cores, at most four, if None.
        device: where to compute; where the model is, if None.
        progress: show bars on stderr.
    """

    images: int = 200
    gradient_images: int = 16
    drawn: int = 3
    seed: int = 0
    size: Size | None = None
    batch_size: int = 2
    workers: int | None = None
    device: str | None = None
    progress: bool = True


@dataclass
class Drawing:
    """Negatives that two samplers choose in one image, and what they are chosen around.

    Attributes:
        stage: whose candidates they are.
        index: row of the image in the dataset that was looked at.
        objects: [G, 4] ground truths, xyxy in pixels of the file.
        chosen: by sampler: boxes [S, 4], their IoU [S].
    """

    stage: str
    index: int
    objects: Float[Tensor, "_ 4"]
    chosen: dict[str, tuple[Tensor, Tensor]]


@dataclass
class Measured:
    """All numbers of the report that need the model; ``rows`` are its detections, ``drawings`` its samples."""

    metrics: Metrics
    rows: np.ndarray
    samples: list[dict[str, Any]]
    features: dict[str, Any]
    levels: dict[str, Any]
    errors: list[dict[str, Any]]
    gradients: dict[str, Any]
    drawings: list[Drawing]


def measure(model: Detector, dataset: Dataset, options: Options, given: GivenProposals | None = None) -> Measured:
    """Look at every image of ``dataset``; the model's mode and device are left as they were.

    Raises:
        UserError: model and data have no class in common, or an image cannot be read.
    """
    home = model.device
    model.to(options.device or home)
    try:
        with without_masks(model):
            walk = _look(model, dataset, options, given)
            gradients = _gradients(model, dataset, options, given)
    finally:
        model.to(home)
    return walk.result(gradients)


def _look(model: Detector, dataset: Dataset, options: Options, given: GivenProposals | None) -> "_Walk":
    walk, loader = _Walk(model, dataset, options), _load(model, dataset, options, options.batch_size, given)
    with evaluating(model), watching(model) as seen, progress_bar(options.progress) as bar:
        for batch in bar.track(loader, description="looking"):
            walk.look(batch.to(model.device), seen)
    return walk


class _Walk:
    """Everything that is collected while images pass."""

    def __init__(self, model: Detector, dataset: Dataset, options: Options) -> None:
        self.model, self.dataset, self.options = model, dataset, options
        self.relabel = Relabel(model, dataset)
        self.evaluator, self.notes = evaluator_of(model, dataset, masks=False)
        self.stages = stages(model.config)
        self.samples = [SampleTally(stage, options.seed) for stage in self.stages]
        self.errors = [ErrorTally(stage.unit, stage.box_loss) for stage in self.stages]
        balanced, levels = model.config.pyramid.balanced, len(model.strides)
        self.target = balanced.level if balanced else min(1 if model.dense else 2, levels - 1)
        self.before, self.after = PyramidTally(self.target), PyramidTally(self.target)
        self.levels = {stage.key: torch.zeros(levels, 3, dtype=torch.int64) for stage in self.stages}
        self.reads = torch.zeros(levels, 3, dtype=torch.int64)
        self.drawn = set(with_objects(dataset, options.drawn))
        self.drawings: list[Drawing] = []

    def look(self, batch: Batch, seen: Any) -> None:
        """Take in one batch."""
        self.evaluator.update(self.model(batch), batch)
        self.before.update(seen.pyramid, batch.sizes, self.model.strides)
        if self.model.balance is not None:
            self.after.update(seen.balanced, batch.sizes, self.model.strides)
        batch = self.relabel(batch)
        objects, areas = ((batch.labels >= 0) & ~batch.crowd).cpu(), self._areas(batch)
        self._count_reads(batch, objects, areas)
        for stage, samples, errors in zip(self.stages, self.samples, self.errors, strict=True):
            candidates = _to_cpu(candidates_of(stage, self.model, seen, batch))
            self._take_in(stage, candidates, objects, areas, samples, errors, batch)

    def _take_in(
        self,
        stage: Stage,
        candidates: Candidates,
        objects: Bool[Tensor, "B G"],
        areas: Float[Tensor, "B G"],
        samples: SampleTally,
        errors: ErrorTally,
        batch: Batch,
    ) -> None:
        assert batch.index is not None
        seed = self.options.seed * 1_000_003 + int(batch.index[0])
        samples.update(candidates, objects, areas, seed)
        positive = candidates.matches.gt >= 0
        kinds = size_of(take(areas, candidates.matches.gt))
        table = level_table(candidates.levels[positive], kinds[positive], len(self.model.strides))
        self.levels[stage.key] += torch.tensor(table)
        if stage.samples:
            # As training sees them: chosen by the model's own sampler, added ground truths among them.
            own = draw(stage, candidates, objects.shape[1], seed)
            errors.update(take(candidates.errors, own.index), own.valid & own.positive)
        else:
            errors.update(candidates.errors, positive)
        self._draw(stage, candidates, objects, seed, batch)

    def _areas(self, batch: Batch) -> Float[Tensor, "B G"]:
        assert batch.index is not None
        areas = torch.zeros(batch.labels.shape, dtype=torch.float64)
        for row, index in enumerate(batch.index.tolist()):
            known = torch.from_numpy(self.dataset.images[index].area)
            areas[row, : len(known)] = known
        return areas

    def _count_reads(self, batch: Batch, objects: Tensor, areas: Tensor) -> None:
        if self.model.config.roi is None:
            return
        align = first_second_stage(self.model.config).align
        strides = self.model.strides[: align.levels]
        levels = assign_levels(batch.boxes, strides, align.canonical_size, align.canonical_level).cpu()
        self.reads += torch.tensor(level_table(levels[objects], size_of(areas)[objects], len(self.model.strides)))

    def _draw(self, stage: Stage, candidates: Candidates, objects: Tensor, seed: int, batch: Batch) -> None:
        assert batch.index is not None
        assert batch.scales is not None
        if stage is not self.stages[-1]:
            return
        for row, index in enumerate(batch.index.tolist()):
            if index in self.drawn:
                scale = batch.scales[row].cpu().repeat(2)
                chosen = {}
                for name, kind in (("random", "random"), ("balanced", "iou_balanced")):
                    own = draw(stage, candidates, objects.shape[1], seed, negatives=kind, bins="paper", num_bins=3)
                    taken = own.index[row][own.valid[row] & ~own.positive[row]]
                    chosen[name] = candidates.boxes[row, taken] / scale, candidates.matches.iou[row, taken]
                boxes = batch.boxes[row].cpu()[objects[row]] / scale
                self.drawings.append(Drawing(stage.key, index, boxes, chosen))

    def result(self, gradients: dict[str, Any]) -> Measured:
        """All numbers."""
        seed, metrics = self.options.seed, self.evaluator.compute()
        metrics["notes"] = [*self.notes, *metrics["notes"]]
        features = {
            "strides": self.model.strides,
            "target": self.target,
            "balanced": self.model.balance is not None,
            "before": self.before.result(),
            "after": self.after.result() if self.model.balance is not None else None,
        }
        levels = {
            "positives": {key: table.tolist() for key, table in self.levels.items()},
            "reads": self.reads.tolist() if self.model.config.roi is not None else None,
        }
        errors = [
            {"stage": stage.key, "kind": stage.box_loss.kind, "weights": _weights(stage), **tally.result(seed)}
            for stage, tally in zip(self.stages, self.errors, strict=True)
        ]
        samples = [tally.result() for tally in self.samples]
        return Measured(metrics, self.evaluator.rows(), samples, features, levels, errors, gradients, self.drawings)


def _gradients(model: Detector, dataset: Dataset, options: Options, given: GivenProposals | None) -> dict[str, Any]:
    rows = with_objects(dataset, options.gradient_images)
    relabel, tally = Relabel(model, dataset), GradientTally()
    loader = _load(model, subset(dataset, rows), options, 1, proposals_of(given, rows))
    with progress_bar(options.progress) as bar:
        batches = (relabel(batch.to(model.device)) for batch in bar.track(loader, description="gradients"))
        measure_gradients(model, batches, tally, options.seed)
    return tally.result(options.seed)


def _load(
    model: Detector, dataset: Dataset, options: Options, batch_size: int, given: GivenProposals | None
) -> DataLoader:
    return make_loader(
        dataset,
        size=options.size or model.config.image.size,
        batch_size=batch_size,
        training=False,
        divisor=model.divisor,
        workers=min(4, (os.cpu_count() or 1) // 2) if options.workers is None else options.workers,
        proposals=given,
    )


def _weights(stage: Stage) -> dict[str, float]:
    weights = {"box": stage.box_loss.weight}
    return weights if stage.class_weight is None else weights | {"class": stage.class_weight}


def _to_cpu(candidates: Candidates) -> Candidates:
    boxes, matches, loss, errors, levels = candidates
    gt, iou = matches
    return Candidates(boxes.cpu(), Matches(gt.cpu(), iou.cpu()), loss.cpu(), errors.cpu(), levels.cpu())

"""Measures a run on its validation pictures and keeps the best weights."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from torch.utils.data import DataLoader

from libradet.data.proposals.given import GivenProposals
from libradet.data.records import Dataset
from libradet.evaluation.classes import match_classes
from libradet.evaluation.coco_evaluator import CocoEvaluator
from libradet.evaluation.coco_metrics import Metrics, deciding, scalars
from libradet.evaluation.drawing import save
from libradet.evaluation.sheets import picture_sheet
from libradet.files import write_json
from libradet.models.detector import Detector
from libradet.models.model_file import save_model
from libradet.models.prediction import device_of, evaluating
from libradet.training.folder import BEST
from libradet.training.progress import ProgressDisplay
from libradet.training.record import Record

METRICS, SHEET, SAMPLES = "metrics.json", "sheet.png", "samples"
SHOWN_FROM = 0.3


class Measurer:
    """Writes best.safetensors, metrics.json, sample pictures, and the measured rows of metrics.csv.

    The best weights have the highest AP: of masks if the detector gives masks, else of boxes. Without
    validation pictures the latest are the best.

    Args:
        dataset: validation pictures; None if there are none.
        make_loader: builds this process's share of them.
        samples: how many of the pictures to draw.
        record: None in all processes but the first, which is the one that writes.
        proposals: of the validation pictures, for a detector without rpn.
    """

    def __init__(
        self,
        folder: Path,
        dataset: Dataset | None,
        make_loader: Callable[[], DataLoader],
        samples: int,
        record: Record | None,
        display: ProgressDisplay,
        proposals: GivenProposals | None = None,
    ) -> None:
        self._folder = folder
        self._proposals = proposals
        self._dataset = dataset
        self._make_loader = make_loader
        self._samples = samples
        self._record = record
        self._display = display

    def measure(
        self,
        detector: Detector,
        *,
        step: int,
        epoch: int,
        cast: AbstractContextManager,
        stopped: Callable[[], bool] = lambda: False,
        any_process: Callable[[bool], bool] = bool,
    ) -> bool:
        """Measure ``detector`` and keep it if it is the best; all processes take part.

        Returns whether it came to an end.

        Args:
            step: optimiser steps behind its weights.
            epoch: counted from 0.
            cast: the arithmetic to compute in.
            stopped: asked between batches; a measurement that was stopped leaves no trace.
            any_process: whether something is true in any process.
        """
        if self._dataset is None:
            if self._record is not None:
                save_model(detector, self._folder / BEST)
            return True
        evaluator = self._evaluate(detector, self._dataset, cast, stopped)
        if any_process(evaluator is None) or evaluator is None:
            return False
        metrics = evaluator.compute()
        if self._record is not None:
            self._store(detector, metrics, step, epoch)
        return True

    def missing(self, step: int) -> bool:
        """Whether this process knows that the weights after ``step`` optimiser steps were not measured."""
        return self._record is not None and self._dataset is not None and not self._record.has_measured(step)

    def _evaluate(
        self, detector: Detector, dataset: Dataset, cast: AbstractContextManager, stopped: Callable[[], bool]
    ) -> CocoEvaluator | None:
        proposals = detector.config.proposes
        labels = [0] if proposals else match_classes(detector.class_names, dataset.class_names).labels
        evaluator = CocoEvaluator(
            dataset, class_map=labels, class_agnostic=proposals, masks=detector.config.mask is not None
        )
        loader = self._make_loader()
        try:
            with evaluating(detector), cast:
                for i, batch in enumerate(loader):
                    if stopped():
                        return None
                    self._display.measuring(i, len(loader))
                    batch = batch.to(device_of(detector), non_blocking=True)
                    evaluator.update(detector(batch), batch)
        finally:
            self._display.measured()
        return evaluator

    def _store(self, detector: Detector, metrics: Metrics, step: int, epoch: int) -> None:
        """The row in metrics.csv comes last: where it is, everything else is."""
        assert self._record is not None
        assert self._dataset is not None
        decides = deciding(metrics)
        best = self._record.is_best(metrics[decides], decides)
        if best:
            save_model(detector, self._folder / BEST)
            write_json(self._folder / METRICS, {"step": step, "epoch": epoch + 1} | metrics, indent=1)
        if self._samples:
            options = {"count": self._samples, "threshold": SHOWN_FROM, "proposals": self._proposals}
            page = picture_sheet(detector, self._dataset, **options)
            save(page, self._folder / SAMPLES / f"epoch_{epoch + 1:03}.png")
            self._record.picture("val/samples", page, step)
            if best:
                save(page, self._folder / SHEET)
        self._record.measurement(step, epoch, scalars(metrics))
        self._display.say(f"epoch {epoch + 1}: {_sentence(metrics)}{' · best so far' if best else ''}")


def _sentence(metrics: Metrics) -> str:
    names = [name for name in ("AP", "AP50", "AP75", "mask_AP", "mask_AP50", "mask_AP75") if name in metrics]
    shown = {name.replace("_", " "): metrics[name] for name in names}
    return " · ".join(f"{name} {'–' if value is None else f'{value:.3f}'}" for name, value in shown.items())

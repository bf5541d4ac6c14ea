"""Experiment runner: datasets, seeds and a preset, from which the rows of a table become training runs."""

import hashlib
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from libradet.errors import UserError
from libradet.experiments.definitions import (
    SHARED_PROPOSALS,
    AblationRow,
    Experiment,
    Preset,
    nest,
    proposal_settings,
    resolve_backbone_weights,
    row_settings,
)
from libradet.experiments.launcher import NOT_COMPARED, InputDigests, Launcher, TrainingRun, make_run

if TYPE_CHECKING:
    from libradet.data.records import Dataset
    from libradet.models.config import DetectorConfig


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset to train on.

    Attributes:
        num_images: number of images in the training split.
        weights: initialization of backbones: a path, ``imagenet``, or None for random weights.
        class_counts: number of training objects by class.
        digests: of both splits and of the weights; pixels are not read.
    """

    name: str
    data: Path
    num_images: int
    weights: str | None
    class_counts: dict[str, int] = field(default_factory=dict, hash=False)
    digests: InputDigests = NOT_COMPARED


@dataclass(frozen=True)
class ExperimentRunner:
    """Trains the rows of experiments.

    Attributes:
        overrides: settings by dotted key for all rows; they override those of preset and row.
        jobs: number of concurrent runs.
        log: called with a line of text on progress.
    """

    preset: Preset
    datasets: tuple[DatasetEntry, ...]
    seeds: tuple[int, ...]
    output_dir: Path
    jobs: int
    overrides: dict[str, Any] = field(default_factory=dict)
    log: Callable[[str], None] = print

    def supported_rows(self, experiment: Experiment) -> list[AblationRow]:
        """Return the rows whose backbone and schedule the preset has."""
        return [row for row in experiment.rows if self.preset.supports(row)]

    def make_run(self, dataset: DatasetEntry, row: AblationRow, seed: int, shared_proposals: bool) -> TrainingRun:
        """Return the training run of a row, with ``shared_proposals`` on the proposals of :meth:`make_proposal_run`."""
        settings = row_settings(self.preset, row, dataset.num_images, self.overrides)
        if shared_proposals:
            settings["proposals"] = str(self.make_proposal_run(dataset).proposals)
        return self._make_run(dataset, settings, seed)

    def make_proposal_run(self, dataset: DatasetEntry) -> TrainingRun:
        """Return the run whose proposals are shared: an RPN with the first seed."""
        of_other_parts = ("detector.roi", "detector.retinanet")
        overrides = {k: v for k, v in self.overrides.items() if not k.startswith(of_other_parts)}
        settings = proposal_settings(self.preset, dataset.num_images, overrides)
        return self._make_run(dataset, settings, self.seeds[0], writes_proposals=True)

    def train_proposals(self) -> None:
        """Train the RPNs whose proposals are shared, and write the proposals."""
        runs = [self.make_proposal_run(dataset) for dataset in self.datasets]
        names = [f"{dataset.name}, RPN for shared proposals" for dataset in self.datasets]
        for _ in self.run_all(runs, names):
            pass

    def run_all(self, runs: Sequence[TrainingRun], names: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Execute runs, started in this order; yield position and :attr:`TrainingRun.result` of each as it finishes."""
        with _worker_pool(self.preset.threads, self.jobs) as (launcher, pool):
            positions: dict[Future, int] = {pool.submit(launcher.execute, run): i for i, run in enumerate(runs)}
            for done, future in enumerate(as_completed(positions), start=1):
                i, result = positions[future], future.result()
                self.log(f"{done}/{len(runs)}  {names[i]}: {_summarize(result)}")
                yield i, result

    def _make_run(
        self, dataset: DatasetEntry, settings: dict[str, Any], seed: int, writes_proposals: bool = False
    ) -> TrainingRun:
        common = {"data": str(dataset.data.resolve()), "weights": dataset.weights}
        root = self.output_dir / "runs" / dataset.name
        return make_run(root, settings | common, seed, writes_proposals, dataset.digests)


def make_dataset_entries(folders: Sequence[Path], preset: Preset, weights: str | None) -> tuple[DatasetEntry, ...]:
    """Return datasets named by their folders. Raises UserError if one cannot be trained on or two names are equal."""
    from libradet.data.formats.reading import standard_split
    from libradet.data.read import read, splits
    from libradet.data.repeat_factors import count_objects

    entries = []
    for folder in folders:
        dataset, _ = read(folder, "train", training=True, masks=False)
        if "val" not in [standard_split(name) for name in splits(folder)]:
            raise UserError(f"{folder}: has no validation split, on which rows are compared: add a split val")
        backbone_weights = resolve_backbone_weights(preset, weights, folder)
        counts = dict(zip(dataset.class_names, count_objects(dataset), strict=True))
        digests = _digest_inputs([dataset, read(folder, "val", training=False, masks=False)[0]], backbone_weights)
        entries.append(DatasetEntry(folder.resolve().name, folder, len(dataset), backbone_weights, counts, digests))
    names = [entry.name for entry in entries]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise UserError(f"two datasets have the same name ({', '.join(duplicates)}); rename a folder")
    return tuple(entries)


def _digest_inputs(datasets: Sequence["Dataset"], weights: str | None) -> InputDigests:
    from libradet.training.resume import fingerprint

    numbers = [number for dataset in datasets for number in fingerprint(dataset)]
    sizes = [image.path.stat().st_size for dataset in datasets for image in dataset.images]
    names = [dataset.class_names for dataset in datasets]
    return InputDigests(_digest(repr(numbers).encode()), _digest(repr((sizes, names)).encode()), _digest_file(weights))


def _digest_file(weights: str | None) -> str:
    """Return the digest of the content of a file of weights; empty for weights by name."""
    if weights is None or not Path(weights).is_file():
        return ""
    with Path(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def check_runs(runs: Sequence[TrainingRun]) -> None:
    """Raise UserError before any training if ``libradet train`` would reject the settings of a run.

    The same if a finished run cannot be used, because the dataset has changed for example.
    """
    from libradet.training.options import parse_train

    for run in runs:
        _ = run.result
    checked: set[tuple[str, ...]] = set()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "request.yaml"
        for run in runs:
            settings = {k: v for k, v in run.settings if k not in ("proposals", "data", "seed")}
            proposals = dict(run.settings).get("proposals")
            key = (f"{proposals is not None}", *sorted(f"{k}={v}" for k, v in settings.items()))
            if key in checked:
                continue
            checked.add(key)
            path.write_text(yaml.safe_dump(nest(settings | {"data": ""}), allow_unicode=True), encoding="utf-8")
            _check_proposals(parse_train(["--config", str(path)]).detector, proposals)


def _check_proposals(detector: "DetectorConfig", proposals: str | None) -> None:
    """Raise UserError if a detector needs proposals and the run has none, or the other way around."""
    if detector.requires_proposals and proposals is None:
        raise UserError(
            f"{detector.model} needs precomputed proposals: add 'proposals: {SHARED_PROPOSALS}' to the table, or name "
            "their folder with --set proposals=DIR"
        )
    if proposals is not None and not detector.requires_proposals:
        raise UserError(
            f"{detector.model} uses no precomputed proposals: leave out proposals ({proposals}), or use fast_rcnn"
        )


def _summarize(result: dict[str, Any]) -> str:
    if "failure" in result:
        return f"failed ({result['failure'].splitlines()[0]})"
    metrics = result["metrics"]
    name = "AP" if metrics.get("per_class") else "AR100"
    value = "-" if metrics[name] is None else f"{100 * metrics[name]:.1f}"
    return f"{name} {value}, {result['seconds']:.0f} s"


@contextmanager
def _worker_pool(threads: int | None, jobs: int) -> Iterator[tuple[Launcher, ThreadPoolExecutor]]:
    """Leave no process behind on any exit; on Ctrl-C and SIGTERM all processes save a checkpoint first."""
    launcher = Launcher(threads)
    pool = ThreadPoolExecutor(jobs)
    previous_handler = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield launcher, pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        launcher.close()
        pool.shutdown()
        signal.signal(signal.SIGTERM, previous_handler)


def _interrupt(_signum: int, _frame: Any) -> None:
    raise KeyboardInterrupt

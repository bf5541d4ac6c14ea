"""Where experiments are done: datasets, seeds and a preset, from which rows become runs."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from libradet.errors import UserError
from libradet.experiments.definitions import Experiment, Row
from libradet.experiments.presets import Preset, find_weights, nested, proposer, settings_of
from libradet.experiments.runs import Run, Workshop, make_run


@dataclass(frozen=True)
class Site:
    """A dataset that rows are trained on; ``images`` of its training split, and where backbones start."""

    name: str
    data: Path
    images: int
    weights: str | None


@dataclass(frozen=True)
class Laboratory:
    """Everything that a comparison needs besides its rows.

    Attributes:
        overrides: settings by dotted key that all rows get, over those of preset and row.
        jobs: runs at a time.
        say: takes a line about what happens.
    """

    preset: Preset
    sites: tuple[Site, ...]
    seeds: tuple[int, ...]
    out: Path
    jobs: int
    overrides: dict[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = print

    def rows(self, experiment: Experiment) -> list[Row]:
        """Those that the preset has a backbone and a schedule for."""
        return [row for row in experiment.rows if self.preset.has(row)]

    def run(self, site: Site, row: Row, seed: int, shared: bool) -> Run:
        """A row on a dataset; with ``shared``, on the proposals that all rows are given."""
        settings = settings_of(self.preset, row, site.images) | self.overrides
        if shared:
            settings["proposals"] = str(self.proposing(site).proposals)
        return self._make(site, settings, seed)

    def proposing(self, site: Site) -> Run:
        """The run whose proposals are shared: an RPN of the first seed."""
        return self._make(site, proposer(self.preset, site.images) | self._of_all(), self.seeds[0], propose=True)

    def _of_all(self) -> dict[str, Any]:
        """Overrides that an RPN can have, too."""
        return {k: v for k, v in self.overrides.items() if not k.startswith(("detector.roi", "detector.dense"))}

    def _make(self, site: Site, settings: dict[str, Any], seed: int, propose: bool = False) -> Run:
        common = {"data": str(site.data.resolve()), "weights": site.weights}
        return make_run(self.out / "runs" / site.name, settings | common, seed, propose)


def make_sites(folders: Sequence[Path], preset: Preset, weights: str | None) -> tuple[Site, ...]:
    """Datasets by the names of their folders. Raises UserError if one cannot be trained on."""
    from libradet.data.read import read

    sites = []
    for folder in folders:
        dataset, _ = read(folder, "train", training=True, masks=False)
        sites.append(Site(folder.resolve().name, folder, len(dataset), find_weights(preset, weights, folder)))
    twice = {site.name for site in sites if [other.name for other in sites].count(site.name) > 1}
    if twice:
        raise UserError(f"two datasets are called {', '.join(sorted(twice))}; rename a folder")
    return tuple(sites)


def check_runs(runs: Sequence[Run]) -> None:
    """Raises UserError if ``libradet train`` would refuse the settings of one: before hours of work, not between."""
    from libradet.train_options import parse_train

    seen: set[tuple[str, ...]] = set()
    with TemporaryDirectory() as folder:
        for run in runs:
            settings = {k: v for k, v in run.settings if k not in ("proposals", "data", "seed")}
            kind = tuple(sorted(f"{k}={v}" for k, v in settings.items()))
            if kind in seen:
                continue
            seen.add(kind)
            path = Path(folder) / "request.yaml"
            path.write_text(yaml.safe_dump(nested(settings | {"data": ""}), allow_unicode=True), encoding="utf-8")
            parse_train(["--config", str(path)])


def carry_out(laboratory: Laboratory, runs: Sequence[Run], names: Sequence[str]) -> Iterator[tuple[int, dict]]:
    """Runs as they are finished: position and what :attr:`Run.result` says. Their order of starting is that given."""
    with _working(laboratory) as (workshop, pool):
        futures: dict[Future, int] = {pool.submit(workshop.carry_out, run): i for i, run in enumerate(runs)}
        for done, future in enumerate(as_completed(futures), start=1):
            i, result = futures[future], future.result()
            laboratory.say(f"{done}/{len(runs)}  {names[i]}: {_said(result)}")
            yield i, result


def _said(result: dict[str, Any]) -> str:
    if "failure" in result:
        return f"failed ({result['failure'].splitlines()[0]})"
    metrics = result["metrics"]
    name = "AP" if metrics.get("per_class") else "AR100"
    value = metrics[name]
    return f"{name} {'–' if value is None else f'{100 * value:.1f}'}, {result['seconds']:.0f} s"


@contextmanager
def _working(laboratory: Laboratory) -> Iterator[tuple[Workshop, ThreadPoolExecutor]]:
    """Whatever ends the work, no process is left behind; Ctrl-C and SIGTERM let all of them save first."""
    workshop = Workshop(laboratory.preset.threads)
    pool = ThreadPoolExecutor(laboratory.jobs)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield workshop, pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        workshop.close()
        pool.shutdown()
        signal.signal(signal.SIGTERM, before)


def _stop(_signum: int, _frame: Any) -> None:
    raise KeyboardInterrupt

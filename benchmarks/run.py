"""One run of the benchmark: its items in the order of their value, within a time budget."""

import os
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import cases as catalog
from benchmarks.budget import PARTS, REFERENCE_FLOPS, START, Budget, estimate_process, estimate_step
from benchmarks.cases import Case, Contender
from benchmarks.machine import describe_machine
from benchmarks.other_libraries import unavailable_reason
from benchmarks.peers import PEERS, python_of
from benchmarks.processes import HERE, OUT_OF_TIME, run_job
from benchmarks.resources import children_cpu_seconds
from benchmarks.results import CaseResults, Results, format_range

STEPS = {"infer": 7, "train": 3}
STEPS_OF_OTHERS = {"infer": 4, "train": 2}
TIMED_SECONDS, TIMED_SECONDS_OF_OTHERS = 20.0, 10.0
"""Seconds of timed steps of a process: slow steps are repeated less."""
FEW_CONTENDERS = (("before", "fp32"), ("before", "bf16"), ("torchvision", "bf16"))
"""Contenders that are measured in the cases of the targets only."""
NO_BF16 = "left out: this processor has no bf16 instructions and would emulate them"


class Item(NamedTuple):
    """What is measured before the report is written again: a round of a case, or a part without cases."""

    part: str
    case: Case | None = None
    round: int = 0
    compiled: bool = False

    @property
    def name(self) -> str:
        """Name in the list of what was left out."""
        if self.case is None:
            return self.part
        return f"{self.case.name}{', compiled' if self.compiled else ''}, round {self.round + 1}"


class Turn(NamedTuple):
    """A contender that alternates with the others of a case; ``name`` is its name in the results."""

    name: str
    contender: Contender
    case: Case


def list_items(args: Namespace) -> list[Item]:
    """Return the items of a run, the most valuable first."""
    if args.all or args.cases:
        cases = catalog.select_cases(catalog.ALL, args.cases)
        items = [Item("steps", case, n) for case in cases for n in range(args.rounds)]
        items += [Item("steps", case, 0, True) for case in cases if _compiles(args, case)]
        items += [Item(part) for part in PARTS]
    else:
        infer, train, *others = [[Item("steps", case, n) for n in range(args.rounds)] for case in catalog.TARGETS]
        items = [infer[0], train[0], Item("operations"), Item("loader"), Item("proposals")]
        items += [rounds[0] for rounds in others]
        items += [item for rounds in (infer, train, *others) for item in rounds[1:]]
        items += [Item("steps", case) for case in catalog.OTHERS[:2]] + [Item("scaling"), Item("evaluation")]
        items += [Item("steps", case) for case in catalog.OTHERS[2:]]
        # Last: to compile takes minutes where instructions are narrow.
        items += [Item("steps", case, 0, True) for case in (catalog.INFER, catalog.TRAIN)]
    items = [item for item in items if item.part in args.parts]
    if args.quick:
        items = [item._replace(case=item.case and catalog.shrink(item.case)) for item in items if item.round == 0]
    return items


def _compiles(args: Namespace, case: Case) -> bool:
    """Return whether compiled contenders of one of several selected cases are measured."""
    return args.compiled if case.task == "train" else _has_engines(args, case)


def _has_engines(args: Namespace, case: Case) -> bool:
    """Return whether libradet's other engines for inference are measured in a case."""
    return args.all or args.engines or case.name == catalog.INFER.name


class BenchmarkRun:
    """One run of the benchmark.

    Args:
        folder: for the weights that all contenders share, and other files.
        report: writes the results so far.
    """

    def __init__(self, args: Namespace, folder: Path, report: Callable[[Results], None]) -> None:
        self.args, self.folder, self.report = args, folder, report
        self.start = time.monotonic()
        command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        self.results = Results(describe_machine(args.threads, args.against, args.instructions), command)
        self.budget = Budget(args.budget * 60 if args.budget else None, self._measure_scale())
        if not self.results.has_bf16:
            self.results.unavailable["bf16"] = NO_BF16

    def _measure_scale(self) -> float:
        flops = run_job("peak_flops", self.args.threads)
        return 1.0 if isinstance(flops, dict) else REFERENCE_FLOPS / flops

    def execute(self) -> None:
        """Measure everything that the budget allows."""
        items = list_items(self.args)
        self._announce(items)
        for item in items:
            if item.case is None:
                self._measure_part(item)
            else:
                self._measure_case(item, item.case)
            self.results.minutes = (time.monotonic() - self.start) / 60
            self.report(self.results)

    def _announce(self, items: list[Item]) -> None:
        """Print the estimated duration, and what will probably be left out."""
        total, limit, excess = 0.0, self.args.budget or float("inf"), []
        for item in items:
            minutes = self._estimate(item) * self.budget.scale / 60
            if total + minutes > limit:
                excess.append(item.name)
            else:
                total += minutes
        bound = f", limited to {limit:g}" if self.args.budget else ""
        log(f"estimated duration {total:.0f} minutes{bound}; a second of the estimates is {self.budget.scale:.2f} here")
        if excess:
            log(f"probably left out for time: {'; '.join(excess)}")

    def _estimate(self, item: Item) -> float:
        if item.case is None:
            return PARTS[item.part]
        results = CaseResults(item.case)
        seconds = sum(self._estimate_turn(item, turn) for turn in self._select_turns(item, results))
        return seconds + (30 if item.round == 0 and item.case.has_shared_weights else 0)

    def _estimate_turn(self, item: Item, turn: Turn) -> float:
        replays = self._replays(item, turn)
        return estimate_process(turn.contender, turn.case, *self._steps_of(item), replays, item.round == 0)

    def _run(self, name: str, estimate: float, kind: str, source: Path = HERE, **job: Any) -> Any:
        """Run a job in its own process, if it is expected to end in time; otherwise return its error."""
        if not self.budget.allows(estimate):
            self.results.left_out.append(name)
            return {"error": OUT_OF_TIME}
        start, before = time.monotonic(), children_cpu_seconds()
        result = run_job(kind, self.args.threads, source, timeout=self.budget.remaining, **job)
        seconds, processor = time.monotonic() - start, children_cpu_seconds() - before
        self.results.processes.append((name, round(estimate, 1), round(seconds, 1), round(processor, 1)))
        if isinstance(result, dict) and result.get("error") == OUT_OF_TIME:
            self.results.left_out.append(name)
        elif not (isinstance(result, dict) and "error" in result):
            self.budget.record(estimate, seconds)
        return result

    def _measure_part(self, item: Item) -> None:
        """Run a part that has no contenders of its own and store its result under its name."""
        quick = self.args.quick
        job: dict[str, Any] = {"rounds": 1 if quick else {"operations": 7, "proposals": 5}.get(item.part, 3)}
        if item.part in ("proposals", "scaling"):
            job["case"] = replace(catalog.shrink(catalog.INFER) if quick else catalog.INFER)
        if item.part == "scaling":
            job |= {
                "case": replace(job["case"], task="train"),
                "precision": "bf16" if self.results.has_bf16 else "fp32",
            }
        if "case" in job:
            job["weights"] = self._get_weights(job["case"])
            if job["weights"] is None:
                return
        if item.part == "operations":
            job["quick"] = quick
        if item.part == "loader":
            job |= {"folder": self.folder / "loader", "images": 4 if quick else 32}
            job["ultralytics"] = python_of("ultralytics") if self.args.all or self.args.peers else None
        if item.part == "evaluation":
            job |= {"rounds": 1, "images": 100 if quick else self.args.images}
        log(f"\n{item.part}  (load {os.getloadavg()[0]:.1f})")
        result = self._run(item.part, PARTS[item.part], item.part, **job)
        if isinstance(result, dict) and "error" in result:
            log(f"  {result['error']}")
            self.results.unavailable[item.part] = result["error"]
            return
        setattr(self.results, item.part, result)

    def _get_weights(self, case: Case) -> Path | None:
        """Return the file of the shared weights, written on first use; None if there is no time for it."""
        path = self.folder / f"{case.shared_model}-{case.size[0]}x{case.size[1]}.pth"
        if case.backbone == "resnet50" and not path.exists():
            template = replace(case, task="infer", batch=1)
            failure = self._run(f"weights of {path.stem}", START + 4, "weights", case=template, weights=path)
            if failure is not None:
                log(f"  no weights: {failure['error']}")
                return None
        return path

    def _measure_case(self, item: Item, case: Case) -> None:
        """Measure a round of all contenders of a case, alternating."""
        weights = self._get_weights(case)
        if weights is None:
            return
        results = self._results_of(case)
        log(f"\n{item.name}  (load {os.getloadavg()[0]:.1f})")
        if item.round == 0 and case.has_shared_weights and not item.compiled:
            self._prepare_comparison(results, weights)
        for turn in self._select_turns(item, results):
            if turn.name not in results.skipped:
                self._measure(item, results, turn, weights)

    def _results_of(self, case: Case) -> CaseResults:
        for results in self.results.cases:
            if results.case == case:
                return results
        self.results.cases.append(CaseResults(case, load=round(os.getloadavg()[0], 1)))
        return self.results.cases[-1]

    def _prepare_comparison(self, results: CaseResults, weights: Path) -> None:
        """Compare losses with torchvision's, or write torchvision's detections, with which each process compares."""
        case = results.case
        estimate = 2 * START + 6 * estimate_step(replace(case, batch=1), "fp32")
        name = f"comparison with torchvision, {case.name}"
        if case.task == "train":
            results.agreement = self._run(name, estimate, "losses", case=case, weights=weights)
        else:
            estimate += 3 * estimate_step(case, "fp32")
            file = self._reference(case)
            results.agreement = self._run(name, estimate, "reference", case=case, weights=weights, file=file)

    def _reference(self, case: Case) -> Path:
        return self.folder / f"{case.name.replace('/', '-')}.pt"

    def _select_turns(self, item: Item, results: CaseResults) -> list[Turn]:
        """Return the contenders of an item, without torchvision's memory layout that was slower before."""
        args, case = self.args, results.case
        contenders = catalog.list_contenders(
            case,
            self.results.has_bf16,
            before=args.against is not None and not item.compiled,
            engines=_has_engines(args, case),
            compiled=item.compiled,
            peers=args.all or args.peers,
        )
        turns = []
        for contender in contenders:
            if not any(fnmatch(contender.name, pattern) for pattern in args.contenders):
                continue
            if item.compiled != (contender.variant == "compiled"):
                continue
            if self._is_other(case) and (contender.library, contender.precision) in FEW_CONTENDERS:
                continue
            if reason := self._unavailable(contender, case):
                results.skipped[contender.name] = reason
            elif not self._has_slower_layout(item, contender, results):
                turns.append(Turn(contender.name, contender, case))
        if case.model == "libra_faster_rcnn" and case.backbone == "resnet50":
            plain_case = replace(case, model=case.shared_model)
            ours = [c for _, c, _ in turns if c.library == "ours" and c.variant == "eager"]
            turns += [Turn(f"faster_rcnn-{c.precision}", c, plain_case) for c in ours]
        return turns

    def _unavailable(self, contender: Contender, case: Case) -> str | None:
        if self.args.instructions and contender.variant in ("onnxruntime", "openvino"):
            return "cannot be restricted to these instructions"
        return unavailable_reason(contender.library, case)

    def _has_slower_layout(self, item: Item, contender: Contender, results: CaseResults) -> bool:
        """Return whether torchvision's other layout was faster, in this case or in the first one of this task."""
        is_first = item.round == 0 and not self._is_other(results.case)
        if is_first or contender.library != "torchvision":
            return False
        for known in (results, *self.results.cases):
            best = known.best("torchvision", contender.precision)
            if known.case.task == results.case.task and best is not None:
                return contender.name != best
        return contender.variant == "plain"

    def _is_other(self, case: Case) -> bool:
        """Return whether the case is measured in less detail than those of the targets."""
        return case in catalog.OTHERS and not (self.args.all or self.args.cases)

    def _steps_of(self, item: Item) -> tuple[int, float]:
        """Return the number of timed steps, and their seconds after which there are fewer."""
        case, args = item.case, self.args
        assert case is not None
        if args.quick:
            return 1, 1.0
        is_other = self._is_other(case)
        steps = args.steps or (STEPS_OF_OTHERS if is_other else STEPS)[case.task]
        return steps, TIMED_SECONDS_OF_OTHERS if is_other else TIMED_SECONDS

    def _replays(self, item: Item, turn: Turn) -> bool:
        """Return whether the kernels alone are measured as well: only in the cases that have such a target."""
        targets = {case.name for case in (catalog.INFER, catalog.TRAIN, *catalog.SMALL)}
        is_target = turn.case.name in targets or self.args.all or self.args.quick
        return is_target and item.round == 0 and turn.name in ("ours-fp32", "ours-bf16") and turn.case == item.case

    def _measure(self, item: Item, results: CaseResults, turn: Turn, weights: Path) -> None:
        """Run one process of one contender."""
        steps, seconds = self._steps_of(item)
        reference = self._reference(turn.case)
        has_reference = reference.exists() and turn.contender.library != "rf-detr"
        job = {
            "contender": turn.contender,
            "case": turn.case,
            "weights": weights,
            "steps": steps,
            "seconds": seconds,
            "replay_kernels": self._replays(item, turn),
            "reference": str(reference) if has_reference else None,
        }
        if turn.contender.library == "before":
            job["source"] = self.args.against
        environment = "openvino" if turn.contender.variant == "openvino" else turn.contender.library
        if environment in PEERS and (python := python_of(environment)):
            job["python"] = python
        name = f"{turn.case.name}: {turn.name}, round {item.round + 1}"
        result = self._run(name, self._estimate_turn(item, turn), "step", **job)
        if "error" in result:
            if result["error"] != OUT_OF_TIME:
                results.skipped[turn.name] = f"failed: {result['error']}"
                results.runs.pop(turn.name, None)
            log(f"  {turn.name:32} {result['error']}")
            return
        results.runs.setdefault(turn.name, []).append(result)
        log(f"  {turn.name:32} {format_range(result['seconds'])} s  peak {result['peak']:.0f} MiB")


def log(text: str) -> None:
    """Print without buffering."""
    print(text, flush=True)

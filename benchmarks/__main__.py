"""Benchmark libradet against torchvision, mmdetection and detectron2 (where installed) on this machine.

python -m benchmarks                                   cases of the performance targets, half an hour or more
python -m benchmarks --all --output runs/bench_all     every detector, size, batch size, precision; also compiled
python -m benchmarks --cases 'infer/*/800x1344/*' --parts steps --compiled
python -m benchmarks --against ../older/src            also the libradet of another checkout
"""

import argparse
import os
import shlex
import sys
import tempfile
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import cases as catalog
from benchmarks.cases import Case, Contender
from benchmarks.machine import describe_machine
from benchmarks.other_libraries import unavailable_reason
from benchmarks.processes import HERE, run_job
from benchmarks.report import describe_agreement, target_row, write_report
from benchmarks.results import CaseResults, Results, format_range
from benchmarks.targets import evaluate_targets

PARTS = ("steps", "scaling", "operations", "evaluation")
STEPS = {"infer": 7, "train": 3}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--cases", nargs="+", default=[], metavar="PATTERN", help="select step cases by name")
    parser.add_argument("--contenders", nargs="+", default=["*"], metavar="PATTERN", help="such as 'ours-bf16*'")
    parser.add_argument("--all", action="store_true", help="all cases, and libradet also compiled")
    parser.add_argument("--compiled", action="store_true", help="libradet also compiled")
    parser.add_argument("--list", action="store_true", help="print the names of all cases and exit")
    parser.add_argument("--against", type=Path, metavar="SRC", help="folder with another libradet, run in turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="processes per contender")
    parser.add_argument("--steps", type=int, help="timed steps per process (default: 7 for inference, 3 for training)")
    parser.add_argument("--images", type=int, default=5000, help="number of images for the evaluation")
    parser.add_argument("--quick", action="store_true", help="smoke test: tiny images, one round")
    text = "report, written to OUTPUT.md and OUTPUT.json (default: runs/bench)"
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help=text)
    return parser.parse_args()


class Turn(NamedTuple):
    """A contender that takes turns with the others of a case; ``name`` is its name in the results."""

    name: str
    contender: Contender
    case: Case


class BenchmarkRun:
    """One run of the benchmark.

    Args:
        folder: for the weights that all contenders share.
    """

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        self.rounds = 1 if args.quick else args.rounds
        command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        self.results = Results(describe_machine(args.threads, args.against), command)

    def run_job(self, kind: str, source: Path = HERE, **job: Any) -> Any:
        """Run a job in its own process."""
        return run_job(kind, self.args.threads, source, **job)

    def get_weights(self, case: Case) -> Path:
        """Return the file of the shared weights, written on first use; backbones but ResNet-50 have none."""
        path = self.folder / f"{case.shared_model}-{case.size[0]}x{case.size[1]}.pth"
        if case.backbone == "resnet50" and not path.exists():
            template = replace(case, task="infer", batch=1, backbone="resnet50")
            failure = self.run_job("weights", case=template, weights=path)
            if failure is not None:
                raise RuntimeError(f"the shared weights could not be created: {failure['error']}")
        return path

    def steps(self, case: Case) -> None:
        """Measure all contenders of a case, in turns."""
        weights = self.get_weights(case)
        results = CaseResults(case, load=round(os.getloadavg()[0], 1))
        self.results.cases.append(results)
        log(f"\n{case.name}  (load {results.load})")
        if case.model == case.shared_model and case.backbone == "resnet50":
            results.agreement = self.run_job("agreement", case=case, weights=weights)
            log(f"  {describe_agreement(results)}")
        turns = self._select_turns(results)
        for round_ in range(self.rounds):
            for turn in turns:
                if turn.name not in results.skipped:
                    self._measure(results, turn, weights)
            if round_ == 0:
                turns = _without_slower_layout(turns, results)
        for name, reason in results.skipped.items():
            log(f"  {name}: {reason}")

    def _select_turns(self, results: CaseResults) -> list[Turn]:
        args, case = self.args, results.case
        turns = []
        for contender in catalog.list_contenders(case, args.all or args.compiled, args.against is not None):
            if not any(fnmatch(contender.name, pattern) for pattern in args.contenders):
                continue
            if reason := unavailable_reason(contender.library, case):
                results.skipped[contender.library] = reason
            else:
                turns.append(Turn(contender.name, contender, case))
        if case.model == "libra_faster_rcnn" and case.backbone == "resnet50":
            plain_case = replace(case, model=case.shared_model)
            ours = [c for _, c, _ in turns if c.library == "ours" and c.variant == "eager"]
            turns += [Turn(f"faster_rcnn-{c.precision}", c, plain_case) for c in ours]
        return turns

    def _measure(self, results: CaseResults, turn: Turn, weights: Path) -> None:
        """Run one process of one contender."""
        args = self.args
        job = {
            "contender": turn.contender,
            "case": turn.case,
            "weights": weights,
            "steps": 1 if args.quick else args.steps or STEPS[turn.case.task],
            "replay_kernels": turn.name in ("ours-fp32", "ours-bf16") and turn.case == results.case,
        }
        source = args.against if turn.contender.library == "before" else HERE
        result = self.run_job("step", source, **job)
        if "error" in result:
            results.skipped[turn.name] = f"failed: {result['error']}"
            results.runs.pop(turn.name, None)
            return
        results.runs.setdefault(turn.name, []).append(result)
        log(f"  {turn.name:32} {format_range(result['seconds'])} s  peak {result['peak']:.0f} MiB")

    def scaling(self) -> None:
        """Measure training steps by batch size and number of objects, in the default precision of the machine."""
        case = Case("train", "faster_rcnn", (480, 640), 1)
        case = catalog.shrink(case) if self.args.quick else case
        has_bf16 = {"AVX-512-BF16", "AMX-BF16"} & set(self.results.machine["instructions"])
        job = {"case": case, "precision": "bf16" if has_bf16 else "fp32", "rounds": 1 if self.args.quick else 3}
        result = self.run_job("scaling", weights=self.get_weights(case), **job)
        if "error" in result:
            log(f"\nscaling failed: {result['error']}")
            return
        self.results.scaling = {"case": case.name.rpartition("/")[0], "precision": job["precision"], **result}

    def operations(self) -> None:
        """Measure samplers, matching and NMS."""
        result = self.run_job("operations", rounds=1 if self.args.quick else 9, quick=self.args.quick)
        if isinstance(result, dict):
            log(f"\noperations failed: {result['error']}")
            return
        self.results.operations = result

    def evaluation(self) -> None:
        """Measure the computation of COCO metrics."""
        images = 100 if self.args.quick else self.args.images
        result = self.run_job("evaluation", images=images, rounds=1 if self.args.quick else 3)
        if "error" in result:
            log(f"\nevaluation failed: {result['error']}")
            return
        self.results.evaluation = result


def _without_slower_layout(turns: list[Turn], results: CaseResults) -> list[Turn]:
    """Drop torchvision's memory layout that was slower in the first round."""
    slower = set()
    for precision in ("fp32", "bf16"):
        best = results.best("torchvision", precision)
        slower |= {name for name in results.runs if name.startswith(f"torchvision-{precision}") and name != best}
    return [turn for turn in turns if turn.name not in slower]


def log(text: str) -> None:
    """Print without buffering."""
    print(text, flush=True)


def main() -> None:
    """Measure, write the report after each part, and print the targets."""
    args = parse_arguments()
    if args.list:
        log("\n".join(case.name for case in catalog.ALL))
        return
    cases = catalog.select_cases(catalog.ALL if args.all or args.cases else catalog.DEFAULT, args.cases)
    with tempfile.TemporaryDirectory() as folder:
        run = BenchmarkRun(args, Path(folder))
        log(", ".join(f"{key} {value}" for key, value in run.results.machine.items()))
        for case in cases if "steps" in args.parts else ():
            run.steps(catalog.shrink(case) if args.quick else case)
            write_report(run.results, args.output)
        for part in PARTS[1:]:
            if part in args.parts:
                getattr(run, part)()
                write_report(run.results, args.output)
    log("")
    for target, value, wanted, outcome in map(target_row, evaluate_targets(run.results)):
        log(f"{target:58} {value:>24}  {wanted:16} {outcome}")
    log(f"\n{args.output.with_suffix('.md')}, {args.output.with_suffix('.json')}")


if __name__ == "__main__":
    main()

"""Measure libradet beside torchvision, mmdetection and detectron2 (where installed) on this machine.

python -m benchmarks                                   what the targets ask for, in half an hour or more
python -m benchmarks --all --out docs/results/all      every detector, size, batch, precision; compiled, too
python -m benchmarks --cases 'infer/*/800x1344/*' --parts steps --compiled
python -m benchmarks --against ../older/src            beside the libradet of another checkout
"""

import argparse
import os
import shlex
import sys
import tempfile
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from benchmarks import cases as catalog
from benchmarks.cases import Case, Contender
from benchmarks.machine import describe
from benchmarks.peers import missing
from benchmarks.processes import HERE, run
from benchmarks.report import agreement_in_words, line, write
from benchmarks.results import Measured, Results, spread
from benchmarks.targets import verdicts

PARTS = ("steps", "growth", "operations", "evaluation")
STEPS = {"infer": 7, "train": 3}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--cases", nargs="+", default=[], metavar="PATTERN", help="of all steps those of such names")
    parser.add_argument("--contenders", nargs="+", default=["*"], metavar="PATTERN", help="such as 'ours-bf16*'")
    parser.add_argument("--all", action="store_true", help="every case, and ours compiled as well")
    parser.add_argument("--compiled", action="store_true", help="ours compiled as well")
    parser.add_argument("--list", action="store_true", help="names of all cases, and no more")
    parser.add_argument("--against", type=Path, metavar="SRC", help="folder with another libradet, to run in turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="processes of each contender")
    parser.add_argument("--steps", type=int, help="timed in each process; 7 of inference, 3 of training")
    parser.add_argument("--images", type=int, default=5000, help="for the evaluation")
    parser.add_argument("--quick", action="store_true", help="tiny images, one round: does all of it run?")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="report, written to OUT.md and OUT.json")
    return parser.parse_args()


class Session:
    """One run of the benchmark: what is wanted, what is known so far, and where weights lie."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        self.rounds = 1 if args.quick else args.rounds
        command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        self.results = Results(describe(args.threads, args.against), command)

    def run(self, do: str, source: Path = HERE, **job):
        """A job in a process of its own."""
        return run(do, self.args.threads, source, **job)

    def weights(self, case: Case) -> Path:
        """The file of the weights that everybody shares, made when first asked for; other backbones have none."""
        path = self.folder / f"{case.alike}-{case.size[0]}x{case.size[1]}.pth"
        if case.backbone == "resnet50" and not path.exists():
            first = replace(case, task="infer", batch=1, backbone="resnet50")
            done = self.run("weights", case=first, weights=path)
            if done is not None:
                raise RuntimeError(f"the shared weights could not be made: {done['error']}")
        return path

    def step(self, case: Case) -> None:
        """All contenders of a case, in turns."""
        args, weights = self.args, self.weights(case)
        measured = Measured(case, load=round(os.getloadavg()[0], 1))
        self.results.cases.append(measured)
        say(f"\n{case.name}  (load {measured.load})")
        if case.model == case.alike and case.backbone == "resnet50":
            measured.agreement = self.run("agreement", case=case, weights=weights)
            say(f"  {agreement_in_words(measured)}")
        waiting = []
        for contender in catalog.contenders(case, args.all or args.compiled, args.against is not None):
            if not any(fnmatch(contender.name, pattern) for pattern in args.contenders):
                continue
            if why := missing(contender.side, case):
                measured.skipped[contender.side] = why
            else:
                waiting.append((contender.name, contender, case))
        if case.model == "libra_faster_rcnn" and case.backbone == "resnet50":
            like = [
                (f"faster_rcnn-{c.precision}", c, replace(case, model=case.alike))
                for _, c, _ in waiting
                if c.side == "ours" and c.form == "eager"
            ]
            waiting += like
        for turn in range(self.rounds):
            for name, contender, taken in waiting:
                if name not in measured.skipped:
                    self.turn(measured, name, contender, taken, weights)
            waiting = waiting if turn else _without_slower_layout(waiting, measured)
        for side, why in measured.skipped.items():
            say(f"  {side}: {why}")

    def turn(self, measured: Measured, name: str, contender: Contender, case: Case, weights: Path) -> None:
        """One process of one contender."""
        args = self.args
        steps = 1 if args.quick else args.steps or STEPS[case.task]
        source = args.against if contender.side == "before" else HERE
        floor = name in ("ours-fp32", "ours-bf16") and case == measured.case
        job = {"contender": contender, "case": case, "weights": weights, "steps": steps, "floor": floor}
        result = self.run("step", source, **job)
        if "error" in result:
            measured.skipped[name] = f"does not run: {result['error']}"
            measured.runs.pop(name, None)
            return
        measured.runs.setdefault(name, []).append(result)
        say(f"  {name:32} {spread(result['seconds'])} s  peak {result['peak']:.0f} MiB")

    def growth(self) -> None:
        """Of our training step, in the precision that training chooses on this machine."""
        case = Case("train", "faster_rcnn", (480, 640), 1)
        case = catalog.tiny(case) if self.args.quick else case
        wide = {"AVX-512-BF16", "AMX-BF16"} & set(self.results.machine["instructions"])
        job = {"case": case, "precision": "bf16" if wide else "fp32", "rounds": 1 if self.args.quick else 3}
        found = self.run("growth", weights=self.weights(case), **job)
        if "error" in found:
            say(f"\ngrowth does not run: {found['error']}")
            return
        self.results.growth = {"case": case.name.rpartition("/")[0], "precision": job["precision"], **found}

    def operations(self) -> None:
        """Samplers, matching, suppression."""
        found = self.run("operations", rounds=1 if self.args.quick else 9, quick=self.args.quick)
        if isinstance(found, dict):
            say(f"\noperations do not run: {found['error']}")
            return
        self.results.operations = found

    def evaluation(self) -> None:
        """COCO's numbers."""
        images = 100 if self.args.quick else self.args.images
        found = self.run("evaluation", images=images, rounds=1 if self.args.quick else 3)
        if "error" in found:
            say(f"\nevaluation does not run: {found['error']}")
            return
        self.results.evaluation = found


def _without_slower_layout(waiting: list, measured: Measured) -> list:
    """torchvision goes on in the layout that was faster in the first round."""
    slower = set()
    for precision in ("fp32", "bf16"):
        best = measured.best("torchvision", precision)
        slower |= {n for n in measured.runs if n.startswith(f"torchvision-{precision}") and n != best}
    return [entry for entry in waiting if entry[0] not in slower]


def say(text: str) -> None:
    """To the terminal, at once."""
    print(text, flush=True)


def main() -> None:
    """Measure, write after each part, and give the verdicts."""
    args = parse()
    wanted = catalog.ALL if args.all or args.cases else catalog.DEFAULT
    if args.list:
        say("\n".join(case.name for case in catalog.ALL))
        return
    with tempfile.TemporaryDirectory() as folder:
        session = Session(args, Path(folder))
        say(", ".join(f"{key} {value}" for key, value in session.results.machine.items()))
        for case in catalog.chosen(wanted, args.cases) if "steps" in args.parts else ():
            session.step(catalog.tiny(case) if args.quick else case)
            write(session.results, args.out)
        for part in PARTS[1:]:
            if part in args.parts:
                getattr(session, part)()
                write(session.results, args.out)
    say("")
    for target, value, wished, verdict in map(line, verdicts(session.results)):
        say(f"{target:58} {value:>24}  {wished:16} {verdict}")
    say(f"\n{args.out.with_suffix('.md')}, {args.out.with_suffix('.json')}")


if __name__ == "__main__":
    main()

"""How long commands take to say their first word, beside ``import torch, torchvision`` alone.

Every command runs in a process of its own, in turns, so that a machine that drifts hurts all alike. Printed is a
Markdown table with the medians of the times, of the processor's part of them, and of the ratios to the import in the
same round.

    python benchmarks/first_word.py --rounds 5
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ALONE = [sys.executable, "-c", "import torch, torchvision"]
COMMANDS = (
    "--help",
    "models",
    "train --help",
    "data check data",
    "data stats data",
    "evaluate absent.pth --data data",
    "evaluate no_model.pth --data data",
    "predict no_model.pth data --out found",
    "convert no_model.pth mine.safetensors",
    "train --data absent",
    "train --data data --lrr 1",
    "train --data empty",
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times that everything is run (default: 5)")
    rounds = parser.parse_args().rounds
    with TemporaryDirectory() as folder:
        _prepare(Path(folder))
        lines = [ALONE, *([sys.executable, "-m", "libradet", *command.split()] for command in COMMANDS)]
        _measure(lines, folder)  # fills the caches for files
        times = [_measure(lines, folder) for _ in range(rounds)]
    print("| command | time | processor | ratio | ratio of processor |\n|---|---|---|---|---|")
    for place, name in enumerate(("import torch, torchvision", *(f"libradet {command}" for command in COMMANDS))):
        time_, processor = (statistics.median(row[place][what] for row in times) for what in (0, 1))
        ratios = (statistics.median(row[place][what] / row[0][what] for row in times) for what in (0, 1))
        print(f"| `{name}` | {time_:.2f} s | {processor:.2f} s | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")


def _prepare(folder: Path) -> None:
    """A small dataset, a folder without one, and a file that is no model."""
    from libradet.data.synthesis.synthetic import synthesize

    synthesize(folder / "data", train=8, val=4, size=(96, 80), classes=2)
    (folder / "empty").mkdir()
    (folder / "no_model.pth").write_text("nothing")


def _measure(lines: list[list[str]], folder: str) -> list[tuple[float, float]]:
    """Seconds of each command, and those of the processor."""
    times = []
    for line in lines:
        start, worked = time.perf_counter(), _processor()
        subprocess.run(line, cwd=folder, capture_output=True, check=False)
        times.append((time.perf_counter() - start, _processor() - worked))
    return times


def _processor() -> float:
    """Seconds that processes which have ended spent on the processor."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    main()

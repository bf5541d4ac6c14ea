"""CLI start-up time, compared with ``import torch, torchvision`` alone.

Commands run in their own processes and in turns, so that drift of the machine affects all of them. Prints a Markdown
table: median wall time, CPU time, and the ratios of both to the import in the same round.

    python benchmarks/cold_start.py --rounds 5
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from libradet.utils.tables import markdown_table

WALL, CPU = 0, 1
IMPORT_ONLY = [sys.executable, "-c", "import torch, torchvision"]
COMMANDS = (
    "--help",
    "models",
    "train --help",
    "data check data",
    "data stats data",
    "evaluate absent.pth --data data",
    "evaluate no_model.pth --data data",
    "predict no_model.pth data --output_dir predictions",
    "convert no_model.pth mine.safetensors",
    "train --data absent",
    "train --data data --lrr 1",
    "train --data empty",
)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of every command (default: 5)")
    rounds = parser.parse_args().rounds
    with TemporaryDirectory() as folder:
        _write_inputs(Path(folder))
        commands = [IMPORT_ONLY, *([sys.executable, "-m", "libradet", *command.split()] for command in COMMANDS)]
        _measure(commands, folder)  # warm-up: fills the file cache
        times = [_measure(commands, folder) for _ in range(rounds)]
    rows = []
    for i, name in enumerate(("import torch, torchvision", *(f"libradet {command}" for command in COMMANDS))):
        seconds = [f"{statistics.median(row[i][k] for row in times):.2f} s" for k in (WALL, CPU)]
        ratios = [f"{statistics.median(row[i][k] / row[0][k] for row in times):.2f}" for k in (WALL, CPU)]
        rows.append([f"`{name}`", *seconds, *ratios])
    print(markdown_table(["command", "wall time", "CPU time", "wall ratio", "CPU ratio"], rows))


def _write_inputs(folder: Path) -> None:
    """Write a small dataset, an empty folder, and a file that is not a model."""
    from libradet.data.synthesis.synthetic import synthesize

    synthesize(folder / "data", train=8, val=4, size=(96, 80), classes=2)
    (folder / "empty").mkdir()
    (folder / "no_model.pth").write_text("nothing")


def _measure(commands: list[list[str]], folder: str) -> list[tuple[float, float]]:
    """Return wall time and CPU time of each command in seconds."""
    times = []
    for command in commands:
        start, cpu_start = time.perf_counter(), _children_cpu_seconds()
        subprocess.run(command, cwd=folder, capture_output=True, check=False)
        times.append((time.perf_counter() - start, _children_cpu_seconds() - cpu_start))
    return times


def _children_cpu_seconds() -> float:
    """Return the CPU time of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()

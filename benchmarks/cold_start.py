"""CLI start-up time, compared with ``import torch, torchvision`` alone.

Commands run in their own processes and in turns, so that drift of the machine affects all of them. Prints a Markdown
table: median wall time, CPU time, and the ratios of both to the import in the same round.

    python -m benchmarks.cold_start --rounds 5
"""

import argparse
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.resources import time_commands
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
        time_commands(commands, folder, check=False)  # warm-up: fills the file cache
        times = [time_commands(commands, folder, check=False) for _ in range(rounds)]
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


if __name__ == "__main__":
    main()

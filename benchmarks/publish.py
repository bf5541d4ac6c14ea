"""Write docs/results/speed.md from the results of each kind of processor in benchmarks/results/.

python -m benchmarks.publish
python -m benchmarks.publish runs/more.json    first join results of a further run on the same kind of processor
python -m benchmarks.publish --peers runs/peers.json    ... of a run with --peers, which has a section of its own
"""

import argparse
import json
from pathlib import Path

from benchmarks.join import join
from benchmarks.machine import kind_of
from benchmarks.processes import ROOT
from benchmarks.report import METHOD, kind_title, peers_section, results_section, to_json
from benchmarks.results import Results

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results" / "speed.md"
KINDS = {"avx512_bf16": ["AVX-512", "AVX-512-BF16"], "avx2": ["AVX2"]}
"""Kinds of processors that the page names in any case, by a set of their instructions."""


def publish(results: Results) -> Path:
    """Store the results as those of their kind of processor, write the page and return its path."""
    RESULTS.mkdir(exist_ok=True)
    result_file(kind_of(results.machine["instructions"])).write_text(to_json(results))
    return write_page()


def publish_further(path: Path) -> Path:
    """Join a further run's results into those of its kind of processor, write the page and return its path."""
    further = _read(path)
    return publish(join(_read(result_file(kind_of(further.machine["instructions"]))), further))


def publish_peers(path: Path) -> Path:
    """Join the results of a run with other libraries into those of its kind of processor, and write the page.

    They are kept apart, since a case is compared within one run.
    """
    results = _read(path)
    file = peers_file(kind_of(results.machine["instructions"]))
    file.write_text(to_json(join(_read(file), results) if file.exists() else results))
    return write_page()


def result_file(kind: str) -> Path:
    """Return the file of a kind of processor."""
    return RESULTS / f"speed_{kind}.json"


def peers_file(kind: str) -> Path:
    """Return the file of other libraries on a kind of processor."""
    return RESULTS / f"peers_{kind}.json"


def write_page() -> Path:
    """Write the page, with a section for each kind of processor."""
    lines = ["# Speed and memory on a CPU\n", METHOD]
    measured = sorted(path.stem.removeprefix("speed_") for path in RESULTS.glob("speed_*.json"))
    for kind in dict.fromkeys([*KINDS, *measured]):
        if kind in measured:
            lines += results_section(_read(result_file(kind)))
            if peers_file(kind).exists():
                lines += peers_section(_read(peers_file(kind)))
        else:
            lines += [
                f"## {kind_title(KINDS[kind])}\n",
                'No results yet: `make bench BENCH="--publish"` writes them.\n',
            ]
    PAGE.write_text("\n".join(lines))
    return PAGE


def _read(path: Path) -> Results:
    return Results.from_json(json.loads(path.read_text()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m benchmarks.publish")
    parser.add_argument("files", nargs="*", type=Path, help="results of further runs")
    parser.add_argument("--peers", action="store_true", help="the runs are of other libraries")
    args = parser.parse_args()
    for file in args.files:
        (publish_peers if args.peers else publish_further)(file)
    print(write_page())

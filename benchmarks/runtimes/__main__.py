"""Run exported detectors in the runtimes that deploy them, and write the table of docs/runtimes.md."""

import argparse
import os
import subprocess
from pathlib import Path

import torch

from benchmarks.processes import ROOT
from benchmarks.runtimes.comparison import Comparison
from benchmarks.runtimes.detectors import (
    DETECTORS,
    STATIC_SHAPES,
    Expected,
    build_detector,
    case_name,
    run_eager,
    write_inputs,
)
from benchmarks.runtimes.environments import RUNTIMES, Runtime, install
from benchmarks.runtimes.exports import Exports
from benchmarks.runtimes.outputs import first_error, read_outputs
from benchmarks.runtimes.report import Row, load_rows, save_row, update_page

FOLDER = ROOT / "build" / "runtimes"
RUN_SECONDS = 900


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__)
    names = [runtime.name for runtime in RUNTIMES]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=list(DETECTORS), metavar="NAME")
    parser.add_argument("--keep_exports", action="store_true", help="use the exported files of the previous run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    write_inputs(FOLDER / "inputs")
    models = FOLDER / "models"
    kept = set(models.glob("*")) if args.keep_exports else set()
    runtimes = [runtime for runtime in RUNTIMES if runtime.name in args.only]
    rows = {runtime.name: Row(runtime.name, runtime.version) for runtime in runtimes}
    commands = {runtime.name: _install(runtime, rows[runtime.name]) for runtime in runtimes}
    for name in args.detectors:
        model = build_detector(name)
        exports, expected = Exports(name, model, models, kept), run_eager(model)
        for runtime in runtimes:
            command = commands[runtime.name]
            if command:
                _run(runtime, command, exports, expected, rows[runtime.name])
        for row in rows.values():
            save_row(row, FOLDER / "results")
    update_page(ROOT / "docs" / "runtimes.md", load_rows(names, FOLDER / "results"))


def _install(runtime: Runtime, row: Row) -> list[str]:
    print(f"{runtime.name} {runtime.version}: installing", flush=True)
    try:
        return install(runtime, FOLDER / runtime.package)
    except RuntimeError as error:
        row.failures["all"] = f"not installed: {error}"
        return []


def _run(runtime: Runtime, command: list[str], exports: Exports, expected: dict[str, Expected], row: Row) -> None:
    """Run the files of a detector, each in a process of its own, until one fails, and compare their outputs."""
    outputs = FOLDER / "outputs" / runtime.package / exports.name
    outputs.mkdir(parents=True, exist_ok=True)
    for path in outputs.glob("*.json"):
        path.unlink()
    failure = None
    for shape in STATIC_SHAPES if runtime.is_static else (None,):
        inputs = FOLDER / "inputs" / ("all" if shape is None else case_name(shape))
        failure = _run_file([*command, str(exports.path(runtime.suffix, shape)), str(inputs)], outputs)
        if failure is not None:
            break
    (outputs / "log.txt").write_text(failure or "")
    if failure is not None:
        row.failures[exports.name] = failure
    else:
        row.converted += 1
        if not runtime.converts_only:
            row.comparison = _compare(outputs, expected, row.comparison or Comparison())
    print(f"{runtime.name} {exports.name}: {failure or row.comparison or 'converted'}"[:300], flush=True)


def _run_file(command: list[str], outputs: Path) -> str | None:
    """Run a command whose last argument is the folder of outputs, and return why it failed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
    options = {"capture_output": True, "text": True, "timeout": RUN_SECONDS, "env": environment, "cwd": outputs}
    try:
        result = subprocess.run([*command, str(outputs)], **options)
    except subprocess.TimeoutExpired:
        return f"no result after {RUN_SECONDS} s"
    return first_error(result.stderr + result.stdout, result.returncode) if result.returncode else None


def _compare(outputs: Path, expected: dict[str, Expected], comparison: Comparison) -> Comparison:
    for path in sorted(outputs.glob("*.json")):
        reference, seconds = expected[path.stem]
        actual, own_seconds = read_outputs(path)
        comparison.add(reference, actual)
        comparison.time_ratios.append(own_seconds / seconds)
    return comparison


if __name__ == "__main__":
    main()

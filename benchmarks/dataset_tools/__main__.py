"""Export one dataset with other tools, read the exports with libradet, and write the table of docs/dataset_tools.md."""

import argparse
import json
import os
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

from benchmarks.dataset_tools.comparison import Result, compare
from benchmarks.dataset_tools.environments import TOOLS, Tool
from benchmarks.dataset_tools.report import update_page
from benchmarks.dataset_tools.source import write_source
from benchmarks.environments import install_python_packages
from benchmarks.processes import ROOT

FOLDER = ROOT / "build" / "dataset_tools"
RUN_SECONDS = 300


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dataset_tools", description=__doc__)
    names = [tool.package for tool in TOOLS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    args = parser.parse_args()
    source = FOLDER / "source"
    write_source(source)
    for tool in TOOLS:
        if tool.package in args.only:
            results = _run(tool, source)
            _save(tool, results)
            for name, result in results.items():
                print(f"{tool.package} {tool.version} {name}: {result}"[:300], flush=True)
    update_page(ROOT / "docs" / "dataset_tools.md", {tool: _load(tool) for tool in TOOLS})


def _run(tool: Tool, source: Path) -> dict[str, Result]:
    """Run a driver in a process of its own and read what it exports."""
    outputs = FOLDER / "exports" / tool.package
    shutil.rmtree(outputs, ignore_errors=True)
    outputs.mkdir(parents=True)
    try:
        python = install_python_packages(tool.requirements, FOLDER / "environments" / tool.package)
    except RuntimeError as error:
        return {"-": Result(failure=f"not installed: {error}")}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "QT_QPA_PLATFORM": "offscreen"}
    command = [str(python), str(tool.script), str(source), str(outputs)]
    log = outputs.with_suffix(".log")
    with log.open("w") as file:
        options = {"stdout": file, "stderr": file, "timeout": RUN_SECONDS, "env": environment, "cwd": outputs}
        status = subprocess.run(command, **options).returncode
    if status:
        return {"-": Result(failure=f"the tool: {log.read_text().strip().splitlines()[-1]}")}
    folders = json.loads((outputs / "formats.json").read_text())
    return {name: compare(outputs / name) for name in folders}


def _save(tool: Tool, results: dict[str, Result]) -> None:
    folder = FOLDER / "results"
    folder.mkdir(parents=True, exist_ok=True)
    content = {name: asdict(result) for name, result in results.items()}
    (folder / f"{tool.package}.json").write_text(json.dumps(content, indent=1))


def _load(tool: Tool) -> dict[str, Result]:
    path = FOLDER / "results" / f"{tool.package}.json"
    return {name: Result(**fields) for name, fields in json.loads(path.read_text()).items()} if path.exists() else {}


if __name__ == "__main__":
    main()

"""Folders with exactly pinned packages for tools that run in environments of their own."""

import subprocess
import sys
from pathlib import Path

INSTALL_SECONDS = 1800


def pinned_version(requirements: Path, package: str) -> str:
    """Return the version of a package in a file of lines such as ``package==1.0``."""
    lines = requirements.read_text().splitlines()
    return next(line.split("==")[1] for line in lines if line.startswith(f"{package}=="))


def install_python_packages(requirements: Path, folder: Path) -> Path:
    """Install packages in a folder, unless they are there, and return its Python.

    Raises:
        RuntimeError: they cannot be installed.
    """
    python = folder / "bin" / "python"
    if not is_current(requirements, folder):
        uv = str(Path(sys.executable).with_name("uv"))
        run_command([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        run_command([uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements)])
        mark_current(requirements, folder)
    return python


def is_current(requirements: Path, folder: Path) -> bool:
    """Return whether a folder contains what :func:`mark_current` was called for."""
    marker = folder / "installed.txt"
    return marker.exists() and marker.read_text() == requirements.read_text()


def mark_current(requirements: Path, folder: Path) -> None:
    """Record that the packages of a file are installed in a folder."""
    (folder / "installed.txt").write_text(requirements.read_text())


def run_command(command: list[str]) -> None:
    """Run a command that installs something.

    Raises:
        RuntimeError: it is missing or fails; with the first line of its error.
    """
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except FileNotFoundError as error:
        raise RuntimeError(f"{command[0]} is not installed") from error
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"{command[0]} ended with exit code {result.returncode}"]
        raise RuntimeError(lines[0])

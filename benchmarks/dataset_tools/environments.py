"""Tools that export datasets, each with a driver and a folder of exactly pinned packages."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
INSTALL_SECONDS = 1800


class Tool(NamedTuple):
    """A tool.

    Attributes:
        package: distribution whose version is reported; also the name of its requirements file.
        driver: script in ``drivers/``.
    """

    package: str
    driver: str

    @property
    def requirements(self) -> Path:
        """File of pinned packages."""
        return HERE / "requirements" / f"{self.package}.txt"

    @property
    def version(self) -> str:
        """Pinned version of the package."""
        lines = self.requirements.read_text().splitlines()
        return next(line.split("==")[1] for line in lines if line.startswith(f"{self.package}=="))

    @property
    def script(self) -> Path:
        """The driver."""
        return HERE / "drivers" / self.driver


TOOLS = (
    Tool("labelme", "labelme_files.py"),
    Tool("datasets", "huggingface_datasets.py"),
    Tool("datumaro", "datumaro_exports.py"),
    Tool("supervision", "supervision_exports.py"),
    Tool("sahi", "sahi_exports.py"),
    Tool("label-studio-sdk", "label_studio_exports.py"),
    Tool("ultralytics", "ultralytics_exports.py"),
    Tool("globox", "globox_exports.py"),
    Tool("labelformat", "labelformat_exports.py"),
    Tool("labelme2coco", "labelme2coco_exports.py"),
    Tool("pylabel", "pylabel_exports.py"),
    Tool("imantics", "imantics_exports.py"),
)


def install(tool: Tool, folder: Path) -> Path:
    """Install the packages of a tool in a folder, unless they are there, and return its Python.

    Raises:
        RuntimeError: the packages cannot be installed.
    """
    marker, python = folder / "installed.txt", folder / "bin" / "python"
    pins = tool.requirements.read_text()
    if not marker.exists() or marker.read_text() != pins:
        uv = str(Path(sys.executable).with_name("uv"))
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        _run([uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(tool.requirements)])
        marker.write_text(pins)
    return python


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"{command[0]} ended with exit code {result.returncode}"]
        raise RuntimeError(lines[0])

"""Tools that export datasets, each with a driver and a folder of exactly pinned packages."""

from pathlib import Path
from typing import NamedTuple

from benchmarks.environments import pinned_version

HERE = Path(__file__).parent


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
        return pinned_version(self.requirements, self.package)

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

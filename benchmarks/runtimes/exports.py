"""The files of a detector that runtimes start from, exported when the first of them needs one."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.runtimes.detectors import case_name
from libradet.export.exporter import export
from libradet.models.detector import Detector


@dataclass
class Exports:
    """Exported files of a detector.

    Attributes:
        name: of the detector.
        model: the detector.
        folder: of the files.
        current: those that need not be exported again.
    """

    name: str
    model: Detector
    folder: Path
    current: set[Path]

    def path(self, suffix: str, static: tuple[int, int, int] | None) -> Path:
        """Return a file with a suffix, for images of any or of a static batch size, height and width."""
        case = f".{case_name(static)}" if static else ""
        path = self.folder / f"{self.name}{case}{suffix}"
        if path not in self.current:
            self.folder.mkdir(parents=True, exist_ok=True)
            export(self.model, path, static=static)
            self.current.add(path)
        return path

"""Finds image files by the names that records give them."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path


def locate(names: Sequence[str], folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The file of every name, and the names that had to be bent to find it.

    A name that does not exist as it stands is looked for by its last parts, in other Unicode forms and
    ignoring case; one that is nowhere stays a path in the first folder.
    """
    folders = [folder for folder in folders if folder.is_dir()]
    present = _listing(folders)
    paths, bent = [], []
    index: dict[str, Path] | None = None
    for name in names:
        path = _exact(name, folders, present)
        if path is None:
            index = _index(folders) if index is None else index
            path = _similar(name, index)
            if path is not None:
                bent.append(name)
        paths.append(path or (folders[0] if folders else Path()) / name)
    return paths, bent


def _listing(folders: Sequence[Path]) -> list[set[str]]:
    """One directory listing is far cheaper than asking for every file, on network disks above all."""
    return [{entry.name for entry in os.scandir(folder)} for folder in folders]


def _exact(name: str, folders: Sequence[Path], present: list[set[str]]) -> Path | None:
    plain = "/" not in name
    for folder, names in zip(folders, present, strict=True):
        # os.path is silent about names that no file can have, where pathlib raises.
        if (name in names) if plain else os.path.isfile(folder / name):
            return folder / name
    return None


def _index(folders: Sequence[Path]) -> dict[str, Path]:
    """All files by normalized path below their folder and, where it is unambiguous, by bare name."""
    by_path: dict[str, Path] = {}
    by_name: dict[str, Path | None] = {}
    for folder in folders:
        for place, _, files in os.walk(folder):
            for file in files:
                path = Path(place, file)
                by_path.setdefault(_normal(str(path.relative_to(folder))), path)
                known = by_name.setdefault(_normal(file), path)
                if known is not None and not _same(known, path):
                    by_name[_normal(file)] = None
    return {name: path for name, path in by_name.items() if path is not None} | by_path


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # links to nowhere
        return False


def _similar(name: str, index: dict[str, Path]) -> Path | None:
    """Longest matching end of the path: ``/home/x/images/a.jpg`` -> ``images/a.jpg`` -> ``a.jpg``."""
    parts = _normal(name).split("/")
    for start in range(len(parts)):
        if path := index.get("/".join(parts[start:])):
            return path
    return None


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/")).casefold().removeprefix("./")

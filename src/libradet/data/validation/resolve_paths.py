"""Resolution of the file names in annotations to image files."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote


def resolve_paths(names: Sequence[str], folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the file of every name, and the names that match a file only approximately.

    A name that does not exist as written is searched with ``%20`` and the like decoded, by its last parts, in other
    Unicode forms and ignoring case; one without a match becomes a path in the first folder.
    """
    folders = [folder for folder in folders if folder.is_dir()]
    listings = _list_folders(folders)
    paths, approximate = [], []
    index: dict[str, Path] | None = None
    for name in names:
        path = _exact_match(name, folders, listings)
        if path is None:
            index = _build_index(folders) if index is None else index
            path = _approximate_match(name, index) or _approximate_match(unquote(name), index)
            if path is not None:
                approximate.append(name)
        paths.append(path or (folders[0] if folders else Path()) / name)
    return paths, approximate


def _list_folders(folders: Sequence[Path]) -> list[set[str]]:
    """List each folder once, which is far cheaper than a query for every file, above all on network disks."""
    return [{entry.name for entry in os.scandir(folder)} for folder in folders]


def _exact_match(name: str, folders: Sequence[Path], listings: list[set[str]]) -> Path | None:
    is_plain = "/" not in name
    for folder, names in zip(folders, listings, strict=True):
        # os.path returns False for invalid file names, where pathlib raises.
        if (name in names) if is_plain else os.path.isfile(folder / name):
            return folder / name
    return None


def _build_index(folders: Sequence[Path]) -> dict[str, Path]:
    """Return all files by normalized path below their folder and, where it is unambiguous, by bare name."""
    by_path: dict[str, Path] = {}
    by_name: dict[str, Path | None] = {}
    for folder in folders:
        for root, inside, files in os.walk(folder):
            inside[:] = [name for name in inside if name != "__MACOSX"]
            for file in files:
                if file.startswith("._"):  # resource forks of macOS
                    continue
                path = Path(root, file)
                by_path.setdefault(_normalize(str(path.relative_to(folder))), path)
                known = by_name.setdefault(_normalize(file), path)
                if known is not None and not _is_same_file(known, path):
                    by_name[_normalize(file)] = None
    return {name: path for name, path in by_name.items() if path is not None} | by_path


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # broken links
        return False


def _approximate_match(name: str, index: dict[str, Path]) -> Path | None:
    """Match the longest end of the path: ``/home/x/images/a.jpg``, ``images/a.jpg``, ``a.jpg``."""
    parts = _normalize(name).split("/")
    for start in range(len(parts)):
        if path := index.get("/".join(parts[start:])):
            return path
    return None


def _normalize(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/")).casefold().removeprefix("./")

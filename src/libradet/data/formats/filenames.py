"""Names of image files in a written dataset: their own names, made unique where two collide."""

import os
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from PIL import Image

from libradet.data.image_headers import IMAGE_SUFFIXES, PIL_FORMATS

_FORMAT_FOLDERS = {"images", "JPEGImages", "..", "."}
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def own_name(path: Path, folders: Sequence[Path], split: str) -> str:
    """Return an image's path below ``folders``, without the folders that formats use for all images or for a split."""
    inside = [path.relative_to(folder).parts for folder in folders if path.is_relative_to(folder)]
    *parents, name = min(inside, key=len, default=(path.name,))
    parents = [parent for parent in parents if parent not in _FORMAT_FOLDERS]
    if parents[:1] == [split]:
        parents = parents[1:]
    readable = "/".join([*parents, name]).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _UNPRINTABLE.sub("_", readable)


def list_images(folder: Path, repeated: list[Path] | None = None) -> list[Path]:
    """Return the image files below a folder, sorted, without resource forks of macOS.

    Linked folders are followed after all others; one that was listed before, as in a circle of links, is left out.

    Args:
        folder: to list.
        repeated: collects the links to folders that were listed before.
    """
    images, visited, remaining = [], set(), [str(folder)]
    for start in remaining:  # grows by the links that are met
        for root, inside, files in os.walk(start):
            real = os.path.realpath(root)
            if real in visited:
                if repeated is not None and root == start:
                    repeated.append(Path(root))
                inside.clear()
                continue
            visited.add(real)
            remaining += [path for name in sorted(inside) if os.path.islink(path := os.path.join(root, name))]
            images += [Path(root, name) for name in files if is_image_name(name)]
    return sorted(images)


def is_image_name(name: str) -> bool:
    """Return whether a file is an image by its suffix; resource forks of macOS (``._a.jpg``) are none."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("._")


def with_image_suffix(name: str, path: Path) -> str:
    """Return the name with a suffix that marks an image when a folder is listed."""
    if Path(name).suffix.lower() in IMAGE_SUFFIXES:
        return name
    with Image.open(path, formats=PIL_FORMATS) as image:
        suffix = f".{image.format}".lower()
    return name + (suffix if suffix in IMAGE_SUFFIXES else ".jpg")


def stem(name: str) -> str:
    """Return a name without its suffix, as label files have it."""
    return str(Path(name).with_suffix(""))


@dataclass
class UniqueNames:
    """Names chosen so far; none differs from another by case or Unicode form alone, as on many file systems.

    Attributes:
        key: the part of a name that must be unique.
    """

    key: Callable[[str], str]
    used: set[str] = field(default_factory=set)
    chosen: dict[Hashable, str] = field(default_factory=dict)

    def choose(self, owner: Hashable, preferred: str, prefix: str = "") -> str:
        """Return the name of ``owner``: the one chosen before, else the first free of preferred, prefixed, numbered."""
        if owner not in self.chosen:
            for name in _candidates(preferred, prefix):
                key = unicodedata.normalize("NFC", self.key(name)).casefold()
                if key not in self.used:
                    self.used.add(key)
                    self.chosen[owner] = name
                    break
        return self.chosen[owner]


def _candidates(preferred: str, prefix: str) -> Iterator[str]:
    yield preferred
    if prefix:
        yield prefix + preferred
    path = Path(prefix + preferred)
    for number in count(2):
        yield str(path.with_name(f"{path.stem}-{number}{path.suffix}"))

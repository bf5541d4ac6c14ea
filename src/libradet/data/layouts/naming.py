"""Names of images in another layout: those that they have, as far as no two become one."""

import re
import unicodedata
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from PIL import Image

from libradet.data.headers import FORMATS, SUFFIXES

_PLACES = {"images", "JPEGImages", "..", "."}
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def own_name(path: Path, folders: Sequence[Path], split: str) -> str:
    """An image's path below ``folders``, without the folders that layouts have for all images or for a split."""
    inside = [path.relative_to(folder).parts for folder in folders if path.is_relative_to(folder)]
    *places, name = min(inside, key=len, default=(path.name,))
    places = [place for place in places if place not in _PLACES]
    if places[:1] == [split]:
        places = places[1:]
    readable = "/".join([*places, name]).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _UNPRINTABLE.sub("_", readable)


def with_known_suffix(name: str, path: Path) -> str:
    """The name, with a suffix by which listings know an image if its own is none."""
    if Path(name).suffix.lower() in SUFFIXES:
        return name
    with Image.open(path, formats=FORMATS) as image:
        suffix = f".{image.format}".lower()
    return name + (suffix if suffix in SUFFIXES else ".jpg")


def stem(name: str) -> str:
    """A name without its suffix, as files with labels have it."""
    return str(Path(name).with_suffix(""))


@dataclass
class Names:
    """Names given so far; none is told from another by case or Unicode form alone, as many disks do not.

    Attributes:
        key: what must be unique of a name.
    """

    key: Callable[[str], str]
    taken: set[str] = field(default_factory=set)
    chosen: dict[Hashable, str] = field(default_factory=dict)

    def choose(self, owner: Hashable, wanted: str, prefix: str = "") -> str:
        """The name of ``owner``: that given to it before, else the first free one of wanted, prefixed, numbered."""
        if owner not in self.chosen:
            keys = ((name, unicodedata.normalize("NFC", self.key(name)).casefold()) for name in _tries(wanted, prefix))
            name, key = next((name, key) for name, key in keys if key not in self.taken)
            self.taken.add(key)
            self.chosen[owner] = name
        return self.chosen[owner]


def _tries(wanted: str, prefix: str) -> Iterator[str]:
    yield wanted
    if prefix:
        yield prefix + wanted
    path = Path(prefix + wanted)
    for number in count(2):
        yield str(path.with_name(f"{path.stem}-{number}{path.suffix}"))

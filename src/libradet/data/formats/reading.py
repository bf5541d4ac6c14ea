"""Interface of dataset readers, and safe parsing of JSON and XML files.

A reader is a function that reads a folder and returns the splits that it recognizes there; it is listed in
``detect.FORMATS``. Validation, the same for all formats, follows when a split has been read.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

from libradet.data.records import RawAnnotations
from libradet.errors import UserError
from libradet.utils.gc import gc_disabled

Splits = dict[str, Callable[[], RawAnnotations]]
"""Names of splits as the files have them, each with a function that reads the split."""

STANDARD_SPLITS = ("train", "val", "test")

_SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
}


class DatasetFormat(NamedTuple):
    """A dataset format that can be read.

    Attributes:
        list_splits: returns the splits of a folder in this format, empty if it is in another one.
        files: the annotation files that it reads, for messages.
    """

    list_splits: Callable[[Path], Splits]
    files: str


def standard_split(name: str) -> str:
    """Return the standard name of a split: ``train`` of ``train2017``, ``val`` of ``valid``; others unchanged."""
    without_year = re.sub(r"[_-]?(19|20)\d\d$", "", name.lower())
    return _SPLIT_ALIASES.get(without_year, without_year)


def sort_splits(names: Iterable[str], order: Sequence[str] = STANDARD_SPLITS) -> list[str]:
    """Return names of splits by the position of their standard names in ``order``, others last and in their order."""
    rank = {name: position for position, name in enumerate(order)}
    return sorted(names, key=lambda name: rank.get(standard_split(name), len(rank)))


def split_of_folder(file: Path, known: Sequence[str] = STANDARD_SPLITS) -> str:
    """Return the outermost folder of a relative path that is named like a split; ``all`` without any."""
    return next((name for name in file.parts[:-1] if standard_split(name) in known), "all")


def list_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match, sorted, without resource forks of macOS, such as ``._train.json``."""
    return sorted(file for file in folder.glob(pattern) if not file.name.startswith("._"))


def read_json(path: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return a JSON file's content; ``object_hook`` replaces every object as it is read.

    Raises:
        UserError: the file cannot be read or is damaged; the message names it and the position.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path.") from None
    if not text.strip():
        raise UserError(f"{path}: the file is empty.")
    try:
        with gc_disabled():
            return json.loads(text.removeprefix(b"\xef\xbb\xbf"), object_hook=object_hook)
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}, of {len(text):,} bytes"
        raise UserError(f"{path}: not valid JSON at {position} ({error.msg}). Is the file complete?") from None
    except (ValueError, RecursionError) as error:  # such as bytes that are not text, and numbers of 5,000 digits
        raise UserError(f"{path}: not valid JSON ({error}).") from None


def read_xml(path: Path) -> ET.Element:
    """Return the root element of an XML file.

    Entities are refused: with them a small file can expand without limit, or include other files.

    Raises:
        UserError: the file cannot be read or is damaged.
    """
    builder = ET.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, _refuse_entity
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
        return builder.close()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path.") from None
    except (expat.ExpatError, LookupError, ValueError, AssertionError) as error:  # the last three: unusual encodings
        raise UserError(f"{path}: not valid XML ({error}).") from None


def _refuse_entity(*_: object) -> None:
    raise ValueError("it defines entities, which are not supported")

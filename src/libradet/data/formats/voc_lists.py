"""Image lists of Pascal VOC: a text file for each split, whose lines are names of images without their suffix."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from libradet.data.formats.filenames import is_image_name
from libradet.utils.atomic_io import read_text
from libradet.utils.text import counted

_FLAGS = ("-1", "0", "1")


class ImageLists(NamedTuple):
    """The lists of a folder ``ImageSets``.

    Attributes:
        files: XML files by name of the list, each once; some may not exist.
        notes: on lists and lines that are not used.
    """

    files: dict[str, list[Path]]
    notes: list[str]


def read_lists(image_sets: Path, annotations: Path, xml_files: Sequence[Path]) -> ImageLists:
    """Return the lists in ``Main``, else those in ``ImageSets`` itself, else those of its first other folder.

    Lists of single classes, such as ``dog_train.txt`` with a flag after each name, are not used.
    """
    by_name = {_name(file, annotations): file for file in xml_files}
    folders = [image_sets / "Main", image_sets, *sorted(image_sets.glob("*/"))]
    for folder in folders:
        lists = [file for file in sorted(folder.glob("*.txt")) if not _is_class_list(file)]
        read = {file.stem: _files_of(file, annotations, by_name) for file in lists}
        files = {name: list(counts) for name, counts in read.items() if counts}
        if not files:
            continue
        notes = [] if folder == folders[0] else [f"splits are those of {_place(folder)}"]
        if empty := [file.name for file in lists if file.stem not in files]:
            notes.append(f"{_place(folder)}: no image is listed in {', '.join(empty)}")
        notes += [
            f"{_place(folder)}: {counted(repeated, 'repeated line')} in {name}.txt: each image is used once"
            for name, counts in read.items()
            if (repeated := sum(counts.values()) - len(counts)) and folder.name != "Layout"  # which lists objects
        ]
        return ImageLists(files, notes)
    return ImageLists({}, [])


def _place(folder: Path) -> str:
    return folder.name if folder.name == "ImageSets" else f"{folder.parent.name}/{folder.name}"


def _is_class_list(file: Path) -> bool:
    """Return whether all lines are a name and a flag, and the name of the list is one of a class and a split."""
    lines = [line.split() for line in read_text(file).splitlines() if line.strip()] if "_" in file.stem else []
    return bool(lines) and all(len(words) == 2 and words[1] in _FLAGS for words in lines)


def _name(file: Path, annotations: Path) -> str:
    return str(file.relative_to(annotations).with_suffix(""))


def _files_of(file: Path, annotations: Path, by_name: Mapping[str, Path]) -> Counter[Path]:
    """Return the XML files of a list in order, with their number of lines.

    Lines are names, possibly with spaces, with a flag of a class, or with folders and suffix of the image.
    """
    names = (_listed_name(line, by_name) for line in read_text(file).splitlines() if line.strip())
    return Counter(by_name.get(name) or annotations / f"{name}.xml" for name in names)


def _listed_name(line: str, by_name: Mapping[str, Path]) -> str:
    name = line if line in by_name else line.split()[0]
    if name in by_name or not is_image_name(name):
        return name
    inside = Path(name.replace("\\", "/")).with_suffix("")
    return str(inside) if str(inside) in by_name else inside.name

"""Hugging Face's imagefolder: images with a ``metadata.jsonl``, ``.csv`` or ``.parquet`` that lists their objects.

Boxes are x, y, width, height in pixels, as its documentation of object detection has them. Names of numbered classes
are those of ``class_label`` in ``README.md``.
"""

import ast
import csv
import importlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from libradet.data.formats.filenames import is_image_name
from libradet.data.formats.reading import STANDARD_SPLITS, Splits, sort_splits, split_of_folder
from libradet.data.records import RawAnnotations, normalize_id
from libradet.errors import UserError
from libradet.utils.atomic_io import read_text
from libradet.utils.text import counted, summarize_list

_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_DEPTHS = ("", "*/", "*/*/")
_SPLITS = (*STANDARD_SPLITS, "testing", "eval", "evaluation")

_BOXES = ("bbox", "bboxes", "boxes", "box")
_CATEGORIES = ("categories", "category", "category_name", "category_names", "categories_names", "labels", "label")
_CATEGORIES += ("class_name", "class", "classes", "category_id", "category_ids", "class_id", "class_ids")
_KEPT_FIELDS = ("id", "area", "iscrowd")


class _Row(NamedTuple):
    """A row of a metadata file.

    Attributes:
        where: file and line.
        image: path of the image, which need not exist.
        objects: records with ``bbox``, ``category`` as written, and more.
    """

    where: str
    image: Path
    objects: list[dict[str, Any]]


def list_splits(root: Path) -> Splits:
    """Return the splits, which are named by folders of images; all images are one split if no folder is."""
    files = [file for depth in _DEPTHS for name in _FILES for file in sorted(root.glob(depth + name))]
    files = [file for file in files if _lists_boxes(file)]
    if not files:
        return {}
    read_all = cache(partial(_read_rows, root, files))
    folders = [split_of_folder(file.relative_to(root), _SPLITS) for file in files]
    names = dict.fromkeys(folders if "all" not in folders else read_all())
    return {name: partial(_read_split, root, name, files, read_all) for name in sort_splits(names, _SPLITS)}


def _lists_boxes(file: Path) -> bool:
    """Return whether the first row of a metadata file names an image and boxes."""
    if file.suffix == ".parquet":
        return True
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as opened:
            first = next((line for line in opened if line.strip()), "")
    except OSError:
        return False
    return "file_name" in first and any(name in first for name in ("objects", *_BOXES))


def _read_rows(root: Path, files: Sequence[Path]) -> dict[str, list[_Row]]:
    rows: dict[str, list[_Row]] = {}
    for file in files:
        for where, content in _READERS[file.suffix](file):
            image = Path(os.path.normpath(file.parent / _file_name(content, where)))
            inside = image.relative_to(root) if image.is_relative_to(root) else file.relative_to(root)
            rows.setdefault(split_of_folder(inside, _SPLITS), []).append(_Row(where, image, _objects(content, where)))
    return rows


def _read_jsonl(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            yield f"{file}:{number}", _parse(line, f"{file}:{number}")


def _read_csv(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = io.StringIO(read_text(file), newline="")
    try:
        for number, row in enumerate(csv.DictReader(text), start=1):
            yield f"{file}, row {number}", {key: value for key, value in row.items() if key and value}
    except csv.Error as error:  # such as a field of more than 131,072 characters
        raise UserError(f"{file}: not a valid CSV file ({error}); write metadata.jsonl.") from None


def _read_parquet(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError(f"{file}: pyarrow, which reads it, is not installed: `pip install pyarrow`.") from None
    try:
        rows = parquet.read_table(file).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not a valid Parquet file ({error}).") from None
    for number, row in enumerate(rows, start=1):
        yield f"{file}, row {number}", row


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, dict[str, Any]]]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _parse(text: str, where: str) -> Any:
    """Return the value of JSON, or of a Python literal, as pandas writes dictionaries into CSV."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        is_numpy = "array(" in text
        hint = ", but NumPy's text as Dataset.to_csv writes it; save the rows with to_json" if is_numpy else ""
        raise UserError(f"{where}: not valid JSON{hint or '; repair the line'}.") from None


def _file_name(row: Any, where: str) -> str:
    keys = [key for key in row if key == "file_name" or key.endswith("_file_name")] if isinstance(row, dict) else []
    if not keys or not isinstance(row[keys[0]], str):
        raise UserError(f"{where}: no file_name; name the image.")
    return row[keys[0]].replace("\\", "/")


def _objects(row: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Return the objects of a row: a list of dictionaries, a dictionary of lists, or columns of the row itself."""
    objects = row.get("objects", row)
    objects = _parse(objects, where) if isinstance(objects, str) else objects
    if objects is None:
        return []
    if isinstance(objects, list):
        if not all(isinstance(record, dict) for record in objects):
            raise UserError(f"{where}: 'objects' must be a list of dictionaries, or a dictionary of lists.")
        return [_object(record, where) for record in objects]
    if not isinstance(objects, dict):
        raise UserError(f"{where}: 'objects' must be a list of dictionaries, or a dictionary of lists.")
    columns = {key: _column(objects, key, where) for key in (*_BOXES, *_CATEGORIES, *_KEPT_FIELDS) if key in objects}
    columns = {key: values for key, values in columns.items() if isinstance(values, list)}
    box_key = next((key for key in _BOXES if key in columns), None)
    if box_key is None:
        if "objects" in row and any(isinstance(values, list) and values for values in objects.values()):
            raise UserError(f"{where}: 'objects' has no boxes, only {summarize_list(list(objects))}; name them bbox.")
        return []
    num_boxes = len(columns[box_key])
    own = {key: values for key, values in columns.items() if len(values) == num_boxes}
    if other := [f"{len(columns[key])} {key}" for key in columns.keys() - own.keys()]:
        raise UserError(f"{where}: {num_boxes} {box_key}, but {', '.join(sorted(other))}; list one for each object.")
    return [_object({key: values[i] for key, values in own.items()}, where) for i in range(num_boxes)]


def _column(objects: dict[str, Any], key: str, where: str) -> Any:
    value = objects[key]
    return _parse(value, where) if isinstance(value, str) and value.lstrip().startswith("[") else value


def _object(record: dict[str, Any], where: str) -> dict[str, Any]:
    category = next((key for key in _CATEGORIES if record.get(key) is not None), None)
    if category is None:
        raise UserError(f"{where}: an object has no category; name it in 'categories' or 'category'.")
    box = next((record[key] for key in _BOXES if key in record), None)
    kept = {key: record[key] for key in _KEPT_FIELDS if record.get(key) is not None}
    return {"bbox": box, "category": record[category]} | kept


def _read_split(
    root: Path, split: str, files: Sequence[Path], read_all: Callable[[], dict[str, list[_Row]]]
) -> RawAnnotations:
    rows = read_all()
    own_rows = rows.get(split, [])
    source = files[0] if len(files) == 1 else root
    categories, ids = _categories(root, [record for part in rows.values() for row in part for record in row.objects])
    raw = RawAnnotations(root, split, source, [root], [], [], categories)
    for image_id, row in enumerate(own_rows, start=1):
        inside = row.image.is_relative_to(root)
        raw.images.append({"id": image_id, "file_name": str(row.image.relative_to(root) if inside else row.image)})
        for order, record in enumerate(row.objects, start=1):
            where = f"{Path(row.where).name}, object {order}"
            known = {"id": len(raw.annotations) + 1, "where": where, "image_id": image_id}
            own = {key: value for key, value in record.items() if key != "category"}
            raw.annotations.append(known | own | {"category_id": ids[_key(record["category"])]})
    raw.notes += _notes(raw, own_rows, rows)
    return raw


def _key(category: Any) -> Any:
    key = normalize_id(category)
    return str(category) if key is None else key


def _categories(root: Path, objects: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], dict[Any, int]]:
    """Return the classes of all splits, and their ids by the numbers or names that objects have.

    Numbers are ids; names are numbered in the order of ``README.md``, then of the alphabet.
    """
    used = {_key(record["category"]) for record in objects}
    listed = _names_in_readme(root)
    numbers = {key: listed.get(key, str(key)) for key in used if isinstance(key, int)} | listed
    ids = {name: number for number, name in numbers.items()}
    for name in sorted(key for key in used if isinstance(key, str) and key not in ids):
        ids[name] = max(ids.values(), default=-1) + 1
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return categories, ids | {number: number for number in numbers}


def _names_in_readme(root: Path) -> dict[int, str]:
    """Return the names of ``class_label`` in the metadata of ``README.md``, if it is that of the objects."""
    file = root / "README.md"
    text = read_text(file, errors="replace").replace("\r\n", "\n") if file.is_file() else ""
    parts = text.split("---\n")
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        content = yaml.load(parts[1], Loader=yaml.BaseLoader)
    except Exception:  # PyYAML raises almost any exception; the text is for people, so it may be anything
        return {}
    names = next(_class_labels(content.get("dataset_info") if isinstance(content, dict) else None), {})
    names = dict(enumerate(names)) if isinstance(names, list) else names
    numbered = {normalize_id(key): str(name) for key, name in names.items()} if isinstance(names, dict) else {}
    return {key: name for key, name in numbered.items() if isinstance(key, int)}


def _class_labels(content: Any) -> Iterator[Any]:
    """Yield the names of features that objects use for their category."""
    if isinstance(content, list):
        for value in content:
            yield from _class_labels(value)
    elif isinstance(content, dict):
        kinds = [content.get(key) for key in ("dtype", "sequence", "list")]
        labels = [kind["class_label"] for kind in kinds if isinstance(kind, dict) and "class_label" in kind]
        if labels and content.get("name") in _CATEGORIES and isinstance(labels[0], dict):
            yield labels[0].get("names")
        for value in content.values():
            yield from _class_labels(value)


def _notes(raw: RawAnnotations, rows: Sequence[_Row], all_rows: Mapping[str, Sequence[_Row]]) -> list[str]:
    notes = ["boxes are read as x, y, width, height in pixels, as Hugging Face's imagefolder has them"]
    unnamed = [c["name"] for c in raw.categories if c["name"] == str(c["id"])]
    if unnamed:
        notes.append(
            f"{counted(len(unnamed), 'class has', 'classes have')} no name in README.md: their numbers are the names"
        )
    known = {row.image for part in all_rows.values() for row in part}
    unlisted = []
    for folder in sorted({row.image.parent for row in rows}):
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        unlisted += [name for name in names if is_image_name(name) and folder / name not in known]
    if unlisted:
        notes.append(
            f"{counted(len(unlisted), 'image has', 'images have')} no row of metadata: not used "
            f"({summarize_list(unlisted, 3)})"
        )
    return notes

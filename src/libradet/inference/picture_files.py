"""From picture files to drawings and COCO results: what ``libradet predict`` does."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco.mask import encode

from libradet.bars import progress_bar
from libradet.data.headers import SUFFIXES
from libradet.data.loading.transforms import Size
from libradet.data.pictures import load_picture
from libradet.data.proposals.proposal_file import Proposed, write_proposals
from libradet.data.segmentations import plain_rle
from libradet.errors import UserError
from libradet.files import write_json
from libradet.inference.drawing import RGB, draw, save
from libradet.inference.predictor import check_threshold, predict
from libradet.models.detector import Detector
from libradet.models.proposal_needs import give_files
from libradet.quiet import supervision as sv

PROPOSALS = "proposals.safetensors"


@dataclass
class Predicted:
    """What came of a list of files.

    Attributes:
        results: COCO results: ``image_id``, ``category_id``, ``bbox`` (xywh, pixels of the
            upright file), ``score``; ``segmentation`` (RLE) if the detector gives masks.
        images: for each picture that was read ``id``, ``file_name``, ``width``, ``height`` and ``drawing``.
        proposals: for each picture that was read, if the model proposes; whatever they score.
        unreadable: why, by file.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    proposals: list[Proposed] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)


def predict_files(
    model: Detector,
    sources: Sequence[str | Path],
    out: Path,
    *,
    threshold: float = 0.5,
    size: Size | None = None,
    proposals: str | Path | None = None,
    progress: bool = True,
) -> Predicted:
    """Draw what is found in many files, and write it down.

    In ``out``: a picture with boxes and masks for each file; ``predictions.json``, COCO results; ``images.json``, a
    COCO data set without annotations that says which file an ``image_id`` and which class a
    ``category_id`` is; ``proposals.safetensors``, if the model proposes. Category ids are those of the
    training data. Image ids are the files' own numbers if every name is one, as COCO's are; otherwise 1, 2, …
    in order. Files that cannot be read are passed over and listed.

    Args:
        sources: files, folders and globs, see :func:`find_pictures`.
        threshold, size: as in :func:`libradet.inference.predictor.predict`.
        proposals: file of proposals, for a detector without rpn.
        progress: show a bar on stderr.

    Raises:
        UserError: nothing matches, no file can be read, drawings would overwrite the pictures, or proposals are
            missing or of no use.
    """
    check_threshold(threshold)
    paths = find_pictures(sources)
    given = give_files(model.config, proposals, paths)
    _prepare_folder(out, paths)
    done = Predicted()
    names = _drawing_names(paths)
    try:
        with progress_bar(progress and len(paths) > 1) as bar:
            numbers = number_pictures(paths)
            for row, path in bar.track(list(enumerate(paths)), description="looking"):
                try:
                    picture = load_picture(path).permute(1, 2, 0).numpy()
                except UserError as error:
                    done.unreadable[path] = str(error)
                    continue
                here = given.of(row, picture.shape[1], picture.shape[0]) if given else None
                found = predict(model, picture, 0.0 if model.config.proposes else threshold, size, proposals=here)
                assert isinstance(found, sv.Detections)
                if model.config.proposes:
                    found = _propose(done, numbers[row], path, picture, found, threshold)
                save(draw(picture, found), out / names[path])
                _note(done, model, numbers[row], path, picture, names[path], found)
    finally:  # after an interrupt, too, there are results of what was seen
        _write(done, model, out)
    if not done.images:
        raise UserError(f"None of {len(paths)} files can be read. {next(iter(done.unreadable.values()))}")
    return done


def describe(done: Predicted, out: Path) -> str:
    """What was done, and which files could not be read, in sentences."""
    lines = [f"{len(done.results)} objects in {len(done.images)} pictures: see {out}"]
    if done.proposals:
        count = sum(len(picture.scores) for picture in done.proposals)
        lines.append(f"{count} proposals, whatever their score: {out / PROPOSALS}")
    if done.unreadable:
        what = "1 file" if len(done.unreadable) == 1 else f"{len(done.unreadable)} files"
        lines += [f"{what} could not be read:", *(f"  {why}" for why in done.unreadable.values())]
    return "\n".join(lines)


def find_pictures(sources: Sequence[str | Path]) -> list[Path]:
    """The picture files behind files, folders (not those inside them) and globs (``**`` goes into folders), each once.

    Raises:
        UserError: something does not exist, or nothing in it is a picture.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_file():
            found[path] = None
            continue
        if path.is_dir():
            candidates = path.iterdir()
            problem = f"{path}: there is no picture in this folder; for its subfolders use '{path}/**/*'"
        else:
            candidates = map(Path, glob.glob(str(path), recursive=True))
            problem = f"{path}: no such file or folder, and no picture matches it as a pattern"
        pictures = sorted(p for p in candidates if p.suffix.lower() in SUFFIXES and p.is_file())
        if not pictures:
            raise UserError(problem)
        found |= dict.fromkeys(pictures)
    if not found:
        raise UserError("No pictures were named: give files, folders or patterns")
    return list(found)


def number_pictures(paths: Sequence[Path]) -> list[int]:
    """Image ids: the numbers that all files are named by, or 1, 2, … in order."""
    numbers = [int(p.stem) for p in paths if p.stem.isascii() and p.stem.isdigit()]
    own = len(set(numbers)) == len(paths) and max(numbers) < 2**53
    return numbers if own else list(range(1, len(paths) + 1))


def _prepare_folder(out: Path, paths: Sequence[Path]) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; results need a folder")
    if any(p.resolve().parent == out.resolve() for p in paths):
        raise UserError(f"{out}: holds the pictures themselves, which drawings would replace; choose another folder")
    out.mkdir(parents=True, exist_ok=True)


def _drawing_names(paths: Sequence[Path]) -> dict[Path, str]:
    """The files' own names, as .png where they were and .jpg otherwise; a number tells namesakes apart."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        suffix = ".png" if path.suffix.lower() == ".png" else ".jpg"
        stems = (path.stem if n == 1 else f"{path.stem}_{n}" for n in count(1))
        # Some file systems do not tell capitals from small letters.
        names[path] = next(name for name in (s + suffix for s in stems) if name.casefold() not in taken)
        taken.add(names[path].casefold())
    return names


def _propose(
    done: Predicted, number: int, path: Path, picture: RGB, found: sv.Detections, threshold: float
) -> sv.Detections:
    """Keep all proposals; those worth showing."""
    assert found.confidence is not None
    height, width = picture.shape[:2]
    done.proposals.append(Proposed(number, path.as_posix(), width, height, found.xyxy, found.confidence))
    shown = found[found.confidence >= threshold]
    assert isinstance(shown, sv.Detections)
    return shown


def _note(
    done: Predicted, model: Detector, number: int, path: Path, picture: RGB, drawing: str, found: sv.Detections
) -> None:
    height, width = picture.shape[:2]
    entry = {"id": number, "file_name": path.as_posix(), "width": width, "height": height, "drawing": drawing}
    done.images.append(entry)
    assert found.class_id is not None
    assert found.confidence is not None
    corners = found.xyxy.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    segmentations = [{}] * len(found)
    if found.mask is not None:
        segmentations = [{"segmentation": plain_rle(encode(np.asfortranarray(mask)))} for mask in found.mask]
    columns = boxes.tolist(), found.class_id.tolist(), found.confidence.tolist(), segmentations
    for box, label, score, segmentation in zip(*columns, strict=True):
        result = {"image_id": number, "category_id": model.category_ids[label], "bbox": box, "score": score}
        done.results.append(result | segmentation)


def _write(done: Predicted, model: Detector, out: Path) -> None:
    categories = [{"id": i, "name": n} for i, n in zip(model.category_ids, model.class_names, strict=True)]
    companion = {"images": done.images, "categories": categories, "annotations": []}
    write_json(out / "predictions.json", done.results)
    write_json(out / "images.json", companion, indent=1)
    if model.config.proposes:
        write_proposals(out / PROPOSALS, done.proposals, model.config.model)

"""From image files and videos to drawings and COCO results: what ``libradet predict`` does."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco.mask import encode

from libradet.data.images import load_image
from libradet.data.loading.transforms import Size
from libradet.data.proposals.given import GivenProposals, give_to_files
from libradet.data.proposals.proposal_file import Proposed, write_proposals
from libradet.data.segmentations import plain_rle
from libradet.errors import UserError
from libradet.inference.drawing import RGB, draw, save
from libradet.inference.finder import Finder
from libradet.inference.predictor import check_threshold, look
from libradet.inference.sights import Sight, find_images, frames, is_video, video_info
from libradet.inference.video_files import VideoFiles
from libradet.utils.atomic_io import atomic_json_list, write_json
from libradet.utils.progress import progress_bar
from libradet.utils.warnings_filter import supervision as sv

PROPOSALS = "proposals.safetensors"


@dataclass
class Predicted:
    """What came of a list of files.

    Attributes:
        objects: how many were found.
        images: for each image that was read ``id``, ``file_name``, ``width``, ``height`` and ``drawing``; for a
            frame of a video also its ``frame``, from 0.
        proposals: for each image that was read, if the model proposes; whatever they score.
        unreadable: why, by file.
    """

    objects: int = 0
    images: list[dict[str, Any]] = field(default_factory=list)
    proposals: list[Proposed] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)


def predict_files(
    model: Finder,
    sources: Sequence[str | Path],
    out: Path,
    *,
    threshold: float = 0.5,
    size: Size | None = None,
    batch_size: int = 1,
    proposals: str | Path | None = None,
    progress: bool = True,
) -> Predicted:
    """Draw what is found in many files, and write it down as it is found.

    In ``out``: an image with boxes and masks for each file, a video for each video; ``predictions.json``, COCO
    results (``image_id``, ``category_id``, ``bbox`` xywh in pixels of the upright file, ``score``, and
    ``segmentation`` (RLE) if the detector gives masks); ``images.json``, a
    COCO dataset without annotations that says which file an ``image_id`` and which class a
    ``category_id`` is; ``proposals.safetensors``, if the model proposes. Category ids are those of the
    training data. Image ids are the files' own numbers if every name is one, as COCO's are; otherwise 1, 2, ...
    in order. Files that cannot be read are passed over and listed.

    Args:
        sources: files, folders and globs, see :func:`find_images`.
        threshold, size, batch_size: as in :func:`libradet.inference.predictor.predict`.
        proposals: file of proposals, for a detector without rpn.
        progress: show a bar on stderr.

    Raises:
        UserError: nothing matches, no file can be read, drawings would overwrite the images, or proposals are
            missing or of no use.
    """
    check_threshold(threshold)
    paths = find_images(sources)
    given = give_to_files(proposals, paths, model.proposals_wanted) if proposals and model.proposals_wanted else None
    _prepare_folder(out, paths)
    done = Predicted()
    seen = _sights(paths, given, done.unreadable)
    looked = look(model, seen, 0.0 if model.proposes else threshold, size, batch_size)
    shown = progress and (len(paths) > 1 or is_video(paths[0]))
    try:  # after an interrupt, too, there are results of what was seen
        with ExitStack() as stack:
            bar = stack.enter_context(progress_bar(shown))
            add = stack.enter_context(atomic_json_list(out / "predictions.json"))
            keep = _keeper(model, done, paths, out, threshold, add, stack.enter_context(VideoFiles()))
            task = bar.add_task("looking", total=_expected(paths) if shown else None)
            for sight, found in looked:
                keep(sight, found)
                bar.update(task, completed=len(done.images) + len(done.unreadable))
            bar.update(task, completed=len(done.images) + len(done.unreadable))
    finally:
        _write_companions(done, model, out)
    if not done.images:
        raise UserError(f"None of {len(paths)} files can be read. {next(iter(done.unreadable.values()))}")
    return done


def describe(done: Predicted, out: Path) -> str:
    """What was done, and which files could not be read, in sentences."""
    lines = [f"{done.objects} objects in {len(done.images)} images: see {out}"]
    if done.proposals:
        number = sum(len(image.scores) for image in done.proposals)
        lines.append(f"{number} proposals, whatever their score: {out / PROPOSALS}")
    if done.unreadable:
        what = "1 file" if len(done.unreadable) == 1 else f"{len(done.unreadable)} files"
        lines += [f"{what} could not be read:", *(f"  {why}" for why in done.unreadable.values())]
    return "\n".join(lines)


def number_images(paths: Sequence[Path]) -> list[int]:
    """Image ids: the numbers that all files are named by, or 1, 2, ... in order."""
    numbers = [int(p.stem) for p in paths if p.stem.isascii() and p.stem.isdigit()]
    own = len(set(numbers)) == len(paths) and max(numbers) < 2**53
    return numbers if own else list(range(1, len(paths) + 1))


def _sights(paths: Sequence[Path], given: GivenProposals | None, unreadable: dict[Path, str]) -> Iterator[Sight]:
    for row, path in enumerate(paths):
        try:
            if is_video(path):
                yield from frames(path)
                continue
            image = load_image(path)
        except UserError as error:
            unreadable[path] = str(error)
            continue
        height, width = image.shape[1:]
        yield Sight(image, path, proposals=given.of(row, width, height) if given else None)


def _expected(paths: Sequence[Path]) -> int | None:
    """Images and frames to come; None where a video does not say."""
    total = 0
    for path in paths:
        try:
            total += max(video_info(path).total_frames or 0, 0) if is_video(path) else 1
        except UserError:
            continue
    return total or None


def _prepare_folder(out: Path, paths: Sequence[Path]) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; results need a folder")
    if any(p.resolve().parent == out.resolve() for p in paths):
        raise UserError(f"{out}: holds the images themselves, which drawings would replace; choose another folder")
    out.mkdir(parents=True, exist_ok=True)


def _drawing_names(paths: Sequence[Path]) -> dict[Path, str]:
    """The files' own names, as .mp4, as .png where they were and .jpg otherwise; a number tells namesakes apart."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        suffix = ".mp4" if is_video(path) else ".png" if path.suffix.lower() == ".png" else ".jpg"
        stems = (path.stem if n == 1 else f"{path.stem}_{n}" for n in count(1))
        # Some file systems do not tell capitals from small letters.
        names[path] = next(name for name in (s + suffix for s in stems) if name.casefold() not in taken)
        taken.add(names[path].casefold())
    return names


def _keeper(
    model: Finder,
    done: Predicted,
    paths: Sequence[Path],
    out: Path,
    threshold: float,
    add: Callable[[dict[str, Any]], None],
    videos: VideoFiles,
) -> Callable[[Sight, sv.Detections], None]:
    """What is to be done with every image: draw, note, pass its results on."""
    names = _drawing_names(paths)
    by_path = dict(zip(paths, number_images(paths), strict=True))
    numbers = count(1) if any(is_video(path) for path in paths) else None

    def keep(sight: Sight, found: sv.Detections) -> None:
        assert sight.path is not None
        image = sight.image.permute(1, 2, 0).numpy()
        number = by_path[sight.path] if numbers is None else next(numbers)
        height, width = image.shape[:2]
        if model.proposes:
            assert found.confidence is not None
            name = sight.path.as_posix() if sight.frame is None else f"{sight.path.as_posix()}#{sight.frame}"
            done.proposals.append(Proposed(number, name, width, height, found.xyxy, found.confidence))
            found = _above(found, threshold)
        _draw(sight, image, found, out / names[sight.path], videos)
        entry = {"id": number, "file_name": sight.path.as_posix(), "width": width, "height": height}
        entry |= {"drawing": names[sight.path]} | ({} if sight.frame is None else {"frame": sight.frame})
        done.images.append(entry)
        done.objects += len(found)
        for result in coco_results(found, number, model.category_ids):
            add(result)

    return keep


def _above(found: sv.Detections, threshold: float) -> sv.Detections:
    assert found.confidence is not None
    shown = found[found.confidence >= threshold]
    assert isinstance(shown, sv.Detections)
    return shown


def _draw(sight: Sight, image: RGB, found: sv.Detections, path: Path, videos: VideoFiles) -> None:
    if sight.frame is None:
        save(draw(image, found), path)
    else:
        assert sight.path is not None
        videos.write(path, sight.path, draw(image, found))


def coco_results(found: sv.Detections, image_id: int, category_ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The detections of an image as COCO writes them."""
    assert found.class_id is not None
    assert found.confidence is not None
    corners = found.xyxy.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    segmentations = [{}] * len(found)
    if found.mask is not None:
        segmentations = [{"segmentation": plain_rle(encode(np.asfortranarray(mask)))} for mask in found.mask]
    columns = boxes.tolist(), found.class_id.tolist(), found.confidence.tolist(), segmentations
    for box, label, score, segmentation in zip(*columns, strict=True):
        yield {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score} | segmentation


def _write_companions(done: Predicted, model: Finder, out: Path) -> None:
    categories = [{"id": i, "name": n} for i, n in zip(model.category_ids, model.class_names, strict=True)]
    companion = {"images": done.images, "categories": categories, "annotations": []}
    write_json(out / "images.json", companion, indent=1)
    if model.proposes:
        write_proposals(out / PROPOSALS, done.proposals, model.name)

"""Prediction on files: rendered images and videos, COCO results and proposals are written to a folder."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from libradet.data.bit_depth import describe_bit_depth
from libradet.data.collate import Size
from libradet.data.proposals.precomputed import PrecomputedProposals, proposals_for_images
from libradet.data.proposals.proposal_file import ImageProposals, write_proposals
from libradet.data.segmentations import rle_to_json
from libradet.data.windows import reduced_image
from libradet.errors import UserError
from libradet.inference.compact_masks import encode_detection_masks, reduce_masks
from libradet.inference.inputs import InputImage, is_video, list_image_files, read_input, video_frames, video_info
from libradet.inference.predict import check_score_thresh, predict_stream
from libradet.inference.tiles import Tiling
from libradet.inference.video import VideoWriter
from libradet.inference.visualize import draw_detections, save_image
from libradet.predictor import Predictor, bit_depth_of, check_batch_size
from libradet.utils.atomic_io import atomic_json_list, require_writable, write_json
from libradet.utils.progress import progress_bar
from libradet.utils.quiet_supervision import supervision as sv
from libradet.utils.text import counted

PREDICTIONS_FILE, IMAGES_FILE, PROPOSALS_FILE = "predictions.json", "images.json", "proposals.safetensors"

MAX_RENDERED_SIDE = 4096
"""Longest side of a rendered image, in pixels; larger ones are reduced by a whole factor before they are drawn on."""


@dataclass
class PredictSummary:
    """Result of prediction on files.

    Attributes:
        num_detections: total number of detections.
        images: for each image that was read ``id``, ``file_name``, ``width``, ``height`` and ``output_file``; for a
            video frame also ``frame``, from 0.
        proposals: for each image that was read, if the model is a proposal model; not filtered by score.
        unreadable: error message by file.
        note: what is wrong with the bit depth of the images; empty if nothing is.
    """

    num_detections: int = 0
    images: list[dict[str, Any]] = field(default_factory=list)
    proposals: list[ImageProposals] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)
    note: str = ""

    @property
    def num_inputs(self) -> int:
        """Images and frames read so far, and files that could not be read."""
        return len(self.images) + len(self.unreadable)


class ResultWriter:
    """Writes results to a folder, image by image; a context manager that completes the files, also after an interrupt.

    Nothing is written before the first image.

    Args:
        model: the model whose results are written.
        paths: all input files.
        output_dir: a folder, which is created.
        score_thresh: minimum score of the detections that are rendered and written to ``predictions.json``.
    """

    def __init__(self, model: Predictor, paths: Sequence[Path], output_dir: Path, score_thresh: float) -> None:
        self.summary = PredictSummary()
        self._model, self._output_dir, self._score_thresh = model, output_dir, score_thresh
        self._file_names = _output_file_names(paths)
        self._image_ids = dict(zip(paths, assign_image_ids(paths), strict=True))
        # Video frames have no file names to derive ids from, so all images are numbered in order.
        self._counter = count(1) if any(is_video(path) for path in paths) else None
        self._stack = ExitStack()
        self._videos = VideoWriter()
        self._append_result: Callable[[dict[str, Any]], None] | None = None

    def __enter__(self) -> "ResultWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._stack.__exit__(kind, error, traceback)
        finally:
            if self._append_result is not None:
                self._write_images_file()
            if self._append_result is not None and self._model.is_proposal_model:
                write_proposals(self._output_dir / PROPOSALS_FILE, self.summary.proposals, self._model.name)

    def write(self, image: InputImage, detections: sv.Detections) -> None:
        """Render an image and write its results."""
        assert image.path is not None
        if self._append_result is None:
            self._append_result = self._stack.enter_context(atomic_json_list(self._output_dir / PREDICTIONS_FILE))
            self._stack.enter_context(self._videos)
        image_id = self._image_ids[image.path] if self._counter is None else next(self._counter)
        height, width = image.size
        if self._model.is_proposal_model:
            self._keep_proposals(image, image_id, detections)
            detections = _filter_by_score(detections, self._score_thresh)
        output_file = self._file_names[image.path]
        self._render(image, detections, self._output_dir / output_file)
        entry = {"id": image_id, "file_name": image.path.as_posix(), "width": width, "height": height}
        entry["output_file"] = output_file
        if image.frame is not None:
            entry["frame"] = image.frame
        self.summary.images.append(entry)
        self.summary.num_detections += len(detections)
        for result in to_coco_results(detections, image_id, self._model.category_ids):
            self._append_result(result)

    def _keep_proposals(self, image: InputImage, image_id: int, detections: sv.Detections) -> None:
        assert image.path is not None
        assert detections.confidence is not None
        height, width = image.size
        name = image.path.as_posix() if image.frame is None else f"{image.path.as_posix()}#{image.frame}"
        self.summary.proposals.append(
            ImageProposals(image_id, name, width, height, detections.xyxy, detections.confidence)
        )

    def _render(self, image: InputImage, detections: sv.Detections, path: Path) -> None:
        assert image.path is not None
        pixels = image.image
        is_large = image.frame is None and max(image.size) > MAX_RENDERED_SIDE  # a video keeps its size
        if is_large or image.windows is not None:
            pixels, step = reduced_image(image.reader, MAX_RENDERED_SIDE)
            masks = None if detections.mask is None else reduce_masks(detections.mask, step)
            detections = replace(detections, xyxy=detections.xyxy / step, mask=masks)
        rendered = draw_detections(pixels.permute(1, 2, 0).numpy(), detections)
        if image.frame is None:
            save_image(rendered, path)
        else:
            self._videos.write(path, image.path, rendered)

    def _write_images_file(self) -> None:
        model = self._model
        categories = [{"id": i, "name": n} for i, n in zip(model.category_ids, model.class_names, strict=True)]
        content = {"images": self.summary.images, "categories": categories, "annotations": []}
        write_json(self._output_dir / IMAGES_FILE, content, indent=1)


def predict_files(
    model: Predictor,
    sources: Sequence[str | Path],
    output_dir: Path,
    *,
    score_thresh: float = 0.5,
    size: Size | None = None,
    batch_size: int = 1,
    proposals: str | Path | None = None,
    tiling: Tiling | None = None,
    progress: bool = True,
) -> PredictSummary:
    """Detect objects in files and write rendered images and results as they are computed.

    ``output_dir`` then has a rendered image for each image and a video for each video; ``predictions.json``, COCO
    results (``image_id``, ``category_id``, ``bbox`` xywh in pixels of the upright file, ``score``, and
    ``segmentation`` (RLE) if the detector has masks); ``images.json``, a COCO dataset without annotations that maps
    each ``image_id`` to its file and each ``category_id`` to its class; ``proposals.safetensors``, for proposal
    models. Category ids are those of the training dataset. Image ids are the file names if all of them are numbers, as
    in COCO; otherwise 1, 2, ... in order. Files that cannot be read are skipped and listed. Rendered images have
    sides of at most MAX_RENDERED_SIDE.

    Args:
        sources: files, folders and globs, see :func:`libradet.inference.inputs.list_image_files`.
        score_thresh, size, batch_size, tiling: as in :func:`libradet.inference.predict.predict`.
        proposals: proposal file, for a detector without RPN.
        progress: show a progress bar on stderr.

    Raises:
        UserError: no file matches or can be read, the inputs lie in ``output_dir``, or proposals are missing.
    """
    check_score_thresh(score_thresh)
    check_batch_size(batch_size)
    paths = list_image_files(sources)
    precomputed = None
    if proposals and model.num_proposals:
        precomputed = proposals_for_images(proposals, paths, model.num_proposals)
    _check_output_dir(output_dir, paths)
    show_progress = progress and (len(paths) > 1 or is_video(paths[0]))
    with progress_bar(show_progress) as bar, ResultWriter(model, paths, output_dir, score_thresh) as writer:
        summary = writer.summary
        inputs = _read_inputs(paths, precomputed, summary.unreadable, bit_depth_of(model), tiling is not None)
        summary.note = describe_bit_depth(paths, bit_depth_of(model))
        # Proposals are written at any score.
        model_thresh = 0.0 if model.is_proposal_model else score_thresh
        task = bar.add_task("predicting", total=_count_images(paths) if show_progress else None)
        for image, detections in predict_stream(model, inputs, model_thresh, size, batch_size, tiling):
            writer.write(image, detections)
            bar.update(task, completed=summary.num_inputs)
        bar.update(task, completed=summary.num_inputs)
    if not summary.images:  # then nothing is written
        raise UserError(f"none of the {len(paths)} files can be read: {next(iter(summary.unreadable.values()))}")
    return summary


def format_summary(summary: PredictSummary, output_dir: Path) -> str:
    """Return the summary as text, one line per unreadable file."""
    lines = [f"{counted(summary.num_detections, 'detection')} in {counted(len(summary.images), 'image')}: {output_dir}"]
    if summary.proposals:
        number = sum(len(image.scores) for image in summary.proposals)
        lines.append(f"{counted(number, 'proposal')}, not filtered by score: {output_dir / PROPOSALS_FILE}")
    if summary.note:
        lines.append(f"warning: {summary.note}")
    if summary.unreadable:
        files = counted(len(summary.unreadable), "file")
        lines += [f"{files} could not be read:", *(f"  {message}" for message in summary.unreadable.values())]
    return "\n".join(lines)


def assign_image_ids(paths: Sequence[Path]) -> list[int]:
    """Return the file names as image ids if all of them are distinct numbers, else 1, 2, ... in order."""
    numbers = [int(p.stem) for p in paths if p.stem.isascii() and p.stem.isdigit()]
    usable = len(set(numbers)) == len(paths) and max(numbers) < 2**53
    return numbers if usable else list(range(1, len(paths) + 1))


def to_coco_results(
    detections: sv.Detections, image_id: int, category_ids: Sequence[int | str]
) -> Iterator[dict[str, Any]]:
    """Yield the detections of an image as COCO results."""
    assert detections.class_id is not None
    assert detections.confidence is not None
    corners = detections.xyxy.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    segmentations: list[dict[str, Any]] = [{}] * len(detections)
    if detections.mask is not None:
        segmentations = [{"segmentation": rle_to_json(rle)} for rle in encode_detection_masks(detections.mask)]
    columns = boxes.tolist(), detections.class_id.tolist(), detections.confidence.tolist(), segmentations
    for box, label, score, segmentation in zip(*columns, strict=True):
        yield {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score} | segmentation


def _read_inputs(
    paths: Sequence[Path],
    proposals: PrecomputedProposals | None,
    unreadable: dict[Path, str],
    bit_depth: int,
    by_window: bool,
) -> Iterator[InputImage]:
    """Yield the images and frames of all files; the errors of unreadable ones are added to ``unreadable``."""
    for row, path in enumerate(paths):
        try:
            if is_video(path):
                yield from video_frames(path)
                continue
            for image in read_input(path, bit_depth, by_window):
                height, width = image.size
                boxes = None if proposals is None else proposals.boxes_of(row, width, height)
                yield replace(image, proposals=boxes)
        except UserError as error:
            unreadable[path] = str(error)


def _count_images(paths: Sequence[Path]) -> int | None:
    """Return the number of images and frames according to the videos' headers; None if it is unknown."""
    total = 0
    for path in paths:
        try:
            total += max(video_info(path).total_frames or 0, 0) if is_video(path) else 1
        except UserError:
            continue
    return total or None


def _check_output_dir(output_dir: Path, paths: Sequence[Path]) -> None:
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"{output_dir}: is a file; name a folder for the results")
    if any(p.resolve().parent == output_dir.resolve() for p in paths):
        raise UserError(f"{output_dir}: has the input images, which would be overwritten; choose another folder")
    require_writable(output_dir / PREDICTIONS_FILE)


def _output_file_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return distinct file names: videos as .mp4, PNG as .png, other images as .jpg; ``_2``, ``_3`` for equal stems."""
    names: dict[Path, str] = {}
    used: set[str] = set()
    for path in paths:
        image_suffix = ".png" if path.suffix.lower() == ".png" else ".jpg"
        suffix = ".mp4" if is_video(path) else image_suffix
        stems = (path.stem if n == 1 else f"{path.stem}_{n}" for n in count(1))
        # Some file systems are case-insensitive.
        names[path] = next(name for name in (s + suffix for s in stems) if name.casefold() not in used)
        used.add(names[path].casefold())
    return names


def _filter_by_score(detections: sv.Detections, score_thresh: float) -> sv.Detections:
    assert detections.confidence is not None
    kept = detections[detections.confidence >= score_thresh]
    assert isinstance(kept, sv.Detections)
    return kept

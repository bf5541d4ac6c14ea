"""Prediction: inputs are read, preprocessed to batches, run through the model and postprocessed to detections."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from numpy import ndarray
from PIL import Image
from torch import Tensor

from libradet.data.batch import Batch
from libradet.data.transforms.resize import Size
from libradet.errors import UserError
from libradet.inference.inputs import InputImage, is_video, iter_inputs, list_image_files, video_frames
from libradet.inference.postprocess import postprocess
from libradet.inference.preprocess import preprocess
from libradet.inference.run_model import eval_mode, run_model
from libradet.inference.tiles import Tiling, batch_without_pixels, detect_in_tiles
from libradet.predictor import Predictor, bit_depth_of, check_batch_size, resolve_size
from libradet.structures import Detections
from libradet.utils.text import counted

if TYPE_CHECKING:
    import supervision

ImageSource = str | Path | Image.Image | ndarray
"""An image file, a Pillow image, or a uint8 RGB array [H, W, 3]."""

Boxes = ndarray | Tensor
"""Boxes [P, 4], xyxy in pixels."""

PREFETCH_BATCHES = 4
"""Batches of images that are read ahead, so that images of one padded size can share a batch."""


def predict(
    model: Predictor,
    images: ImageSource | Iterable[ImageSource],
    score_thresh: float = 0.5,
    size: Size | None = None,
    batch_size: int = 1,
    proposals: Boxes | Sequence[Boxes] | None = None,
    tiling: Tiling | None = None,
) -> "supervision.Detections | list[supervision.Detections] | Iterator[supervision.Detections]":
    """Detect objects in images, on the model's device; the model's mode is restored afterwards.

    Args:
        images: one image; a list or tuple of images; a folder or glob pattern; a video file; or any other iterable of
            images, such as a generator. The EXIF orientation of files and Pillow images is applied.
        score_thresh: minimum score, 0..1. The detector itself drops scores below
            ``config.detections.score_thresh``.
        size: (short, long) side to resize to; None for the size of training; "original" for no resizing.
        batch_size: maximum number of images per batch; images share a batch if their padded sizes are equal. More
            than one is faster on a GPU.
        proposals: boxes [P, 4] for a detector without RPN, best first, xyxy in pixels of the upright image; a list of
            them for a list of images.
        tiling: run the model on tiles of each image, of which ``batch_size`` are a batch
            (:func:`libradet.inference.tiles.make_tiling`).

    Returns:
        One ``supervision.Detections`` for one image; a list for a list, folder or pattern; a lazy iterator for a video
        or a generator. Detections are sorted by descending score; ``xyxy`` in pixels of the original upright image,
        clipped to it; ``confidence``; ``class_id`` 0..C-1; ``data["class_name"]``; ``mask`` [D, H, W] if the
        detector has masks, with tiles a ``supervision.CompactMask`` of this shape.

    Raises:
        UserError: an image cannot be read, or an argument is out of range.
    """
    check_score_thresh(score_thresh)
    check_batch_size(batch_size)
    _check_images(images)
    if proposals is not None and not model.num_proposals:
        raise UserError(f"{model.name} uses no precomputed proposals: leave the argument out")
    options = score_thresh, size, batch_size, tiling
    if isinstance(images, str | Path) and is_video(Path(images)):
        return _detections_only(predict_stream(model, video_frames(Path(images)), *options))
    if isinstance(images, str | Path) and _is_folder_or_pattern(images):
        images = list_image_files([images])
    if isinstance(images, str | Path | Image.Image | ndarray):
        inputs = iter_inputs(
            [images], None if proposals is None else [proposals], bit_depth_of(model), tiling is not None
        )
        return _predict_all(model, inputs, *options)[0]
    if proposals is not None and isinstance(images, list | tuple) and len(proposals) != len(images):
        raise UserError(
            f"proposals has {counted(len(proposals), 'entry', 'entries')} for "
            f"{counted(len(images), 'image')}: pass one array per image"
        )
    inputs = iter_inputs(images, proposals, bit_depth_of(model), tiling is not None)
    if isinstance(images, list | tuple):
        return _predict_all(model, inputs, *options)
    return _detections_only(predict_stream(model, inputs, *options))


def predict_stream(
    model: Predictor,
    inputs: Iterable[InputImage],
    score_thresh: float = 0.0,
    size: Size | None = None,
    batch_size: int = 1,
    tiling: Tiling | None = None,
) -> "Iterator[tuple[InputImage, supervision.Detections]]":
    """Yield every input image with its detections, in order, a few batches at a time; see :func:`predict`.

    Between two images the model is in the mode it had before.
    """
    size = resolve_size(model, size)
    for chunk in _chunks(inputs, batch_size if tiling is None else 1):
        with eval_mode(model):
            results = _predict_chunk(model, chunk, score_thresh, size, batch_size, tiling)
        yield from zip(chunk, results, strict=True)


def predict_batch(model: Predictor, batch: Batch) -> Detections:
    """Return the detections of one batch; the model's mode is restored afterwards."""
    with eval_mode(model):
        return run_model(model, batch)


def check_score_thresh(score_thresh: float) -> None:
    """Raise UserError unless the threshold lies between 0 and 1."""
    if not isinstance(score_thresh, Real) or not 0 <= score_thresh <= 1:
        raise UserError(f"score_thresh is {score_thresh}: it must lie between 0 and 1")


def _check_images(images: object) -> None:
    """Raise UserError for what is no image and would be iterated over, or cannot be."""
    if isinstance(images, Tensor):
        raise UserError(
            f"a tensor {list(images.shape)} is not an image: pass a uint8 RGB array [H, W, 3], such as "
            "image.permute(1, 2, 0).numpy(), or a list of them"
        )
    is_iterable = isinstance(images, Iterable) or hasattr(type(images), "__getitem__")
    if isinstance(images, bytes | bytearray | Mapping) or not (is_iterable or isinstance(images, Path | Image.Image)):
        raise UserError(
            f"a value of type {type(images).__name__} is not an image: pass a path, a PIL image, a uint8 RGB array "
            "[H, W, 3], or several of them"
        )


def _predict_all(
    model: Predictor,
    inputs: Iterable[InputImage],
    score_thresh: float,
    size: Size | None,
    batch_size: int,
    tiling: Tiling | None,
) -> "list[supervision.Detections]":
    size = resolve_size(model, size)
    results = []
    with eval_mode(model):
        for chunk in _chunks(inputs, batch_size if tiling is None else 1):
            results += _predict_chunk(model, chunk, score_thresh, size, batch_size, tiling)
    return results


def _predict_chunk(
    model: Predictor,
    inputs: Sequence[InputImage],
    score_thresh: float,
    size: Size,
    batch_size: int,
    tiling: Tiling | None,
) -> "list[supervision.Detections]":
    if tiling is not None:
        return [_predict_tiles(model, image, score_thresh, size, batch_size, tiling) for image in inputs]
    results: dict[int, supervision.Detections] = {}
    for batch in preprocess(model, inputs, size, batch_size):
        assert batch.index is not None
        detections = postprocess(run_model(model, batch), batch, model.class_names, score_thresh)
        results |= zip(batch.index.tolist(), detections, strict=True)
    return [results[row] for row in range(len(inputs))]


def _predict_tiles(
    model: Predictor, image: InputImage, score_thresh: float, size: Size, batch_size: int, tiling: Tiling
) -> "supervision.Detections":
    detections = detect_in_tiles(model, image.reader, tiling, size, batch_size)
    batch = batch_without_pixels(*image.size)
    return postprocess(detections, batch, model.class_names, score_thresh, compact_masks=True)[0]


def _chunks(inputs: Iterable[InputImage], batch_size: int) -> Iterator[list[InputImage]]:
    """Yield lists of images that are batched together; single images if batches have one, for the lowest latency."""
    remaining = iter(inputs)
    length = batch_size * PREFETCH_BATCHES if batch_size > 1 else 1
    while chunk := list(islice(remaining, length)):
        yield chunk


def _detections_only(
    results: "Iterator[tuple[InputImage, supervision.Detections]]",
) -> "Iterator[supervision.Detections]":
    return (detections for _, detections in results)


def _is_folder_or_pattern(source: str | Path) -> bool:
    path = Path(source)
    return path.is_dir() or (not path.is_file() and any(character in str(source) for character in "*?["))

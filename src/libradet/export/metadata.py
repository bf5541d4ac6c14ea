"""Metadata of an exported detector, stored in the file as text by name so that any language can read it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from numpy import ndarray

import libradet
from libradet.data.bit_depth import DEFAULT_BIT_DEPTH
from libradet.data.transforms.resize import Size, check_size
from libradet.errors import UserError
from libradet.models.detector import Detector

FORMAT = "libradet exported detector, version 2"
FORMAT_PREFIX = "libradet exported detector, version "

MAX_IMAGE_SIDE = 2**15

STATIC_WORDS = f"the number of images, height and width, at least 1 and sides of at most {MAX_IMAGE_SIDE}"

StaticShape = Annotated[tuple[int, int, int], STATIC_WORDS]

RunFunction = Callable[[Sequence[ndarray]], list[ndarray]]
"""Maps arrays in the order of ``ExportMetadata.inputs`` to arrays in the order of ``ExportMetadata.outputs``."""


@dataclass(frozen=True)
class ExportMetadata:
    """Metadata of an exported detector.

    Attributes:
        model: name of the detector in the zoo.
        class_names: names of labels 0..C-1.
        category_ids: the training dataset's ids of labels 0..C-1.
        image_size: (short, long) side that the detector expects images to be resized to, or "original".
        embed_preprocess: whether resizing is part of the graph.
        score_thresh: detections with lower scores are not output.
        has_masks: whether masks are output.
        is_proposal_model: whether the detections are proposals.
        num_proposals: number of input proposals used per image, best first; 0 if the detector has its own RPN.
        libradet_version: version of libradet that wrote the file.
        bit_depth: of the values in 16-bit files; the graph itself expects 8-bit images.
        static: number, height and width of the images, if the graph accepts no others.
    """

    model: str
    class_names: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    image_size: Size
    embed_preprocess: bool
    score_thresh: float
    has_masks: bool
    is_proposal_model: bool
    num_proposals: int
    libradet_version: str
    bit_depth: int = DEFAULT_BIT_DEPTH
    static: tuple[int, int, int] | None = None

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs, in order."""
        return ["images", "proposals"] if self.num_proposals else ["images"]

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs, in order."""
        names = ["boxes", "scores", "labels", "valid"]
        return [*names, "masks"] if self.has_masks else names


def build_metadata(
    model: Detector,
    size: Size | None = None,
    embed_preprocess: bool = True,
    static: tuple[int, int, int] | None = None,
) -> ExportMetadata:
    """Return the metadata of a detector that is about to be exported.

    Args:
        size: (short, long) side to resize images to, None for that of training.
        static: number, height and width of the images, if they are to be constants.

    Raises:
        UserError: the size or the static shape is not valid.
    """
    check_shape(size, static)
    return ExportMetadata(
        model=model.name,
        class_names=tuple(model.class_names),
        category_ids=tuple(model.category_ids),
        image_size=size or model.image_size,
        embed_preprocess=embed_preprocess,
        score_thresh=model.config.detections.score_thresh,
        has_masks=model.has_masks,
        is_proposal_model=model.is_proposal_model,
        num_proposals=model.num_proposals,
        libradet_version=libradet.__version__,
        bit_depth=model.bit_depth,
        static=static,
    )


def check_shape(size: Size | None, static: StaticShape | None) -> None:
    """Raise UserError unless the size and the static shape are valid, see :func:`build_metadata`."""
    if static is not None and not (
        len(static) == 3 and static[0] >= 1 and all(1 <= side <= MAX_IMAGE_SIDE for side in static[1:])
    ):
        raise UserError(f"static is {' '.join(map(str, static))}: use {STATIC_WORDS}")
    if size is not None:
        check_size(size)


def encode_metadata(metadata: ExportMetadata) -> dict[str, str]:
    """Return text by field name: strings as they are, everything else as JSON."""
    values = {f.name: _to_text(f, getattr(metadata, f.name)) for f in fields(ExportMetadata)}
    return {"format": FORMAT} | values


def metadata_names() -> list[str]:
    """Return the names of the texts that :func:`encode_metadata` returns."""
    return ["format", *(f.name for f in fields(ExportMetadata))]


def decode_metadata(texts: Mapping[str, str], path: str | Path) -> ExportMetadata:
    """Return the metadata that :func:`encode_metadata` wrote.

    Raises:
        UserError: the file was not written by ``libradet export``, or by an earlier version of it; or the metadata
            is damaged.
    """
    file_format = texts.get("format", "")
    if not file_format.startswith(FORMAT_PREFIX):
        raise UserError(f"{path}: not a detector that libradet export wrote (its metadata has no such format)")
    if file_format != FORMAT:
        raise UserError(f"{path}: written by another version of libradet export; export it again")
    try:
        return ExportMetadata(
            **{f.name: _from_text(f, texts[f.name]) for f in fields(ExportMetadata) if _is_stored(f, texts)}
        )
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: the metadata of libradet export is damaged ({error!r}); export it again") from error


def _is_stored(field: Field, texts: Mapping[str, str]) -> bool:
    """Whether a field has to be in the file: files from before a field was added have its default."""
    return field.default is MISSING or field.name in texts


def _to_text(field: Field, value: Any) -> str:
    return value if field.type is str else json.dumps(value, ensure_ascii=False)


def _from_text(field: Field, text: str) -> Any:
    value = text if field.type is str else json.loads(text)
    return tuple(value) if isinstance(value, list) else value

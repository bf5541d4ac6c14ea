"""From a detector to a file that runs without libradet."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from libradet.data.loading.transforms import Size
from libradet.errors import UserError
from libradet.export.description import describe
from libradet.export.formats import format_of
from libradet.export.quantizing import quantize, refuse_int8
from libradet.export.running import Exported
from libradet.export.tracing import trace
from libradet.export.verifying import PIXELS, SCORE, Agreement, Difference, Image, agree, compare, drawn_images
from libradet.models.detector import Detector
from libradet.models.inference_form import optimize
from libradet.utils.atomic_io import atomic_write


class Written(NamedTuple):
    """Attributes:
    path: the file.
    difference: between what the detector and the file find in the same images.
    seconds: that writing took, without comparing.
    agreement: of a file in eight bits with the model.
    """

    path: Path
    difference: Difference
    seconds: float
    agreement: Agreement | None = None


def export(
    model: Detector,
    path: str | Path,
    *,
    size: Size | None = None,
    resize: Literal["inside", "outside"] = "inside",
    images: Sequence[Image] = (),
    int8: Sequence[Image] = (),
) -> Written:
    """Write a detector as ONNX (.onnx) or as a program of torch.export (.pt2), and compare both on images.

    The file takes ``images``, uint8 RGB [B, H, W, 3], any number of any one size, and gives ``boxes`` [B, D, 4]
    (xyxy in pixels of ``images``), ``scores``, ``labels``, ``valid`` [B, D], and, where the detector has any,
    ``masks`` [B, D, 28, 28]: for each cell of a grid over the box how likely it belongs to the object, as in
    :class:`libradet.inference.detections.Detections`. Normalization and suppression are inside. Detectors without
    rpn also take ``proposals`` [B, P, 4] in pixels of ``images``; those without area are padding.

    Args:
        size: (short, long) side to resize to, None as trained.
        resize: "outside" for images that are resized before they come; the file only pads them.
        images: uint8 RGB [H, W, 3], on which both are compared beside those that are drawn for it.
        int8: images, alike, by which the layers of an ONNX file are made to compute in eight bits once it has been
            compared: smaller, faster on processors that have such instructions, and not quite the same.

    Raises:
        UserError: the file's name has another ending, a library is missing, the detector cannot be followed with
            open sizes, both do not find the same, or eight bits lose most detections; then there is no file.
    """
    kind, description = format_of(path), describe(model, size, resize == "inside")
    kind.require()
    if int8:
        refuse_int8(description, Path(path).suffix)
    begin = time.perf_counter()
    program = trace(model, description)
    with atomic_write(path) as partial:
        kind.write(program, description, partial)
        seconds = time.perf_counter() - begin
        exported = Exported(*kind.open(partial))
        difference = compare(optimize(model), exported, [*drawn_images(), *images])
        if not difference.small:
            raise UserError(
                f"{path}: not written, for it finds something else than the model: {difference}; "
                f"{PIXELS} px and {SCORE} are allowed"
            )
        agreement = _in_eight_bits(model, partial, int8, path) if int8 else None
    return Written(Path(path), difference, seconds, agreement)


def _in_eight_bits(model: Detector, partial: Path, images: Sequence[Image], path: str | Path) -> Agreement:
    quantize(partial, images)
    agreement = agree(optimize(model), Exported(*format_of(path).open(partial)), images)
    if not agreement.enough:
        raise UserError(f"{path}: not written, for in eight bits it is another model: {agreement}")
    return agreement


def show(written: Written) -> str:
    """What was written, and how it compares, in sentences."""
    size = written.path.stat().st_size / 1e6
    lines = [f"{written.path}: {size:.1f} MB, written in {written.seconds:.0f} s", f"compared: {written.difference}"]
    if not written.difference.detections:
        lines.append("the model found nothing in them, so that this says little: name --images in which there is more")
    if written.agreement is not None:
        lines.append(f"in eight bits: {written.agreement}; libradet evaluate says what that costs in AP")
    return "\n".join(lines)

"""Export of detectors to files that run without libradet."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from libradet.data.transforms.resize import Size
from libradet.errors import UserError
from libradet.export.export_wrapper import trace_detector
from libradet.export.exported_model import ExportedModel
from libradet.export.formats import get_format
from libradet.export.metadata import ExportMetadata, StaticShape, build_metadata, check_shape
from libradet.export.onnx_format import calibration_inputs, check_quantizable, check_quantizable_file, quantize
from libradet.export.verification import (
    BOX_TOLERANCE,
    SCORE_TOLERANCE,
    OutputDifference,
    QuantizationAgreement,
    RGBImage,
    RGBImages,
    detection_agreement,
    max_difference,
    synthetic_images,
)
from libradet.models.detector import Detector
from libradet.models.optimize import optimize
from libradet.utils.arguments import check_arguments
from libradet.utils.atomic_io import atomic_write, require_writable


class ExportResult(NamedTuple):
    """Result of an export.

    Attributes:
        path: the file.
        difference: largest differences between the outputs of detector and file.
        seconds: duration of tracing and writing, without verification.
        agreement: of a quantized file with the detector; None if the file is not quantized.
    """

    path: Path
    difference: OutputDifference
    seconds: float
    agreement: QuantizationAgreement | None = None


@check_arguments
def export(
    model: Detector,
    path: str | Path,
    *,
    size: Size | None = None,
    embed_preprocess: bool = True,
    static: StaticShape | None = None,
    verify_images: RGBImages = (),
    calibration_images: RGBImages = (),
) -> ExportResult:
    """Export a detector to ONNX (.onnx) or torch.export (.pt2), and verify the file against the detector.

    The graph's inputs are ``images``, uint8 RGB [B, H, W, 3], any number of any one size, and, for detectors without
    RPN, ``proposals`` [B, P, 4] in pixels of ``images``, where boxes without area are padding. Its outputs are
    ``boxes`` [B, D, 4] (xyxy in pixels of ``images``), ``scores``, ``labels``, ``valid`` [B, D], and, for detectors
    with masks, ``masks`` [B, D, 28, 28]: probabilities on a grid over the box, as in
    :class:`libradet.structures.Detections`. Normalization and NMS are part of the graph.

    Args:
        size: (short, long) side to resize images to, None for that of training.
        embed_preprocess: resize inside the graph; if False, images come resized, and the graph only pads them.
        static: number, height and width of the images, for a graph that accepts no others. All sizes in it are
            constants, and it consists of operators of fixed size, also NMS and RoIAlign, which more runtimes have.
        verify_images: uint8 RGB [H, W, 3] images for the verification, in addition to synthetic ones.
        calibration_images: uint8 RGB [H, W, 3] images on which INT8 quantization is calibrated (ONNX only). The file
            is quantized after its verification in float32: smaller, faster on processors with INT8 instructions,
            and less exact. Without images, it is not quantized.

    Raises:
        UserError: unknown suffix, missing library, weights that are NaN or infinite, the detector cannot be traced, the
            outputs of file and detector differ, or most detections are lost by quantization. No file is written then.
    """
    check_settings(path, size=size, static=static, calibrated=bool(calibration_images))
    file_format, metadata = get_format(path), build_metadata(model, size, embed_preprocess, static)
    if calibration_images:
        check_quantizable(metadata, Path(path).suffix)
    _check_finite(model, path)
    start = time.perf_counter()
    program = trace_detector(model, metadata)
    with atomic_write(path) as partial:
        file_format.write(program, metadata, partial)
        seconds = time.perf_counter() - start
        exported = ExportedModel(*file_format.open(partial))
        difference = max_difference(optimize(model), exported, [*synthetic_images(static), *verify_images])
        if not difference.is_small:
            raise UserError(
                f"{path}: not written because its outputs differ from the model's: {difference}; "
                f"{BOX_TOLERANCE} px and {SCORE_TOLERANCE} in score are allowed"
            )
        agreement = _quantize(model, metadata, partial, calibration_images, path) if calibration_images else None
    return ExportResult(Path(path), difference, seconds, agreement)


def check_settings(
    path: str | Path,
    *,
    size: Size | None = None,
    static: StaticShape | None = None,
    calibrated: bool = False,
) -> None:
    """Check what :func:`export` can check without a detector, which may be slow to load.

    Args:
        calibrated: whether the file is to be quantized.

    Raises:
        UserError: unknown suffix, missing library, a file that cannot be written, or an invalid size or shape.
    """
    get_format(path).require()
    check_shape(size, static)
    if calibrated:
        check_quantizable_file(Path(path).suffix, static)
    require_writable(path)


def _check_finite(model: Detector, path: str | Path) -> None:
    """Refuse NaN, which some runtimes turn into ordinary numbers, so that the file's detections seem plausible."""
    weights = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    names = [name for name, value in weights.items() if not value.isfinite().all()]
    if names:
        raise UserError(
            f"{path}: not written because {len(names)} of the model's {len(weights)} weights contain NaN or infinity, "
            f"the first is {names[0]}; export an earlier checkpoint"
        )


def _quantize(
    model: Detector,
    metadata: ExportMetadata,
    partial: Path,
    calibration_images: Sequence[RGBImage],
    path: str | Path,
) -> QuantizationAgreement:
    quantize(partial, calibration_inputs(calibration_images, metadata))
    exported = ExportedModel(*get_format(path).open(partial))
    agreement = detection_agreement(optimize(model), exported, calibration_images, metadata.image_size)
    if not agreement.detections:
        raise UserError(
            f"{path}: not written because INT8 quantization cannot be verified: the model detects nothing in the "
            "calibration images; use images with objects"
        )
    if not agreement.is_sufficient:
        raise UserError(f"{path}: not written because INT8 quantization loses most detections: {agreement}")
    return agreement


def summarize_export(result: ExportResult) -> str:
    """Return lines that describe the file and its verification."""
    size = result.path.stat().st_size / 1e6
    lines = [f"{result.path}: {size:.1f} MB, exported in {result.seconds:.0f} s", f"verified: {result.difference}"]
    if not result.difference.detections:
        lines.append("the model detected nothing in these images: pass images with objects as --verify_images")
    if result.agreement is not None:
        lines.append(f"INT8: {result.agreement}; measure the change in AP with libradet evaluate")
    return "\n".join(lines)

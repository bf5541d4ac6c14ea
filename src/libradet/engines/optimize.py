"""Detectors whose convolutions run in an engine, compared with the detector that they come from."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from libradet.engines.calibration import calibrate
from libradet.engines.choose import Engine, EnginePrecision, choose_engine
from libradet.engines.comparison import EngineReport, compare, compare_int8
from libradet.engines.compiled import CompiledDense
from libradet.engines.dense_graph import cache_folder, dense_graph
from libradet.engines.packed import PackedDense
from libradet.engines.runtimes import RuntimeDense, open_onnxruntime, open_openvino
from libradet.errors import UserError
from libradet.export.verification import RGBImage, RGBImages, synthetic_images
from libradet.models import optimize as eager
from libradet.models.detector import Detector
from libradet.models.ops.quantized_layers import quantize_layers, silence_deprecation
from libradet.predictor import Predictor
from libradet.utils.arguments import check_arguments


@check_arguments
def optimize(
    model: Detector,
    precision: Literal["auto", "fp32", "bf16", "int8"] = "fp32",
    compile: bool = False,
    *,
    engine: Engine | Literal["auto"] = "eager",
    image: Annotated[RGBImage, "a uint8 RGB array [H, W, 3]"] | None = None,
    cache_dir: str | Path | None = None,
    in_place: bool = False,
    calibration_images: RGBImages = (),
) -> Detector:
    """Return a copy of a detector for faster inference: batch norms are fused and weights converted once.

    An engine computes the convolutions, and the second stage computes the proposals that there are. Engines other than
    "eager" are compared with the detector on an image before they are returned; ``engine_report`` has the differences
    and the seconds of preparation, in which files are written and the first graph is compiled. The copy can neither be
    trained nor saved. ``libradet evaluate`` and ``libradet predict`` optimize by themselves.

    Args:
        precision: "bf16" halves the digits of scores and is faster on GPUs and CPUs with native bfloat16; "auto" is
            "bf16" on these and "fp32" elsewhere. "int8", with the engine "packed" only, is faster still and less exact.
        compile: compile the detector as it is, see :func:`libradet.models.optimize.compile_in_place`; only with the
            engine "eager".
        engine: "eager" computes with torch's operators, "packed" with packed weights and Winograd's convolutions,
            "compiled" with inductor and frozen weights, "onnxruntime" and "openvino" with these packages; "auto"
            chooses by the device and by what is installed.
        image: uint8 RGB [H, W, 3], on which the engine is compared with the detector; a drawn one by default.
        cache_dir: folder for files of engines; ``$LIBRADET_CACHE_DIR`` or ~/.cache/libradet/engines by default.
        in_place: with the engine "eager", modify the detector itself in place of a copy, which saves time and memory.
        calibration_images: uint8 RGB [H, W, 3] with objects, some dozens of the training images: "int8" scales each
            activation by the range of its values on them.

    Raises:
        UserError: the engine does not exist, does not run here, or not in this precision; its detections differ; or
            calibration images are missing.
    """
    chosen, resolved = choose_engine(engine, precision, model.device.type)
    _check_calibration(model, resolved, calibration_images)
    if compile and chosen != "eager":
        raise UserError(f"compile is for the engine eager, and {chosen} is another one: leave one of them out")
    if chosen == "eager":
        assert resolved != "int8"
        return eager.optimize(model, resolved, compile, in_place=in_place)
    if model.is_optimized:
        raise UserError("this detector is optimized already: pass the one that it was made of")
    start = time.perf_counter()
    if resolved == "int8":
        optimized = _quantize(model, calibration_images)
        difference = compare_int8(model, optimized, calibration_images)
    else:
        optimized = eager.optimize(model, resolved)
        for head in optimized.roi.box_heads if optimized.roi else []:
            head.pack()
        optimized.dense_engine = _make_dense(model, optimized, chosen, resolved, cache_folder(cache_dir))
        difference = compare(model, optimized, resolved, synthetic_images()[0] if image is None else image, chosen)
    optimized.engine_report = EngineReport(chosen, resolved, time.perf_counter() - start, difference)
    return optimized


def optimize_predictor(
    model: Predictor,
    precision: Literal["auto", "fp32", "bf16", "int8"] = "fp32",
    compile: bool = False,
    *,
    engine: Engine | Literal["auto"] = "eager",
    image: RGBImage | None = None,
    in_place: bool = False,
    calibration_images: Sequence[RGBImage] = (),
) -> Predictor:
    """Apply :func:`optimize` to a detector; return any other predictor as it is.

    Args:
        in_place: with the engine "eager", modify the detector itself in place of a copy.

    Raises:
        UserError: another engine, precision or compilation is requested of a predictor that is not a detector.
    """
    if not isinstance(model, Detector):
        if engine != "eager":
            raise UserError(f"an engine runs a detector, and this {model.name} is an exported file: leave engine out")
        return eager.optimize_predictor(model, _eager_precision(precision), compile)
    if model.dense_engine is not None and engine == "eager":
        return eager.optimize_predictor(model, _eager_precision(precision), compile)
    settings = {"image": image, "in_place": in_place, "calibration_images": calibration_images}
    return optimize(model, precision, compile, engine=engine, **settings)


def _eager_precision(precision: Literal["auto", "fp32", "bf16", "int8"]) -> Literal["auto", "fp32", "bf16"]:
    if precision == "int8":
        raise UserError("int8 is computed by the engine packed, from a detector: load one, and pass engine packed")
    return precision


def check_calibration(precision: str, images: Sequence[RGBImage]) -> None:
    """Raise UserError unless there are calibration images for INT8, and only for it."""
    if precision != "int8" and len(images):
        raise UserError(f"calibration images are for the precision int8, not for {precision}: leave them out")
    if precision == "int8" and not len(images):
        raise UserError("the precision int8 needs calibration images: some dozens of the training images")


def _check_calibration(model: Detector, precision: EnginePrecision, images: Sequence[RGBImage]) -> None:
    check_calibration(precision, images)
    if precision == "int8" and model.num_proposals:
        raise UserError(
            f"INT8 quantization is calibrated on images alone, and {model.name} also needs proposals: use fp32 or bf16"
        )


def _quantize(model: Detector, images: Sequence[RGBImage]) -> Detector:
    """Return a copy whose convolutions and hidden linear layers are computed in INT8."""
    silence_deprecation()
    optimized = eager.optimize(model)
    convolutions, layers = calibrate(optimized, images)
    for head in optimized.roi.box_heads if optimized.roi else []:
        head.pack(layers)
    if optimized.mask is not None:
        quantize_layers(optimized.mask, layers)
    optimized.dense_engine = PackedDense(optimized, convolutions)
    return optimized


def _make_dense(
    model: Detector, optimized: Detector, engine: Engine, precision: EnginePrecision, folder: Path
) -> CompiledDense | PackedDense | RuntimeDense:
    if engine == "packed":
        return PackedDense(optimized)
    if engine == "compiled":
        return CompiledDense(optimized, folder)
    assert precision != "int8"
    path = dense_graph(model, folder)
    run = open_onnxruntime(path) if engine == "onnxruntime" else open_openvino(path, precision, folder / "openvino")
    return RuntimeDense(run, optimized.dtype)

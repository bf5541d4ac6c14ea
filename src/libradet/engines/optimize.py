"""Detectors whose convolutions run in an engine, compared with the detector that they come from."""

import time
from pathlib import Path
from typing import Literal

from libradet.engines.choose import Engine, choose_engine
from libradet.engines.comparison import EngineReport, compare
from libradet.engines.compiled import CompiledDense
from libradet.engines.dense_graph import cache_folder, dense_graph
from libradet.engines.packed import PackedDense
from libradet.engines.runtimes import RuntimeDense, open_onnxruntime, open_openvino
from libradet.errors import UserError
from libradet.export.verification import RGBImage, synthetic_images
from libradet.models import optimize as eager
from libradet.models.detector import Detector
from libradet.models.optimize import Precision
from libradet.predictor import Predictor


def optimize(
    model: Detector,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    compile: bool = False,
    *,
    engine: Engine | Literal["auto"] = "eager",
    image: RGBImage | None = None,
    cache_dir: str | Path | None = None,
    in_place: bool = False,
) -> Detector:
    """Return a copy of a detector for faster inference: batch norms are fused and weights converted once.

    An engine computes the convolutions, and the second stage computes the proposals that there are. Engines other than
    "eager" are compared with the detector on an image before they are returned; ``engine_report`` has the differences
    and the seconds of preparation, in which files are written and the first graph is compiled. The copy can neither be
    trained nor saved. ``libradet evaluate`` and ``libradet predict`` optimize by themselves.

    Args:
        precision: "bf16" halves the digits of scores and is faster on GPUs and CPUs with native bfloat16; "auto" is
            "bf16" on these and "fp32" elsewhere.
        compiled: compile the detector as it is, see :func:`libradet.models.optimize.compile_in_place`; only with the
            engine "eager".
        engine: "eager" computes with torch's operators, "packed" with packed weights and Winograd's convolutions,
            "compiled" with inductor and frozen weights, "onnxruntime" and "openvino" with these packages; "auto"
            chooses by the device and by what is installed.
        image: uint8 RGB [H, W, 3], on which the engine is compared with the detector; a drawn one by default.
        cache_dir: folder for files of engines; ``$LIBRADET_CACHE_DIR`` or ~/.cache/libradet/engines by default.
        in_place: with the engine "eager", modify the detector itself in place of a copy, which saves time and memory.

    Raises:
        UserError: the engine does not exist, does not run here, or not in this precision; or its detections differ.
    """
    chosen, resolved = choose_engine(engine, precision, model.device.type)
    if compile and chosen != "eager":
        raise UserError(f"compile is for the engine eager, and {chosen} is another one: leave one of them out")
    if chosen == "eager":
        return eager.optimize(model, resolved, compile, in_place=in_place)
    if model.is_optimized:
        raise UserError("this detector is optimized already: pass the one that it was made of")
    start = time.perf_counter()
    optimized = eager.optimize(model, resolved)
    for head in optimized.roi.box_heads if optimized.roi else []:
        head.pack()
    optimized.dense_engine = _make_dense(model, optimized, chosen, resolved, cache_folder(cache_dir))
    difference = compare(model, optimized, resolved, synthetic_images()[0] if image is None else image, chosen)
    optimized.engine_report = EngineReport(chosen, resolved, time.perf_counter() - start, difference)
    return optimized


def optimize_predictor(
    model: Predictor,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    compile: bool = False,
    *,
    engine: Engine | Literal["auto"] = "eager",
    image: RGBImage | None = None,
    in_place: bool = False,
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
        return eager.optimize_predictor(model, precision, compile)
    if model.dense_engine is not None and engine == "eager":
        return eager.optimize_predictor(model, precision, compile)
    return optimize(model, precision, compile, engine=engine, image=image, in_place=in_place)


def _make_dense(
    model: Detector, optimized: Detector, engine: Engine, precision: Precision, folder: Path
) -> CompiledDense | PackedDense | RuntimeDense:
    if engine == "packed":
        return PackedDense(optimized)
    if engine == "compiled":
        return CompiledDense(optimized, folder)
    path = dense_graph(model, folder)
    run = open_onnxruntime(path) if engine == "onnxruntime" else open_openvino(path, precision, folder / "openvino")
    return RuntimeDense(run, optimized.dtype)

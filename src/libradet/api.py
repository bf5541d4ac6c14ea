"""Public Python API."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

import libradet.utils.quick_torchvision  # noqa: F401 - before all that imports torchvision
from libradet.data.read import dataset_folder, read, require_split
from libradet.data.transforms.resize import Size
from libradet.engines.optimize import check_calibration, optimize, optimize_predictor
from libradet.errors import UserError
from libradet.export.metadata import StaticShape
from libradet.export.verification import RGBImages
from libradet.inference.proposals import check_predictor_proposals
from libradet.interop.coco_weights import BEST, best_weights, by_name
from libradet.interop.loading import load_checkpoint_any, resolve_init_weights
from libradet.models import build
from libradet.models.config import BackboneConfig, DetectorConfig
from libradet.models.detector import Detector
from libradet.predictor import Predictor
from libradet.training.config import TrainConfig
from libradet.utils.arguments import check_arguments, check_keywords
from libradet.utils.atomic_io import require_writable
from libradet.utils.devices import check_device
from libradet.utils.field_types import check_type
from libradet.utils.ranges import PositiveInt
from libradet.utils.text import suggest

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

    from libradet.evaluation.coco import Metrics
    from libradet.export.exported_model import ExportedModel
    from libradet.export.exporter import ExportResult
    from libradet.training.run import TrainResult

__all__ = ["create_model", "evaluate", "export_model", "load_model", "optimize", "train"]


@check_arguments
def create_model(
    name: str = "libra_faster_rcnn",
    num_classes: PositiveInt = 80,
    backbone: str | None = None,
    weights: str | Path | None = None,
    class_names: tuple[str, ...] | list[str] = (),
    config: DetectorConfig | Mapping[str, Any] | None = None,
    allow_partial: bool = False,
) -> Detector:
    """Build a detector.

    Args:
        name: name in the model zoo; ignored with ``config``.
        num_classes: C, without background; ignored with ``class_names``, and where ``config`` has it.
        backbone: a timm model with feature extraction, such as ``resnet18``, ``resnet50``, ``resnext101_64x4d``.
        weights: None for random initialization, ``"imagenet"`` for a pretrained backbone, ``"coco"`` for the published
            detector of highest AP of this model and backbone, a name of ``libradet models --weights``, or the path of a
            saved model or of a checkpoint of mmdetection, torchvision or detectron2. Image normalization is then that
            of the weights, and class layers are initialized at random if the classes differ:
            ``model.reinitialized_layers`` lists them.
        class_names: names of labels 0..C-1.
        config: complete configuration in place of name and backbone, or a nested mapping of the fields that differ
            from theirs, as in the ``detector`` section of a YAML file; it is not modified.
        allow_partial: load the weights that match, and initialize other layers at random; always so with published
            weights.

    Raises:
        UserError: unknown names, or weights that cannot be loaded or do not match.
    """
    _check_class_names(class_names)
    if isinstance(config, Mapping):
        config = _read_detector({"num_classes": num_classes} | dict(config), name, backbone, weights)
    if weights == BEST:
        backbone_name = backbone or BackboneConfig().name
        known = (name, backbone_name) if config is None else (config.model, config.backbone.name)
        weights = best_weights(*known).name
    allow_partial = allow_partial or (weights is not None and by_name(weights) is not None)
    resolved, missing = resolve_init_weights(weights, allow_partial)
    model = build.create_model(name, num_classes, backbone, resolved, class_names, config, allow_partial)
    model.reinitialized_layers += missing
    return model


@check_arguments
def train(
    model: str | Detector | None = None,
    data: str | Path = "",
    *,
    detector: DetectorConfig | Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    augmentations: Any = None,
    callbacks: "Sequence[Callback]" = (),
    logger: "Sequence[Logger | str] | Logger | str | None" = None,
    **settings: Any,
) -> "TrainResult":
    """Train a detector, as ``libradet train`` does.

    Args:
        model: name in the model zoo ("libra_faster_rcnn" if None), or a detector to train, with its own weights and
            backbone, whose classes must be those of the data.
        data: folder with images and annotations, in any supported format; required unless a run is resumed.
        detector: complete configuration of a new detector, in place of ``model``, or a nested mapping of the fields
            that differ from those of ``model``, as in a YAML file; its class names come from the data.
        resume: run folder to resume from, with its own detector; ``data`` and ``settings`` change its configuration.
        augmentations: list of transforms of torchvision.transforms.v2, of other callables with their signature (image,
            target), and of Albumentations pipelines; or of mappings as in a YAML file. Applied after all others. See
            :mod:`libradet.data.transforms.custom`.
        callbacks: Lightning callbacks, in addition to those of libradet.
        logger: Lightning loggers, or names such as "wandb", in addition to metrics.csv.
        settings: fields of :class:`libradet.training.config.TrainConfig`, such as ``max_epochs``, ``lr`` or
            ``output_dir``.

    Returns:
        the run folder, the file of the best model, and its metrics.

    Raises:
        UserError: unknown settings, or the run cannot be started or resumed.
    """
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

    from libradet.data.transforms.build import prepare_transforms
    from libradet.training.run import train as run_training

    _check_settings("train", settings, [field.name for field in fields(TrainConfig)])
    check_type("callbacks", callbacks, Sequence[Callback])
    check_type("logger", logger, Sequence[Logger | str] | Logger | str | None)
    if resume is None:
        TrainConfig(data=str(data), **settings)  # refuses values before weights are read, which may be downloaded
        dataset_folder(data)
    transforms = None
    if augmentations is not None:
        settings["augmentations"], transforms = prepare_transforms(augmentations)
    loggers: list[Logger] = []
    if logger is not None:
        requested = [logger] if isinstance(logger, Logger | str) else list(logger)
        loggers = [entry for entry in requested if isinstance(entry, Logger)]
        settings["logger"] = [entry for entry in requested if isinstance(entry, str)]
    if resume is not None:
        if detector is not None or isinstance(model, Detector):
            raise UserError("resume continues the run's own detector: leave out model and detector")
        settings |= {"data": str(data)} if data else {}
        return _resume(Path(resume), model, settings, callbacks, loggers, transforms)
    _refuse_second_source(model, detector, settings)
    model = TrainConfig.model if model is None else model
    if isinstance(detector, Mapping):
        detector = _read_detector(detector, str(model), settings.get("backbone"), settings.get("weights"))
    described = model.config if isinstance(model, Detector) else detector
    if described is None:
        config = TrainConfig(data=str(data), model=str(model), **settings)
    else:
        settings = {"backbone": described.backbone.name, **settings}
        config = TrainConfig(data=str(data), model=described.model, **settings)
    new_or_trained = model if isinstance(model, Detector) else detector
    return run_training(config, new_or_trained, callbacks=callbacks, loggers=loggers, transforms=transforms)


@check_arguments
def load_model(
    path: str | Path,
    device: str | torch.device = "cpu",
    use_ema: bool | None = None,
    runtime: Literal["onnxruntime", "openvino"] | None = None,
) -> "Detector | ExportedModel":
    """Load a model for inference.

    Args:
        path: a .safetensors file of libradet, a checkpoint of mmdetection, torchvision or detectron2, or a file of
            :func:`export_model` (.onnx, .pt2). A .pt2 file can execute code, so only load those you trust; nothing in
            the others is executed. Or the name of weights trained on COCO (``libradet models --weights``), such as
            ``libra_faster_rcnn_r50_fpn_coco``: they are downloaded once.
        device: device of a detector; exported models run on the CPU only.
        use_ema: of two sets of weights in a checkpoint, load the moving average (True) or what was trained (False); by
            default those that the toolbox's own test command uses, and a warning says which.
        runtime: that runs an .onnx file: onnxruntime by default.

    Raises:
        UserError: the file does not exist, has an unknown format or is damaged; or a library is missing.
    """
    if runtime is not None and Path(path).suffix != ".onnx":
        raise UserError(f"{path}: the runtime {runtime} runs .onnx files; leave it out, or export the model to one")
    if Path(path).suffix not in (".onnx", ".pt2"):
        return load_checkpoint_any(path, device, use_ema)
    if use_ema is not None:
        raise UserError(f"{path}: an exported file has one set of weights; leave out use_ema")
    check_device(device)
    if torch.device(device).type != "cpu":
        raise UserError(f"{path}: an exported file runs on the CPU; leave out the device {device}")
    from libradet.export.formats import open_exported

    return open_exported(path, runtime or "onnxruntime")


@check_arguments
def export_model(
    model: str | Path | Detector,
    path: str | Path,
    *,
    size: Size | None = None,
    embed_preprocess: bool = True,
    static: StaticShape | None = None,
    verify_images: RGBImages = (),
    calibration_images: RGBImages = (),
) -> "ExportResult":
    """Export a detector to a file that runs without libradet, as ``libradet export`` does.

    Args:
        model: a detector, or the file of one.
        path: .onnx for ONNX, .pt2 for torch.export.
        size, embed_preprocess, static, verify_images, calibration_images: see
            :func:`libradet.export.exporter.export`.

    Returns:
        the file, and its largest difference from the model.

    Raises:
        UserError: see :func:`libradet.export.exporter.export`.
    """
    from libradet.export.exporter import check_settings, export

    check_settings(path, size=size, static=static, calibrated=bool(calibration_images))
    return export(
        model if isinstance(model, Detector) else load_checkpoint_any(model),
        path,
        size=size,
        embed_preprocess=embed_preprocess,
        static=static,
        verify_images=verify_images,
        calibration_images=calibration_images,
    )


@check_arguments
def evaluate(
    model: str | Path | Predictor,
    data: str | Path,
    split: str = "val",
    *,
    skip_broken: bool = False,
    proposals: str | Path | None = None,
    engine: Literal["eager", "packed", "compiled", "onnxruntime", "openvino", "auto"] = "eager",
    calibration_images: RGBImages = (),
    **settings: Any,
) -> "Metrics":
    """Evaluate a model on one split of a dataset with COCO metrics.

    Args:
        model: a detector, an exported model, or the file of either.
        data: folder with images and annotations, in any supported format.
        split: "train", "val", ... or the dataset's own name.
        skip_broken: skip missing and damaged images; by default they are an error.
        proposals: proposal file, or folder with one for each split, for a detector without RPN.
        engine: that computes the convolutions of a detector, see :func:`optimize`.
        calibration_images: for ``precision="int8"`` with the engine "packed", see :func:`optimize`.
        settings: keyword arguments of :func:`libradet.evaluation.evaluate.evaluate`, such as ``size``, ``device``,
            ``coco_results``, ``tta_flip``, ``tta_scales`` or ``tiles``.

    Returns:
        the metrics, see :func:`libradet.evaluation.coco.coco_metrics`.

    Raises:
        UserError: the data or the model cannot be read, or they do not match.
    """
    from libradet.evaluation.evaluate import evaluate as evaluate_dataset

    engine_options, settings = _evaluation_settings(engine, calibration_images, settings)
    require_split(data, split)
    predictor = load_model(model) if isinstance(model, str | Path) else model
    check_predictor_proposals(predictor, proposals)
    dataset, report = read(data, split, training=False, skip_broken=skip_broken, masks=predictor.has_masks)
    if engine != "eager":
        predictor = optimize_predictor(
            predictor, engine=engine, calibration_images=calibration_images, **engine_options
        )
    metrics = evaluate_dataset(predictor, dataset, proposals=proposals, **settings)
    skipped = [f"{group['count']} skipped: {group['reason']}" for group in report.skipped]
    engine_report = getattr(predictor, "engine_report", None)
    engine_notes = [] if engine_report is None else [f"{engine_report}."]
    metrics["notes"] = [*skipped, *report.warnings, *engine_notes, *metrics["notes"]]
    return metrics


def _evaluation_settings(
    engine: str, calibration_images: RGBImages, settings: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of an engine other than eager and those of an evaluation, checked before anything is read."""
    from libradet.evaluation.evaluate import evaluate as evaluate_dataset
    from libradet.inference.settings import check_settings

    names = [parameter.name for parameter in signature(evaluate_dataset).parameters.values()]
    _check_settings("evaluate", settings, [name for name in names if name not in ("model", "dataset")])
    has_images = len(calibration_images) > 0
    if engine == "eager" and (settings.get("precision") == "int8" or has_images):
        raise UserError('int8 and its calibration images are for the engine packed: pass engine="packed"')
    if engine != "eager" and settings.get("device") is not None:
        raise UserError("an engine runs on the detector's device: leave out device, and move the detector to it")
    of_engine = ("precision", "compile") if engine != "eager" else ()
    options = check_keywords(optimize, {name: settings[name] for name in of_engine if name in settings})
    if engine != "eager":
        check_calibration(options.get("precision", "fp32"), calibration_images)
    checked = check_keywords(evaluate_dataset, {k: v for k, v in settings.items() if k not in of_engine})
    known = [name for name in signature(check_settings).parameters if name in checked]
    check_settings(**{name: checked[name] for name in known})
    if checked.get("device") is not None:
        check_device(checked["device"])
    if checked.get("coco_results") is not None:
        require_writable(checked["coco_results"])
    return options, checked


def _check_class_names(class_names: Sequence[str]) -> None:
    is_list = isinstance(class_names, Sequence) and not isinstance(class_names, str)
    if not is_list or not all(isinstance(name, str) for name in class_names):
        raise UserError(f"class_names is {class_names!r}: pass a list of names, in the order of their labels")
    if repeated := [name for name, count in Counter(class_names).items() if count > 1]:
        raise UserError(f"class_names has {repeated[0]!r} more than once: names must be unique")


def _check_settings(function: str, settings: dict[str, Any], known: Sequence[str]) -> None:
    for name in settings:
        if name not in known:
            similar = suggest(name, known)
            hint = f"did you mean {similar!r}?" if similar else f"it has {', '.join(known)}"
            raise UserError(f"{function} has no setting {name!r}; {hint}")


def _refuse_second_source(
    model: str | Detector | None, detector: DetectorConfig | Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> None:
    """Refuse settings that determine the detector beside a built one or a complete configuration, which ignore them."""
    weights, backbone = settings.get("weights"), settings.get("backbone")
    if isinstance(model, Detector):
        for name, value in {"detector": detector, "backbone": backbone, "weights": weights}.items():
            if value is not None:
                raise UserError(f"model is a built detector: leave out {name}, or pass the name of a model")
    if isinstance(detector, DetectorConfig):
        for name, value, own in (("model", model, detector.model), ("backbone", backbone, detector.backbone.name)):
            if value not in (None, own):
                raise UserError(f"detector is the complete configuration of {own}: leave out {name}={value!r}")


def _read_detector(
    values: Mapping[str, Any], name: str, backbone: str | None, weights: str | Path | None
) -> DetectorConfig:
    from libradet.training.options import read_detector

    return read_detector(values, name, backbone, None if weights is None else str(weights))


def _resume(
    folder: Path,
    model: str | None,
    settings: dict[str, Any],
    callbacks: "Sequence[Callback]",
    loggers: "Sequence[Logger]",
    transforms: "tuple[Callable[..., Any], ...] | None",
) -> "TrainResult":
    from libradet.training.options import parse_train
    from libradet.training.run import train as run_training

    request = parse_train(["--resume", str(folder)])
    for name, value in {"model": model, "backbone": settings.get("backbone")}.items():
        own = getattr(request.config, name)
        if value not in (None, own):
            raise UserError(f"{folder}: the run was started with {name} {own}; leave out {name}={value!r}")
    config = replace(request.config, **settings)
    return run_training(config, request.detector, folder, callbacks=callbacks, loggers=loggers, transforms=transforms)

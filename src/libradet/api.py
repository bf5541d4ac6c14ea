"""What to do with detectors, from Python."""

from collections.abc import Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libradet.data.read import read
from libradet.errors import UserError
from libradet.interop.loading import load_any, start_from
from libradet.models import create
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.models.inference_form import optimize
from libradet.models.proposal_needs import check_finder
from libradet.training.settings import TrainConfig

if TYPE_CHECKING:
    import torch
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

    from libradet.evaluation.coco_metrics import Metrics
    from libradet.export.exporting import Written
    from libradet.export.running import Exported
    from libradet.inference.finder import Finder
    from libradet.training.run import TrainResult

__all__ = ["create_model", "evaluate", "export_model", "load_model", "optimize", "train"]


def create_model(
    name: str = "libra_faster_rcnn",
    num_classes: int = 80,
    backbone: str | None = None,
    weights: str | Path | None = None,
    class_names: tuple[str, ...] | list[str] = (),
    config: DetectorConfig | None = None,
    allow_partial: bool = False,
) -> Detector:
    """Build a detector.

    Args:
        name: a zoo name; ignored if ``config`` is given.
        num_classes: C, without background; ``class_names`` decides it if given.
        backbone: a timm model with features, such as ``resnet18``, ``resnet50``, ``resnext101_64x4d``.
        weights: None for random values, ``"imagenet"`` for the backbone, or the path of a saved model or of a
            checkpoint of mmdetection, torchvision or detectron2: images are then normalized as there, and the
            class layers start at random if the classes are others. ``model.fresh`` names such layers.
        class_names: names of labels 0..C-1.
        config: a full configuration instead of name and backbone; it is not changed.
        allow_partial: take over the weights that fit, and leave other layers at random.

    Raises:
        UserError: unknown names, or weights that cannot be had or do not fit.
    """
    trained, lost = start_from(weights, allow_partial)
    model = create.create_model(name, num_classes, backbone, trained, class_names, config, allow_partial)
    model.fresh += lost
    return model


def train(
    model: str | Detector = "libra_faster_rcnn",
    data: str | Path = "",
    *,
    detector: DetectorConfig | None = None,
    resume: str | Path | None = None,
    callbacks: "Sequence[Callback]" = (),
    logger: "Sequence[Logger | str] | Logger | None" = None,
    **settings: Any,
) -> "TrainResult":
    """Train a detector as ``libradet train`` does.

    Args:
        model: zoo name, or a detector to train on, whose classes have to be those of the data.
        data: folder with images and annotations, in any layout that is recognized.
        detector: full configuration of a new detector; its class names come from the data.
        resume: run folder to continue.
        callbacks: Lightning's or your own, beside those of the run.
        logger: Lightning's or your own, beside metrics.csv, or names such as "wandb".
        settings: fields of :class:`libradet.training.settings.TrainConfig`, such as ``epochs``, ``lr``, ``out``.

    Returns:
        the run folder, the file of the best model, and its metrics.

    Raises:
        UserError: unknown settings, with the nearest valid one; or the run cannot start or go on.
    """
    from lightning.pytorch.loggers import Logger

    from libradet.training.run import train as run_training

    known = [f.name for f in fields(TrainConfig)]
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise UserError(
                f"there is no setting {name!r}; {f'did you mean {near[0]!r}?' if near else 'see TrainConfig'}"
            )
    settings |= {name: str(settings[name]) for name in ("proposals", "val_proposals") if settings.get(name)}
    given = [] if logger is None else [logger] if isinstance(logger, Logger | str) else list(logger)
    if logger is not None:
        settings["logger"] = [name for name in given if isinstance(name, str)]
    more = {"callbacks": callbacks, "loggers": [one for one in given if isinstance(one, Logger)]}
    if resume is not None:
        return _resume(Path(resume), settings, more)
    name = model if isinstance(model, str) else model.config.model
    config = TrainConfig(data=str(data), model=name, **settings)
    return run_training(config, model if isinstance(model, Detector) else detector, **more)


def _resume(folder: Path, settings: dict[str, Any], more: dict[str, Any]) -> "TrainResult":
    from libradet.train_options import parse_train
    from libradet.training.run import train as run_training

    request = parse_train(["--resume", str(folder)])
    return run_training(replace(request.config, **settings), request.detector, folder, **more)


def load_model(path: str | Path, device: "str | torch.device" = "cpu") -> "Detector | Exported":
    """The model in a file, ready to look at images.

    Args:
        path: our own .safetensors, another toolbox's checkpoint, or what :func:`export_model` wrote (.onnx, .pt2).
            A .pt2 is code: load those of people you trust. Nothing in the others is executed.
        device: where a detector computes; exported files compute on the CPU.

    Raises:
        UserError: no such file, of unknown origin, or damaged; or a library is missing.
    """
    if Path(path).suffix not in (".onnx", ".pt2"):
        return load_any(path, device)
    from libradet.export.formats import open_exported

    return open_exported(path)


def export_model(model: str | Path | Detector, path: str | Path, **settings: Any) -> "Written":
    """Write a detector as a file that runs without libradet: ``libradet export``.

    Args:
        model: a detector, or the file of one.
        path: .onnx for ONNX, .pt2 for a program of torch.export.
        settings: keywords of :func:`libradet.export.exporting.export`, such as ``size`` or ``resize``.

    Returns:
        the file, and by how much it differs from the model on some images.
    """
    from libradet.export.exporting import export as write

    return write(model if isinstance(model, Detector) else load_any(model), path, **settings)


def evaluate(
    model: "str | Path | Finder",
    data: str | Path,
    split: str = "val",
    *,
    skip_broken: bool = False,
    proposals: str | Path | None = None,
    **settings: Any,
) -> "Metrics":
    """Measure a detector on one split of a dataset.

    Args:
        model: a detector, an exported one, or the file of either.
        data: folder with images and annotations, in any layout that is recognized.
        split: "train", "val", ... or the layout's own name.
        skip_broken: leave out images that are missing or damaged, instead of refusing the split.
        proposals: file of proposals, or folder with one for each split, for a model without rpn.
        settings: keywords of :func:`libradet.evaluation.evaluate.evaluate`, such as ``size`` or ``device``.

    Returns:
        COCO's numbers, see :func:`libradet.evaluation.coco_metrics.coco_metrics`.
    """
    from libradet.evaluation.evaluate import evaluate as evaluate_dataset

    finder = load_model(model) if isinstance(model, str | Path) else model
    check_finder(finder, proposals)
    dataset, report = read(data, split, training=False, skip_broken=skip_broken, masks=finder.gives_masks)
    metrics = evaluate_dataset(finder, dataset, proposals=proposals, **settings)
    skipped = [f"{s['count']} × {s['what']} left out" for s in report.skipped]
    metrics["notes"] = [*skipped, *report.warnings, *metrics["notes"]]
    return metrics

"""A detector from a name or a configuration, and the weights that it starts from."""

from copy import deepcopy
from pathlib import Path

from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.models.model_file import load_model
from libradet.models.pretrained import BackboneWeights
from libradet.models.transfer import follow_values, take_over
from libradet.models.zoo import make_config


def create_model(
    name: str = "libra_faster_rcnn",
    num_classes: int = 80,
    backbone: str | None = None,
    weights: str | Path | Detector | BackboneWeights | None = None,
    class_names: tuple[str, ...] | list[str] = (),
    config: DetectorConfig | None = None,
    allow_partial: bool = False,
) -> Detector:
    """Build a detector; layers that trained weights did not fill are in its ``fresh``.

    Args:
        name: a zoo name; ignored if ``config`` is given.
        num_classes: C, without background; ``class_names`` decides it if given.
        backbone: a timm model with features, such as ``resnet18``, ``resnet50``, ``resnext101_64x4d``.
        weights: None for random values, ``"imagenet"`` for the backbone, or the path of a saved model, or a
            trained detector. Normalization of images is then that of the trained model. If its classes are
            others (another number, or other names), the class layers start at random.
        class_names: names of labels 0..C-1.
        config: a full configuration instead of name and backbone; it is not changed.
        allow_partial: take over the weights that fit, and leave other layers at random.

    Raises:
        UserError: unknown names, or weights that cannot be had or do not fit.
    """
    trained = weights if isinstance(weights, Detector) else None
    alone = weights if isinstance(weights, BackboneWeights) else None
    if isinstance(weights, str | Path) and weights != "imagenet":
        trained = load_model(weights)
    if config is None:
        start = trained.config if trained else alone or ("imagenet" if weights else None)
        config = make_config(name, len(class_names) or num_classes, backbone, start)
    else:
        config = follow_values(config, trained.config) if trained else deepcopy(config)
    if class_names:
        # Ids belong to the classes that they were given to.
        config.category_ids = config.category_ids if config.class_names in ((), tuple(class_names)) else ()
        config.num_classes, config.class_names = len(class_names), tuple(class_names)
    elif len(config.class_names) != config.num_classes:
        config.class_names = tuple(f"class_{i}" for i in range(config.num_classes))
    model = Detector(config, pretrained=alone or weights == "imagenet")
    if trained is not None:
        model.fresh = take_over(model, trained, allow_partial)
    return model

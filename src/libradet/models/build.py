"""Build a detector from a name or a configuration, and the weights that it starts from."""

from copy import deepcopy
from pathlib import Path

from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.models.load_pretrained import BackboneWeights, inherit_normalization, load_matching_weights
from libradet.models.serialization import load_model
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
    """Build a detector; ``reinitialized_layers`` of it names the layers that trained weights did not fill.

    Args:
        name: a model of the zoo; ignored with ``config``.
        num_classes: C, without background; the number of ``class_names`` if these are set.
        backbone: a timm model with features, such as ``resnet18``, ``resnet50``, ``resnext101_64x4d``.
        weights: None for random values, ``"imagenet"`` for the backbone, the path of a saved model, or a trained
            detector, whose normalization of images is then used. If its classes differ in number or names, the class
            layers start from random values.
        class_names: names of labels 0..C-1.
        config: a full configuration instead of name and backbone; it is not modified.
        allow_partial: load the weights that match, and start other layers from random values.

    Raises:
        UserError: unknown names, or weights that cannot be downloaded or do not match.
    """
    trained = weights if isinstance(weights, Detector) else None
    backbone_weights = weights if isinstance(weights, BackboneWeights) else None
    if isinstance(weights, str | Path) and weights != "imagenet":
        trained = load_model(weights)
    if config is not None:
        config = inherit_normalization(config, trained.config) if trained else deepcopy(config)
    elif trained is not None:
        config = make_config(name, len(class_names) or num_classes, backbone, trained.config)
    else:
        start = backbone_weights or ("imagenet" if weights else None)
        config = make_config(name, len(class_names) or num_classes, backbone, start)
    _set_classes(config, tuple(class_names))
    model = Detector(config, pretrained=backbone_weights or weights == "imagenet")
    if trained is not None:
        model.reinitialized_layers = load_matching_weights(model, trained, allow_partial)
    return model


def _set_classes(config: DetectorConfig, class_names: tuple[str, ...]) -> None:
    """Set names of classes; ids of other classes are dropped, and missing names are numbered."""
    if class_names:
        config.category_ids = config.category_ids if config.class_names in ((), class_names) else ()
        config.num_classes, config.class_names = len(class_names), class_names
    elif len(config.class_names) != config.num_classes:
        config.class_names = tuple(f"class_{i}" for i in range(config.num_classes))

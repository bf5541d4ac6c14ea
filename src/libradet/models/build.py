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
    """Build a detector; see :func:`libradet.api.create_model`, which adds checkpoints of other toolboxes.

    Args:
        weights: None, ``"imagenet"``, the path of a saved model, a trained detector, or weights of a backbone.

    Returns:
        the detector; ``reinitialized_layers`` names the layers that the weights did not fill.

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

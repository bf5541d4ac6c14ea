"""Settings of a detector that have no effect, because another setting switches off what they belong to.

They are refused where a person states them, and not in a saved configuration, which has a value for every field.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from libradet.errors import UserError
from libradet.models.config import (
    FEATURE_STRIDES,
    AnchorConfig,
    BackboneConfig,
    BoxLossConfig,
    ClassBalanceConfig,
    DetectionConfig,
    DetectorConfig,
    MaskConfig,
    MatchConfig,
    PyramidConfig,
    RetinaNetHeadConfig,
    RoIConfig,
    SamplingConfig,
)


class _Rule(NamedTuple):
    """``names`` have an effect if ``is_used(part, detector)``; ``needs`` says in words when that is."""

    names: tuple[str, ...]
    is_used: Callable[[Any, DetectorConfig], bool]
    needs: str


def _has_type(*types: str) -> Callable[[Any, DetectorConfig], bool]:
    return lambda part, _: part.type in types


def _num_extra_levels(pyramid: PyramidConfig, config: DetectorConfig) -> int:
    strides = FEATURE_STRIDES[config.backbone.features]
    return pyramid.num_levels - sum(stride >= pyramid.start_stride for stride in strides)


def _has_batch_norms(backbone: BackboneConfig, config: DetectorConfig) -> bool:
    # Imports torch and timm, so it is called only where such a setting was changed.
    from libradet.models.backbone_body import has_batch_norms

    return has_batch_norms(backbone.name)


_HAS_CONVS = _Rule(("norm",), lambda part, _: part.num_convs > 0, "num_convs above 0")

_RULES: dict[type, tuple[_Rule, ...]] = {
    BackboneConfig: (
        _Rule(("freeze_at", "frozen_norm"), lambda part, _: not part.frozen, "frozen false, as it freezes all layers"),
        _Rule(("frozen_norm", "norm_eps"), _has_batch_norms, "a backbone with batch norms"),
    ),
    AnchorConfig: (_Rule(("scales",), lambda part, _: not part.sizes, "sizes empty"),),
    BoxLossConfig: (
        _Rule(("alpha", "gamma", "variant"), _has_type("balanced_l1"), "type balanced_l1"),
        _Rule(("beta",), _has_type("smooth_l1", "balanced_l1"), "type smooth_l1 or balanced_l1"),
    ),
    SamplingConfig: (
        _Rule(("num_bins", "bins"), lambda part, _: part.negatives == "iou_balanced", "negatives iou_balanced"),
    ),
    MatchConfig: (
        _Rule(("min_pos_iou",), lambda part, _: part.allow_low_quality_matches, "allow_low_quality_matches true"),
    ),
    ClassBalanceConfig: (
        _Rule(("beta",), _has_type("effective_number"), "type effective_number"),
        _Rule(
            ("frequencies",),
            _has_type("inverse_frequency", "effective_number"),
            "type inverse_frequency or effective_number",
        ),
        _Rule(("p", "q"), _has_type("seesaw"), "type seesaw"),
        _Rule(("gamma", "mu", "alpha"), _has_type("eql_v2"), "type eql_v2"),
    ),
    PyramidConfig: (
        _Rule(
            ("extra_levels",),
            lambda part, config: _num_extra_levels(part, config) > 0,
            "more num_levels, so that there are any",
        ),
        _Rule(
            ("extra_relu",),
            lambda part, config: part.extra_levels != "max_pool" and _num_extra_levels(part, config) > 1,
            "two extra levels or more, and extra_levels conv_on_c5 or conv_on_p5",
        ),
    ),
    DetectionConfig: (
        _Rule(
            ("nms_thresh", "min_size"),
            lambda _, config: not config.is_proposal_model,
            "a model with classes; for proposals, set it in rpn.test_proposals",
        ),
        _Rule(("sigma",), lambda part, _: part.nms_type == "soft_gaussian", "nms_type soft_gaussian"),
        _Rule(("min_score",), lambda part, _: part.nms_type != "nms", "nms_type soft_linear or soft_gaussian"),
    ),
    RoIConfig: (
        _HAS_CONVS,
        _Rule(("box_std",), lambda _, config: config.cascade is None, "a model without cascade; set cascade.box_stds"),
    ),
    MaskConfig: (_HAS_CONVS,),
    RetinaNetHeadConfig: (_HAS_CONVS,),
}


def refuse_unused_settings(config: DetectorConfig, default: DetectorConfig) -> None:
    """Raise UserError for a setting without effect in ``config`` that is not as in ``default``.

    Args:
        default: what the settings were applied to; for its parts that are None, the defaults of the fields count.
    """
    for path, part, reference in _parts(config, default):
        for rule in _RULES.get(type(part), ()):
            changed = [name for name in rule.names if getattr(part, name) != getattr(reference, name)]
            if changed and not rule.is_used(part, config):
                raise UserError(
                    f"detector.{path}.{changed[0]} is {getattr(part, changed[0])}, which has no effect here: it needs "
                    f"{rule.needs}. Change that, or leave it out"
                )


def _parts(config: Any, default: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield dotted name, value and default of every dataclass inside ``config``."""
    for field in fields(config):
        value, reference = getattr(config, field.name), getattr(default, field.name)
        if is_dataclass(value):
            reference = reference if isinstance(reference, type(value)) else type(value)()
            name = f"{path}.{field.name}".lstrip(".")
            yield name, value, reference
            yield from _parts(value, reference, name)

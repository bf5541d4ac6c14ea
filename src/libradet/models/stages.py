"""Which stage of a backbone each of its parameters belongs to."""

from typing import Any

from libradet.errors import UserError
from libradet.models.backbones import STRIDES, Backbone

STAGES = len(STRIDES)


def stage_of_parameters(backbone: Backbone) -> dict[str, int]:
    """By the name of a parameter: 0 for the stem, 1 to STAGES for the stages that end in C2 to C5.

    timm groups layers of whole models only (``group_matcher``): feature extractors lack it, and have other names. Here
    a stage is what lies between two features: all modules after the one before, up to the one that gives the feature.

    Raises:
        UserError: the backbone's features do not come from modules of their own.
    """
    info: Any = backbone.body.feature_info
    names = [f"{name.replace('.', '_')}_" for name in info.module_name()]  # as timm flattens them
    stage_at = {name: sum(row <= i for row in backbone.rows) for i, name in enumerate(names)}
    stage, found, met = STAGES, {}, set()
    for name, module in reversed(list(backbone.named_modules())):
        flat = f"{name.replace('.', '_').removeprefix('body_').removeprefix('model_')}_"
        here = next((feature for feature in names if flat.startswith(feature)), None)
        if here is not None:
            stage = stage_at[here]
            met.add(stage)
        elif stage == 1 and backbone.rows[0] == 0:  # no feature before the first stage, so what is there is the stem
            stage = 0
        found |= dict.fromkeys((f"{name}.{own}" for own, _ in module.named_parameters(recurse=False)), stage)
    if not met.issuperset(range(1, STAGES + 1)):
        raise UserError(
            f"the backbone ({type(backbone.body).__name__}) has no stages to tell apart: leave layer_decay out"
        )
    return found

"""Classification losses in mmdetection's checkpoints, as far as they change the classifier or its scores."""

from collections.abc import Mapping, Sequence
from typing import Any

from libradet.errors import UserError
from libradet.interop.checkpoint_format import Tensors
from libradet.interop.literal_config import first_dict
from libradet.models.config import ClassBalanceConfig, RoIConfig

Settings = Mapping[str, Any]

OPTION = "--detector.roi.class_balance.type"
OTHER_CLASSIFIERS = {
    "SeesawLoss": f"two logits of objectness beside those of the classes; seesaw loss without them is {OPTION} seesaw",
    "EQL": f"no logit of the background; the second version of this loss is {OPTION} eql_v2",
    "GroupSoftmax": f"several groups of classes; losses that balance classes are {OPTION} seesaw and eql_v2",
}
"""Losses whose classifiers have other logits than one of each class and one of the background."""

EQUALIZATION = "EQLv2"
"""Equalization loss v2 in its authors' fork of version 2, which scores boxes as its paper does."""

EQUALIZATION_BY_SOFTMAX = "EQLV2Loss"
"""The same loss in version 3, which does not use the loss's own scores: it scores boxes by softmax."""


def check_logits(tensors: Tensors, head: str) -> None:
    """Refuse a box head whose classifier has other logits than one of each class and one of the background.

    Args:
        head: prefix of its tensors.

    Raises:
        UserError: names the loss, as far as it is known, and the option for it here.
    """
    if f"{head}loss_cls.cum_samples" in tensors:
        _refuse("SeesawLoss")
    logits, deltas = tensors[f"{head}fc_cls.weight"].shape[0], tensors[f"{head}fc_reg.weight"].shape[0]
    # Before version 2, the background has deltas as well.
    if deltas not in (4, 4 * (logits - 1), 4 * logits):
        raise UserError(
            f"its box head has {logits} logits for the {deltas // 4} classes of its boxes, not one for each class and "
            f"one for the background; those of SeesawLoss, for example, are not supported (here: {OPTION} seesaw)"
        )


def apply_class_losses(config: RoIConfig, heads: Sequence[Settings]) -> None:
    """Set the loss of the box heads, one or those of a cascade, if their scores follow from it.

    Raises:
        UserError: their classifiers are not supported.
    """
    losses = [first_dict(head, "loss_cls") for head in heads]
    kinds = {str(loss.get("type", "")) for loss in losses}
    for kind in OTHER_CLASSIFIERS:
        if kind in kinds:
            _refuse(kind)
    for head in heads:
        _check_predictors(head, ("cls_predictor_cfg", "reg_predictor_cfg"), "Linear")
    if EQUALIZATION not in kinds:
        return
    if len(kinds) > 1 or any(not loss.get("test_with_obj", True) for loss in losses):
        raise UserError(f"{EQUALIZATION} in some of its box heads, or with test_with_obj=False, is not supported")
    defaults = ClassBalanceConfig("eql_v2")
    gamma, mu, alpha = (float(losses[0].get(name, getattr(defaults, name))) for name in ("gamma", "mu", "alpha"))
    config.class_balance = ClassBalanceConfig("eql_v2", gamma=gamma, mu=mu, alpha=alpha)


def check_mask_head(head: Settings) -> None:
    """Refuse a mask head whose last layer is normalized."""
    _check_predictors(head, ("predictor_cfg",), "Conv")


def check_equalization(tensors: Tensors, config: RoIConfig, settings: str) -> None:
    """Refuse a checkpoint of equalization loss v2 without settings: they alone tell how boxes are scored."""
    is_known = config.class_balance is not None or EQUALIZATION_BY_SOFTMAX in settings
    if not is_known and any(name.endswith("loss_cls.pos_grad") for name in tensors):
        raise UserError(
            "its box head is trained with equalization loss v2, but it has no configuration that tells whether boxes "
            f'are scored by sigmoid ({EQUALIZATION}) or softmax ({EQUALIZATION_BY_SOFTMAX}): add meta["cfg"]'
        )


def _refuse(kind: str) -> None:
    raise UserError(f"its box head is trained with {kind}, whose classifier has {OTHER_CLASSIFIERS[kind]}")


def _check_predictors(head: Settings, keys: Sequence[str], allowed: str) -> None:
    for key in keys:
        kind = str(first_dict(head, key).get("type", allowed))
        if not kind.startswith(allowed):
            raise UserError(f"its setting {key}={kind!r} is not supported: weights and features are normalized there")

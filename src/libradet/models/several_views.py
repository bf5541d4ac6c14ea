"""A detector that looks at every picture several times."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from libradet.data.loading.transforms import Size
from libradet.errors import UserError
from libradet.inference.finder import Finder
from libradet.inference.views import Views
from libradet.models.detector import Detector
from libradet.models.survivors import survivors


def in_views(model: Finder, flip: bool = False, sizes: Sequence[int | Size] = (), size: Size | None = None) -> Finder:
    """``model`` itself, or with ``flip`` or ``sizes``, what looks several times and merges as the detector suppresses.

    Detections of all views suppress each other within classes as a detector's ``config.detections`` says, proposals as
    ``rpn.test_proposals``; those of an exported model as :class:`Views` does by itself. What suppression guided by
    expected IoUs has left is merged by score.

    Args:
        flip, sizes: see :class:`libradet.inference.views.Views`.
        size: the only one to resize to.

    Raises:
        UserError: ``size`` beside ``sizes``, a size is none, or the model resizes pictures itself.
    """
    if not flip and not sizes:
        return model
    if sizes and size is not None:
        raise UserError("one size and several exclude each other: add it to the others (--scales, sizes), or drop them")
    if sizes and model.image_size == "original":
        raise UserError(f"this {model.name} resizes pictures itself: leave --scales out, or load what it was made from")
    if not isinstance(model, Detector):
        return Views(model, flip, sizes)
    config = model.config.detections
    if model.config.proposes and model.config.rpn is not None:
        config = replace(config, nms=model.config.rpn.test_proposals.nms)
    return Views(model, flip, sizes, partial(survivors, config=config))

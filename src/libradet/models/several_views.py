"""A detector that looks at every image several times."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from libradet.data.loading.transforms import Size
from libradet.errors import UserError
from libradet.inference.finder import Finder
from libradet.inference.views import Views
from libradet.models.config import DetectorConfig
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
        UserError: ``size`` beside ``sizes``, a size is none, or the model resizes images itself.
    """
    if not flip and not sizes:
        return model
    if sizes and size is not None:
        raise UserError("one size and several exclude each other: add it to the others (--scales, sizes), or drop them")
    if sizes and model.image_size == "original":
        raise UserError(f"this {model.name} resizes images itself: leave --scales out, or load what it was made from")
    config = getattr(model, "config", None)
    if not isinstance(config, DetectorConfig):
        return Views(model, flip, sizes)
    detections = config.detections
    if config.proposes and config.rpn is not None:
        detections = replace(detections, nms=config.rpn.test_proposals.nms)
    return Views(model, flip, sizes, partial(survivors, config=detections))

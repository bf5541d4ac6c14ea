"""Checks of settings that need neither a model nor images, so that they come before either is loaded."""

from libradet.data.transforms.resize import Scales, Size, check_size
from libradet.geometry.tiles import TilesLike
from libradet.inference.predict import check_score_thresh
from libradet.inference.tiles import TileMerge, check_tiles
from libradet.inference.tta import check_scales
from libradet.predictor import check_batch_size


def check_settings(
    *,
    size: Size | None = None,
    batch_size: int = 1,
    score_thresh: float = 0.0,
    tta_scales: Scales = (),
    tiles: TilesLike | None = None,
    tile_merge: TileMerge = "nms",
) -> None:
    """Check settings of prediction and evaluation that no model could run with.

    Raises:
        UserError: a value is out of range, or two of them exclude each other.
    """
    check_batch_size(batch_size)
    check_score_thresh(score_thresh)
    if size is not None:
        check_size(size)
    check_scales(tta_scales, size)
    check_tiles(tiles, tile_merge)

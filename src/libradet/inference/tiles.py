"""Tiled inference for small objects in large images: detections of overlapping tiles are merged across their borders.

As in SAHI (Akyon et al., ICIP 2022), each tile is an image of its own to the model, resized to the model's size.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from libradet.data.batch import Batch
from libradet.data.tile_batches import TileBatches, batches_of_image
from libradet.data.transforms.resize import Size
from libradet.data.windows import WindowReader
from libradet.errors import UserError
from libradet.geometry.box_fusion import weighted_boxes_fusion
from libradet.geometry.nms import DEFAULT_NMS_THRESH, batched_nms
from libradet.geometry.tiles import Tiles, TilesLike, Window, as_tiles, tile_windows
from libradet.inference.run_model import OnBatch, run_model
from libradet.models.config import DetectorConfig
from libradet.predictor import Predictor
from libradet.structures import Detections

TileMerge = Literal["nms", "wbf"]
"""Class-wise NMS, or weighted boxes fusion."""

FUSION_THRESH = 0.55
"""IoU threshold of weighted boxes fusion, the one of its authors."""

MIN_ROWS = 1024
"""Detections that memory is reserved for at first."""


class Tiling(NamedTuple):
    """Settings of tiled inference.

    Attributes:
        tiles: size and overlap.
        merge: how detections of several tiles are merged.
        threshold: IoU of two boxes of a class from which on they are merged.
    """

    tiles: Tiles
    merge: TileMerge
    threshold: float


def make_tiling(model: Predictor, tiles: TilesLike | None, merge: TileMerge = "nms") -> Tiling | None:
    """Return the settings of tiled inference with a model; None without tiles.

    The threshold of NMS is that of the detector: ``config.detections.nms_thresh``, or that of ``rpn.test_proposals``
    for a proposal model.

    Args:
        model: without test-time augmentation.
        tiles: size in pixels of the image, and overlap as a fraction of it: (640, 0.2).
        merge: "nms" or "wbf".

    Raises:
        UserError: invalid tiles, ``merge`` without tiles, or a model that cannot be tiled so.
    """
    checked = check_tiles(tiles, merge)
    if checked is None:
        return None
    if model.num_proposals:
        raise UserError(f"{model.name} uses precomputed proposals, which are those of whole images: leave out tiles")
    if merge == "wbf" and model.has_masks:
        raise UserError(f"{model.name} has masks, which weighted boxes fusion cannot fuse: use tile_merge nms")
    return Tiling(checked, merge, FUSION_THRESH if merge == "wbf" else _nms_thresh(model))


def check_tiles(tiles: TilesLike | None, merge: TileMerge = "nms") -> Tiles | None:
    """Return the tiles that :func:`make_tiling` uses, None without them.

    Raises:
        UserError: invalid tiles, or ``merge`` without tiles.
    """
    if merge not in ("nms", "wbf"):
        raise UserError(f"tile_merge is {merge}: choose nms or wbf")
    if tiles is not None:
        return as_tiles(tiles)
    if merge != "nms":
        raise UserError(f"tile_merge is {merge}, which needs tiles: set tiles, or leave out tile_merge")
    return None


def _nms_thresh(model: Predictor) -> float:
    config = getattr(model, "config", None)
    if not isinstance(config, DetectorConfig):
        return DEFAULT_NMS_THRESH
    if config.is_proposal_model and config.rpn is not None:
        return config.rpn.test_proposals.nms_thresh
    return config.detections.nms_thresh


class GrowingRows:
    """Rows of a tensor that are appended to, in memory of twice the size whenever it is full.

    A tensor for each append would lie between the large ones of a model's steps, and these cannot be returned to the
    system then: the memory of a process would grow with every tile.
    """

    def __init__(self) -> None:
        self._memory: Tensor | None = None
        self._count = 0

    def append(self, rows: Shaped[Tensor, "N *"]) -> None:
        """Copy further rows, of the same type and trailing size as all others."""
        count = self._count + len(rows)
        if self._memory is None or count > len(self._memory):
            larger = rows.new_empty(max(2 * count, MIN_ROWS), *rows.shape[1:], device="cpu")
            if self._memory is not None:
                larger[: self._count] = self.rows
            self._memory = larger
        self._memory[self._count : count] = rows
        self._count = count

    @property
    def has_memory(self) -> bool:
        """Whether anything was appended, if only no rows."""
        return self._memory is not None

    @property
    def rows(self) -> Shaped[Tensor, "M *"]:
        """All rows so far."""
        return torch.empty(0) if self._memory is None else self._memory[: self._count]


class TileDetections:
    """Detections of the tiles of one image so far, in pixels of the image."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self.windows = windows
        self.num_tiles = 0
        self._boxes, self._scores, self._labels, self._masks = (GrowingRows() for _ in range(4))

    @property
    def is_complete(self) -> bool:
        """Whether all tiles have been added."""
        return self.num_tiles == len(self.windows)

    def add(self, detections: Detections, row: int, scale: Float64[Tensor, " 2"], number: int) -> None:
        """Add those of one tile by its number: image ``row`` of a batch that was resized by ``scale`` (x, y)."""
        keep, window = detections.valid[row], self.windows[number]
        corner = torch.tensor([window.left, window.top], dtype=torch.float64)
        # Double precision: a position in a large image uses most digits of a single one.
        self._boxes.append(detections.boxes[row, keep].double().cpu() / scale.repeat(2) + corner.repeat(2))
        self._scores.append(detections.scores[row, keep])
        self._labels.append(detections.labels[row, keep])
        if detections.masks is not None:
            self._masks.append(detections.masks[row, keep])
        self.num_tiles += 1

    def merge(self, tiling: Tiling, height: int, width: int) -> Detections:
        """Return the merged detections [1, D] by falling score, clipped to an image of this size."""
        boxes, scores, labels, masks = (
            column.rows for column in (self._boxes, self._scores, self._labels, self._masks)
        )
        boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height] * 2, dtype=torch.float64))
        if tiling.merge == "wbf":
            fused = weighted_boxes_fusion(boxes.numpy(), scores.double().numpy(), labels.numpy(), tiling.threshold)
            boxes, scores, labels = (torch.from_numpy(column)[None] for column in fused)
            return Detections(boxes, scores, labels, torch.ones_like(labels, dtype=torch.bool))
        columns = boxes[None], scores[None], labels[None], torch.ones(1, len(labels), dtype=torch.bool)
        ranked, kept = batched_nms(*columns, threshold=tiling.threshold, size=max(len(labels), 1))
        rows = ranked[0, kept[0]]
        valid = torch.ones(1, len(rows), dtype=torch.bool)
        kept_masks = masks[rows][None] if self._masks.has_memory else None
        return Detections(boxes[rows][None], scores[rows][None], labels[rows][None], valid, kept_masks)


class TileMerger:
    """Merges the detections of a dataset's tiles, and passes those of each image on as soon as all its tiles are there.

    Args:
        batches: the batches that the detections are of.
        on_image: receives the merged detections of one image in pixels of its file, and a batch without pixels whose
            ``index`` is the row of the image.
        tiling: settings.
    """

    def __init__(self, batches: TileBatches, on_image: OnBatch, tiling: Tiling) -> None:
        self._batches, self._on_image, self._tiling = batches, on_image, tiling
        self._images: dict[int, TileDetections] = {}

    def update(self, detections: Detections, batch: Batch) -> None:
        """Add the detections of a batch of tiles."""
        assert batch.index is not None
        assert batch.scales is not None
        scales = batch.scales.cpu().double()
        for row, tile in enumerate(batch.index.tolist()):
            image_row = self._batches.image_of(tile)
            if image_row not in self._images:
                self._images[image_row] = TileDetections(self._batches.windows(image_row))
            image = self._images[image_row]
            image.add(detections, row, scales[row], tile - int(self._batches.first_tile[image_row]))
            if image.is_complete:
                self._finish(image_row, self._images.pop(image_row))

    def _finish(self, row: int, image: TileDetections) -> None:
        record = self._batches.dataset.images[row]
        merged = image.merge(self._tiling, record.height, record.width)
        self._on_image(merged, batch_without_pixels(record.height, record.width, row))


def detect_in_tiles(model: Predictor, reader: WindowReader, tiling: Tiling, size: Size, batch_size: int) -> Detections:
    """Return the merged detections [1, D] of one image, in its pixels, of a model in evaluation mode.

    Args:
        size: (short, long) side to resize each tile to, or "original".
        batch_size: tiles per batch.
    """
    image = TileDetections(tile_windows(reader.height, reader.width, tiling.tiles))
    for batch in batches_of_image(reader, image.windows, size, model.size_divisible, batch_size):
        assert batch.index is not None
        assert batch.scales is not None
        detections, scales = run_model(model, batch), batch.scales.double()
        for row, number in enumerate(batch.index.tolist()):
            image.add(detections, row, scales[row], number)
    return image.merge(tiling, reader.height, reader.width)


def batch_without_pixels(height: int, width: int, index: int = 0) -> Batch:
    """Return a batch that describes one image of this size, not resized, without its pixels."""
    return Batch(
        torch.zeros(1, 3, 0, 0, dtype=torch.uint8),
        torch.tensor([[height, width]]),
        torch.zeros(1, 0, 4),
        torch.zeros(1, 0, dtype=torch.int64),
        torch.zeros(1, 0, dtype=torch.bool),
        index=torch.tensor([index]),
        scales=torch.ones(1, 2, dtype=torch.float64),
    )

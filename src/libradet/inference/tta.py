"""Test-time augmentation: run a model on flipped and rescaled copies of each image and merge the detections."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.data.collate import collate, unlabeled_sample
from libradet.data.transforms.flip import hflip
from libradet.data.transforms.resize import Scales, Size
from libradet.data.transforms.sample import Sample
from libradet.errors import UserError
from libradet.geometry.boxes import clip_boxes
from libradet.geometry.nms import DEFAULT_NMS_THRESH, batched_nms
from libradet.inference.preprocess import iter_batches
from libradet.inference.run_model import eval_mode, run_model
from libradet.models.config import DetectorConfig
from libradet.models.nms import multiclass_nms
from libradet.predictor import Predictor, bit_depth_of
from libradet.structures import Detections

Merge = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Maps boxes [B, N, 4], scores, labels and validity [B, N] of all views to the rows [B, D] that are kept, best first,
their scores and their validity."""


class TestTimeAugmentation(nn.Module):
    """Predictor that runs another one on several views of each image and merges their detections.

    Boxes are mapped back to the batch's pixels; masks follow the detections that are kept. With ``scales``, the batch
    must have the original images (``image_size`` is "original"), and each scale is batched as it is without
    augmentation. Images are resized and flipped on the CPU, as in the data loader, and are uint8.

    Args:
        predictor: the model to run.
        tta_flip: also run it on the horizontally flipped image.
        tta_scales: sizes to resize to: (short, long) sides, "original", or the short side alone, with the long side in
            the ratio of the predictor's own size. Empty: the batch as it is.
        merge: None for class-wise NMS at an IoU of 0.5, with as many detections as the predictor returns.

    Raises:
        UserError: a scale is invalid.
    """

    __test__ = False  # not a test class, in spite of its name

    def __init__(
        self,
        predictor: Predictor,
        tta_flip: bool = False,
        tta_scales: Scales = (),
        merge: Merge | None = None,
    ) -> None:
        super().__init__()
        self.predictor = predictor
        self.tta_flip = tta_flip
        self.tta_scales = [_full_size(scale, predictor.image_size) for scale in tta_scales]
        self.merge = merge

    @property
    def name(self) -> str:
        """Name of the wrapped predictor."""
        return self.predictor.name

    @property
    def class_names(self) -> Sequence[str]:
        """Class names of the wrapped predictor."""
        return self.predictor.class_names

    @property
    def category_ids(self) -> Sequence[int | str]:
        """Category ids of the wrapped predictor."""
        return self.predictor.category_ids

    @property
    def image_size(self) -> Size:
        """Size to resize to before the batch; "original" with several scales."""
        return "original" if self.tta_scales else self.predictor.image_size

    @property
    def size_divisible(self) -> int:
        """Divisor of padded sides of the wrapped predictor."""
        return self.predictor.size_divisible

    @property
    def bit_depth(self) -> int:
        """Bit depth of 16-bit files of the wrapped predictor."""
        return bit_depth_of(self.predictor)

    @property
    def device(self) -> torch.device:
        """Device of the wrapped predictor."""
        return self.predictor.device

    @property
    def is_proposal_model(self) -> bool:
        """True if the wrapped predictor outputs proposals."""
        return self.predictor.is_proposal_model

    @property
    def has_masks(self) -> bool:
        """True if the wrapped predictor outputs masks."""
        return self.predictor.has_masks

    @property
    def num_proposals(self) -> int:
        """Maximum number of input proposals per image of the wrapped predictor."""
        return self.predictor.num_proposals

    def forward(self, batch: Batch) -> Detections:
        """Return the merged detections of all views, in pixels of ``batch``."""
        flips = [False, True] if self.tta_flip else [False]
        with eval_mode(self.predictor):
            views = [self._detect(batch, scale, flipped) for scale in self.tta_scales or [None] for flipped in flips]
        candidates = _concatenate(views, dim=1)
        boxes = clip_boxes(candidates.boxes, batch.sizes.to(candidates.boxes.device))
        merge = self.merge or partial(_class_wise_nms, size=views[0].scores.shape[1])
        rows, scores, valid = merge(boxes, candidates.scores, candidates.labels, candidates.valid)
        image = torch.arange(len(rows), device=rows.device)[:, None]
        boxes, labels = boxes[image, rows] * valid[..., None], candidates.labels[image, rows] * valid
        masks = None if candidates.masks is None else candidates.masks[image, rows] * valid[..., None, None]
        return Detections(boxes, scores * valid, labels, valid, masks)

    def _detect(self, batch: Batch, scale: Size | None, flipped: bool) -> Detections:
        """Return the detections of one view, in the pixels and the order of ``batch``."""
        if scale is None and not flipped:
            return run_model(self.predictor, batch)
        samples = _to_samples(batch, scale or "original")
        if flipped:
            samples = [hflip(sample) for sample in samples]
        if scale is None:
            height, width = batch.images.shape[2:]
            parts = [collate(samples, padded_size=(height, width))]
        else:
            parts = list(iter_batches(samples, self.predictor.size_divisible, len(samples)))
        detections = [_undo_view(run_model(self.predictor, _with_origin(part, batch)), part, flipped) for part in parts]
        rows = torch.cat([part.index for part in parts if part.index is not None])
        whole = _concatenate(detections, dim=0)
        order = rows.argsort().to(whole.boxes.device)
        boxes, scores, labels, valid = (t[order] for t in whole[:4])
        return Detections(boxes, scores, labels, valid, None if whole.masks is None else whole.masks[order])


def with_tta(
    model: Predictor,
    tta_flip: bool = False,
    tta_scales: Scales = (),
    size: Size | None = None,
) -> Predictor:
    """Return ``model`` wrapped in :class:`TestTimeAugmentation`, or ``model`` itself without flip and scales.

    Detections of all views are merged by the NMS of a detector's ``config.detections``, proposals by that of
    ``rpn.test_proposals``; those of an exported model by the default of :class:`TestTimeAugmentation`. Scores that
    were fused with predicted IoUs are merged as they are.

    Args:
        tta_flip, tta_scales: see :class:`TestTimeAugmentation`.
        size: single size to resize to; excludes ``tta_scales``.

    Raises:
        UserError: ``size`` together with ``tta_scales``, an invalid scale, or a model that resizes images itself.
    """
    if not tta_flip and not tta_scales:
        return model
    check_scales(tta_scales, size)
    if tta_scales and model.image_size == "original":
        raise UserError(
            f"this {model.name} resizes images itself: leave out --tta_scales, or use the model it was exported from"
        )
    config = getattr(model, "config", None)
    if not isinstance(config, DetectorConfig):
        return TestTimeAugmentation(model, tta_flip, tta_scales)
    detections = config.detections
    if config.is_proposal_model and config.rpn is not None:
        detections = replace(detections, nms_thresh=config.rpn.test_proposals.nms_thresh)
    return TestTimeAugmentation(model, tta_flip, tta_scales, partial(multiclass_nms, config=detections))


def check_scales(tta_scales: Scales, size: Size | None = None) -> None:
    """Check what :func:`with_tta` can check without a model.

    Raises:
        UserError: ``size`` together with ``tta_scales``, or an invalid scale.
    """
    if tta_scales and size is not None:
        raise UserError("size and tta_scales exclude each other: add the size to tta_scales, or leave one of them out")
    for scale in tta_scales:
        _check_scale(scale)


def _concatenate(parts: Sequence[Detections], dim: int) -> Detections:
    boxes, scores, labels, valid = (torch.cat(t, dim) for t in zip(*(part[:4] for part in parts), strict=True))
    masks = [part.masks for part in parts if part.masks is not None]
    return Detections(boxes, scores, labels, valid, torch.cat(masks, dim) if masks else None)


def _full_size(scale: int | Size, model_size: Size) -> Size:
    """Return (short, long) or "original" for one entry of ``tta_scales``."""
    if scale == "original":
        return scale
    if isinstance(scale, int):
        if model_size == "original":
            raise UserError(f"tta_scales has {scale}: this model has no size of its own; pass (short, long) sides")
        scale = scale, round(scale * model_size[1] / model_size[0])
    _check_scale(scale)
    return scale


def _check_scale(scale: int | Size) -> None:
    if scale == "original":
        return
    sides = (scale, scale) if isinstance(scale, int) else scale
    if isinstance(sides, str) or len(sides) != 2 or not 0 < sides[0] <= sides[1]:
        raise UserError(f"tta_scales has {scale}: use a shorter side or (short, long) sides, in pixels above 0")


def _to_samples(batch: Batch, scale: Size) -> list[Sample]:
    """Return the images without padding, resized; ``Sample.index`` is the row in the batch."""
    images = batch.images.cpu()
    proposals = None if batch.proposals is None else batch.proposals.cpu()
    return [
        unlabeled_sample(images[row, :, :height, :width], scale, row, None if proposals is None else proposals[row])
        for row, (height, width) in enumerate(batch.sizes.tolist())
    ]


def _with_origin(part: Batch, batch: Batch) -> Batch:
    """Return ``part`` with the dataset rows of ``batch`` and scales relative to the files, where they are known."""
    assert part.index is not None
    assert part.scales is not None
    index = None if batch.index is None else batch.index.cpu()[part.index]
    scales = part.scales if batch.scales is None else part.scales * batch.scales.cpu()[part.index]
    return part._replace(index=index, scales=scales)


def _undo_view(detections: Detections, part: Batch, flipped: bool) -> Detections:
    """Map detections of a view back to the pixels of the batch that the view was made from."""
    boxes, masks = detections.boxes, detections.masks
    if flipped:
        boxes = _hflip_boxes(boxes, part.sizes[:, 1:].to(boxes))
        masks = None if masks is None else masks.flip(-1)
    assert part.scales is not None
    scale = part.scales.repeat(1, 2)[:, None].to(boxes)
    return detections._replace(boxes=boxes / scale, masks=masks)


def _hflip_boxes(boxes: Float[Tensor, "B D 4"], width: Float[Tensor, "B 1"]) -> Float[Tensor, "B D 4"]:
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack([width - right, top, width - left, bottom], dim=-1)


def _class_wise_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, valid: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    rows, kept = batched_nms(boxes, scores, labels, valid, threshold=DEFAULT_NMS_THRESH, size=size)
    return rows, scores.gather(1, rows), kept

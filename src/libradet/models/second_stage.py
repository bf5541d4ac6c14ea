"""The second stage as a whole: one box head, or a cascade of them."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.inference.detections import Detections
from libradet.models.cascade import cascade_detect, cascade_losses, stage_configs
from libradet.models.config import DetectorConfig
from libradet.models.roi_head import BoxHead, RegionSamples, detect, region_losses, sample_regions
from libradet.models.rpn import Proposals


def box_heads(channels: int, config: DetectorConfig) -> BoxHead | nn.ModuleList | None:
    """One head, a list of them for a cascade, None without second stage."""
    if config.roi is None:
        return None
    if config.cascade is None:
        return BoxHead(channels, config.num_classes, config.roi)
    stages = stage_configs(config.roi, config.cascade)
    return nn.ModuleList(BoxHead(channels, config.num_classes, stage) for stage in stages)


def second_stage_losses(
    heads: nn.Module,
    pyramid: Sequence[Tensor],
    strides: Sequence[int],
    proposals: Proposals,
    batch: Batch,
    config: DetectorConfig,
) -> tuple[dict[str, Float[Tensor, ""]], RegionSamples]:
    """Losses, and the samples of the (last) stage."""
    assert config.roi is not None
    if config.cascade is None:
        assert isinstance(heads, BoxHead)
        samples = sample_regions(heads, pyramid, strides, proposals, batch, config.roi)
        losses, _ = region_losses(heads, pyramid, strides, samples, batch, config.roi)
        return losses, samples
    stages = stage_configs(config.roi, config.cascade)
    return cascade_losses(_listed(heads), pyramid, strides, proposals, batch, stages)


def second_stage_detect(
    heads: nn.Module,
    pyramid: Sequence[Tensor],
    strides: Sequence[int],
    proposals: Proposals,
    sizes: Int[Tensor, "B 2"],
    config: DetectorConfig,
) -> Detections:
    """What proposals turn out to be."""
    assert config.roi is not None
    if config.cascade is None:
        assert isinstance(heads, BoxHead)
        return detect(heads, pyramid, strides, proposals, sizes, config.roi, config.detections)
    stages = stage_configs(config.roi, config.cascade)
    return cascade_detect(_listed(heads), pyramid, strides, proposals, sizes, stages, config.cascade, config.detections)


def _listed(heads: nn.Module) -> list[BoxHead]:
    return [head for head in heads.children() if isinstance(head, BoxHead)]

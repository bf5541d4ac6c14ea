"""Samplers in mmdetection's configurations: they change training only, and start a fine-tuning with equal settings."""

from collections.abc import Mapping
from typing import Any, Literal

from libradet.interop.literal_config import first_dict
from libradet.models.config import DetectorConfig, SamplingConfig

Settings = Mapping[str, Any]
Positives = Literal["random", "instance_balanced", "ohem"]
Negatives = Literal["random", "iou_balanced", "ohem"]

POSITIVES: dict[str, Positives] = {
    "RandomSampler": "random",
    "InstanceBalancedPosSampler": "instance_balanced",
    "OHEMSampler": "ohem",
}
NEGATIVES: dict[str, Negatives] = {
    "RandomSampler": "random",
    "IoUBalancedNegSampler": "iou_balanced",
    "OHEMSampler": "ohem",
}


def apply_samplers(config: DetectorConfig, train: Settings) -> None:
    """Set the samplers of RPN and box head as in ``train_cfg``; of a cascade, those of its first stage.

    Samplers of other kinds leave the setting of the model zoo.
    """
    if config.rpn is not None:
        _apply_sampler(config.rpn.sampling, first_dict(train, "rpn"))
    if config.roi is not None:
        stages = train.get("rcnn")
        settings = stages[0] if isinstance(stages, list) and stages else stages
        if isinstance(settings, dict):
            _apply_sampler(config.roi.sampling, settings)
            added = first_dict(settings, "sampler").get("add_gt_as_proposals", config.roi.add_gt_as_proposals)
            config.roi.add_gt_as_proposals = bool(added)


def _apply_sampler(sampling: SamplingConfig, settings: Settings) -> None:
    sampler = settings.get("sampler")
    if not isinstance(sampler, dict):
        return
    kind = sampler.get("type")
    positive = first_dict(sampler, "pos_sampler") if kind == "CombinedSampler" else sampler
    negative = first_dict(sampler, "neg_sampler") if kind == "CombinedSampler" else sampler
    sampling.positives = POSITIVES.get(positive.get("type", ""), sampling.positives)
    sampling.negatives = NEGATIVES.get(negative.get("type", ""), sampling.negatives)
    sampling.batch_size_per_image = int(sampler.get("num", sampling.batch_size_per_image))
    sampling.positive_fraction = float(sampler.get("pos_fraction", sampling.positive_fraction))
    limit = float(sampler.get("neg_pos_ub", -1))
    sampling.neg_pos_ub = limit if limit > 0 else None
    if sampling.negatives == "iou_balanced":
        sampling.num_bins = int(negative.get("num_bins", sampling.num_bins))
        sampling.floor_fraction = float(negative.get("floor_fraction", 0.0))
        # A negative threshold has no effect on bins, which then begin at 0.
        sampling.floor_thr = max(float(negative.get("floor_thr", 0.0)), 0.0)

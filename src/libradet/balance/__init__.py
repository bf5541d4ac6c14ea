"""Components of the paper: balanced sampling, balanced feature pyramid, balanced L1 (Libra R-CNN, section 3).

Depends on torch only, and can be used in any detector.
"""

from libradet.balance.box_generation import generate_boxes
from libradet.balance.iou_bins import bins_of_iou
from libradet.balance.losses import BalancedL1Loss, balanced_l1_loss
from libradet.balance.pyramid import BalancedFeaturePyramid
from libradet.balance.sampling import (
    background_share_priority,
    instance_balanced_priority,
    iou_balanced_priority,
    ohem_priority,
    random_priority,
    select,
    stratification_weights,
)

__all__ = [
    "BalancedFeaturePyramid",
    "BalancedL1Loss",
    "background_share_priority",
    "balanced_l1_loss",
    "bins_of_iou",
    "generate_boxes",
    "instance_balanced_priority",
    "iou_balanced_priority",
    "ohem_priority",
    "random_priority",
    "select",
    "stratification_weights",
]

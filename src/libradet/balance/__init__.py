"""Components of the paper: balanced sampling, balanced feature pyramid, balanced L1 (Libra R-CNN, section 3).

Depends on torch only, and can be used in any detector.
"""

from libradet.balance.losses import BalancedL1Loss, balanced_l1_loss
from libradet.balance.pyramid import BalancedFeaturePyramid
from libradet.balance.sampling import (
    instance_balanced_priority,
    iou_balanced_priority,
    ohem_priority,
    random_priority,
    select,
)

__all__ = [
    "BalancedFeaturePyramid",
    "BalancedL1Loss",
    "balanced_l1_loss",
    "instance_balanced_priority",
    "iou_balanced_priority",
    "ohem_priority",
    "random_priority",
    "select",
]

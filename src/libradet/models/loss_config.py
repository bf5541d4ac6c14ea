"""Configuration of what both the RPN and the heads train with: matching, sampling and losses."""

from dataclasses import dataclass
from typing import Annotated, Literal

from libradet.utils.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range, UnitInterval


@dataclass
class MatchConfig:
    """IoU thresholds of positives (at least ``fg_iou_thresh``) and negatives (below ``bg_iou_thresh``).

    Candidates between the thresholds are ignored. ``allow_low_quality_matches``: each ground truth also matches the
    candidates of its highest IoU if that is at least ``min_pos_iou``. ``ignore_iof_thresh``: candidates of whose area
    more than this fraction lies in a crowd region are ignored.
    """

    fg_iou_thresh: UnitInterval = 0.5
    bg_iou_thresh: UnitInterval = 0.5
    allow_low_quality_matches: bool = False
    min_pos_iou: UnitInterval = 0.5
    ignore_iof_thresh: UnitInterval = 0.5


@dataclass
class SamplingConfig:
    """Samplers of positives and negatives for a loss (paper 3.1).

    ``positive_fraction``: of ``batch_size_per_image``, the upper limit of positives. ``neg_pos_ub``: upper limit of
    negatives per positive. ``bins``: IoU bins as in the paper's text or as in mmdetection's code.

    Of IoU-balanced negatives: ``random_fraction`` is drawn at random from all that equal shares of the bins leave; with
    ``random_schedule`` ``linear`` it falls from 1 at the first step of a training to this value at its end.
    ``floor_fraction`` is drawn below ``floor_thr``, above which bins begin (mmdetection): at random, or with
    ``background_sampling`` ``score_balanced`` equally many of ``num_bins`` intervals of the RPN's score.
    ``reweight_exponent``: exponent of the weights of negatives in the classification loss, see
    :func:`libradet.balance.stratification_weights`.
    """

    batch_size_per_image: PositiveInt = 512
    positive_fraction: UnitInterval = 0.25
    positives: Literal["random", "instance_balanced", "ohem"] = "random"
    negatives: Literal["random", "iou_balanced", "ohem"] = "random"
    num_bins: PositiveInt = 3
    bins: Literal["paper", "mmdet"] = "paper"
    neg_pos_ub: PositiveFloat | None = None
    random_fraction: UnitInterval = 0.0
    random_schedule: Literal["constant", "linear"] = "constant"
    floor_thr: UnitInterval = 0.0
    floor_fraction: UnitInterval = 0.0
    background_sampling: Literal["random", "score_balanced"] = "random"
    reweight_exponent: UnitInterval = 0.0


@dataclass
class BoxLossConfig:
    """Localization loss (paper 3.3); ``beta`` is the error at which its linear part starts.

    ``iou``, ``giou``, ``diou`` and ``ciou`` compare decoded boxes instead of deltas: they are one number per box, not
    four, and need a larger ``weight``.
    """

    type: Literal["l1", "smooth_l1", "balanced_l1", "iou", "giou", "diou", "ciou"] = "smooth_l1"
    weight: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 1.0
    alpha: PositiveFloat = 0.5
    gamma: PositiveFloat = 1.5
    variant: Literal["paper", "mmdet"] = "paper"


@dataclass
class FocalConfig:
    """Focal loss (Lin et al., ICCV 2017)."""

    alpha: UnitInterval = 0.25
    gamma: NonNegativeFloat = 2.0


@dataclass
class ClassBalanceConfig:
    """Balancing of classes in the classification loss of the box head; the background weighs 1.

    ``inverse_frequency``: a class of n training objects weighs 1/n. ``effective_number``: it weighs
    (1 - ``beta``) / (1 - ``beta``^n) (Cui et al., CVPR 2019). Both are scaled to a mean of 1 over the classes.
    ``frequencies``: n of each class, counted in the training set if empty.

    ``seesaw``: seesaw loss (Wang et al., CVPR 2021), with ``p`` the exponent of its mitigation factor and ``q`` that of
    its compensation factor. See :class:`libradet.models.class_balance.SeesawLoss`.

    ``eql_v2``: equalization loss v2 (Tan et al., CVPR 2021) with its ``gamma``, ``mu`` and ``alpha``; scores are
    sigmoids. See :class:`libradet.models.class_balance.EqualizationLoss`.
    """

    type: Literal["inverse_frequency", "effective_number", "seesaw", "eql_v2"] = "inverse_frequency"
    beta: Annotated[float, Range(ge=0, lt=1)] = 0.999
    p: NonNegativeFloat = 0.8
    q: NonNegativeFloat = 2.0
    gamma: PositiveFloat = 12.0
    mu: NonNegativeFloat = 0.8
    alpha: NonNegativeFloat = 4.0
    frequencies: tuple[NonNegativeInt, ...] = ()

"""Gains in AP that the component of a finding brought on other datasets, next to the strength measured there.

The measurements: ``libradet reproduce verdict``, ``table2``, ``samplers`` and ``classes`` with ``--preset small``,
three seeds (strengths, balanced L1, positives and the box loss weight: docs/results/small_deeppcb.md and small_bccd.md;
others: docs/results/balanced.md). COCO's are the paper's (Tables 2, 4 and 6). Without interval: the paper's, or one
seed.
"""

from typing import NamedTuple


class MeasuredGain(NamedTuple):
    """Gain of a component on one dataset.

    Attributes:
        dataset: name in a sentence.
        strength: first number of the finding there; None if it is not known.
        gain: in points of AP.
        interval: 95 % confidence interval of the gain; None for one seed.
    """

    dataset: str
    strength: float | None
    gain: float
    interval: tuple[float, float] | None = None


class Calibration(NamedTuple):
    """Measured gains of the component that a kind of finding recommends.

    Attributes:
        component: name in a sentence.
        label: of the strength; empty where it is not known.
        gains: by dataset.
        metric: of the gains.
        option: what a finding recommends, if it may also recommend something else, whose gain is another one.
    """

    component: str
    label: str
    gains: tuple[MeasuredGain, ...]
    metric: str = "AP"
    option: str = ""


NOT_MEASURED = "The gain of this option alone is not measured."

SAMPLING = Calibration(
    "IoU-balanced sampling of half of the negatives",
    "share of hard negatives that overlap an object",
    (
        MeasuredGain("circuit boards", 0.77, 0.5, (-1.0, 2.0)),
        MeasuredGain("blood cells", 0.57, -0.1, (-3.1, 3.0)),
        MeasuredGain("COCO (paper, all negatives)", 0.60, 0.9),
    ),
)

POSITIVES = Calibration(
    "instance-balanced sampling of positives",
    "share of random positives that belong to the tenth of the objects with the most",
    (
        MeasuredGain("circuit boards", 0.19, 0.4, (-0.2, 1.0)),
        MeasuredGain("blood cells", 0.26, -0.6, (-2.9, 1.8)),
        MeasuredGain("COCO (paper)", None, 0.2),
    ),
)

PYRAMID = Calibration(
    "the gated pyramid",
    "similarity of levels",
    (
        MeasuredGain("circuit boards", 0.22, 0.1, (-2.0, 2.3)),
        MeasuredGain("blood cells", 0.31, 0.0, (-1.2, 1.2)),
        MeasuredGain("synthetic images", None, 0.0, (-0.4, 0.4)),
        MeasuredGain("COCO (paper, without gates)", None, 0.9),
    ),
)

POSITIVE_IOUS = Calibration(
    "generated boxes, added to the other settings of balanced_faster_rcnn,",
    "share of positives below an IoU of 0.75",
    (
        MeasuredGain("circuit boards", 0.80, 1.1, (0.3, 1.9)),
        MeasuredGain("blood cells", 0.76, 0.0, (-2.3, 2.3)),
    ),
)

REGRESSION = Calibration(
    "balanced L1",
    "gradient of an inlier relative to an outlier",
    (
        MeasuredGain("circuit boards", 0.52, 1.2, (0.6, 1.8)),
        MeasuredGain("blood cells", 0.50, 0.2, (-2.2, 2.7)),
        MeasuredGain("synthetic images", None, 1.0, (0.2, 1.8)),
        MeasuredGain("COCO (paper)", 0.30, 1.3),
    ),
)

BOX_WEIGHT = Calibration(
    "a box loss weight of 1.5 in place of 1",
    "",
    (
        MeasuredGain("circuit boards", None, 1.1, (0.4, 1.8)),
        MeasuredGain("blood cells", None, 0.6, (-0.8, 2.1)),
        MeasuredGain("COCO (paper)", None, 0.5),
    ),
    option="larger box loss weight",
)

RPN_SAMPLING = Calibration(
    "IoU-balanced sampling of half of the RPN's negatives, added to balanced_faster_rcnn without generated boxes,",
    "",
    (MeasuredGain("circuit boards", None, -0.8),),
)

RPN_REGRESSION = Calibration(
    "balanced L1 of weight 1.5 in the RPN, added to balanced_faster_rcnn without generated boxes,",
    "",
    (MeasuredGain("circuit boards", None, -0.5),),
)

CLASS_WEIGHTS = Calibration(
    "class weights by inverse frequency",
    "ratio of class frequencies",
    (
        MeasuredGain("synthetic images", 21, 5.0, (2.9, 7.0)),
        MeasuredGain("with the settings of balanced_faster_rcnn as well", 21, 7.1, (4.6, 9.6)),
        MeasuredGain("blood cells, with these settings as well", 11, -0.1, (-2.9, 2.7)),
    ),
    metric="the AP of rare classes",
    option="class weights by inverse frequency",
)

REPEAT_FACTORS = Calibration(
    "repeat-factor sampling",
    "ratio of class frequencies",
    (
        MeasuredGain("synthetic images", 21, 2.7, (-0.8, 6.3)),
        MeasuredGain("with the settings of balanced_faster_rcnn as well", 21, 5.7, (-0.1, 11.5)),
    ),
    metric="the AP of rare classes",
    option="repeat-factor sampling",
)

COMBINATION = Calibration(
    "balanced_faster_rcnn, which has as many samples as proposals as well, over faster_rcnn",
    "",
    (
        MeasuredGain("circuit boards", None, 3.2, (1.0, 5.4)),
        MeasuredGain("blood cells", None, 0.8, (-0.0, 1.6)),
    ),
)


_BY_KEY = {
    "negatives_roi": (SAMPLING,),
    "negatives_rpn": (RPN_SAMPLING,),
    "positives_roi": (POSITIVES,),
    "positive_ious_roi": (POSITIVE_IOUS,),
    "pyramid": (PYRAMID,),
    "regression_roi": (REGRESSION,),
    "regression_rpn": (RPN_REGRESSION,),
    "tasks_roi": (BOX_WEIGHT,),
    "classes": (CLASS_WEIGHTS, REPEAT_FACTORS),
    "together": (COMBINATION,),
}


def calibration_of(key: str, recommended: str = "") -> Calibration | None:
    """Return the measurements for a finding, or for the components ``together``; None where there are none.

    Args:
        recommended: what the finding recommends, if anything. Without it, the first measurements are returned.
    """
    candidates = _BY_KEY.get(key, ())
    if not recommended:
        return candidates[0] if candidates else None
    return next((calibration for calibration in candidates if calibration.option in ("", recommended)), None)


def describe_gains(key: str, has_roi_heads: bool = True, recommended: str = "") -> str:
    """Return a sentence with the measured gains for a finding; empty without any.

    Args:
        has_roi_heads: whether the detector of the finding is of the kind that was measured.
        recommended: see :func:`calibration_of`.
    """
    calibration = calibration_of(key, recommended)
    if calibration is None:
        return ""
    parts = "; ".join(_describe(gain) for gain in calibration.gains)
    there = f", with the {calibration.label} there" if calibration.label else ""
    start = (
        "Measured gain" if has_roi_heads else "Gain that was measured in detectors with RoI heads, not in this kind,"
    )
    return f"{start} of {calibration.component} in {calibration.metric}{there}: {parts}."


def lowers_ap(key: str, recommended: str = "") -> bool:
    """Return whether the component of a finding lowered AP on every dataset on which it was measured."""
    calibration = calibration_of(key, recommended)
    return calibration is not None and all(measured.gain < 0 for measured in calibration.gains)


def _describe(gain: MeasuredGain) -> str:
    strength = "" if gain.strength is None else f" ({gain.strength:{'.0f' if gain.strength >= 10 else '.2f'}})"
    interval = "" if gain.interval is None else f" [{gain.interval[0]:+.1f}, {gain.interval[1]:+.1f}]"
    return f"{gain.dataset}{strength} {gain.gain:+.1f}{interval}"

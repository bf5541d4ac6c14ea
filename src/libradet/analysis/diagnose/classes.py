"""Diagnosis of the class level: whether rare classes are detected worse than frequent ones.

What is recommended follows the measurements (docs/results/balanced.md): class weights by inverse frequency, whose gain
was measured at an imbalance ratio of 21. Where the ratio is a strong one, weights by 1/n differ as much, so repeat
factors are recommended, which were made for such data (Gupta et al., CVPR 2019).
"""

from statistics import fmean
from typing import Any

from libradet.analysis.diagnose import thresholds
from libradet.analysis.diagnose.finding import Finding, Number, Severity, grade, is_imbalance, percent
from libradet.analysis.diagnose.measured_gains import CLASS_WEIGHTS, REPEAT_FACTORS
from libradet.analysis.levels.classes import RARE, frequency
from libradet.utils.text import counted

_CHECK = (
    "Train with and without this option with the same seed and compare AP by class: that of rare classes should gain "
    "more than frequent ones lose."
)
_ALTERNATIVE = " An alternative changes the loss instead of the images: --detector.roi.class_balance.type "
_MORE_IMAGES = " Images of the rare classes help more than any option."
_LOSSES = {
    "inverse_frequency": "class weights by inverse frequency",
    "effective_number": "class weights by effective number",
    "seesaw": "seesaw loss",
    "eql_v2": "equalization loss v2",
}


def diagnose_classes(classes: dict[str, Any]) -> Finding | None:
    """Check whether rare classes are behind frequent ones; None with one class."""
    rows = [row for row in classes["rows"] if frequency(row)]
    if len(rows) < 2:
        return None
    most, least = rows[0], rows[-1]
    times, correlation = frequency(most) / frequency(least), classes["correlation"]
    numbers = [Number(times, f"times as many {most['class']} as {least['class']}", "ratio")]
    if correlation is not None:
        numbers.append(Number(correlation, "rank correlation of class frequency and AP (1: the same order)", "decimal"))
    numbers += [Number(row["AP"], f"AP of {row['class']}", "decimal") for row in (most, least) if row["AP"] is not None]
    severity, reason = _grade(times, correlation, rows)
    text = (
        f"In split {classes['split']}, the most frequent class is {most['class']} "
        f"({counted(frequency(most), 'object')}), the "
        f"rarest {least['class']} ({frequency(least):,}).{reason}{_confusions(classes)}"
    )
    if not least["objects"]:
        text += f" No object of {least['class']} is evaluated, so its AP is not known."
    elif least["objects"] < thresholds.MIN_OBJECTS:
        objects = counted(least["objects"], "evaluated object")
        text += f" With {objects}, the AP of {least['class']} is only indicative."
    paper = "Not in the paper, and the thresholds are libradet's own; on COCO class frequencies differ 1300-fold."
    finding = Finding("classes", "Class frequency", severity, numbers, text, paper)
    finding.text += _options_in_use(classes["trained_with"])
    if is_imbalance(severity):
        _recommend(finding, classes, times)
    return finding


def _options_in_use(used: dict[str, Any]) -> str:
    options = [f"repeat-factor sampling at {used['repeat_factor_thresh']:g}"] if used["repeat_factor_thresh"] else []
    options += [_LOSSES[used["class_balance"]]] if used["class_balance"] else []
    return f" The model was trained with {' and '.join(options)}." if options else ""


def _recommend(finding: Finding, classes: dict[str, Any], ratio: float) -> None:
    """Recommend what the model was not trained with: class weights or, where they are not measured, repeat factors."""
    used = classes["trained_with"]
    can_balance_loss = used["can_balance_loss"] and not used["class_balance"]
    weights = "inverse_frequency" if ratio < thresholds.CLASSES_STRONG else "effective_number"
    by_loss = f"{_ALTERNATIVE}{weights}." if can_balance_loss else ""
    if used["repeat_factor_thresh"]:
        finding.severity = "balanced"
        finding.text += by_loss + _MORE_IMAGES
        return
    threshold = classes["repeat_factor_thresh"]
    option = f"--repeat_factor_thresh {threshold:g}" if threshold else ""
    if threshold:
        finding.text += (
            f" Repeat-factor sampling at {threshold:g}, the fraction of images with the median class, repeats images "
            f"of rarer classes: an epoch has {classes['repeated_epoch']:.2f} times as many images."
        )
    if can_balance_loss and weights == "inverse_frequency":
        by_images = f" An alternative changes the images instead of the loss: {option}." if option else ""
        check = _CHECK + by_images + _MORE_IMAGES
        finding.recommend(CLASS_WEIGHTS.option, [f"--detector.roi.class_balance.type {weights}"], check)
    elif option:
        finding.recommend(REPEAT_FACTORS.option, [option], _CHECK + by_loss + _MORE_IMAGES)


def _grade(times: float, correlation: float | None, rows: list[dict[str, Any]]) -> tuple[Severity, str]:
    """Return the severity by imbalance ratio and by the correlation or, with few classes, by AP; and the reason."""
    severity = grade(times, thresholds.CLASSES_STRONG, thresholds.CLASSES_MODERATE)
    if correlation is not None:
        by_rank = grade(correlation, thresholds.CORRELATION_STRONG, thresholds.CORRELATION_MODERATE)
        if by_rank == "none":
            return "none", " AP does not increase with frequency, so frequency is not the bottleneck here."
        lower = severity if by_rank == "strong" or severity == "none" else by_rank
        return lower, " AP increases with frequency."
    most, rare = rows[0], [row for row in rows if frequency(row) < RARE * frequency(rows[0])] or rows[-1:]
    precisions = [row["AP"] for row in rare if row["AP"] is not None]
    if severity != "none" and precisions and most["AP"] is not None and fmean(precisions) > most["AP"]:
        subject = "The rare class nevertheless has" if len(precisions) == 1 else "On average, rare classes have"
        return "none", f" {subject} a higher AP than {most['class']}, so frequency is not the bottleneck here."
    return severity, ""


def _confusions(classes: dict[str, Any]) -> str:
    if classes["rare_as_frequent"] is None:
        return ""
    share, number = percent(classes["rare_as_frequent"]), len(classes["rare"])
    return (
        f" Of the objects of {number} rare class{'es' if number > 1 else ''} (below a tenth of the most frequent one), "
        f"{share} are detected as a frequent class."
    )

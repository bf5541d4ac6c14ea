"""Verdict on what comes out: classes, sizes, and the errors that cost most."""

from typing import Any

from libradet.analysis import thresholds as limits
from libradet.analysis.finding import Finding, Number, grade, percent

_ERRORS = {
    "classification": (
        "Boxes lie right and carry the wrong name: look at the most alike classes, and at how evenly they occur.",
        "",
    ),
    "localization": (
        "Objects are found by boxes that do not fit (IoU 0.1 to 0.5): what the objective level is about, and negatives "
        "that nearly fit.",
        "balanced L1, and after it IoU-balanced sampling,",
    ),
    "both": (
        "Boxes neither fit nor carry the right name: the model is not far yet; train longer before balancing.",
        "",
    ),
    "duplicate": (
        "Objects are found more than once: lower --detector.detections.nms, which needs no training.",
        "",
    ),
    "background": (
        "Something is seen where nothing is (IoU below 0.1): a background that is not learned yet, or objects that "
        "nobody annotated. Train longer first, and look at the highest scores among them.",
        "",
    ),
    "missed": (
        "Objects are not seen at all: look at their size, at the levels that serve them, and at how many positives "
        "they get.",
        "the balanced pyramid",
    ),
}


LOOKS_AWAY = (
    "IoU-balanced sampling takes fewer negatives there, for more near objects: it can cost AP50 what it brings in AP75."
)


def judge_classes(classes: dict[str, Any]) -> Finding | None:
    """Whether some classes are far rarer than others; None with one class."""
    rows = [row for row in classes["rows"] if row["objects"]]
    if len(rows) < 2:
        return None
    most, least = rows[0], rows[-1]
    times = most["objects"] / least["objects"]
    level = grade(times, limits.CLASSES_STRONG, limits.CLASSES_SOME)
    numbers = [Number(times, f"times as many {most['class']} as {least['class']}", "ratio")]
    numbers += [Number(row["AP"], f"AP of {row['class']}", "decimal") for row in (most, least) if row["AP"] is not None]
    text = f"Of {most['class']} there are {most['objects']:,} objects, of {least['class']} {least['objects']:,}."
    if (correlation := classes["correlation"]) is not None:
        goes = "goes" if correlation > 0.5 else "does not go"
        text += f" AP {goes} with the logarithm of that number (correlation {correlation:.2f}).".replace("-", "−")
    elif None not in (most["AP"], least["AP"]) and least["AP"] > most["AP"] and level != "none":
        text += " Yet the rare class is found better, so frequency is not what holds the model back here."
        level = "none"
    if least["objects"] < limits.FEW_OBJECTS:
        text += f" Fewer than {limits.FEW_OBJECTS} objects make its AP a hint at most."
    if level in ("strong", "some"):
        text += " None of the paper's switches balances classes: more images of the rare one do."
    return Finding(
        "classes", "Classes", level, numbers, text, "The paper does not treat classes; COCO's differ 1300-fold."
    )


def judge_sizes(sizes: list[dict[str, Any]], measure: str) -> Finding | None:
    """Whether small objects are found worse than large ones; None where one of them is missing."""
    small, large = sizes[0], sizes[2]
    if small["objects"] and large["objects"] and large[measure]:
        low, high = small, large
    else:
        measured = [row for row in sizes if row["objects"] and row[measure]]
        if len(measured) < 2:
            return None
        low, high = measured[0], measured[-1]
    ratio = (low[measure] or 0.0) / high[measure]
    level = grade(ratio, limits.SIZES_STRONG, limits.SIZES_SOME)
    numbers = [Number(row[measure], f"{measure} of {row['size']} objects", "decimal") for row in (low, high)]
    text = (
        f"{low['size'].capitalize()} objects ({low['objects']:,}) reach {percent(ratio)} of the {measure} of "
        f"{high['size']} ones ({high['objects']:,})."
    )
    paper = f"On COCO the baseline's small objects reach {percent(limits.PAPER_SMALL)} of its large ones (Table 2)."
    finding = Finding("sizes", "Sizes of objects", level, numbers, text, paper)
    if min(low["objects"], high["objects"]) < limits.FEW_OBJECTS:
        finding.level = "undecided"
        finding.text += f" There are fewer than {limits.FEW_OBJECTS} of one kind, too few to tell."
    elif level in ("strong", "some"):
        finding.text += " What helps first is larger images: --detector.image.size; the balanced pyramid brought +1.3."
        finding.check = f"Compare {measure} of small objects; larger images cost time in proportion to their area."
    return finding


def judge_errors(mistakes: dict[str, Any] | None, samples: bool) -> Finding | None:
    """Which kind of error costs most AP50; None where mending any one kind brings nothing.

    Args:
        samples: whether the detector samples, so that a sampler could be switched.
    """
    kinds = mistakes["kinds"].items() if mistakes else ()
    ordered = sorted(kinds, key=lambda item: -item[1]["cost"])
    if mistakes is None or ordered[0][1]["cost"] <= 0:
        return None
    (first, most), (second, next_most) = ordered[:2]
    numbers = [
        Number(most["cost"], f"points of AP50 lost to {_named(first)}", "points"),
        Number(next_most["cost"], f"points lost to {_named(second)}", "points"),
        Number(mistakes["AP50"], "AP50 as it is", "decimal"),
    ]
    advice, switch = _ERRORS[first]
    text = advice + (f" Of the three switches, {switch} speaks to this." if switch else "")
    if first == "background" and samples:
        text += f" {LOOKS_AWAY}"
    return Finding("errors", "Where precision is lost", "outcome", numbers, text)


def _named(kind: str) -> str:
    return {"missed": "missed objects", "both": "wrong class and box at once", "duplicate": "duplicates"}.get(
        kind, f"{kind} errors"
    )

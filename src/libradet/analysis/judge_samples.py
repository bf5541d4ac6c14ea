"""Verdict on the sample level: negatives by IoU, positives by ground truth."""

from typing import Any

from libradet.analysis import thresholds as limits
from libradet.analysis.feature_level import SIZES
from libradet.analysis.finding import Finding, Level, Number, grade, percent

NAMES = {"roi": "second stage", "rpn": "RPN", "dense": "head"}

_CHECK = (
    "Train both ways with the same seed and compare AP75 and AP of large objects, where the paper's gain lies "
    "(+1.6 and +1.8); then run libradet analyze on the new model: the share that its own sampling delivers has to rise."
)


def judge_negatives(samples: dict[str, Any]) -> Finding:
    """Whether a stage's sampling finds its hard negatives."""
    rows, name = samples["negatives"], NAMES[samples["stage"]]
    hard, drawn = rows["hard"]["above"]["value"], rows["random"]["above"]["value"]
    kind = "hardest" if samples["own_negatives"] == "hardest" else "iou_balanced"
    own = samples["samples"] and samples["own_negatives"] != "random"
    better = rows["own" if own else "iou_balanced_paper_3"]["above"]["value"]
    title = f"Negatives of the {name}"
    if hard is None or drawn is None or better is None:
        return Finding(f"negatives_{samples['stage']}", title, "undecided", [], "There are no negatives to look at.")
    gap, low = samples["gap"]["value"], samples["gap"]["low"]
    level = _with_doubt(grade(gap, limits.GAP_STRONG, limits.GAP_SOME), low)
    numbers = [
        Number(hard, "of hard negatives overlap an object by IoU > 0.05"),
        Number(drawn, "of what random sampling delivers"),
        Number(better, _delivers(samples)),
    ]
    paper = "On COCO: more than 60 % of hard negatives, about 30 % of random samples."
    finding = Finding(f"negatives_{samples['stage']}", title, level, numbers, "", paper)
    if not samples["samples"]:
        finding.level = "none" if level == "none" else "balanced"
        finding.text = _focal(samples, hard)
        return finding
    finding.text = _negatives_text(level, gap, better, drawn, samples)
    if samples["own_negatives"] != "random":
        finding.level = "balanced"
        done = (
            f"This model samples {_kind(kind)} and sees {percent(better)} where random sampling gives {percent(drawn)}."
        )
        finding.text = f"{done} {finding.text}"
    elif level in ("strong", "some"):
        finding.options = [f"--detector.{samples['stage']}.sampling.negatives iou_balanced"]
        finding.check = _CHECK
    return finding


def _with_doubt(level: Level, low: float | None) -> Level:
    return "undecided" if level in ("strong", "some") and (low is None or low <= 0) else level


def _delivers(samples: dict[str, Any]) -> str:
    if not samples["samples"] or samples["own_negatives"] == "random":
        return "of what IoU-balanced sampling (K = 3) would deliver"
    return "of what this model's own sampling delivers"


def _kind(kind: str) -> str:
    return {"hardest": "the hardest", "iou_balanced": "balanced by IoU"}[kind]


def _negatives_text(level: Level, gap: float, better: float, drawn: float, samples: dict[str, Any]) -> str:
    points = f"{abs(100 * gap):.0f} points"
    candidates = samples["candidates"]
    if level == "undecided":
        return f"Hard negatives seem to overlap objects more often, by {points}, but so few images do not settle it."
    if gap <= -limits.GAP_SOME:
        return (
            f"Here it is the other way round: hard {candidates} overlap objects less often than random ones do, by "
            f"{points}. What confuses this model is the background, or objects there that nobody annotated; balancing "
            "by IoU would look away from it."
        )
    if level == "none":
        crowded = (
            f" Objects are dense here: {percent(drawn)} of random samples overlap one anyway." if drawn > 0.5 else ""
        )
        return f"Random sampling sees hard negatives about as often as there are any ({points} apart).{crowded}"
    return (
        f"Random sampling misses hard {candidates} by {points}. Equal shares of every IoU bin bring the samples to "
        f"{percent(better)}."
    )


def _focal(samples: dict[str, Any], hard: float) -> str:
    weighed = samples["negatives"]["by_loss"]["above"]["value"]
    every = samples["negatives"]["all"]["above"]["value"]
    return (
        f"Focal loss learns from every anchor, so there is no sampling to balance: {percent(every)} of all negatives "
        f"overlap an object, and they bring {percent(weighed)} of the loss (hard ones: {percent(hard)}). The second "
        "and third number above are what an RPN's sampling of 256 would see."
    )


def judge_coverage(samples: dict[str, Any]) -> Finding | None:
    """Whether there are objects that no anchor stands for; None for proposals, to which training adds the objects."""
    if samples["candidates"] != "anchors" or not samples["positives"]["objects"]:
        return None
    available, stage = samples["positives"]["by_sampler"]["available"], samples["stage"]
    level = grade(available["without"], limits.WITHOUT_STRONG, limits.WITHOUT_SOME)
    numbers = [
        Number(available["without"], "of the objects have no positive anchor"),
        Number(available["mean"], "positive anchors an object has on average", "decimal"),
    ]
    sizes = [f"{size} ones {available[size]:.1f}" for size in SIZES if available[size] is not None]
    text = f"On average {', '.join(sizes)} positive anchors."
    if level != "none":
        text += (
            " No sampler helps an object that nothing stands for: it is learned as background. Larger images "
            f"(--detector.image.size) or other anchors (--detector.{stage}.anchors.scales, .ratios) do; libradet data "
            "stats tells which shapes are missed."
        )
    key, title = f"coverage_{stage}", f"Anchors of the {NAMES[stage]}"
    return Finding(key, title, level, numbers, text, "Not the paper's subject: the limits are ours.")


def judge_positives(samples: dict[str, Any]) -> Finding | None:
    """Whether some ground truths get most positives; None for a stage that learns from all."""
    if not samples["samples"]:
        return None
    spread, stage = samples["positives"]["by_sampler"], samples["stage"]
    drawn, even = spread["random"]["top_tenth"], spread["instance_balanced"]["top_tenth"]
    key, title = f"positives_{stage}", f"Positives of the {NAMES[stage]}"
    if drawn is None or even is None:
        return Finding(key, title, "undecided", [], "There are no positives to look at.")
    numbers = [
        Number(drawn, "of random positives go to the best-served tenth of the objects"),
        Number(even, "if every object gets its share"),
    ]
    level = grade(drawn - even, limits.SPREAD_STRONG, limits.SPREAD_SOME)
    choice = samples["positives"]["images_with_choice"]
    finding = Finding(
        key, title, level, numbers, "", "The paper gives no figure; its gain is small (+0.2 AP, Table 4)."
    )
    without = spread["random"]["without"], spread["instance_balanced"]["without"]
    finding.text = (
        f"{percent(without[0])} of the objects get no positive at all in a random draw, {percent(without[1])} in a "
        "balanced one."
    )
    if choice < limits.CHOICE:
        finding.level = "none"
        few = "No image has" if not choice else f"Only {percent(choice)} of images have"
        finding.text = f"{few} more positives than there are slots: all are taken, and a sampler has nothing to decide."
    elif samples["own_positives"] == "instance_balanced":
        finding.level = "balanced"
        finding.text = f"This model balances positives by object. {finding.text}"
    elif level in ("strong", "some"):
        finding.options = [f"--detector.{stage}.sampling.positives instance_balanced"]
        finding.check = "Compare AP of the objects that got few positives (small ones, mostly) with the same seed."
    return finding

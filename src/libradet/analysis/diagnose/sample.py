"""Diagnosis of the sample level: negatives by IoU, positives by ground truth, anchor coverage."""

from typing import Any

from libradet.analysis.diagnose import thresholds
from libradet.analysis.diagnose.finding import STAGE_NAMES, Finding, Number, Severity, grade, is_imbalance, percent
from libradet.analysis.levels.feature import SIZES
from libradet.utils.text import counted

_CHECK = (
    "Train with and without this option with the same seed and compare AP75 and AP of large objects, where the paper "
    "reports its gains (+1.6 and +1.8); then run libradet analyze on the new model: the share of its own sampler "
    "should increase."
)
_OWN_SAMPLERS = {"ohem": "OHEM", "iou_balanced": "IoU-balanced sampling"}


def diagnose_negatives(samples: dict[str, Any]) -> Finding:
    """Compare the share of hard negatives near objects with that of sampled negatives, for one stage."""
    rows, stage = samples["negatives"], samples["stage"]
    key, title = f"negatives_{stage}", f"Negative sampling ({STAGE_NAMES[stage]})"
    has_own_sampler = samples["uses_sampling"] and samples["own_negatives"] != "random"
    hard, random, balanced = (
        rows[name]["above_threshold"]["value"]
        for name in ("hard", "random", "own" if has_own_sampler else "iou_balanced_paper_3")
    )
    if hard is None or random is None or balanced is None:
        return Finding(key, title, "inconclusive", [], "There are no negative candidates.")
    gap, low = samples["gap"]["value"], samples["gap"]["low"]
    severity = grade(gap, thresholds.GAP_STRONG, thresholds.GAP_MODERATE)
    if is_imbalance(severity) and (low is None or low <= 0):
        severity = "inconclusive"
    numbers = [
        Number(hard, "of hard negatives overlap an object (IoU > 0.05)"),
        Number(random, "of randomly sampled negatives do"),
        Number(balanced, "of this model's own samples do" if has_own_sampler else "of IoU-balanced ones (K = 3) would"),
    ]
    paper = "COCO (paper): more than 60 % of hard negatives, about 30 % of random samples."
    finding = Finding(key, title, severity, numbers, "", paper)
    if not samples["uses_sampling"]:
        finding.severity = "none" if severity == "none" else "balanced"
        finding.text = _describe_focal_loss(rows, hard)
        return finding
    finding.text = _describe_gap(severity, gap, balanced, random, samples["candidates"])
    if has_own_sampler:
        sampler = _OWN_SAMPLERS["ohem" if samples["own_negatives"] == "ohem" else "iou_balanced"]
        finding.severity = "balanced"
        finding.text = (
            f"This model uses {sampler}: {percent(balanced)} of its negatives overlap an object, against "
            f"{percent(random)} with random sampling. {finding.text}"
        )
    elif is_imbalance(severity):
        options = [f"--detector.{stage}.sampling.negatives iou_balanced"]
        if stage == "roi":
            # Equal shares of every bin leave few background samples, which costs AP50.
            options.append("--detector.roi.sampling.random_fraction 0.5")
        finding.recommend("IoU-balanced sampling", options, _CHECK)
    return finding


def _describe_gap(severity: Severity, gap: float, balanced: float, random: float, candidates: str) -> str:
    points = counted(round(abs(100 * gap)), "point")
    if severity == "inconclusive":
        return (
            f"Hard negatives appear to overlap objects more often than sampled ones, by {points}, but the 95 % "
            "interval includes zero: analyze more images."
        )
    if gap <= -thresholds.GAP_MODERATE:
        return (
            f"The reverse of the paper's observation: hard {candidates} overlap objects less often than random ones, "
            f"by {points}. The model's hard negatives are background, or objects that are not annotated; IoU-balanced "
            "sampling would draw fewer of them."
        )
    if severity == "none":
        dense = f" Objects are dense here: {percent(random)} of random samples overlap one." if random > 0.5 else ""
        return f"Random sampling represents hard negatives well: the shares differ by {points}.{dense}"
    return (
        f"Random sampling under-represents hard {candidates} near objects by {points}. IoU-balanced sampling raises "
        f"the share to {percent(balanced)}."
    )


def _describe_focal_loss(rows: dict[str, Any], hard: float) -> str:
    weighted = rows["loss_weighted"]["above_threshold"]["value"]
    all_negatives = rows["all"]["above_threshold"]["value"]
    return (
        f"Focal loss trains on every anchor, so there is no sampling to balance: {percent(all_negatives)} of all "
        f"negatives overlap an object and contribute {percent(weighted)} of the loss (hard ones: {percent(hard)}). The "
        "second and third number above are for an RPN that samples 256 anchors."
    )


def diagnose_positive_ious(samples: dict[str, Any]) -> Finding | None:
    """Check whether inaccurate positives outnumber accurate ones; None for anchors, whose boxes do not improve."""
    ious = samples["positive_ious"]
    if samples["candidates"] != "proposals":
        return None
    stage, middle, below = samples["stage"], ious["middle"], ious["below"]
    key, title = f"positive_ious_{stage}", f"IoU of positives ({STAGE_NAMES[stage]})"
    if below["value"] is None:
        return Finding(key, title, "inconclusive", [], "There are no positives.")
    severity = grade(below["value"], thresholds.BELOW_STRONG, thresholds.BELOW_MODERATE)
    numbers = [Number(below["value"], f"of the sampled positives have an IoU below {middle:g} (uniform: 50 %)")]
    paper = (
        "Not in the paper, and the thresholds are libradet's own; Oksuz et al. (WACV 2020) observe the same on COCO."
    )
    finding = Finding(key, title, severity, numbers, "", paper)
    finding.text = (
        "Proposals just above the threshold outnumber accurate ones, so the box head is trained mostly on boxes that "
        "are less accurate than those that it ranks highest."
    )
    if ious["generated_boxes"]:
        finding.severity = "balanced"
        finding.text = f"This model trains on {ious['generated_boxes']} generated boxes per object, of uniform IoU."
        if severity != "none":
            finding.text += " They are among the positives that are counted here: proposals still outnumber them."
    elif severity == "none":
        finding.text = "Accurate positives are about as frequent as inaccurate ones, or more so."
    elif ious["count"] < thresholds.MIN_POSITIVES:
        finding.severity = "inconclusive"
        finding.text = f"{finding.text} These are only {counted(ious['count'], 'positive')}."
    else:
        check = "Train with and without this option with the same seed and compare AP75 and AR100, which gain most."
        finding.recommend("generated boxes", [f"--detector.{stage}.generated_boxes 4"], check)
    return finding


def diagnose_coverage(samples: dict[str, Any]) -> Finding | None:
    """Check for objects without a positive anchor; None for proposals, to which training adds the ground truth."""
    if samples["candidates"] != "anchors" or not samples["positives"]["objects"]:
        return None
    available, stage = samples["positives"]["by_sampler"]["available"], samples["stage"]
    severity = grade(available["without"], thresholds.WITHOUT_STRONG, thresholds.WITHOUT_MODERATE)
    numbers = [
        Number(available["without"], "of the objects have no positive anchor"),
        Number(available["mean"], "positive anchors per object (mean)", "decimal"),
    ]
    by_size = [f"{size} {available[size]:.1f}" for size in SIZES if available[size] is not None]
    text = f"Mean number of positive anchors by object size: {', '.join(by_size)}."
    if severity != "none":
        text += (
            " No sampler helps an object without a positive anchor: it is trained as background. Use larger images "
            f"(--detector.image.size) or other anchors (--detector.{stage}.anchors.scales, "
            f"--detector.{stage}.anchors.ratios); libradet data stats shows which box shapes no anchor matches."
        )
    severity, text = _with_few_objects(severity, text, samples["positives"]["objects"])
    key, title = f"coverage_{stage}", f"Anchor coverage ({STAGE_NAMES[stage]})"
    return Finding(key, title, severity, numbers, text, "Not in the paper: the thresholds are libradet's own.")


def _with_few_objects(severity: Severity, text: str, objects: int) -> tuple[Severity, str]:
    """Return an imbalance of too few objects as inconclusive, with the reason; other ones as they are."""
    if not is_imbalance(severity) or objects >= thresholds.MIN_OBJECTS:
        return severity, text
    return "inconclusive", f"{text} {counted(objects, 'object is', 'objects are')} too few for a conclusion."


def diagnose_positives(samples: dict[str, Any]) -> Finding | None:
    """Check whether few ground truths receive most of the positives; None for a stage that trains on all anchors."""
    if not samples["uses_sampling"]:
        return None
    by_sampler, stage = samples["positives"]["by_sampler"], samples["stage"]
    random, balanced = by_sampler["random"], by_sampler["instance_balanced"]
    key, title = f"positives_{stage}", f"Positive sampling ({STAGE_NAMES[stage]})"
    if random["top_tenth"] is None or balanced["top_tenth"] is None:
        return Finding(key, title, "inconclusive", [], "There are no positive candidates.")
    numbers = [
        Number(random["top_tenth"], "of random positives belong to the 10 % of objects with the most"),
        Number(balanced["top_tenth"], "with instance-balanced sampling"),
    ]
    difference = random["top_tenth"] - balanced["top_tenth"]
    severity = grade(difference, thresholds.SPREAD_STRONG, thresholds.SPREAD_MODERATE)
    paper = "The paper reports no value; its gain is small (+0.2 AP, Table 4)."
    finding = Finding(key, title, severity, numbers, "", paper)
    finding.text = (
        f"{percent(random['without'])} of the objects receive no positive with random sampling, "
        f"{percent(balanced['without'])} with instance-balanced sampling."
    )
    finding.severity, finding.text = _with_few_objects(severity, finding.text, samples["positives"]["objects"])
    oversubscribed = samples["positives"]["images_with_choice"]
    if oversubscribed < thresholds.MIN_OVERSUBSCRIBED:
        finding.severity = "none"
        few = f"Only {percent(oversubscribed)} of images have" if oversubscribed else "No image has"
        finding.text = f"{few} more positives than sampling slots: all are used, and the sampler makes no difference."
    elif samples["own_positives"] == "instance_balanced":
        finding.severity = "balanced"
        finding.text = f"This model uses instance-balanced sampling. {finding.text}"
    elif is_imbalance(finding.severity):
        check = "Compare AP of the objects with few positives (mostly small ones) with the same seed."
        options = [f"--detector.{stage}.sampling.positives instance_balanced"]
        finding.recommend("instance-balanced sampling", options, check)
    return finding

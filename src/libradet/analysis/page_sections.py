"""The page's sections, one for each of the paper's levels and one for what comes out."""

from html import escape
from typing import Any

from libradet.analysis.page_parts import Page, figures
from libradet.analysis.sample_images import DRAWN
from libradet.analysis.words import STAGES


def sample_section(page: Page) -> str:
    """Which candidates the losses see."""
    parts = [
        '<h2 id="samples">Sample level</h2>',
        '<p class="lead">A loss sees a few of many candidates. The paper finds that hard ones lie near objects, where '
        "random sampling seldom looks. <b>Hard negatives</b> are here the 5 % of an image's negatives with the "
        "largest classification loss, but no more than are sampled of it.</p>",
    ]
    parts += [_stage(page, i, samples) for i, samples in enumerate(page.report["samples"])]
    parts.append(_drawings(page))
    return "".join(parts)


def _stage(page: Page, i: int, samples: dict[str, Any]) -> str:
    stage, at = samples["stage"], f"samples/{i}"
    name = STAGES[stage]
    looked = f"{page.number(f'{at}/negatives/all/count', 'count')} negatives looked at"
    slots = f"{page.number(f'{at}/slots', 'count')} samples for each image"
    if not samples["samples"]:
        slots = f"this head learns from all of them; sampling is shown as an RPN would do it, {slots}"
    hard, drawn, balanced = (
        page.number(f"{at}/negatives/{row}/above/value", "percent")
        for row in ("hard", "random", "iou_balanced_paper_3")
    )
    shown = [
        page.figure(
            f"overlaps_{stage}",
            "<b>How far negatives overlap objects.</b> Compare orange with gray right of 0.05: where orange is taller, "
            "random sampling looks too seldom. Blue is what equal shares of each IoU bin give.",
            f"negatives_{stage}",
        ),
        page.figure(
            f"negatives_{stage}",
            f"<b>Share above IoU 0.05, by sampler,</b> with 95 % intervals. Hard negatives (dashed): {hard}; random: "
            f"{drawn}; IoU-balanced: {balanced}. mmdetection's bins reach up to the largest IoU of all candidates.",
        ),
        page.figure(
            f"positives_{stage}",
            "<b>Positives that an object gets.</b> Balanced ones gather in the middle; random ones spread, down to "
            "objects with none.",
        ),
    ]
    more = "" if samples["samples"] else page.table(f"positives_{stage}", title="Positive anchors of the objects")
    return f"<h3>{escape(name[0].upper() + name[1:])}</h3><p class='small'>{looked}; {slots}.</p>{figures(shown)}{more}"


def _drawings(page: Page) -> str:
    rows = []
    for i, drawing in enumerate(page.report["drawings"]):
        pair = []
        for sampler, what in (("random", "Random"), ("balanced", "IoU-balanced, K = 3")):
            near = page.number(f"drawings/{i}/{sampler}/near", "count")
            total = page.number(f"drawings/{i}/{sampler}/total", "count")
            text = f"{what} negatives in {drawing['image']}"
            image = page.image(f"{drawing['name']}_{sampler}", text)
            pair.append(f"<div>{image}<span><b>{what}</b>: {near} of {total} overlap an object</span></div>")
        caption = escape(drawing["image"])
        rows.append(f'<figure><div class="pair">{"".join(pair)}</div><figcaption>{caption}</figcaption></figure>')
    if not rows:
        return ""
    stage = STAGES[page.report["drawings"][0]["stage"]]
    key = (
        f"<p class='small'>Negatives among the {stage}, as they would be sampled: "
        "<span class='swatch' style='color:#ffa24d'></span> overlaps an object by IoU &gt; 0.05, "
        f"<span class='swatch' style='color:#b9c0cc'></span> does not. Objects are white, images darkened, and "
        f"{DRAWN} of the samples are drawn.</p>"
    )
    return f'<h3>On your images</h3>{key}<div class="images">{"".join(rows)}</div>'


def feature_section(page: Page) -> str:
    """What pyramid levels share."""
    features = page.report["features"]
    target = f"P{features['strides'][features['target']].bit_length() - 1}"
    balanced = (
        "This model balances them: numbers are given before and after."
        if features["balanced"]
        else f"This model does not. Integration would bring all levels to the size of {target}, average them and add "
        "the average back to each; what that average would be made of is shown."
    )
    similar = (
        "<b>What two levels have in common</b> (linear CKA of the levels brought to one size: 1 the same content, 0 "
        "nothing shared)"
    )
    shown = [
        page.figure("similarity_before", f"{similar}{', before balancing' if features['balanced'] else ''}. Pale cells "
                    "far from the diagonal are levels that know little of each other."),
        page.figure("similarity_after", f"{similar}, after balancing."),
        page.figure(
            "levels",
            "<b>How loud each level is:</b> in the plain average of all, in the root mean square of its activation, "
            "and in the gradient that all losses send it"
            + (" (before balancing, and as the heads read it)" if features["balanced"] else "")
            + ". A level with a large share of the gradient and a small one of the average teaches the others little.",
        ),
        page.figure(
            "level_sizes",
            "<b>Which level serves which objects</b> (COCO's sizes, 32² and 96² pixels of the file). Levels without "
            "bars have nothing to do on these images.",
        ),
    ]  # fmt: skip
    return (
        '<h2 id="features">Feature level</h2><p class="lead">Coarse levels know what things are, fine ones where. The '
        f"paper mixes them evenly. {balanced}</p>{figures(shown)}"
    )


def objective_section(page: Page) -> str:
    """Where the gradient comes from."""
    shown = [
        page.figure(
            "loss_curves",
            "<b>Gradient and loss over the error.</b> Smooth L1 gives accurate samples little gradient and L1 as much "
            "as any; balanced L1 lies between and stays bounded.",
        )
    ]
    images = page.number("gradients/images", "count")
    shown.append(
        page.figure(
            "losses",
            f"<b>Classes against boxes.</b> The gradient that each loss sends into the pyramid, mean of {images} "
            "images.",
        )
    )
    for i, errors in enumerate(page.report["errors"]):
        stage, at = errors["stage"], f"errors/{i}"
        share = page.number(f"{at}/inliers/value", "percent")
        count = page.number(f"{at}/positives", "count")
        shown += [
            page.figure(
                f"errors_{stage}",
                f"<b>Regression errors on this data, {escape(STAGES[stage])}.</b> {count} positives with four deltas "
                f"each, in units of β = {page.number(f'{at}/unit', 'small')}. Where a line is above the gray, that "
                "error is louder than it is frequent.",
            ),
            page.figure(
                f"regression_{stage}",
                f"<b>What inliers bring, {escape(STAGES[stage])}.</b> Inliers, positives with a smooth L1 loss below "
                f"1.0, are {share} of all. The nearer a dot to the dashed line, the more evenly all are heard.",
            ),
        ]
    return (
        '<h2 id="objective">Objective level</h2><p class="lead">A loss is heard by its gradient. The paper finds that '
        "few inaccurate samples (outliers) drown the many accurate ones in the localization loss.</p>"
        f"{figures(shown)}{page.table('tasks', title='Gradients where losses meet, and if they pull the same way')}"
    )


def outcome_section(page: Page) -> str:
    """Classes, sizes and errors."""
    shown = [
        page.figure("classes", "<b>Frequent and rare classes.</b> If dots rise to the right, rare classes lose."),
        page.figure("sizes", "<b>Precision and recall by size of the objects,</b> COCO's sizes in pixels of the file."),
        page.figure(
            "mistakes",
            "<b>What the errors cost.</b> Found with the wrong class; with a box that does not fit (IoU 0.1 to 0.5); "
            "both; found twice; seen where nothing is; not seen. Costs do not add up.",
        ),
    ]
    more = ""
    if "classes" in page.report["tables"] and "classes" not in page.figures:
        more = page.table("classes")
    return f'<h2 id="outcome">Classes, sizes, errors</h2>{figures(shown)}{more}'

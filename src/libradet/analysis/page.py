"""The report as one page that needs nothing but itself."""

from html import escape

from libradet.analysis.page_parts import Page, items
from libradet.analysis.page_sections import feature_section, objective_section, outcome_section, sample_section
from libradet.analysis.page_style import CSS

_URGENT = ("strong", "some", "outcome")
_PAPER = "https://arxiv.org/abs/1904.02701"


def render(page: Page) -> str:
    """The whole page as HTML."""
    body = "".join(
        (
            _head(page),
            _verdict(page),
            sample_section(page),
            feature_section(page),
            objective_section(page),
            outcome_section(page),
            _method(page),
        )
    )
    title = f"Imbalance report: {escape(page.report['about']['detector'])} on {escape(page.report['about']['data'])}"
    return (
        '<!doctype html><html lang="en-GB"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{CSS}</style></head><body>{body}</body></html>\n"
    )


def _head(page: Page) -> str:
    about = page.report["about"]
    precision = "AR100" if about["proposes"] else "AP"
    measured = page.number(f"metrics/{precision}", "decimal")
    images = page.number("about/images", "count")
    whole = page.number("about/images_in_split", "count")
    seen = f"{images} of {whole} images" if about["images"] < about["images_in_split"] else f"{images} images"
    return (
        f'<header><p class="eyebrow">libradet · imbalance report</p><h1>{escape(about["detector"])} on '
        f'{escape(about["data_name"])}</h1><p class="facts">{escape(about["model"])}<br>{escape(about["backbone"])} · '
        f"split {escape(about['split'])}, {seen} with {page.number('about/objects', 'count')} objects · "
        f"{precision} {measured}</p></header>"
    )


def _verdict(page: Page) -> str:
    verdict = page.report["verdict"]
    cautions = f'<div class="cautions">{items(verdict["cautions"])}</div>' if verdict["cautions"] else ""
    urgent = [i for i, finding in enumerate(verdict["findings"]) if finding["level"] in _URGENT]
    others = [i for i in range(len(verdict["findings"])) if i not in urgent]
    loud, quiet = ("".join(page.card(i) for i in part) for part in (urgent, others))
    loud = f'<div class="cards">{loud}</div>' if loud else ""
    links = (("samples", "Sample level"), ("features", "Feature level"), ("objective", "Objective level"))
    links += (("outcome", "Classes, sizes, errors"), ("method", "How this was measured"))
    nav = "".join(f'<a href="#{key}">{name}</a>' for key, name in links)
    return (
        f'<nav>{nav}</nav><p class="summary">{escape(verdict["summary"])}</p>{cautions}{loud}{_together(page)}'
        f'<h3>In balance, balanced already, or not to be told</h3><div class="cards quiet">{quiet}</div>'
    )


def _together(page: Page) -> str:
    verdict = page.report["verdict"]
    if not verdict["command"]:
        return ""
    return (
        "<h3>What to try</h3><p>The switches that the paper turns and that are called for here, at once; each card has "
        "its own.</p>"
        f"<pre>{escape(verdict['command'])}</pre><details><summary>How to check that it helped</summary>"
        "<p>Train as before beside it, with the same seed and for as long, and measure both. A difference of half a "
        "point of AP is within what another seed does: on small datasets, compare three seeds each.</p>"
        f"<pre>{escape(verdict['baseline'])}</pre></details>"
    )


def _method(page: Page) -> str:
    report = page.report
    about = report["about"]
    size = (
        "as they are" if about["size"] == "original" else f"to {about['size'][0]} × {about['size'][1]} pixels at most"
    )
    sentences = [
        f"Images are spread evenly over the split and resized {size}; nothing is mirrored. Matching, sampling and "
        "losses are the model's own, as in training; norms use their stored statistics.",
        f"Seed {about['seed']}; the same command gives the same numbers. Intervals hold 95 % of 1000 sets of as many "
        "images, drawn with replacement.",
        "Gradients are those of single images. Inliers: positives whose smooth L1 loss, in units of β and summed "
        "over four deltas, is below 1.0.",
        "Errors are decomposed at IoU 0.5 and 0.1 (TIDE, Bolya et al., ECCV 2020). Similarity is linear centerd kernel "
        "alignment (Kornblith et al., ICML 2019) over evenly spaced cells of all images.",
        "Limits of the verdict and their reasons are in libradet/analysis/thresholds.py. The paper's numbers are "
        "COCO's; other data need not resemble it.",
    ]
    left_out = f"<h3>Left out</h3>{items(report['left_out'])}" if report["left_out"] else ""
    notes = f"<h3>Notes on the data</h3>{items(report['notes'])}" if report["notes"] else ""
    paper = (
        f'<p class="small">Paper: Pang et al., <a href="{_PAPER}">Libra R-CNN</a>, CVPR 2019. Numbers for machines: '
    )
    files = '<a href="report.json">report.json</a>, <a href="tables">tables</a>, <a href="figures">figures</a>.</p>'
    return f'<h2 id="method">How this was measured</h2>{items(sentences)}{left_out}{notes}{paper}{files}'

"""Every claim of the paper that has a number in it, measured."""

from collections.abc import Callable
from typing import Any

from libradet.experiments.comparing import heading, measured, reproduce_table
from libradet.experiments.definitions import read_experiment
from libradet.experiments.laboratory import Laboratory, Site
from libradet.experiments.looking import baselines, look_at, second_stage
from libradet.experiments.statistics import Mean, mean
from libradet.experiments.tables import Lines, to_markdown
from libradet.utils.atomic_io import atomic_write

CLAIMS = "claims"
HEADS = ["claim", "paper, on COCO", "here"]


def reproduce_claims(laboratory: Laboratory) -> list[Lines]:
    """Train what is missing of the baseline and of Table 4, look at the baselines, time steps; write ``claims.md``."""
    found = baselines(laboratory)
    tables = []
    for site in laboratory.sites:
        reports = [look_at(laboratory, site, run)[0] for (where, _), run in found.items() if where is site]
        lines = Lines(f"The paper's claims on {site.name}", HEADS, [*_of_reports(reports)], [_NOTE])
        lines.cells.append(_bins(laboratory, site))
        lines.cells += _costs(laboratory, site)
        tables.append(lines)
    parts = [heading(laboratory, "The paper's claims"), *map(to_markdown, tables)]
    with atomic_write(laboratory.out / f"{CLAIMS}.md") as partial:
        partial.write_text("\n".join(parts), encoding="utf-8")
    return tables


_NOTE = (
    "Mean ± standard deviation over seeds, of baselines (second stage on given proposals) on validation images. Hard "
    "negatives are an image's 5 % of largest loss, at most as many as are sampled; inliers are positives whose smooth "
    "L1 loss is below 1. Steps are timed in turns, forward and backward, on one batch."
)


def _of_reports(reports: list[dict[str, Any]]) -> list[list[str]]:
    """The claims that one look at a trained baseline answers."""
    wanted: list[tuple[str, str, Callable[[dict[str, Any]], float | None], str]] = [
        ("hard negatives with IoU above 0.05", "more than 60 %", lambda r: _above(r, "hard"), "%"),
        ("negatives of random sampling above 0.05", "about 30 %", lambda r: _above(r, "random"), "%"),
        ("negatives of IoU-balanced sampling, K = 3", "", lambda r: _above(r, "iou_balanced_paper_3"), "%"),
        ("gradient of an inlier ÷ of an outlier, smooth L1", "0.30", lambda r: _inlier(r, "smooth_l1"), ""),
        ("the same under balanced L1", "", lambda r: _inlier(r, "balanced_l1_0.5_1.5"), ""),
        ("localization loss ÷ classification loss", "about 0.5", _tasks, ""),
    ]
    cells = []
    for claim, paper, measure, unit in wanted:
        values = [value for report in reports if (value := measure(report)) is not None]
        cells.append([claim, paper, _written(mean(values), unit)])
    return cells


def _above(report: dict[str, Any], sampler: str) -> float | None:
    return second_stage(report["samples"])["negatives"][sampler]["above"]["value"]


def _inlier(report: dict[str, Any], loss: str) -> float | None:
    return second_stage(report["errors"])["losses"][loss]["ratio"]


def _tasks(report: dict[str, Any]) -> float | None:
    losses = report["gradients"]["losses"]
    return losses["box"] / losses["class"] if losses.get("class") else None


def _bins(laboratory: Laboratory, site: Site) -> list[str]:
    """Table 4 says that K hardly matters."""
    experiment = read_experiment("table4")
    reproduce_table(laboratory, experiment)
    means = {}
    for row in (row for row in experiment.rows if "K =" in row.name):
        results = {
            (site.name, row.name, seed): result
            for seed in laboratory.seeds
            if (result := laboratory.run(site, row, seed, experiment.shared_proposals).result) is not None
        }
        if (found := measured(laboratory, row, results, [site]).mean("AP")) is not None:
            means[row.name[-1]] = found.value
    named = ", ".join(f"K = {k}: {value:.1f}" for k, value in means.items())
    gap = f"{max(means.values()) - min(means.values()):.1f} AP ({named})" if means else "–"
    return ["largest difference between K = 2, 3 and 5", "0.1 AP", gap]


def _costs(laboratory: Laboratory, site: Site) -> list[list[str]]:
    """Sampling is said to cost nothing; of the whole the paper says that it is simple."""
    from libradet.experiments.timing import compare_steps, ratio

    experiment = read_experiment("switches")
    seed = laboratory.seeds[0]
    laboratory.say(f"{site.name}: timing steps")
    first, *others = [laboratory.run(site, row, seed, experiment.shared_proposals) for row in experiment.rows]
    seconds = compare_steps([first, *others])
    rows = zip(experiment.rows[1:], seconds[1:], strict=True)
    paper = {"IoU-balanced sampling": "no extra cost"}
    return [
        [f"step ÷ baseline's: {row.name}", paper.get(row.name, ""), f"{ratio(seconds[0], own):.2f}"]
        for row, own in rows
    ]


def _written(found: Mean | None, unit: str) -> str:
    if found is None:
        return "–"
    factor, digits = (100, 1) if unit == "%" else (1, 2)
    said = f"{factor * found.value:.{digits}f}"
    if found.deviation is not None:
        said += f" ± {factor * found.deviation:.{digits}f}"
    return f"{said} {unit}".rstrip()

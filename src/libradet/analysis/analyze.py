"""From a model and a dataset to the imbalance report: a page, its numbers and its figures in one folder."""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from libradet.analysis.choosing import proposals_of, spread_evenly, subset
from libradet.analysis.classes_and_errors import by_class, by_size, decompose, frequency_correlation
from libradet.analysis.figure_style import save_png, style, to_svg
from libradet.analysis.figures import make_figures
from libradet.analysis.measuring import Drawing, Measured, Options, measure
from libradet.analysis.objective_level import curves
from libradet.analysis.page import render
from libradet.analysis.page_parts import Page
from libradet.analysis.sample_images import draw_samples, share_near
from libradet.analysis.tables import make_tables, write_tables
from libradet.analysis.verdict import judge
from libradet.data.read import read
from libradet.data.records import Dataset
from libradet.errors import UserError
from libradet.models.detector import Detector
from libradet.models.proposal_needs import check_proposals, give
from libradet.utils.atomic_io import atomic_folder

PAGE, NUMBERS = "report.html", "report.json"
OWN = (PAGE, NUMBERS, "tables", "figures")
"""Everything that a report's folder holds."""


def analyze(
    model: Detector,
    data: str | Path,
    out: str | Path,
    split: str = "val",
    *,
    name: str | Path = "model",
    options: Options | None = None,
    proposals: str | Path | None = None,
    skip_broken: bool = False,
) -> dict[str, Any]:
    """Write the imbalance report of ``model`` on one split of a dataset to the folder ``out``.

    The folder is there at once and whole, or not at all; one that holds an earlier report is replaced.

    Args:
        split: "train", "val", ... or the layout's own name.
        name: of the model's file, for the commands that the report gives.
        options: how many images, seed, and so on.
        proposals: file of proposals, or folder with one for each split, for a model without rpn.
        skip_broken: leave out images that are missing or damaged, instead of refusing the split.

    Returns:
        what report.json holds.

    Raises:
        UserError: nothing to look at, model and data that do not fit, or a folder that cannot be written.
    """
    with atomic_folder(out, OWN) as folder:
        found = look(model, data, split, name=name, options=options, proposals=proposals, skip_broken=skip_broken)
        write(found, folder)
    return found.report


class Found(NamedTuple):
    """Attributes:
    report: what report.json holds.
    drawings: samples to draw.
    dataset: the images that were looked at.
    """

    report: dict[str, Any]
    drawings: list[Drawing]
    dataset: Dataset


def look(
    model: Detector,
    data: str | Path,
    split: str = "val",
    *,
    name: str | Path = "model",
    options: Options | None = None,
    proposals: str | Path | None = None,
    skip_broken: bool = False,
) -> Found:
    """Everything that the report says, with nothing written; see :func:`analyze`."""
    options = options or Options()
    _check(options)
    check_proposals(model.config, proposals)
    dataset, checked = read(data, split, training=False, skip_broken=skip_broken, masks=False)
    looked_at, rows = _choose(dataset, options.images, data)
    given = proposals_of(give(model.config, proposals, dataset, training=False), rows)
    measured = measure(model, looked_at, options, given)
    skipped = [f"{s['count']} × {s['what']} left out" for s in checked.skipped]
    notes = [*skipped, *checked.warnings, *measured.metrics["notes"]]
    report = _report(model, dataset, looked_at, measured, options, {"model": str(name), "data": str(data)}, notes)
    # As it will be read back: the page is made of what machines get.
    return Found(json.loads(json.dumps(report)), measured.drawings, looked_at)


def _check(options: Options) -> None:
    for name, least in (("images", 1), ("gradient_images", 1), ("batch_size", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise UserError(f"{name} is {getattr(options, name)}; it has to be {least} or above")


def _choose(dataset: Dataset, limit: int, data: str | Path) -> tuple[Dataset, list[int]]:
    rows = spread_evenly(len(dataset), limit) if len(dataset) else []
    chosen = subset(dataset, rows)
    if not any((~image.crowd).any() for image in chosen.images):
        where = f"{len(rows)} images of {dataset.split} of {data}"
        raise UserError(
            f"no objects are annotated in the {where}: there is no balance to look at; name another --split"
        )
    return chosen, rows


def _report(
    model: Detector,
    dataset: Dataset,
    looked_at: Dataset,
    measured: Measured,
    options: Options,
    names: dict[str, str],
    notes: list[str],
) -> dict[str, Any]:
    from libradet import __version__

    metrics = measured.metrics
    rows = [] if model.config.proposes else by_class(metrics, looked_at)
    about = {
        **names,
        "data_name": Path(names["data"]).resolve().name,
        "detector": model.config.model,
        "backbone": model.config.backbone.name,
        "proposes": model.config.proposes,
        "split": dataset.split,
        "images": len(looked_at),
        "images_in_split": len(dataset),
        "objects": sum(int((~image.crowd).sum()) for image in looked_at.images),
        "size": options.size or list(model.config.image.size),
        "seed": options.seed,
        "version": __version__,
    }
    report: dict[str, Any] = {
        "about": about,
        "metrics": {key: value for key, value in metrics.items() if key.startswith(("AP", "AR"))},
        "samples": measured.samples,
        "drawings": _drawings(measured, looked_at),
        "features": measured.features,
        "levels": measured.levels,
        "curves": curves(),
        "errors": measured.errors,
        "gradients": measured.gradients,
        "classes": {"rows": rows, "correlation": frequency_correlation(rows)},
        "sizes": by_size(metrics, looked_at),
        "mistakes": None if model.config.proposes else decompose(looked_at, measured.rows),
        "left_out": _left_out(model),
        "notes": notes,
    }
    report["verdict"] = judge(report, names["model"], model.config, names["data"])
    report["tables"] = make_tables(report)
    return report


def _drawings(measured: Measured, dataset: Dataset) -> list[dict[str, Any]]:
    found = []
    for i, drawing in enumerate(measured.drawings):
        row: dict[str, Any] = {"name": f"samples_{i + 1}", "stage": drawing.stage}
        row["image"] = dataset.images[drawing.index].path.name
        for sampler in drawing.chosen:
            near, total = share_near(drawing, sampler)
            row[sampler] = {"near": near, "total": total}
        found.append(row)
    return found


def _left_out(model: Detector) -> list[str]:
    """What does not apply to this detector."""
    config, said = model.config, []
    if config.roi is None:
        said.append("There is no second stage: no proposals are sampled, no level is read by RoIAlign.")
    if config.rpn is None and config.dense is None:
        said.append("Proposals are given: there are no anchors to look at.")
    if config.dense is not None:
        said.append("One stage with focal loss learns from all anchors: positives are not sampled, so not balanced.")
    if config.proposes:
        said.append("Proposals have no classes: no AP by class, and no errors to tell apart.")
    if config.pyramid.balanced is None:
        said.append("The pyramid is not balanced: levels are shown before balancing only.")
    if config.cascade is not None:
        said.append("Of the cascade, the first stage is looked at; later ones see what it has refined.")
    if config.mask is not None:
        said.append("Masks are not looked at, nor is their loss.")
    return said


def write(found: Found, folder: Path) -> None:
    """Page, numbers, tables and figures, into a folder that is empty."""
    report = found.report
    figures = make_figures(report)
    (folder / "figures").mkdir()
    with style():
        for name, figure in figures.items():
            save_png(figure, folder / "figures" / f"{name}.png")
        drawn = {name: to_svg(figure, name) for name, figure in figures.items()}
    images = _images(found)
    for name, content in images.items():
        (folder / "figures" / f"{name}.jpg").write_bytes(content)
    write_tables(report["tables"], folder / "tables")
    as_text = {"encoding": "utf-8", "errors": "backslashreplace"}  # names of files need not be text
    (folder / NUMBERS).write_text(json.dumps(report, indent=1, ensure_ascii=False), **as_text)
    (folder / PAGE).write_text(render(Page(report, drawn, images)), **as_text)


def _images(found: Found) -> dict[str, bytes]:
    files = {}
    for row, drawing in zip(found.report["drawings"], found.drawings, strict=True):
        for sampler in drawing.chosen:
            file = io.BytesIO()
            Image.fromarray(draw_samples(drawing, found.dataset, sampler)).save(file, "JPEG", quality=82)
            files[f"{row['name']}_{sampler}"] = file.getvalue()
    return files

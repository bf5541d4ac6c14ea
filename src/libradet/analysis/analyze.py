"""Analyze a detector on a dataset: write the imbalance report with its numbers, tables and figures to one folder."""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from libradet.analysis.collect import (
    AnalysisOptions,
    Measurements,
    SampleVisualization,
    collect,
    subset,
    subset_proposals,
)
from libradet.analysis.diagnose.diagnosis import diagnose
from libradet.analysis.levels.classes import (
    TrainFrequency,
    class_frequency,
    class_options,
    class_results,
    confusion_counts,
    summarize_imbalance,
)
from libradet.analysis.levels.objective import loss_curves
from libradet.analysis.levels.outcome import compute_error_types, size_results
from libradet.analysis.report.figure_style import report_style, save_png, to_svg
from libradet.analysis.report.figures import count_near_objects, draw_samples, make_figures
from libradet.analysis.report.render import render
from libradet.analysis.report.tables import make_tables, write_tables
from libradet.analysis.run_settings import read_run_settings, trained_tiles
from libradet.data.bit_depth import describe_bit_depth
from libradet.data.formats.reading import standard_split
from libradet.data.read import read, splits
from libradet.data.records import Dataset
from libradet.errors import UserError
from libradet.inference.proposals import check_config_proposals, load_config_proposals
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.utils.atomic_io import atomic_folder
from libradet.utils.spacing import evenly_spaced
from libradet.utils.text import counted

HTML_FILE, JSON_FILE = "report.html", "report.json"
REPORT_FILES = (HTML_FILE, JSON_FILE, "tables", "figures")
"""Everything in the folder of a report."""


def analyze(
    model: Detector,
    data: str | Path,
    output_dir: str | Path,
    split: str = "val",
    *,
    name: str | Path = "model",
    options: AnalysisOptions | None = None,
    proposals: str | Path | None = None,
    skip_broken: bool = False,
) -> dict[str, Any]:
    """Write the imbalance report of ``model`` on one split of a dataset to ``output_dir``.

    The folder is written atomically; one with an earlier report is replaced.

    Args:
        split: "train", "val", ... or the name that the dataset's format uses.
        name: path of the model's file, for the commands in the report.
        options: number of images, seed, and so on.
        proposals: file of proposals, or folder with one for each split, for a model without RPN.
        skip_broken: skip missing and damaged images instead of refusing the split.

    Returns:
        the content of report.json.

    Raises:
        UserError: the split has no objects, model and data do not fit, or the folder cannot be written.
    """
    with atomic_folder(output_dir, REPORT_FILES) as folder:
        result = build_report(
            model, data, split, name=name, options=options, proposals=proposals, skip_broken=skip_broken
        )
        write_report(result, folder)
    return result.report


class AnalysisResult(NamedTuple):
    """An imbalance report, and what its figures need in addition.

    Attributes:
        report: the content of report.json.
        visualizations: samples to draw.
        dataset: the analyzed images.
        bit_depth: of the values in 16-bit files, as the model reads them.
    """

    report: dict[str, Any]
    visualizations: list[SampleVisualization]
    dataset: Dataset
    bit_depth: int


def build_report(
    model: Detector,
    data: str | Path,
    split: str = "val",
    *,
    name: str | Path = "model",
    options: AnalysisOptions | None = None,
    proposals: str | Path | None = None,
    skip_broken: bool = False,
) -> AnalysisResult:
    """Return the imbalance report without writing anything; see :func:`analyze`."""
    options = options or AnalysisOptions()
    check_config_proposals(model.config, proposals)
    dataset, checked = read(data, split, training=False, skip_broken=skip_broken, masks=False)
    analyzed, rows = _select_images(dataset, options.max_images, data)
    precomputed = load_config_proposals(model.config, proposals, dataset, training=False)
    measurements = collect(model, analyzed, options, subset_proposals(precomputed, rows))
    skipped = [f"skipped: {entry['reason']} ({entry['count']})" for entry in checked.skipped]
    metadata = _metadata(model, dataset, analyzed, options, name, data)
    metadata["proposals"] = None if proposals is None else str(proposals)
    train, notes = (None, []) if model.config.is_proposal_model else _train_frequency(data, dataset)
    report = _assemble(model, analyzed, measurements, metadata, train)
    report["notes"] = [*skipped, *checked.warnings, *measurements.metrics["notes"], *notes]
    # The page is rendered from the same values as a reader of report.json gets.
    return AnalysisResult(json.loads(json.dumps(report)), measurements.visualizations, analyzed, model.bit_depth)


def _select_images(dataset: Dataset, limit: int, data: str | Path) -> tuple[Dataset, list[int]]:
    rows = evenly_spaced(len(dataset), limit) if len(dataset) else []
    selected = subset(dataset, rows)
    if not any(image.has_objects for image in selected.images):
        has_crowd = any(image.crowd.any() for image in selected.images)
        crowd = ", only crowd regions (iscrowd)" if has_crowd else ""
        raise UserError(
            f"{data}: no objects are annotated in the {counted(len(rows), 'image')} of split {dataset.split}{crowd}, "
            "so there is nothing to analyze; name another --split"
        )
    return selected, rows


def _train_frequency(data: str | Path, dataset: Dataset) -> tuple[TrainFrequency | None, list[str]]:
    """Return the frequency of the dataset's classes in its training split, and notes; None if there is no other."""
    # Splits have the names of the files, such as train2017.
    names = [standard_split(name) for name in splits(data)]
    if "train" not in names or standard_split(dataset.split) == "train":
        return None, []
    try:
        train, checked = read(data, "train", strict=False, training=False, skip_broken=True, masks=False)
    except UserError as error:
        return None, [f"Class frequencies are those of split {dataset.split}; split train cannot be read: {error}"]
    skipped = sum(entry["count"] for entry in checked.skipped)
    notes = (
        [
            f"Class frequencies are counted without {counted(skipped, 'skipped entry', 'skipped entries')} "
            "of split train."
        ]
        if skipped
        else []
    )
    return class_frequency(train, dataset.class_names), notes


def _metadata(
    model: Detector,
    dataset: Dataset,
    analyzed: Dataset,
    options: AnalysisOptions,
    name: str | Path,
    data: str | Path,
) -> dict[str, Any]:
    from libradet import __version__

    config = model.config
    return {
        "model": str(name),
        "data": str(data),
        "data_name": Path(data).resolve().name,
        "detector": config.model,
        "backbone": config.backbone.name,
        "is_proposal_model": config.is_proposal_model,
        "split": dataset.split,
        "images": len(analyzed),
        "images_in_split": len(dataset),
        "objects": sum(int((~image.crowd).sum()) for image in analyzed.images),
        "size": options.size or list(config.image.size),
        "trained_tiles": trained_tiles(read_run_settings(name)),
        "bit_depth_warning": describe_bit_depth([image.path for image in analyzed.images], model.bit_depth),
        "seed": options.seed,
        "version": __version__,
    }


def _assemble(
    model: Detector,
    analyzed: Dataset,
    measurements: Measurements,
    metadata: dict[str, Any],
    train: TrainFrequency | None,
) -> dict[str, Any]:
    metrics, config = measurements.metrics, model.config
    error_types = None if config.is_proposal_model else compute_error_types(analyzed, measurements.detections)
    report: dict[str, Any] = {
        "metadata": metadata,
        "metrics": {key: value for key, value in metrics.items() if key.startswith(("AP", "AR"))},
        "samples": measurements.samples,
        "sample_images": _sample_images(measurements, analyzed),
        "features": measurements.features,
        "levels": measurements.levels,
        "curves": loss_curves(),
        "errors": measurements.errors,
        "gradients": measurements.gradients,
        "classes": _class_level(config, metadata["model"], analyzed, measurements, train),
        "sizes": size_results(metrics, analyzed, config.is_proposal_model),
        "error_types": error_types,
        "not_applicable": _not_applicable(config, len(analyzed.class_names)),
    }
    report["diagnosis"] = diagnose(report, metadata["model"], config, metadata["data"])
    report["tables"] = make_tables(report)
    return report


def _class_level(
    config: DetectorConfig, model: str, analyzed: Dataset, measurements: Measurements, train: TrainFrequency | None
) -> dict[str, Any]:
    """Return the numbers of the class level; of a proposal model, no rows."""
    if config.is_proposal_model:
        return {"rows": []}
    names = analyzed.class_names
    *losses, background = measurements.class_losses
    counts = confusion_counts(analyzed, measurements.detections)
    rows = class_results(measurements.metrics, analyzed, train, counts, losses)
    order = [names.index(row["class"]) for row in rows]
    confusion = {"classes": [names[i] for i in order], "counts": counts[order][:, [*order, len(names)]].tolist()}
    repeated = train or class_frequency(analyzed, names)
    return {
        "rows": rows,
        "split": analyzed.split if train is None else "train",
        **summarize_imbalance(rows, confusion),
        "background": background,
        "confusion": confusion,
        "repeat_factor_thresh": repeated.repeat_thresh,
        "repeated_epoch": repeated.epoch,
        "trained_with": class_options(config, model),
    }


def _sample_images(measurements: Measurements, dataset: Dataset) -> list[dict[str, Any]]:
    rows = []
    for number, visualization in enumerate(measurements.visualizations, start=1):
        row: dict[str, Any] = {"name": f"samples_{number}", "stage": visualization.stage}
        row["image"] = dataset.images[visualization.index].path.name
        for sampler in visualization.sampled:
            near, total = count_near_objects(visualization, sampler)
            row[sampler] = {"near": near, "total": total}
        rows.append(row)
    return rows


def _not_applicable(config: DetectorConfig, num_classes: int) -> list[str]:
    """Return the parts of the report that do not apply to a detector, and why."""
    notes = []
    if config.roi is None:
        notes.append("RoI heads: the model has none, so no proposals are sampled and RoIAlign reads no level.")
    if config.rpn is None and config.retinanet is None:
        notes.append("Anchors: proposals are precomputed, so the model has none.")
    if config.retinanet is not None:
        notes.append("Positive sampling: a one-stage detector with focal loss trains on all anchors.")
    if config.is_proposal_model:
        notes.append("Class level and error types: proposals have no classes.")
    elif num_classes < 2:
        notes.append("Class level: the dataset has one class; only foreground against background is measured.")
    if config.pyramid.balanced is None:
        notes.append("Levels after balancing: the pyramid is not balanced.")
    if config.cascade is not None:
        notes.append(
            "Later stages of the cascade: only its first stage is analyzed; later ones train on refined boxes."
        )
    if config.mask is not None:
        notes.append("Masks: neither they nor their loss are analyzed.")
    return notes


def write_report(result: AnalysisResult, folder: Path) -> None:
    """Write page, numbers, tables and figures to an empty folder."""
    report = result.report
    figures = make_figures(report)
    (folder / "figures").mkdir()
    with report_style():
        for name, figure in figures.items():
            save_png(figure, folder / "figures" / f"{name}.png")
        svgs = {name: to_svg(figure, name) for name, figure in figures.items()}
    images = _draw_sample_images(result)
    for name, content in images.items():
        (folder / "figures" / f"{name}.jpg").write_bytes(content)
    write_tables(report["tables"], folder / "tables")
    encoding = {"encoding": "utf-8", "errors": "backslashreplace"}  # file names may contain undecodable bytes
    (folder / JSON_FILE).write_text(json.dumps(report, indent=1, ensure_ascii=False), **encoding)
    (folder / HTML_FILE).write_text(render(report, svgs, images), **encoding)


def _draw_sample_images(result: AnalysisResult) -> dict[str, bytes]:
    """Return JPEG files by name."""
    files = {}
    for row, visualization in zip(result.report["sample_images"], result.visualizations, strict=True):
        for sampler in visualization.sampled:
            file = io.BytesIO()
            drawn = draw_samples(visualization, result.dataset, sampler, result.bit_depth)
            Image.fromarray(drawn).save(file, "JPEG", quality=82)
            files[f"{row['name']}_{sampler}"] = file.getvalue()
    return files

"""The diagnosis: all findings in order of urgency, a summary, caveats, and the commands that train with the fixes."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from libradet.analysis.diagnose import thresholds
from libradet.analysis.diagnose.classes import diagnose_classes
from libradet.analysis.diagnose.feature import diagnose_pyramid
from libradet.analysis.diagnose.finding import SEVERITY_LABELS, STAGE_NAMES, Finding
from libradet.analysis.diagnose.measured_gains import NOT_MEASURED, describe_gains, lowers_ap
from libradet.analysis.diagnose.objective import diagnose_regression, diagnose_tasks
from libradet.analysis.diagnose.outcome import diagnose_errors, diagnose_sizes
from libradet.analysis.diagnose.sample import (
    diagnose_coverage,
    diagnose_negatives,
    diagnose_positive_ious,
    diagnose_positives,
)
from libradet.analysis.levels.classes import unseen_classes
from libradet.analysis.run_settings import run_config
from libradet.models.config import DetectorConfig
from libradet.models.zoo import MODELS, make_config
from libradet.utils.nested import flatten
from libradet.utils.text import counted, summarize_list

_FROM_DATA_OR_WEIGHTS = (
    *("model", "num_classes", "class_names", "category_ids", "image.mean", "image.std", "image.channels"),
    *("backbone.name", "backbone.freeze_at", "backbone.frozen_norm", "backbone.norm_eps", "backbone.stride_in_1x1"),
)
"""Settings that follow from the dataset, or from the weights that training starts from."""

_CHECK_OF_PROPOSALS = (
    "Train with and without this option with the same seed and compare AR100 and AR1000, and by object size ARs, ARm "
    "and ARl: proposals have no AP to compare."
)


def diagnose(report: dict[str, Any], model: str | Path, config: DetectorConfig, data: str | Path) -> dict[str, Any]:
    """Return the diagnosis of a report.

    Args:
        report: the measured numbers, see :func:`libradet.analysis.analyze.build_report`.
        model: path of the model, for the commands.
        data: path of the dataset, for the commands.

    Returns:
        ``summary``, ``caveats``, ``findings`` (most urgent first), ``train_command`` with the recommended components of
        the last stage together, what they gained together elsewhere (``train_measured``), and ``baseline_command``
        without; all empty if nothing is recommended.
    """
    findings = _all_findings(report, config)
    command = partial(train_command, model, config, data, proposals=report["metadata"]["proposals"])
    order = list(SEVERITY_LABELS)
    findings.sort(key=lambda finding: order.index(finding.severity))
    for finding in findings:
        apply_measured_gains(finding, config)
        if config.is_proposal_model and finding.options:
            finding.check = _CHECK_OF_PROPOSALS
        if finding.options:
            finding.command = command(finding.options, f"runs/{finding.key}")
    options = [option for finding in findings if _is_combined(finding, config) for option in finding.options]
    samples = more_samples(config, options)
    options += samples
    return {
        "summary": _summarize(findings),
        "caveats": _caveats(report),
        "findings": [asdict(f) | {"severity_label": SEVERITY_LABELS[f.severity]} for f in findings],
        "train_command": command(options, "runs/balanced") if options else "",
        "train_measured": describe_gains("together") if samples else "",
        "baseline_command": command([], "runs/baseline") if options else "",
    }


def _all_findings(report: dict[str, Any], config: DetectorConfig) -> list[Finding]:
    weights = {errors["stage"]: errors["weights"] for errors in report["errors"]}
    metric = "AR" if report["metadata"]["is_proposal_model"] else "AP"
    uses_sampling = any(samples["uses_sampling"] for samples in report["samples"])
    findings = [
        *(diagnose_negatives(samples) for samples in reversed(report["samples"])),
        *(diagnose_positives(samples) for samples in reversed(report["samples"])),
        *(diagnose_positive_ious(samples) for samples in reversed(report["samples"])),
        *(diagnose_coverage(samples) for samples in report["samples"]),
        diagnose_pyramid(report["features"], report["gradients"]["levels"]["before"]),
        *(diagnose_regression(errors) for errors in reversed(report["errors"])),
        *diagnose_tasks(report["gradients"], weights, config.uncertainty_weighting),
        diagnose_classes(report["classes"]),
        diagnose_sizes(report["sizes"], metric),
        diagnose_errors(report["error_types"], uses_sampling),
    ]
    return [finding for finding in findings if finding is not None]


def apply_measured_gains(finding: Finding, config: DetectorConfig) -> None:
    """State the measured gains of a finding's component, and recommend none that lowered AP.

    They are gains in AP of detectors with RoI heads, so they do not apply to an RPN alone; of other detectors, the
    sentence says so.
    """
    if not config.is_proposal_model:
        finding.measured = describe_gains(finding.key, config.roi is not None, finding.recommended)
        if finding.recommended and lowers_ap(finding.key, finding.recommended):
            finding.withdraw_recommendation()
    if finding.recommended and not finding.measured:
        finding.measured = NOT_MEASURED


def _is_combined(finding: Finding, config: DetectorConfig) -> bool:
    """Return whether a finding's options go into the combined command.

    Loss weights, class weights and repeat factors are changed one at a time; the paper's components together, but only
    those of the last stage.
    """
    is_first_of_two = config.rpn is not None and config.roi is not None and finding.key.endswith("_rpn")
    return not finding.key.startswith(("tasks", "classes")) and not is_first_of_two


def more_samples(config: DetectorConfig, options: Sequence[str]) -> list[str]:
    """Return the option for as many samples as proposals, if the RoI heads are to be balanced and have fewer.

    Together, the components gain more with it, and AP50 falls without it (docs/results/balanced.md).
    """
    if config.roi is None or not any(option.startswith("--detector.roi.") for option in options):
        return []
    proposals = config.roi.train_proposals if config.rpn is None else config.rpn.train_proposals.post_nms_top_n
    if config.roi.sampling.batch_size_per_image >= proposals:
        return []
    return [f"--detector.roi.sampling.batch_size_per_image {proposals}"]


def _summarize(findings: list[Finding]) -> str:
    titles = {severity: [f.title for f in findings if f.severity == severity] for severity in SEVERITY_LABELS}
    parts = []
    if titles["strong"]:
        parts.append(f"Strong imbalance: {join_titles(titles['strong'])}.")
    if titles["moderate"]:
        parts.append(f"Moderate imbalance: {join_titles(titles['moderate'])}.")
    if not parts:
        parts.append("No imbalance that one of the components addresses.")
    if titles["balanced"]:
        parts.append(f"Already balanced: {join_titles(titles['balanced'])}.")
    if titles["inconclusive"]:
        parts.append(f"Inconclusive: {join_titles(titles['inconclusive'])}.")
    return " ".join(parts)


def join_titles(titles: list[str]) -> str:
    """Return titles of findings as a list within a sentence."""
    # "IoU" and "RPN" keep their capitals.
    titles = [title[0].lower() + title[1:] if title.split()[0].istitle() else title for title in titles]
    return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"


def _caveats(report: dict[str, Any]) -> list[str]:
    """Return the reasons to distrust the diagnosis."""
    metadata, caveats = report["metadata"], []
    if metadata["images"] < thresholds.MIN_IMAGES:
        caveats.append(
            f"Only {counted(metadata['images'], 'image was', 'images were')} analyzed: all numbers are only indicative."
        )
    for errors in report["errors"]:
        number, name = errors["positives"], STAGE_NAMES[errors["stage"]]
        if not number:
            caveats.append(f"No object has a positive of the {name}, so its box regression is not measured.")
        elif number < thresholds.MIN_POSITIVES:
            caveats.append(f"Box regression of the {name} is measured on only {counted(number, 'positive')}.")
    metric = "AR100" if metadata["is_proposal_model"] else "AP"
    value = report["metrics"][metric]
    if value is not None and value < thresholds.BARELY_TRAINED:
        caveats.append(
            f"The model is barely trained ({metric.removesuffix('100')} {value:.3f}): its hard samples are not "
            "meaningful yet. Train it further and analyze it again."
        )
    return [*caveats, *_data_caveats(report), *_gradient_caveats(report)]


def _gradient_caveats(report: dict[str, Any]) -> list[str]:
    """Return the losses without a gradient at the pyramid, besides box losses of a stage without a positive."""
    without_positives = tuple(
        "rpn_box" if errors["stage"] == "rpn" else "box" for errors in report["errors"] if not errors["positives"]
    )
    norms = report["gradients"]["norms"]["pyramid"]
    dead = [name for name, norm in norms.items() if not norm and not name.startswith(without_positives)]
    if not dead:
        return []
    return [
        f"No gradient reaches the pyramid from the losses {', '.join(dead)}: the units between them are dead, usually "
        "because the learning rate is too high. Balancing does not fix this."
    ]


def _data_caveats(report: dict[str, Any]) -> list[str]:
    """Return what the images or the training split lack."""
    metadata, caveats = report["metadata"], []
    if metadata["bit_depth_warning"]:
        caveats.append(f"{metadata['bit_depth_warning']}.")
    if metadata["trained_tiles"]:
        size, overlap = metadata["trained_tiles"]
        caveats.append(
            f"The model was trained on tiles of {size:g} px with an overlap of {overlap:g}; whole images are analyzed, "
            "in which objects may be smaller than in training."
        )
    if unseen := unseen_classes(report["classes"]["rows"]):
        them = "it" if len(unseen) == 1 else "them"
        caveats.append(
            f"Split {report['classes']['split']} has no object of {summarize_list(unseen, 5)}: no option helps a "
            f"detector to learn {them}."
        )
    return caveats


def train_command(
    model: str | Path,
    config: DetectorConfig,
    data: str | Path,
    options: Sequence[str],
    output_dir: str,
    proposals: str | None = None,
) -> str:
    """Return the ``libradet train`` command that repeats the training of a model, with ``options`` added.

    Uses the run's own config.yaml if it is in the folder of the model. Otherwise the command lists what differs from
    the zoo's entry, and starts from ImageNet weights, as the original ones are not known.

    Args:
        proposals: folder of the proposals that a detector without RPN needs, or a file in it.
    """
    config_of_run = run_config(model)
    if config_of_run is not None:
        words = ["--config", str(config_of_run)]
    else:
        name = config.model if config.model in MODELS else "faster_rcnn"
        words = ["--model", name, "--backbone", config.backbone.name, "--weights", "imagenet"]
        words += _differences(config, name)
        if config.requires_proposals and proposals is not None:
            words += ["--proposals", str(Path(proposals).parent if Path(proposals).is_file() else proposals)]
    replaced = {option.split(" ", 1)[0] for option in options}
    words = [word for pair in zip(words[::2], words[1::2], strict=True) if pair[0] not in replaced for word in pair]
    words += ["--data", str(data)]
    for option in options:
        words += option.split(" ", 1)
    words += ["--output_dir", output_dir]
    lines = [" ".join(map(shlex.quote, pair)) for pair in zip(words[::2], words[1::2], strict=True)]
    return " \\\n  ".join(["libradet train " + lines[0], *lines[1:]])


def _differences(config: DetectorConfig, name: str) -> list[str]:
    defaults = dict(flatten(asdict(make_config(name, config.num_classes))))
    words: list[str] = []
    for key, value in flatten(asdict(config)):
        if not key.startswith(_FROM_DATA_OR_WEIGHTS) and defaults.get(key, ...) != value:
            words += [f"--detector.{key}", value if isinstance(value, str) else json.dumps(value)]
    return words

"""The verdict: which imbalance is there, how strong, which switch to turn, and what speaks against believing it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from libradet.analysis import thresholds as limits
from libradet.analysis.commands import train_command
from libradet.analysis.finding import WORDS, Finding
from libradet.analysis.judge_features import judge_pyramid
from libradet.analysis.judge_objective import judge_regression, judge_tasks
from libradet.analysis.judge_outcome import judge_classes, judge_errors, judge_sizes
from libradet.analysis.judge_samples import NAMES, judge_coverage, judge_negatives, judge_positives
from libradet.models.config import DetectorConfig


def judge(report: dict[str, Any], model: str | Path, config: DetectorConfig, data: str | Path) -> dict[str, Any]:
    """``summary``, ``cautions``, ``findings`` (most urgent first), and one ``command`` with all switches together."""
    findings = _findings(report)
    order = list(WORDS)
    findings.sort(key=lambda f: order.index(f.level))
    for finding in findings:
        if finding.options:
            finding.command = train_command(model, config, data, finding.options, f"runs/{finding.key}")
    options = [option for f in findings if _is_switch(f, config) for option in f.options]
    return {
        "summary": _summary(findings),
        "cautions": _cautions(report),
        "findings": [asdict(f) | {"word": WORDS[f.level]} for f in findings],
        "command": train_command(model, config, data, options, "runs/balanced") if options else "",
        "baseline": train_command(model, config, data, [], "runs/as_before") if options else "",
    }


def _findings(report: dict[str, Any]) -> list[Finding]:
    weights = {errors["stage"]: errors["weights"] for errors in report["errors"]}
    measure = "AR" if report["about"]["proposes"] else "AP"
    found = [
        *(judge_negatives(samples) for samples in reversed(report["samples"])),
        *(judge_positives(samples) for samples in reversed(report["samples"])),
        *(judge_coverage(samples) for samples in report["samples"]),
        judge_pyramid(report["features"], report["gradients"]["levels"]["before"]),
        *(judge_regression(errors) for errors in reversed(report["errors"])),
        *judge_tasks(report["gradients"], weights),
        judge_classes(report["classes"]),
        judge_sizes(report["sizes"], measure),
        judge_errors(report["mistakes"], any(samples["samples"] for samples in report["samples"])),
    ]
    return [finding for finding in found if finding is not None]


def _is_switch(finding: Finding, config: DetectorConfig) -> bool:
    """Weights of losses are tried one at a time, the paper's switches together: those of the last stage."""
    first_of_two = config.rpn is not None and config.roi is not None and finding.key.endswith("_rpn")
    return not finding.key.startswith("tasks") and not first_of_two


def _summary(findings: list[Finding]) -> str:
    named = {level: [f.title for f in findings if f.level == level] for level in WORDS}
    parts = []
    if named["strong"]:
        parts.append(f"Strong imbalance: {_listed(named['strong'])}.")
    if named["some"]:
        parts.append(f"Some imbalance: {_listed(named['some'])}.")
    if not parts:
        parts.append("No imbalance that a switch would mend.")
    if named["balanced"]:
        parts.append(f"Balanced already: {_listed(named['balanced'])}.")
    if named["undecided"]:
        parts.append(f"Not to be told from so little: {_listed(named['undecided'])}.")
    return " ".join(parts)


def _listed(titles: list[str]) -> str:
    titles = [title[0].lower() + title[1:] for title in titles]
    return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"


def _cautions(report: dict[str, Any]) -> list[str]:
    """What speaks against believing the verdict."""
    about, said = report["about"], []
    if about["images"] < limits.FEW_IMAGES:
        said.append(f"{about['images']} images are few: take every number for a hint.")
    for errors in report["errors"]:
        if errors["positives"] < limits.FEW_POSITIVES:
            said.append(f"Regression of the {NAMES[errors['stage']]} rests on {errors['positives']} positives only.")
    precision = report["metrics"]["AR100" if about["proposes"] else "AP"]
    if precision is not None and precision < limits.BARELY_TRAINED:
        said.append(
            f"This model has hardly learned yet ({'AR' if about['proposes'] else 'AP'} {precision:.3f}): which of its "
            "samples are hard says little. Train it further and look again."
        )
    norms = report["gradients"]["norms"]["pyramid"]
    if silent := [name for name, norm in norms.items() if not norm]:
        said.append(
            f"No gradient reaches the pyramid from the losses {', '.join(silent)}: layers behind them have died, "
            "mostly of too high a learning rate. No balance mends that."
        )
    return said

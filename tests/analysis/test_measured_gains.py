"""Tests that the gains beside the findings are those of the committed measurements."""

import re
from pathlib import Path

import pytest

from libradet.analysis.diagnose.measured_gains import POSITIVE_IOUS, PYRAMID, REGRESSION, SAMPLING, describe_gains

RESULTS = Path(__file__).parents[2] / "docs" / "results"
ROWS = {"IoU-balanced sampling": SAMPLING, "balanced feature pyramid": PYRAMID, "balanced L1": REGRESSION}


@pytest.mark.parametrize(("dataset", "name"), [("deeppcb", "circuit boards"), ("bccd", "blood cells")])
@pytest.mark.parametrize("row", ROWS)
def test_values_are_those_of_the_verdict_table(dataset, name, row):
    text = (RESULTS / f"small_{dataset}.md").read_text().split(f"## Diagnosis of {dataset}")[1]
    _, _, _, measured, delta, *_ = next(line for line in text.splitlines() if line.startswith(f"| {row} |")).split("|")
    strength, *_ = re.findall(r"[\d.]+", measured)
    gain, low, high = re.findall(r"[-+][\d.]+", delta)
    expected = next(entry for entry in ROWS[row].gains if entry.dataset == name)
    assert (expected.strength, expected.gain, expected.interval) == (
        float(strength),
        float(gain),
        (float(low), float(high)),
    )


def test_sentence_has_strength_gain_and_interval():
    assert "circuit boards (0.52) +1.2 [+0.6, +1.8]" in describe_gains("regression_roi")
    assert "COCO (paper) +0.9" in describe_gains("pyramid")
    assert describe_gains("sizes") == ""


@pytest.mark.parametrize("name", ["circuit boards", "blood cells"])
def test_gain_of_generated_boxes_is_that_of_the_page(name):
    line = next(line for line in (RESULTS / "balanced.md").read_text().splitlines() if "generated boxes alone" in line)
    gain, low, high = re.search(rf"{name} (?:AP )?([-+\d.]+) \[([-+\d.]+), ([-+\d.]+)\]", line).groups()
    entry = next(entry for entry in POSITIVE_IOUS.gains if entry.dataset == name)
    assert (entry.gain, *entry.interval) == (float(gain), float(low), float(high))

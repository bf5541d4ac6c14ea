"""Tests that the gains beside the findings are those of the committed measurements."""

import re
from pathlib import Path

import pytest

from libradet.analysis.diagnose.measured_gains import (
    BOX_WEIGHT,
    CLASS_WEIGHTS,
    COMBINATION,
    POSITIVE_IOUS,
    POSITIVES,
    PYRAMID,
    REGRESSION,
    REPEAT_FACTORS,
    RPN_REGRESSION,
    RPN_SAMPLING,
    SAMPLING,
    describe_gains,
)

RESULTS = Path(__file__).parents[2] / "docs" / "results"
ROWS = {"IoU-balanced sampling": SAMPLING, "balanced feature pyramid": PYRAMID, "balanced L1": REGRESSION}


@pytest.mark.parametrize(("dataset", "name"), [("deeppcb", "circuit boards"), ("bccd", "blood cells")])
@pytest.mark.parametrize("row", ROWS)
def test_values_are_those_of_the_verdict_table(dataset, name, row):
    text = (RESULTS / f"small_{dataset}.md").read_text().split(f"## Diagnosis of {dataset}")[1]
    _, _, _, measured, delta, *_ = next(line for line in text.splitlines() if line.startswith(f"| {row} |")).split("|")
    strength, *_ = re.findall(r"[\d.]+", measured)
    expected = next(entry for entry in ROWS[row].gains if entry.dataset == name)
    assert expected.strength == float(strength)
    if row == "balanced L1":
        assert (expected.gain, expected.interval) == parse_delta(delta)


@pytest.mark.parametrize(
    ("row", "calibration"), [("half of the negatives at random", SAMPLING), ("gated pyramid", PYRAMID)]
)
def test_gains_of_half_of_the_negatives_and_of_gates_are_those_of_the_page(row, calibration):
    for cells, gain in zip(page_rows(row)[:2], calibration.gains, strict=False):
        assert (gain.gain, gain.interval) == parse_delta(cells[6])


def test_sentence_has_strength_gain_and_interval():
    assert "circuit boards (0.52) +1.2 [+0.6, +1.8]" in describe_gains("regression_roi")
    assert "COCO (paper, without gates) +0.9" in describe_gains("pyramid")
    assert describe_gains("sizes") == ""


def page_rows(name):
    """Return the cells of the rows of docs/results/balanced.md with this name."""
    lines = (RESULTS / "balanced.md").read_text().splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith(f"| {name} |")]


def parse_delta(cell):
    gain, low, high = map(float, re.findall(r"[-+][\d.]+", cell))
    return gain, (low, high)


def test_gains_of_the_combination_are_those_of_the_page():
    boards, *_, five_seeds = [row for row in page_rows("balanced_faster_rcnn") if len(row) == 9 and row[1] in "35"][:3]
    for row, runs, gain in zip((boards, five_seeds), "35", COMBINATION.gains, strict=True):
        assert row[1] == runs
        assert (gain.gain, gain.interval) == parse_delta(row[6])


@pytest.mark.parametrize(
    ("calibration", "alone", "together"),
    [
        (CLASS_WEIGHTS, "`inverse_frequency`", "balanced_faster_rcnn and inverse frequency"),
        (REPEAT_FACTORS, "repeat factors, threshold 0.3", "balanced_faster_rcnn and repeat factors"),
    ],
)
def test_gains_of_rare_classes_are_those_of_the_page(calibration, alone, together):
    for row, gain in zip(page_rows(alone) + page_rows(together), calibration.gains, strict=True):
        assert (gain.gain, gain.interval) == parse_delta(row[7])
    text = " ".join((RESULTS / "balanced.md").read_text().split())
    most, rarest = re.search(r"(\d+) are of the most frequent class and (\d+) of the rarest", text).groups()
    red, platelets = re.search(r"([\d,]+) red cells, \d+ white cells and (\d+) platelets", text).groups()
    ratios = {True: int(red.replace(",", "")) / int(platelets), False: int(most) / int(rarest)}
    assert all(gain.strength == round(ratios["blood cells" in gain.dataset]) for gain in calibration.gains)
    sentence = describe_gains("classes", recommended=calibration.option)
    assert f"of {calibration.component} in the AP of rare classes, with the ratio of class frequencies" in sentence


def test_gains_on_synthetic_images_are_those_of_the_page():
    text = (RESULTS / "balanced.md").read_text()
    for name, calibration in (("balanced L1", REGRESSION), ("the gated pyramid alone nothing", PYRAMID)):
        pattern = rf"six pairs of runs.*{name}\D*([-\d.]+) \[([-+\d.]+), ([-+\d.]+)\]"
        gain, low, high = map(float, re.search(pattern, text).groups())
        (entry,) = [entry for entry in calibration.gains if entry.dataset == "synthetic images"]
        assert (entry.gain, entry.interval) == (gain, (low, high))


@pytest.mark.parametrize(("dataset", "name"), [("deeppcb", "circuit boards"), ("bccd", "blood cells")])
@pytest.mark.parametrize(("row", "calibration"), [("balanced positives", POSITIVES), ("loss weight 1.5", BOX_WEIGHT)])
def test_gains_of_positives_and_of_the_box_loss_weight_are_those_of_the_page(dataset, name, row, calibration):
    text = (RESULTS / f"small_{dataset}.md").read_text()
    *_, delta, paper = next(line for line in text.splitlines() if line.startswith(f"| {row} |")).strip(" |").split("|")
    entry = next(entry for entry in calibration.gains if entry.dataset == name)
    assert (entry.gain, entry.interval) == parse_delta(delta)
    assert calibration.gains[-1].gain == float(paper)
    if calibration is POSITIVES:
        share = re.search(r"([\d.]+) of random positives belong to the 10 %", text).group(1)
        assert entry.strength == float(share)


def test_losses_of_a_balanced_rpn_are_those_of_the_page():
    line = next(line for line in (RESULTS / "balanced.md").read_text().splitlines() if "of the RPN do not help" in line)
    with_loss, with_both, without = map(float, re.findall(r"\d\d\.\d", line))
    assert RPN_REGRESSION.gains[0].gain == pytest.approx(with_loss - without)
    assert RPN_SAMPLING.gains[0].gain == pytest.approx(with_both - with_loss)
    assert describe_gains("negatives_rpn").endswith("without generated boxes, in AP: circuit boards -0.8.")


@pytest.mark.parametrize("name", ["circuit boards", "blood cells"])
def test_gain_of_generated_boxes_is_that_of_the_page(name):
    line = next(line for line in (RESULTS / "balanced.md").read_text().splitlines() if "generated boxes alone" in line)
    gain, low, high = re.search(rf"{name} (?:AP )?([-+\d.]+) \[([-+\d.]+), ([-+\d.]+)\]", line).groups()
    entry = next(entry for entry in POSITIVE_IOUS.gains if entry.dataset == name)
    assert (entry.gain, *entry.interval) == (float(gain), float(low), float(high))

"""Cells of the tables, worked out by hand."""

from libradet.experiments.definitions import Experiment, Row
from libradet.experiments.tables import Measured, tabulate, to_markdown, to_rich

FIRST = Row("plain", "faster_rcnn", {}, None, {"AP": 35.9, "APs": 21.2})
SECOND = Row("balanced", "faster_rcnn", {"lr": 1}, "plain", {"AP": 38.5, "APs": 22.9})
TABLE = Experiment("t", "A table", "COCO", ("AP", "APs"), (FIRST, SECOND), False)


def lines(first, second, failures=None):
    known = [Measured(FIRST, first, {}), Measured(SECOND, second, failures or {})]
    return tabulate(TABLE, known, "A table", ["a note"])


def test_means_deviations_gains_and_the_papers_numbers():
    first = {("d", 0): {"AP": 0.40, "APs": None}, ("d", 1): {"AP": 0.42, "APs": None}}
    second = {("d", 0): {"AP": 0.41, "APs": 0.1}, ("d", 1): {"AP": 0.45, "APs": 0.3}}
    found = lines(first, second)
    assert found.heads == ["", "runs", "AP", "APs", "gain in AP (95 %)", "the paper's"]
    assert found.cells[0] == ["plain", "2", "41.0 ± 1.4 (35.9)", "– (21.2)", "", ""]
    # Gains 1 and 3: mean 2, standard error 1, and t of one degree of freedom is 12.706.
    gain = "+2.0 [-10.7, +14.7]"
    assert found.cells[1] == ["balanced", "2", "43.0 ± 2.8 (38.5)", "20.0 ± 14.1 (22.9)", gain, "+2.6"]


def test_one_seed_has_neither_deviation_nor_interval():
    found = lines({("d", 0): {"AP": 0.4}}, {("d", 0): {"AP": 0.45}})
    assert found.cells[1][2] == "45.0 (38.5)"
    assert found.cells[1][4] == "+5.0"


def test_failed_runs_are_counted_and_named():
    found = lines({("d", 0): {"AP": 0.4}}, {}, {("d", 0): "the loss is not finite any more"})
    assert found.cells[1][1] == "0, 1 failed"
    assert found.notes == ["a note", "balanced, d seed 0: the loss is not finite any more"]


def test_markdown_and_terminal_hold_the_same_cells():
    found = lines({("d", 0): {"AP": 0.4}}, {("d", 0): {"AP": 0.45}})
    rows = [line for line in to_markdown(found).splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in rows[2].strip("|").split("|")] == found.cells[0]
    assert len({row.count("|") for row in rows}) == 1
    table = to_rich(found)
    assert [str(cell) for cell in table.columns[2].cells] == [cells[2] for cells in found.cells]

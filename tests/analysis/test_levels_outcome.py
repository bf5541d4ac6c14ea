"""Error types and sizes of detections with known errors."""

from pathlib import Path

import numpy as np
import pytest

from libradet.analysis.levels.outcome import compute_error_types, size_results
from libradet.analysis.report.figure_style import report_style
from libradet.analysis.report.figures import plot_sizes
from libradet.data.records import Dataset, ImageRecord

BOX = [10.0, 10.0, 40.0, 40.0]
"""x, y, width, height of an object."""


def image(number, boxes, labels, crowd=None):
    xywh = np.array(boxes, np.float32).reshape(-1, 4)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
    return ImageRecord(
        id=number,
        path=Path(f"{number}.png"),
        width=400,
        height=400,
        boxes=corners,
        labels=np.array(labels, np.int64),
        crowd=np.zeros(len(labels), bool) if crowd is None else np.array(crowd),
        area=xywh[:, 2:].prod(1).astype(np.float64),
        # From 0, which COCO's tools interpret as no match.
        annotation_ids=np.arange(len(labels)),
    )


def dataset(*images):
    return Dataset(Path(), "val", list(images), [3, 5], ["cat", "dog"])


def row(box, category=3, score=0.9, image=1):
    return [image, *box, score, {3: 1, 5: 2}[category]]


def errors(data, rows):
    result = compute_error_types(data, np.array(rows, dtype=np.float64).reshape(-1, 7))
    return (
        result["AP50"],
        {name: kind["count"] for name, kind in result["types"].items() if kind["count"]},
        result["types"],
    )


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        (row([210, 210, 40, 40], 5), "classification"),  # the cat's box, called dog
        (row([230, 210, 40, 40], 3), "localization"),  # IoU 1/3
        (row([230, 210, 40, 40], 5), "both"),
        (row([300, 20, 30, 30], 3), "background"),
    ],
)
def test_each_error_type_is_recognized(extra, kind):
    # One cat and one dog are detected; for a second cat there is only the erroneous detection.
    data = dataset(image(1, [BOX, [210, 210, 40, 40], [100, 300, 40, 40]], [0, 0, 1]))
    _, counts, _ = errors(data, [row(BOX), row([100, 300, 40, 40], 5), extra])
    assert counts.pop(kind) == 1
    # An object with a detection whose box or class can be fixed does not count as missed.
    assert counts == ({"missed": 1} if kind in ("background", "both") else {})


def test_duplicate_detection():
    data = dataset(image(1, [BOX], [0]))
    precision, counts, _ = errors(data, [row(BOX), row(BOX, score=0.5)])
    assert counts == {"duplicate": 1}
    assert precision == pytest.approx(1)


def test_without_detections_all_objects_are_missed():
    precision, counts, _ = errors(dataset(image(1, [BOX], [0])), [])
    assert precision == 0
    assert counts == {"missed": 1}


def test_perfect_detections_cost_nothing():
    precision, counts, kinds = errors(dataset(image(1, [BOX], [0])), [row(BOX)])
    assert precision == pytest.approx(1)
    assert counts == {}
    assert all(kind["cost"] == pytest.approx(0) for kind in kinds.values())


def test_cost_of_half_the_objects_missed():
    data = dataset(image(1, [BOX, [210, 210, 40, 40]], [0, 0]))
    precision, _, kinds = errors(data, [row(BOX)])
    assert precision == pytest.approx(51 / 101), "precision 1 up to a recall of one half, of 101 points"
    assert kinds["missed"]["cost"] == pytest.approx(1 - 51 / 101)


def test_objects_size_results():
    data = dataset(image(1, [[0, 0, 31, 32], [0, 0, 32, 32], [0, 0, 96, 96], [0, 0, 300, 300]], [0, 0, 0, 1]))
    metrics = {"APs": 0.1, "APm": 0.2, "APl": 0.3, "ARs": 0.4, "ARm": 0.5, "ARl": None}
    rows = size_results(metrics, data, is_proposal_model=False)
    assert [(r["size"], r["objects"], r["AP"], r["AR"]) for r in rows] == [
        ("small", 1, 0.1, 0.4),
        ("medium", 1, 0.2, 0.5),
        ("large", 2, 0.3, None),
    ]


def test_proposals_have_recall_by_size_only():
    data = dataset(image(1, [[0, 0, 32, 32]], [0]))
    rows = size_results({"APm": 0.2, "ARm": 0.5}, data, is_proposal_model=True)
    assert [(r["AP"], r["AR"]) for r in rows] == [(None, None), (None, 0.5), (None, None)]
    with report_style():
        (axis,) = plot_sizes(rows, is_proposal_model=True).axes
        assert [patch.get_height() for patch in axis.patches] == [0, 0.5, 0]
        assert [text.get_text() for text in axis.get_legend().get_texts()] == ["AR100"]
        (axis,) = plot_sizes(rows, is_proposal_model=False).axes
        assert [text.get_text() for text in axis.get_legend().get_texts()] == ["AP", "AR100"]

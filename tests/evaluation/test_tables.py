"""Tables of COCO metrics."""

from rich.console import Console

from libradet.evaluation.coco import STANDARD_METRICS, coco_metrics
from libradet.evaluation.tables import print_metrics
from tests.helpers.evaluation_data import random_case


def printed(metrics, **kwargs):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_metrics(metrics, console=console, **kwargs)
    return console.export_text()


def test_all_metrics_and_classes_are_printed():
    metrics = coco_metrics(*random_case(3, num_classes=80), max_detections=1000)
    text = printed(metrics, title="birds")
    assert "birds: 6 images" in text
    assert all(name in text for name in [*STANDARD_METRICS, "AR300", "AR1000"])
    assert all(f"class {k} " in text for k in range(80))
    assert text.count(f"{metrics['AP']:.3f}") >= 1


def test_undefined_metrics_are_dashes():
    ground_truth, results = random_case(3)
    ground_truth["annotations"] = []
    text = printed(coco_metrics(ground_truth, results))
    assert text.count("-") == 12 + 2 * 4
    assert "AP and AR are undefined" in text
    assert "0.000" not in text


def test_class_names_are_not_markup():
    ground_truth, results = random_case(3)
    ground_truth["categories"][0]["name"] = "[red]apple[/red]"
    assert "[red]apple[/red]" in printed(coco_metrics(ground_truth, results))

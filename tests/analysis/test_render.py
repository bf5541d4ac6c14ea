"""The HTML page: its numbers are those of report.json, it is self-contained, and it escapes names."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from libradet.analysis.analyze import analyze, build_report
from libradet.analysis.collect import SampleVisualization
from libradet.analysis.report.figure_style import report_style, to_svg
from libradet.analysis.report.figures import draw_samples, plot_classes
from libradet.analysis.report.labels import format_number
from libradet.analysis.report.render import get_path, mark_code, render
from libradet.analysis.report.tables import (
    MAX_LISTED_CONFUSIONS,
    MAX_MATRIX_CLASSES,
    confusion_tables,
    make_tables,
)
from libradet.data.records import Dataset, ImageRecord
from libradet.models.config import BalancedPyramidConfig
from libradet.models.detector import Detector

NUMBER_STYLES = ("percent", "points", "decimal", "small", "ratio", "count")

HOSTILE_CLASSES = ("<script>alert(1)</script>", "--><img src=x onerror=alert(2)>", "$\\frac{1}$ --x {{ 7 * 7 }}")
HOSTILE_FILE = '"><img src=x onerror=alert(3)> {{ 7 * 7 }}.jpg'


class Parsed(HTMLParser):
    """Tags of a page, and its <data> elements as (key, value, text)."""

    def __init__(self, page):
        super().__init__()
        self.numbers, self.tags, self.text = [], [], ""
        self._open = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "data":
            self._open = [dict(attrs)["data-key"], dict(attrs)["value"], ""]

    def handle_data(self, data):
        self.text += data
        if self._open:
            self._open[2] += data

    def handle_endtag(self, tag):
        if tag == "data":
            self.numbers.append(tuple(self._open))
            self._open = None


def test_the_pages_numbers_are_those_of_the_json(page, numbers):
    on_page = Parsed(page).numbers
    assert len(on_page) > 500
    for key, value, text in on_page:
        expected = get_path(numbers, key)
        assert json.loads(value) == expected, key
        assert text in {format_number(expected, style) for style in NUMBER_STYLES}, key


def test_every_finding_and_its_numbers_are_on_the_page(page, numbers):
    keys = {key for key, _, _ in Parsed(page).numbers}
    for i, finding in enumerate(numbers["diagnosis"]["findings"]):
        assert finding["title"] in page
        assert f'id="finding-{finding["key"]}"' in page
        for j, number in enumerate(finding["numbers"]):
            assert number["value"] is None or f"diagnosis/findings/{i}/numbers/{j}/value" in keys


def test_every_figure_has_a_file_and_a_table_on_the_page(page, report):
    figures = {path.stem for path in (report / "figures").glob("*.png")}
    expected = {"iou_histogram_roi", "positives_rpn", "similarity_before", "loss_curves", "errors_roi", "error_types"}
    assert expected <= figures
    for name in figures:
        assert f'<figure id="{name}">' in page
        assert f"figures/{name}.png" in page
    assert page.count("<svg") == len(figures)


def test_the_page_is_self_contained(page, report):
    assert page.startswith("<!doctype html>")
    tags = Parsed(page).tags
    assert not [tag for tag, _ in tags if tag in ("script", "link", "iframe", "object")]
    for _, attributes in tags:
        assert attributes.get("src", "data:").startswith("data:")
        target = attributes.get("href") or attributes.get("xlink:href") or "#"
        if not target.startswith(("#", "https://arxiv.org/")):
            assert (report / target).exists(), target
    assert not re.search(r"@import|url\((?!#)", page)
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a["href"][1:] for tag, a in tags if tag == "a" and a["href"].startswith("#")}
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | {a["xlink:href"][1:] for _, a in tags if "xlink:href" in a}
    assert used | links <= set(ids)


def test_names_of_classes_files_and_models_are_escaped(data, options, make_detector, tmp_path):
    hostile = tmp_path / "<i>data"
    shutil.copytree(data, hostile)
    records = json.loads((hostile / "val.json").read_text())
    for category, name in zip(records["categories"], HOSTILE_CLASSES, strict=True):
        category["name"] = name
    images, first = hostile / "images", records["images"][0]
    (images / first["file_name"]).rename(images / HOSTILE_FILE)
    first["file_name"] = HOSTILE_FILE
    (hostile / "val.json").write_text(json.dumps(records))
    model = make_detector("faster_rcnn", hostile)
    report = build_report(model, hostile, name="<b onclick=alert(4)>.safetensors", options=options).report
    with report_style():
        figures = {"classes": to_svg(plot_classes(report["classes"]["rows"]), "classes")}
    images = dict.fromkeys(("samples_1_random", "samples_1_iou_balanced_paper_3"), b"")
    page = Parsed(render(report, figures, images))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("img") == len(images)
    assert not {"script", "i"} & set(tags)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for name in (*HOSTILE_CLASSES, HOSTILE_FILE, "<i>data", "<b onclick=alert(4)>.safetensors"):
        assert name in page.text


def test_options_and_commands_in_a_text_are_marked_as_code():
    text = "lower --detector.detections.nms_thresh, see <libradet data stats>"
    assert mark_code(text) == (
        "lower <code>--detector.detections.nms_thresh</code>, see &lt;<code>libradet data stats</code>&gt;"
    )


@pytest.mark.parametrize(
    ("num_classes", "confusions", "said"),
    [
        (20, {(0, 1): 2}, {"Confusion of"}),
        (21, {(0, 1): 1, (4, 2): 3}, {"Most frequent confusions of", "confusion.csv"}),
        (21, {}, {"No object is detected as another", "confusion.csv"}),
    ],
)
def test_of_many_classes_the_page_lists_the_largest_confusions(num_classes, confusions, said, numbers):
    names = [f"c{i}" for i in range(num_classes)]
    counts = [[5 * (i == j) + confusions.get((i, j), 0) for j in range(num_classes)] + [1] for i in range(num_classes)]
    classes = numbers["classes"] | {"confusion": {"classes": names, "counts": counts}}
    tables = make_tables(numbers | {"classes": classes})
    assert len(tables["confusion"]["rows"]) == num_classes, "the file has all of them"
    text = Parsed(render(numbers | {"classes": classes, "tables": tables, "sample_images": []}, {}, {})).text
    phrases = ("Confusion of", "Most frequent confusions of", "No object is detected as another", "confusion.csv")
    assert {phrase for phrase in phrases if phrase in text} == said
    if num_classes > MAX_MATRIX_CLASSES:
        largest = sorted(confusions.items(), key=lambda item: -item[1])
        assert tables["confusions"]["rows"] == [[names[i], names[j], n, n / (6 + n)] for (i, j), n in largest]


def test_the_list_of_confusions_is_limited():
    names = [str(i) for i in range(40)]
    confusion = {"classes": names, "counts": [[1 + i * (i != j) for j in range(40)] + [0] for i in range(40)]}
    rows = confusion_tables(**confusion)["confusions"]["rows"]
    assert len(rows) == MAX_LISTED_CONFUSIONS
    assert {row[0] for row in rows} == {"39"}


@pytest.mark.parametrize(
    ("value", "style", "text"),
    [
        (0.614, "percent", "61\u00a0%"),
        (0.1234, "points", "12.3"),
        (-0.5, "decimal", "−0.50"),
        (1 / 9, "small", "0.111"),
        (4.97, "ratio", "5.0\u00a0×"),
        (13.7, "ratio", "14\u00a0×"),
        (12345, "count", "12,345"),
        (None, "count", "–"),
    ],
)
def test_numbers_are_formatted(value, style, text):
    assert format_number(value, style) == text


def test_gates_of_a_pyramid_are_drawn_and_listed(data, options, make_detector, tmp_path):
    model = make_detector("faster_rcnn", data)
    config = replace(model.config, pyramid=replace(model.config.pyramid, balanced=BalancedPyramidConfig(gated=True)))
    gated = Detector(config)
    gated.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        gated.balance.gate.copy_(torch.tensor([-0.14, 0.05, 0.08, 0.0, 0.0]))
    analyze(gated, data, tmp_path / "report", options=options)
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    assert numbers["features"]["gates"] == pytest.approx([-0.14, 0.05, 0.08, 0.0, 0.0])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Learned gates" in page
    assert "P2 -0.14, P3 +0.05, P4 +0.08, P5 +0.00, P6 +0.00" in page
    assert list((tmp_path / "report" / "figures").glob("gates.*"))


def test_samples_are_drawn_on_images_of_the_models_bit_depth(tmp_path):
    path, boxes = tmp_path / "camera.png", torch.zeros(0, 4)
    Image.fromarray(np.full((40, 60), 4095, np.uint16)).save(path)
    nothing = np.zeros(0, np.int64)
    ground_truth = (boxes.numpy(), nothing, nothing.astype(bool), nothing.astype(float), nothing)
    dataset = Dataset(tmp_path, "val", [ImageRecord(1, path, 60, 40, *ground_truth)], [1], ["cell"])
    samples = SampleVisualization("roi", 0, boxes, {"random": (boxes, boxes[:, 0])})
    pixels = draw_samples(samples, dataset, "random", bit_depth=12)
    assert pixels.mean() == pytest.approx(0.55 * 255, abs=2), "white, at half the brightness"

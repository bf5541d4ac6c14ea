"""The report as a whole: one page, the same numbers everywhere, whole or not there."""

import csv
import json
import re
from contextlib import suppress
from html.parser import HTMLParser

import pytest
import torch
from tiny_detectors import tiny_detector, tiny_zoo_config

from libradet.analysis.analyze import analyze, look
from libradet.analysis.figure_style import style, to_svg
from libradet.analysis.figures import mistakes
from libradet.analysis.measuring import Options
from libradet.analysis.shown import form, look_up
from libradet.cli import main
from libradet.data.read import read
from libradet.data.synthesis.synthetic import synthesize
from libradet.errors import UserError
from libradet.evaluation.evaluate import evaluate
from libradet.inference.proposing import propose
from libradet.models.model_file import save_model
from libradet.models.zoo import MODELS
from libradet.utils.atomic_io import atomic_folder

OPTIONS = Options(images=3, gradient_images=1, drawn=1, workers=0, progress=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    synthesize(folder, train=1, val=4, size=(128, 96), classes=3)
    return folder


def detector(name, data):
    dataset, _ = read(data, "val")
    config = tiny_zoo_config(name)
    config.image.size = (96, 128)
    config.class_names = tuple(dataset.class_names)
    return tiny_detector(config)


@pytest.fixture(scope="module")
def report(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("reports") / "two_stage"
    analyze(detector("faster_rcnn", data), data, out, options=OPTIONS)
    return out


class Numbers(HTMLParser):
    """What the page shows between <data> tags, and what they say of it."""

    def __init__(self, page):
        super().__init__()
        self.found, self._open = [], None
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "data":
            self._open = [dict(attrs)["data-key"], dict(attrs)["value"], ""]

    def handle_data(self, data):
        if self._open:
            self._open[2] += data

    def handle_endtag(self, tag):
        if tag == "data":
            self.found.append(tuple(self._open))
            self._open = None


FORMS = ("percent", "points", "decimal", "small", "ratio", "count")


def test_the_pages_numbers_are_those_of_the_json(report):
    numbers = json.loads((report / "report.json").read_text())
    found = Numbers((report / "report.html").read_text()).found
    assert len(found) > 500
    for key, value, text in found:
        known = look_up(numbers, key)
        assert json.loads(value) == known, key
        assert text in {form(known, how) for how in FORMS}, key


def test_every_large_number_and_sentence_of_the_verdict_is_on_the_page(report):
    numbers = json.loads((report / "report.json").read_text())
    page = (report / "report.html").read_text()
    keys = {key for key, _, _ in Numbers(page).found}
    for i, finding in enumerate(numbers["verdict"]["findings"]):
        assert finding["title"] in page
        for j, number in enumerate(finding["numbers"]):
            assert number["value"] is None or f"verdict/findings/{i}/numbers/{j}/value" in keys


def test_csv_files_hold_the_tables(report):
    numbers = json.loads((report / "report.json").read_text())
    assert {path.stem for path in (report / "tables").iterdir()} == set(numbers["tables"])
    for name, table in numbers["tables"].items():
        with (report / "tables" / f"{name}.csv").open(newline="") as file:
            head, *rows = csv.reader(file)
        assert head == table["columns"]
        assert rows == [["" if cell is None else str(cell) for cell in row] for row in table["rows"]]


def test_every_figure_has_a_file_and_a_table_on_the_page(report):
    page = (report / "report.html").read_text()
    drawn = {path.stem for path in (report / "figures").glob("*.png")}
    assert {"overlaps_roi", "positives_rpn", "similarity_before", "loss_curves", "errors_roi", "mistakes"} <= drawn
    for name in drawn:
        assert f'<figure id="{name}">' in page
        assert f"figures/{name}.png" in page
    assert page.count("<svg") == len(drawn)


def test_the_page_needs_nothing_but_itself(report):
    page = (report / "report.html").read_text()
    tags = Numbers(page).tags
    assert not [tag for tag, _ in tags if tag in ("script", "link", "iframe", "object")]
    for _, attributes in tags:
        assert attributes.get("src", "data:").startswith("data:")
        target = attributes.get("href") or attributes.get("xlink:href") or "#"
        if not target.startswith(("#", "https://arxiv.org/")):
            assert (report / target).exists(), target
    assert not re.search(r"@import|url\((?!#)", page)
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | {a["xlink:href"][1:] for _, a in tags if "xlink:href" in a}
    assert used <= set(ids)


def test_precision_is_what_evaluate_measures(report, data):
    numbers = json.loads((report / "report.json").read_text())
    model = detector("faster_rcnn", data)
    dataset, _ = read(data, "val")
    dataset.images[:] = [dataset.images[i] for i in (0, 2, 3)]
    assert numbers["about"]["images"] == 3
    assert numbers["about"]["images_in_split"] == 4
    metrics = evaluate(model, dataset, batch_size=2, workers=0, progress=False)
    assert {k: metrics[k] for k in numbers["metrics"]} == pytest.approx(numbers["metrics"], nan_ok=True)
    assert numbers["mistakes"]["AP50"] == pytest.approx(metrics["AP50"], abs=1e-9)


def test_what_is_counted_adds_up(report):
    numbers = json.loads((report / "report.json").read_text())
    objects = numbers["about"]["objects"]
    assert sum(row["objects"] for row in numbers["classes"]["rows"]) == objects
    assert sum(row["objects"] for row in numbers["sizes"]) == objects
    assert sum(map(sum, numbers["levels"]["reads"])) == objects
    for samples in numbers["samples"]:
        assert samples["positives"]["objects"] == objects
        available = samples["positives"]["by_sampler"]["available"]["total"]
        assert sum(map(sum, numbers["levels"]["positives"][samples["stage"]])) == available
        for row in samples["negatives"].values():
            assert sum(row["shares"]) == pytest.approx(1)
            assert row["above"]["value"] == pytest.approx(1 - row["shares"][0])


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("faster_rcnn", "fast_rcnn", "mask_rcnn")])
def test_every_detector_has_its_report(name, data, tmp_path):
    proposals = None
    if name.endswith("fast_rcnn"):
        dataset, _ = read(data, "val")
        proposals = tmp_path / "val.safetensors"
        propose(detector("rpn", data), dataset, proposals, progress=False, workers=0)
    model = detector(name, data)
    found = look(model, data, options=OPTIONS, proposals=proposals).report
    stages = [samples["stage"] for samples in found["samples"]]
    config = model.config
    assert stages == [key for key in ("dense", "rpn", "roi") if getattr(config, key) is not None]
    assert (found["features"]["after"] is not None) == name.startswith("libra")
    assert (found["mistakes"] is None) == config.proposes
    switched = {f["key"] for f in found["verdict"]["findings"] if f["level"] == "balanced"}
    assert ("pyramid" in switched) == name.startswith("libra")


def test_same_seed_same_report_whatever_was_drawn_before(report, data):
    torch.rand(7)
    found = look(detector("faster_rcnn", data), data, options=OPTIONS).report
    assert found == json.loads((report / "report.json").read_text())
    with style():
        first, second = (to_svg(mistakes(found["mistakes"]["kinds"]), "mistakes") for _ in range(2))
    assert first == second
    assert first in (report / "report.html").read_text()


def test_other_peoples_folders_are_left_alone(data, tmp_path):
    kept = tmp_path / "mine"
    kept.mkdir()
    (kept / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is there already"):
        analyze(detector("rpn", data), data, kept, options=OPTIONS)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_folders_are_replaced_at_once_or_not_at_all(tmp_path):
    earlier = tmp_path / "report"
    earlier.mkdir()
    (earlier / "report.html").write_text("old")
    with suppress(ZeroDivisionError), atomic_folder(earlier, ["report.html"]) as folder:
        (folder / "report.html").write_text("new")
        raise ZeroDivisionError
    assert (earlier / "report.html").read_text() == "old"
    with atomic_folder(earlier, ["report.html"]) as folder:
        (folder / "report.html").write_text("new")
    assert (earlier / "report.html").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_mistakes_end_in_one_line(data, tmp_path, capfd):
    model = tmp_path / "model.safetensors"
    save_model(detector("faster_rcnn", data), model)
    out = tmp_path / "report"

    def say(*argv):
        assert main(["analyze", *map(str, argv), "--out", str(out)]) == 2
        said = capfd.readouterr().err.strip()
        assert len(said.splitlines()) <= 2
        assert "Traceback" not in said
        assert not out.exists()
        return said

    assert "absent" in say("absent.safetensors", "--data", data)
    assert "nowhere" in say(model, "--data", "nowhere")
    assert "images is 0" in say(model, "--data", data, "--images", 0)
    assert "proposals" in say(model, "--data", data, "--proposals", "x.pkl")
    records = json.loads((data / "val.json").read_text())
    for change, named in (
        ({"annotations": []}, "no objects"),
        ({"categories": [c | {"name": f"x{c['id']}"} for c in records["categories"]]}, "no class in common"),
        ({"images": [i | {"file_name": "gone.jpg"} for i in records["images"]]}, "gone.jpg"),
    ):
        folder = tmp_path / named
        folder.mkdir()
        (folder / "images").symlink_to(data / "images")
        (folder / "val.json").write_text(json.dumps(records | change))
        assert named in say(model, "--data", folder)
    (tmp_path / "damaged.safetensors").write_bytes(b"no model")
    assert "damaged" in say(tmp_path / "damaged.safetensors", "--data", data)


def test_the_command_line_writes_it(data, tmp_path, capfd):
    model = tmp_path / "model.safetensors"
    save_model(detector("retinanet", data), model)
    argv = ["analyze", model, "--data", data, "--out", tmp_path / "r", "--images", 2, "--device", "cpu", "--seed", 3]
    assert main(list(map(str, argv))) == 0
    numbers = json.loads((tmp_path / "r" / "report.json").read_text())
    said = capfd.readouterr().out
    assert numbers["verdict"]["summary"] in said
    assert "report.html" in said
    assert (numbers["about"]["seed"], numbers["about"]["images"]) == (3, 2)

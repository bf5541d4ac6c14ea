"""The analysis as a whole: consistent numbers, every detector, atomic folders, and the command line."""

import csv
import json
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from libradet.analysis.analyze import _train_frequency, analyze, build_report
from libradet.analysis.report.figure_style import report_style, to_svg
from libradet.analysis.report.figures import plot_error_types
from libradet.cli import main
from libradet.data.read import read
from libradet.data.repeat_factors import count_objects
from libradet.errors import UserError
from libradet.evaluation.evaluate import evaluate
from libradet.inference.proposals import write_dataset_proposals
from libradet.models.serialization import save_model
from libradet.models.zoo import MODELS
from libradet.utils.atomic_io import atomic_folder


def test_csv_files_contain_the_tables(report, numbers):
    assert {path.stem for path in (report / "tables").iterdir()} == set(numbers["tables"])
    for name, table in numbers["tables"].items():
        with (report / "tables" / f"{name}.csv").open(newline="") as file:
            head, *rows = csv.reader(file)
        assert head == table["columns"]
        assert rows == [["" if cell is None else str(cell) for cell in row] for row in table["rows"]]


def test_precision_is_that_of_evaluate(numbers, data, make_detector):
    model = make_detector("faster_rcnn", data)
    dataset, _ = read(data, "val")
    dataset.images[:] = [dataset.images[i] for i in (0, 2, 3)]
    assert numbers["metadata"]["images"] == 3
    assert numbers["metadata"]["images_in_split"] == 4
    metrics = evaluate(model, dataset, batch_size=2, num_workers=0, progress=False)
    assert {k: metrics[k] for k in numbers["metrics"]} == pytest.approx(numbers["metrics"], nan_ok=True)
    assert numbers["error_types"]["AP50"] == pytest.approx(metrics["AP50"], abs=1e-9)


def test_class_frequencies_are_those_of_the_training_split_by_any_name(data, tmp_path):
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        shutil.copyfile(data / f"{split}.json", tmp_path / "annotations" / f"instances_{split}2017.json")
        (tmp_path / f"{split}2017").symlink_to(data / "images")
    frequency, notes = _train_frequency(tmp_path, read(tmp_path, "val")[0])
    assert frequency is not None
    assert (frequency.objects, notes) == (list(count_objects(read(data, "train")[0])), [])
    assert _train_frequency(tmp_path, read(tmp_path, "train")[0]) == (None, [])


def test_counts_add_up(numbers):
    objects = numbers["metadata"]["objects"]
    assert sum(row["objects"] for row in numbers["classes"]["rows"]) == objects
    assert sum(row["objects"] for row in numbers["sizes"]) == objects
    assert sum(map(sum, numbers["levels"]["roi_level_counts"])) == objects
    for samples in numbers["samples"]:
        assert samples["positives"]["objects"] == objects
        available = samples["positives"]["by_sampler"]["available"]["total"]
        assert sum(map(sum, numbers["levels"]["positives"][samples["stage"]])) == available
        for row in samples["negatives"].values():
            assert sum(row["shares"]) == pytest.approx(1)
            assert row["above_threshold"]["value"] == pytest.approx(1 - row["shares"][0])


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("faster_rcnn", "fast_rcnn", "mask_rcnn")])
def test_every_detector_can_be_analyzed(name, data, options, make_detector, tmp_path):
    proposals = None
    if name.endswith("fast_rcnn"):
        dataset, _ = read(data, "val")
        proposals = tmp_path / "val.safetensors"
        write_dataset_proposals(make_detector("rpn", data), dataset, proposals, progress=False, num_workers=0)
    model = make_detector(name, data)
    report = build_report(model, data, options=options, proposals=proposals).report
    stages = [samples["stage"] for samples in report["samples"]]
    config = model.config
    assert stages == [key for key in ("retinanet", "rpn", "roi") if getattr(config, key) is not None]
    assert (report["features"]["after"] is not None) == (config.pyramid.balanced is not None)
    assert (report["error_types"] is None) == config.is_proposal_model
    balanced = {f["key"] for f in report["diagnosis"]["findings"] if f["severity"] == "balanced"}
    assert ("pyramid" in balanced) == (config.pyramid.balanced is not None)
    metrics = ["AR100"] if config.is_proposal_model else ["AP", "AR100"]
    assert report["tables"]["sizes"]["columns"] == ["size", "objects", *metrics]
    if config.is_proposal_model:
        assert not any("AP50" in finding["check"] for finding in report["diagnosis"]["findings"])


def test_the_report_depends_on_its_own_seed_only(numbers, page, data, options, make_detector):
    torch.rand(7)
    again = build_report(make_detector("faster_rcnn", data), data, options=options).report
    assert again == numbers
    with report_style():
        first, second = (to_svg(plot_error_types(again["error_types"]["types"]), "error_types") for _ in range(2))
    assert first == second
    assert first in page


def test_generated_boxes_are_those_of_the_report_s_seed(data, options, make_detector):
    model = make_detector("balanced_faster_rcnn", data)
    first = build_report(model, data, options=options).report
    torch.rand(7)
    assert build_report(model, data, options=options).report == first
    other = build_report(model, data, options=replace(options, seed=1)).report
    ious = [report["samples"][-1]["positive_ious"]["shares"] for report in (first, other)]
    assert ious[0] != ious[1]


def test_foreign_folders_are_not_replaced(data, options, make_detector, tmp_path):
    kept = tmp_path / "mine"
    kept.mkdir()
    (kept / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="already exists"):
        analyze(make_detector("rpn", data), data, kept, options=options)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_folders_are_replaced_atomically(tmp_path):
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


def test_errors_are_one_line(data, make_detector, tmp_path, capfd):
    model = tmp_path / "model.safetensors"
    save_model(make_detector("faster_rcnn", data), model)
    out = tmp_path / "report"

    def error_of(*argv):
        assert main(["analyze", *map(str, argv), "--output_dir", str(out)]) == 2
        error = capfd.readouterr().err.strip()
        assert len(error.splitlines()) <= 2
        assert "Traceback" not in error
        assert not out.exists()
        return error

    assert "absent" in error_of("absent.safetensors", "--data", data)
    assert "nowhere" in error_of(model, "--data", "nowhere")
    assert "max_images is 0" in error_of(model, "--data", data, "--max_images", 0)
    assert "proposals" in error_of(model, "--data", data, "--proposals", "x.pkl")
    records = json.loads((data / "val.json").read_text())
    for change, named in (
        ({"annotations": []}, "no objects"),
        ({"annotations": [a | {"iscrowd": 1} for a in records["annotations"]]}, "only crowd regions"),
        ({"categories": [c | {"name": f"x{c['id']}"} for c in records["categories"]]}, "no class in common"),
        ({"images": [i | {"file_name": "gone.jpg"} for i in records["images"]]}, "gone.jpg"),
    ):
        folder = tmp_path / named
        folder.mkdir()
        (folder / "images").symlink_to(data / "images")
        (folder / "val.json").write_text(json.dumps(records | change))
        assert named in error_of(model, "--data", folder)
    (tmp_path / "damaged.safetensors").write_bytes(b"no model")
    assert "damaged" in error_of(tmp_path / "damaged.safetensors", "--data", data)


def test_command_line(data, make_detector, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("libradet.analysis.analyze.make_figures", lambda report: {})
    model = tmp_path / "model.safetensors"
    save_model(make_detector("retinanet", data), model)
    argv = ["analyze", model, "--data", data, "--output_dir", tmp_path / "r"]
    argv += ["--max_images", 2, "--device", "cpu", "--seed", 3]
    assert main(list(map(str, argv))) == 0
    numbers = json.loads((tmp_path / "r" / "report.json").read_text())
    output = capfd.readouterr().out
    assert numbers["diagnosis"]["summary"] in output
    assert "report.html" in output
    assert (numbers["metadata"]["seed"], numbers["metadata"]["images"]) == (3, 2)


def test_the_docs_list_all_keys_of_the_report(numbers):
    page = (Path(__file__).parents[2] / "docs" / "imbalance.md").read_text()
    rows = page.partition("## report.json")[2].splitlines()
    documented = [key for row in rows if row.startswith("| `") for key in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(documented) == sorted(numbers)

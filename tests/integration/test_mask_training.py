"""A run of a detector with masks, from the command line."""

import csv
import json

import pytest

from libradet.cli import main
from libradet.models.serialization import load_model

MASKS = ("--model", "mask_rcnn", "--detector.mask.channels", "8", "--detector.mask.num_convs", "1")


@pytest.fixture(scope="module")
def folder(tiny_data, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("masks") / "run"
    assert main(tiny(tiny_data, out, *MASKS, "--num_val_images_logged", "1")) == 0
    return out


def test_masks_are_trained_and_validated(folder):
    rows = list(csv.DictReader((folder / "metrics.csv").open(newline="")))
    assert all(float(row["loss_mask"]) > 0 for row in rows if row["loss"])
    measured = [row for row in rows if row["mask_AP"]]
    assert len(measured) == 2
    assert all(row["AP"] and row["mask_AP50"] and row["mask_AR100"] for row in measured)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["mask_AP"] == pytest.approx(max(float(row["mask_AP"]) for row in measured), abs=1e-7)
    assert set(metrics["mask_per_class"]) == {"ball", "crate"}
    assert (folder / "val_predictions.png").exists()


def test_evaluate_and_predict_return_masks(folder, tiny_data, tmp_path, capsys):
    weights, numbers = str(folder / "best.safetensors"), tmp_path / "numbers.json"
    assert main(["evaluate", weights, "--data", str(tiny_data), "--json", str(numbers), "--batch_size", "2"]) == 0
    measured = json.loads((folder / "metrics.json").read_text())
    assert json.loads(numbers.read_text())["mask_AP"] == pytest.approx(measured["mask_AP"], abs=1e-6)
    assert "mask precision" in capsys.readouterr().out
    image = sorted((tiny_data / "images").iterdir())[0]
    assert main(["predict", weights, str(image), "--score_thresh", "0", "--output_dir", str(tmp_path / "found")]) == 0
    results = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert results
    assert all(r["segmentation"]["size"] == [96, 144] for r in results)
    found = load_model(weights).predict(image, score_thresh=0.0)
    assert found.mask.shape == (len(results), 96, 144)


@pytest.mark.parametrize("split", ["train", "val"])
def test_data_without_segmentations_is_refused_before_anything_is_written(tiny_data, tiny, tmp_path, capsys, split):
    data = tmp_path / "data"
    data.mkdir()
    (data / "images").symlink_to(tiny_data / "images")
    for name in ("train", "val"):
        records = json.loads((tiny_data / f"{name}.json").read_text())
        if name == split:
            bare = records["annotations"][3]
            del bare["segmentation"]
            shown = next(i["file_name"] for i in records["images"] if i["id"] == bare["image_id"])
        (data / f"{name}.json").write_text(json.dumps(records))
    assert main(tiny(data, tmp_path / "run", *MASKS)) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert f"annotation {bare['id']} of {shown.rpartition('/')[2]}" in said
    assert f"{split}: 1 of " in said
    assert not (tmp_path / "run").exists()
    if split == "train":
        assert (
            main(tiny(data, tmp_path / "boxes", "--model", "faster_rcnn", "--max_steps", "1", "--max_epochs", "1")) == 0
        )

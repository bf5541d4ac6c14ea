"""Broken and unusual data, through the command line: checked, and trained on for one step."""

import json
from pathlib import Path

import pytest

from libradet.cli import main
from tests.helpers.dirty_datasets import DIRTY_CASES

TINY = Path(__file__).parents[1] / "training" / "tiny.yaml"


def test_no_case_is_forgotten(shared_data):
    assert list(json.loads((shared_data / "dirty" / "expected.json").read_text())) == DIRTY_CASES


@pytest.mark.parametrize("name", DIRTY_CASES)
def test_dirty(shared_data, tmp_path, capfd, name):
    case = shared_data / "dirty" / name
    expected = json.loads((shared_data / "dirty" / "expected.json").read_text())[name]
    report_file = tmp_path / "report.json"
    code = main(["data", "check", str(case), "--json", str(report_file)])
    checked = capfd.readouterr()
    train = ["train", "--config", str(TINY), "--data", str(case), "--output_dir", str(tmp_path / "run")]
    trained = main([*train, "--max_epochs", "1", "--max_steps", "1"])
    said = capfd.readouterr()
    assert "Traceback" not in checked.out + checked.err + said.out + said.err
    outcome = expected["outcome"]
    assert code == trained == (2 if outcome == "error" else 0)
    if outcome == "error":
        lines = said.err.strip().splitlines()
        assert lines[0].startswith("libradet: error: ")
        assert len(lines) <= 2
        assert not (tmp_path / "run").exists()
    else:
        assert (tmp_path / "run" / "best.safetensors").is_file()
    if report_file.exists():
        check_report(json.loads(report_file.read_text()), outcome, expected["kept"])


def check_report(report: dict, outcome: str, kept: dict | None) -> None:
    assert report.keys() == {"images", "boxes", "classes", "skipped", "warnings", "errors"}
    assert bool(report["errors"]) == (outcome == "error")
    if outcome == "accept":
        assert not report["skipped"]
        assert not report["warnings"]
    if outcome in ("skip_with_warning", "accept_with_warning"):
        assert report["skipped"] or report["warnings"]
        assert all(entry["count"] > 0 and entry["examples"] for entry in report["skipped"])
    if outcome != "error" and kept is not None:
        assert (report["images"], report["boxes"]) == (kept["images"], kept["annotations"])

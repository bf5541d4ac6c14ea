"""Piped output has no broken lines; a terminal's has its width."""

import os
import subprocess
import sys

from libradet.cli import main
from libradet.data.synthesis.synthetic import synthesize


def test_paths_in_piped_output_stay_whole(tmp_path):
    folder = tmp_path / ("long_" * 40)
    synthesize(folder, train=1, val=1, size=(96, 80), classes=2)
    (folder / "images" / "train_00000.jpg").unlink()
    command = [sys.executable, "-m", "libradet", "data", "check", str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert any(str(folder) in line for line in result.stdout.splitlines()), result


def test_columns_limits_the_width(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    synthesize(tmp_path, train=1, val=1, size=(96, 80), classes=2)
    assert main(["data", "stats", str(tmp_path)]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60

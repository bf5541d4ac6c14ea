"""Files that cannot be opened are refused in one line."""

import pytest

import libradet
from libradet.cli import main
from libradet.errors import UserError


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_missing_and_damaged_files(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(UserError, match=f"{name}: no such file"):
        libradet.load_model(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=f"{name}: not a "):
        libradet.load_model(path)


def test_files_of_other_programs(foreign_onnx):
    with pytest.raises(UserError, match=r"plain.onnx: not a detector that libradet export wrote"):
        libradet.load_model(foreign_onnx)


def test_commands_print_one_line(tmp_path, capfd):
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    assert main(["predict", str(tmp_path / "model.onnx"), "x.jpg", "--output_dir", str(tmp_path / "o")]) == 2
    assert len(capfd.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()

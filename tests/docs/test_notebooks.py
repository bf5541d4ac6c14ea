"""The notebooks run from the first cell to the last, on small data."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "examples" / "notebooks"
SMALL = {
    "quick_start": """
DATA = "synthetic"
TRAIN_IMAGES, VAL_IMAGES = 4, 2
EPOCHS = 1
IMAGE_SIZE = (64, 96)
NUM_WORKERS = 0
""",
    "balance_torchvision": """
DATA = "synthetic"
TRAIN_IMAGES = 4
STEPS, BATCH_SIZE = 2, 1
MIN_SIZE, MAX_SIZE = 64, 96
""",
}


@pytest.mark.parametrize("name", ["quick_start", pytest.param("balance_torchvision", marks=pytest.mark.slow)])
def test_notebooks_run(name, tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    replaced = {line.split("=")[0].strip() for line in parameters.source.splitlines()}
    assert replaced == {line.split("=")[0].strip() for line in SMALL[name].strip().splitlines()}
    parameters.source = SMALL[name]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any(output.output_type == "display_data" for cell in code for output in cell.outputs)


def test_every_notebook_is_run():
    assert sorted(SMALL) == sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def test_notebooks_are_stored_without_outputs():
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert not any(cell.get("outputs") for cell in cells)

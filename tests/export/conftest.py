"""Files that are written once for all tests: exporting takes seconds."""

from pathlib import Path
from typing import NamedTuple

import pytest
from exported_detectors import small_detector, unchecked

from libradet.cli import main
from libradet.models.detector import Detector
from libradet.models.model_file import save_model


class Pair(NamedTuple):
    """A detector, its file, and the one exported of it."""

    model: Detector
    weights: Path
    exported: Path


@pytest.fixture(scope="session")
def masks(tmp_path_factory) -> Pair:
    """Two stages, masks and a balanced pyramid, as ONNX."""
    folder = tmp_path_factory.mktemp("masks")
    model = small_detector("libra_mask_rcnn")
    pair = Pair(model, folder / "model.safetensors", folder / "model.onnx")
    save_model(model, pair.weights)
    with unchecked():
        assert main(["export", str(pair.weights), "--format", "onnx", "--out", str(pair.exported)]) == 0
    return pair

import re

import pytest
import torch
from torch.export import Dim

from libradet.errors import UserError
from libradet.export import exporter
from libradet.export.export_wrapper import check_torch_version, use_static_padding
from libradet.models.backbone import Backbone
from libradet.models.config import BackboneConfig
from tests.helpers.exported_detectors import shape_checks_disabled, small_detector


def test_static_padding_keeps_symbolic_sizes_simple():
    """Nested roundings in the sizes of features would make tracing very slow."""
    backbone = Backbone(BackboneConfig("tf_mobilenetv3_small_minimal_100")).eval()
    x = torch.rand(1, 3, 64, 96)
    expected = backbone(x)
    use_static_padding(backbone)
    for actual, features in zip(backbone(x), expected, strict=True):
        torch.testing.assert_close(actual, features)
    dynamic_sizes = {2: 32 * Dim("rows", min=1, max=64), 3: 32 * Dim("columns", min=1, max=64)}
    with shape_checks_disabled():
        program = torch.export.export(backbone, (x,), dynamic_shapes=(dynamic_sizes,), strict=False)
    sides = [str(side) for output in program.graph.output_node().args[0] for side in output.meta["val"].shape[2:]]
    assert len(sides) == 2 * len(expected)
    assert not any("//" in side or "Mod" in side for side in sides), sides


def test_detectors_that_cannot_be_traced_are_refused(tmp_path, monkeypatch):
    model = small_detector("rpn")
    monkeypatch.setattr(
        model.__class__, "extract_features", lambda self, batch: batch.images[batch.images > 3].tolist()
    )
    with pytest.raises(UserError, match="rpn on test_resnet cannot be exported with dynamic sizes"):
        exporter.export(model, tmp_path / "new.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("version", "supported"), [("2.10.0+cu128", False), ("2.12.1", False), ("2.13.0", True), ("3.0", True)]
)
def test_versions_of_torch_that_cannot_export_are_named(version, supported):
    if supported:
        check_torch_version(version)
    else:
        with pytest.raises(UserError, match=rf"needs torch 2\.13 or newer, and {re.escape(version)} is installed"):
            check_torch_version(version)

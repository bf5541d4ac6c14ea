"""Backbones that pad as TensorFlow does, where images' sizes are open."""

import torch
from exported_detectors import unchecked
from torch.export import Dim

from libradet.export.padding import pad_statically
from libradet.models.backbones import Backbone
from libradet.models.config import BackboneConfig


def test_sizes_of_features_are_no_formulas_of_formulas():
    """Or the tracer is busy with them for ever."""
    backbone = Backbone(BackboneConfig("tf_efficientnet_lite0")).eval()
    x = torch.rand(1, 3, 64, 96)
    expected = backbone(x)
    pad_statically(backbone)
    for found, wanted in zip(backbone(x), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    open_sizes = {2: 32 * Dim("down", min=1, max=64), 3: 32 * Dim("across", min=1, max=64)}
    with unchecked():
        program = torch.export.export(backbone, (x,), dynamic_shapes=(open_sizes,), strict=False)
    sides = [str(side) for output in program.graph.output_node().args[0] for side in output.meta["val"].shape[2:]]
    assert len(sides) == 2 * len(expected)
    assert not any("//" in side or "Mod" in side for side in sides), sides

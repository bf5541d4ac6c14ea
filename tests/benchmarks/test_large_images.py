"""The benchmark of tiled inference runs to its end, and prints each measurement against that of a batch."""

import sys
from argparse import Namespace

from benchmarks import large_images


def test_rounds(monkeypatch, capsys, tmp_path):
    arguments = ["--size", "700", "600", "--layouts", "tiles", "strips", "--rounds", "2", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["large_images", *arguments])
    seconds = {"batch": 2.0, "evaluate": 2.1, "predict": 4.0}
    monkeypatch.setattr(
        large_images, "measure_in_process", lambda name, *_: {"seconds": seconds[name], "growth": 1e6 * seconds[name]}
    )
    results = large_images.compare(large_images.parse_args())
    printed = capsys.readouterr().out
    assert results["batches"] == 1
    assert results["strips"]["evaluate"] == {"seconds": 2.1, "growth": 2.1e6}
    assert printed.count("smallest of 2 rounds") == 2
    assert printed.count("1.050 times the steps (target 1.05), 1.050 times the memory (target 1.2)") == 2 * (2 + 1)
    assert not list(tmp_path.iterdir())


def test_measurements(tmp_path):
    image = tmp_path / "image.tif"
    large_images.write_tiff(image, 300, 200, "tiles")
    options = {"model": "retinanet", "backbone": "test_resnet", "model_size": [64, 64], "tiles": [128, 0.2]}
    args = Namespace(**options, size=[300, 200], batch_size=4, steps=1, image=image)
    model = large_images.build_model(args)
    assert all(measure(model, args) > 0 for measure in large_images.MEASUREMENTS.values())

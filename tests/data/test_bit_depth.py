"""Gray images of 10, 12 and 14 bits in 16-bit files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import libradet
from libradet.cli import main
from libradet.data.bit_depth import describe_bit_depth
from libradet.data.image_io import image_to_tensor, read_image
from libradet.data.loader import make_loader
from libradet.data.read import read
from libradet.export.exported_model import ExportedModel
from libradet.export.metadata import build_metadata, decode_metadata, encode_metadata
from libradet.inference.tta import with_tta
from libradet.models.serialization import save_model
from libradet.predictor import bit_depth_of
from tests.helpers.training_runs import tiny_config

GRAY = np.random.default_rng(0).integers(0, 256, (40, 60)).astype(np.uint8)
GRAY[0, 0] = 255


def write(path, bits):
    Image.fromarray((GRAY * ((2**bits - 1) / 255)).round().astype(np.uint16)).save(path)
    return path


@pytest.fixture
def data(tmp_path):
    """A COCO dataset of one 12-bit image."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    write(folder / "images" / "a.png", 12)
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "a"}],
    }
    (folder / "train.json").write_text(json.dumps(content))
    return folder


def small(bit_depth=16):
    config = tiny_config()
    config.image.bit_depth = bit_depth
    return libradet.create_model(config=config, class_names=["a", "b"])


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pixels_are_those_of_8_bits(tmp_path, bits, suffix):
    path = write(tmp_path / f"x{suffix}", bits)
    original = torch.from_numpy(GRAY).expand(3, -1, -1).int()
    for pixels in (read_image(path, bit_depth=bits), image_to_tensor(Image.open(path), bits)):
        assert (pixels.int() - original).abs().max() <= 1
    if bits < 16:
        assert read_image(path).max() == 255 >> (16 - bits)
        assert f"({bits} bits" in describe_bit_depth([path])
    assert describe_bit_depth([path], bits) == ""


def test_values_beyond_the_bit_depth(tmp_path):
    path = write(tmp_path / "x.png", 14)
    assert "are cut off at 4095; set detector.image.bit_depth to 14" in describe_bit_depth([path], 12)
    assert read_image(path, bit_depth=12).max() == 255


def test_no_warning(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "8bit.png")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "black.png")
    (tmp_path / "damaged.png").write_bytes(b"x")
    paths = [tmp_path / name for name in ("8bit.png", "black.png", "damaged.png", "absent.png", "x.jpg")]
    assert describe_bit_depth(paths) == ""
    assert describe_bit_depth([]) == ""


def test_check_and_predict_say_it(data, tmp_path, capsys):
    assert main(["data", "check", str(data)]) == 0
    assert "train with --detector.image.bit_depth 12" in " ".join(capsys.readouterr().out.split())
    for bit_depth, is_said in ((16, True), (12, False)):
        save_model(small(bit_depth), tmp_path / "m.safetensors")
        images = str(data / "images")
        out = str(tmp_path / f"out{bit_depth}")
        assert main(["predict", str(tmp_path / "m.safetensors"), images, "--output_dir", out, "--device", "cpu"]) == 0
        assert ("values up to 4095" in capsys.readouterr().out) == is_said


def test_training_prediction_and_evaluation_read_the_same_pixels(data, tmp_path):
    dataset, _ = read(data, "train")
    pixels = read_image(data / "images" / "a.png", bit_depth=12)
    loader = make_loader(dataset, size="original", batch_size=1, training=False, bit_depth=12)
    assert torch.equal(next(iter(loader)).images[0, :, :40, :60], pixels)
    model = small(12)
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].images[0, :, :40, :60]))
    model.predict(data / "images" / "a.png", size="original")
    model.predict(Image.open(data / "images" / "a.png"), size="original")
    libradet.evaluate(model, data, "train", size="original", num_workers=0, progress=False)
    assert len(seen) == 3
    assert all(torch.equal(image, pixels) for image in seen)


def test_saved_and_exported_models_keep_it(tmp_path):
    model = small(12)
    save_model(model, tmp_path / "m.safetensors")
    assert bit_depth_of(libradet.load_model(tmp_path / "m.safetensors")) == 12
    assert bit_depth_of(with_tta(model, True, ())) == 12
    texts = encode_metadata(build_metadata(model))
    assert bit_depth_of(ExportedModel(decode_metadata(texts, "x"), lambda arrays: [])) == 12
    del texts["bit_depth"]
    assert decode_metadata(texts, "x").bit_depth == 16

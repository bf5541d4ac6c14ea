import json
import pickle
from dataclasses import asdict

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from libradet.errors import UserError
from libradet.interop.loading import load_checkpoint, read_config_any, resolve_init_weights
from libradet.models.config import BalancedPyramidConfig, BoxLossConfig
from libradet.models.serialization import load_model, parse_config, read_config, save_model
from libradet.models.zoo import MODELS, make_config
from tests.helpers.tiny_detectors import tiny_batch, tiny_config, tiny_detector


@pytest.fixture(scope="module")
def model():
    return tiny_detector().eval()


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    return path


def rewrite(path, change_tensors=lambda t: t, change_metadata=lambda m: m):
    with safe_open(path, framework="pt") as f:
        metadata = f.metadata()
    save_file(change_tensors(load_file(path)), path, change_metadata(metadata))


def test_loading_restores_a_model_bit_for_bit(model, saved):
    loaded = load_model(saved)
    assert not loaded.training
    assert loaded.config == model.config
    assert loaded.class_names == model.class_names
    with torch.no_grad():
        torch.testing.assert_close(model(tiny_batch()), loaded(tiny_batch()), rtol=0, atol=0)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = model.train()(tiny_batch())
        torch.manual_seed(3)
        second = loaded.train()(tiny_batch())
    model.eval()
    assert all(torch.equal(first[key], second[key]) for key in first)


NEWER = {
    "detections": ("nms_type", "sigma", "min_score", "score_fusion"),
    "roi": ("iou",),
    None: ("uncertainty_weighting",),
}
"""Fields that have defaults, by the part that they are in."""


def test_missing_fields_have_their_defaults(model, saved):
    def forget(metadata):
        config = json.loads(metadata["config"])
        for part, names in NEWER.items():
            for name in names:
                del (config if part is None else config[part])[name]
        return metadata | {"config": json.dumps(config)}

    rewrite(saved, change_metadata=forget)
    loaded = load_model(saved)
    assert loaded.config == model.config
    with torch.no_grad():
        torch.testing.assert_close(model(tiny_batch()), loaded(tiny_batch()), rtol=0, atol=0)


def test_the_file_is_self_contained(model, saved, tmp_path):
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    elsewhere = tmp_path / "far" / "away.safetensors"
    elsewhere.parent.mkdir()
    saved.rename(elsewhere)
    assert load_model(elsewhere).config == model.config


def test_a_file_of_that_name_is_replaced(saved):
    other = tiny_detector(tiny_config("faster_rcnn", 2))
    save_model(other, saved)
    assert load_model(saved).config == other.config


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("change", [0, 1, 2])
def test_configurations_are_restored_from_json(name, change):
    config = make_config(name, 7)
    if change == 1:
        config.class_names, config.category_ids = ("a", "ü", "b c"), (3, 1, 90)
        config.pyramid.balanced = BalancedPyramidConfig(1, "conv")
        config.pyramid.type = "pafpn"
        if config.roi is not None:
            config.roi.sampling.neg_pos_ub = 2.5
    if change == 2:
        config.image.size, config.pyramid.balanced = (320, 512), None
        for first in (config.rpn, config.retinanet):
            if first is not None:
                first.box_loss, first.anchors.scales = BoxLossConfig("l1", 2.0), (4.0, 5.5)
    assert parse_config(json.loads(json.dumps(asdict(config))), "test") == config


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_model(tmp_path / "nothing.safetensors")


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        load_model(tmp_path)


@pytest.mark.parametrize("part", [0, 4, 100, 0.5, 0.999])
def test_a_truncated_file(saved, part):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: part if isinstance(part, int) else int(part * len(whole))])
    with pytest.raises(UserError, match="not a readable"):
        load_model(saved)


def test_a_pickle_is_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("it was executed",))

    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="not a readable"):
        load_model(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="not a readable"):
        load_model(path)


def test_a_foreign_file(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="not a model saved by libradet"):
        load_model(path)
    save_file({"weight": torch.zeros(3)}, path, {"format": "pt"})
    with pytest.raises(UserError, match="not a model saved by libradet"):
        load_model(path)


@pytest.mark.parametrize("config", [None, "{", "3", '"text"', "null", "[]"])
def test_a_corrupt_configuration(saved, config):
    def damage(metadata):
        return {k: v for k, v in (metadata | {"config": config}).items() if v is not None}

    rewrite(saved, change_metadata=damage)
    with pytest.raises(UserError, match="configuration"):
        read_config(saved)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c["roi"].update(fc_dmi=5), "fc_dmi"),
        (lambda c: c["roi"].update(fc_dim="wide"), "fc_dim"),
        (lambda c: c["pyramid"].update(type="bifpn"), "type"),
        (lambda c: c.update(num_classes=None), "num_classes"),
        (lambda c: c.update(image=None), "image"),
        (lambda c: c["image"].update(size=None), r"image\.size"),
        (lambda c: c["rpn"]["anchors"].update(scales=None), r"rpn\.anchors\.scales"),
    ],
)
def test_a_configuration_that_does_not_fit_the_schema_names_the_field(change, word):
    values = asdict(tiny_config())
    change(values)
    with pytest.raises(UserError, match=word) as e:
        parse_config(values, "some.file")
    assert str(e.value).startswith("some.file")


def test_tensors_that_do_not_fit(saved):
    rewrite(saved, lambda t: {k: v for k, v in t.items() if k != "roi.fc1.weight"} | {"stranger": torch.zeros(2)})
    with pytest.raises(UserError, match=r"missing: roi\.fc1\.weight; unexpected: stranger"):
        load_model(saved)


def test_tensors_of_another_shape(saved):
    rewrite(saved, lambda t: t | {"roi.fc1.weight": torch.zeros(2, 2)})
    with pytest.raises(UserError, match=r"roi\.fc1\.weight"):
        load_model(saved)


def test_files_of_earlier_versions_are_refused_in_one_line(saved):
    rewrite(saved, change_metadata=lambda metadata: metadata | {"format": "libradet-1"})
    for load in (load_model, read_config, load_checkpoint, resolve_init_weights, read_config_any):
        with pytest.raises(UserError) as refused:
            load(saved)
        message = str(refused.value)
        assert message.startswith(f"{saved}: written by an earlier version of libradet (format libradet-1")
        assert "train the model again" in message
        assert "libradet convert" in message
        assert "\n" not in message

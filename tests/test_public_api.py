"""The public names exist, are documented, and are listed in the reference."""

import inspect
from pathlib import Path

import pytest

import libradet
from libradet.errors import UserError
from libradet.models.zoo import make_config

NAMES = [name for name in libradet.__all__ if name != "__version__"]
DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_documented(name):
    assert inspect.getdoc(getattr(libradet, name))
    assert f"`{name}`" in (DOCS / "python.md").read_text().partition("## Public API")[2]
    reference = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    whole_modules = {"DetectorConfig": "::: libradet.models.config\n"}
    assert whole_modules.get(name, f".{name}\n") in f"{reference}\n"


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = libradet.nothing


def test_a_run_is_named_after_the_configuration_that_it_trains(monkeypatch):
    requested = []
    monkeypatch.setattr("libradet.training.run.train", lambda config, *args, **kwargs: requested.append(config))
    detector = make_config("libra_retinanet", backbone="resnet18")
    libradet.train(data="DIR", detector=detector)
    assert (requested[0].model, requested[0].backbone) == ("libra_retinanet", "resnet18")


@pytest.mark.parametrize("class_names", ["cat", ["cat", "cat"], {"cat", "dog"}, [1, 2]])
def test_class_names_are_a_list_of_different_names(class_names, without_type_checks):
    with pytest.raises(UserError, match="class_names"):
        libradet.create_model("faster_rcnn", backbone="resnet18", class_names=class_names)


@pytest.mark.parametrize(
    "settings", [{"precision": "fp16"}, {"logger": "tensorbord"}, {"optimizer": "adam"}, {"max_epochs": 1.5}]
)
def test_settings_from_python_have_the_types_of_their_fields(settings, without_type_checks):
    with pytest.raises(UserError, match=f"^{next(iter(settings))} is "):
        libradet.train("faster_rcnn", data="DIR", **settings)


def test_training_without_data_does_not_read_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for data in ({}, {"data": ""}):
        with pytest.raises(UserError, match=r"^data is missing: name the folder of a dataset$"):
            libradet.train("faster_rcnn", backbone="resnet18", **data)


def test_folders_and_devices_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match=r"is a folder; name the file in it, .*best\.safetensors"):
        libradet.load_model(tmp_path)
    with pytest.raises(UserError, match="device is nothing: it cannot be used here"):
        libradet.load_model(tmp_path / "x.safetensors", device="nothing")

"""The public names exist, are documented, and are listed in the reference."""

import inspect
from pathlib import Path

import pytest

import libradet
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
    libradet.train("faster_rcnn", data="DIR", detector=detector)
    assert (requested[0].model, requested[0].backbone) == ("libra_retinanet", "resnet18")

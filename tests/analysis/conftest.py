"""A small dataset and the report of a two-stage detector on it, shared by the tests of the report."""

import json

import pytest

from libradet.analysis.analyze import analyze
from libradet.analysis.collect import AnalysisOptions
from libradet.data.read import read
from libradet.data.synthesis.synthetic import synthesize
from tests.helpers.tiny_detectors import tiny_detector, tiny_zoo_config


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A dataset of four validation images and three classes."""
    folder = tmp_path_factory.mktemp("data")
    synthesize(folder, train=1, val=4, size=(128, 96), classes=3)
    return folder


@pytest.fixture(scope="session")
def options():
    """Options of a fast analysis."""
    return AnalysisOptions(max_images=3, gradient_images=1, visualized_images=1, num_workers=0, progress=False)


@pytest.fixture(scope="session")
def make_detector():
    """A function that returns a small detector of a zoo entry, with the classes of a dataset."""

    def make(name, data):
        dataset, _ = read(data, "val")
        config = tiny_zoo_config(name, backbone="resnet18")
        config.image.size = (96, 128)
        config.class_names = tuple(dataset.class_names)
        return tiny_detector(config)

    return make


@pytest.fixture(scope="session")
def report(data, options, make_detector, tmp_path_factory):
    """The folder of a report."""
    folder = tmp_path_factory.mktemp("reports") / "two_stage"
    analyze(make_detector("faster_rcnn", data), data, folder, options=options)
    return folder


@pytest.fixture(scope="session")
def numbers(report):
    """The content of report.json."""
    return json.loads((report / "report.json").read_text())


@pytest.fixture(scope="session")
def page(report):
    """The HTML page."""
    return (report / "report.html").read_text()

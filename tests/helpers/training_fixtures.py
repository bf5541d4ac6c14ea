"""Fixtures for tiny datasets and tiny training runs."""

from pathlib import Path

import pytest

from libradet.data.synthesis.synthetic import synthesize
from tests.helpers.launching import Launched

TINY = Path(__file__).parents[1] / "training" / "tiny.yaml"


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Twelve images to train on, four to measure on."""
    folder = tmp_path_factory.mktemp("data")
    synthesize(folder, train=12, val=4, size=(144, 96), classes=2)
    return folder


@pytest.fixture(scope="session")
def tiny():
    """Arguments of a tiny ``libradet train``."""
    return lambda data, out, *more: [
        "train",
        "--config",
        str(TINY),
        "--data",
        str(data),
        "--output_dir",
        str(out),
        *more,
    ]


@pytest.fixture
def start(tmp_path):
    """Start the command line in one or several processes, which do not outlive the test."""
    running = []

    def launch(args, processes=1):
        running.append(Launched(args, tmp_path, processes))
        return running[-1]

    yield launch
    for launched in running:
        launched.end()

"""Tiny data and tiny runs."""

from pathlib import Path

import pytest
from launching import Launched

from libradet.data.synthesis.synthetic import synthesize

TINY = Path(__file__).with_name("tiny.yaml")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Twelve images to train on, four to measure on."""
    folder = tmp_path_factory.mktemp("data")
    synthesize(folder, train=12, val=4, size=(144, 96), classes=2)
    return folder


@pytest.fixture(scope="session")
def tiny():
    """Arguments of a tiny ``libradet train``."""
    return lambda data, out, *more: ["train", "--config", str(TINY), "--data", str(data), "--out", str(out), *more]


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

"""Tiny data and tiny runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from libradet.data.synthetic import synthesize

TINY = Path(__file__).with_name("tiny.yaml")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Twelve pictures to train on, four to measure on."""
    folder = tmp_path_factory.mktemp("data")
    synthesize(folder, train=12, val=4, size=(144, 96), classes=2)
    return folder


@pytest.fixture(scope="session")
def tiny():
    """Arguments of a tiny ``libradet train``."""
    return lambda data, out, *more: ["train", "--config", str(TINY), "--data", str(data), "--out", str(out), *more]


@pytest.fixture
def start(request):
    """Start the command line in a process of its own, which does not outlive the test."""
    running = []

    def launch(args):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "libradet", *map(str, args)]
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield launch
    for process in running:
        process.kill()
        process.communicate()

"""Freed memory stays with the process where glibc allocates it, unless the environment says otherwise."""

import os
import platform
import subprocess
import sys

import pytest

from libradet.cli import main
from libradet.data.synthesis.synthetic import synthesize
from libradet.models import optimize
from libradet.training import run
from libradet.utils import malloc
from tests.helpers.tiny_detectors import tiny_detector

SCRIPT = """
import resource, sys, torch
from libradet.utils.malloc import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def allocate():
    for _ in range(30):
        torch.ones(12_000_000)  # 48 MB, above the size that glibc keeps by itself
allocate()  # a few times, alignment and small objects beside it leave no place for the next one
before = page_faults()
allocate()
print(kept, page_faults() - before)
"""

needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc",
    reason="the allocator is not glibc's",
)


def measure(argument: str, **environment: str) -> tuple[str, int]:
    own = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", SCRIPT, argument]
    output = subprocess.run(command, env=own | environment, capture_output=True, text=True, check=True).stdout
    kept, faults = output.split()
    return kept, int(faults)


@needs_glibc
def test_tensors_reuse_the_memory_of_freed_ones():
    kept, faults = measure("keep")
    _, faults_without = measure("leave")
    assert kept == "True"
    assert faults < faults_without / 10


@needs_glibc
@pytest.mark.parametrize(
    "environment", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"}]
)
def test_environment_has_precedence(environment):
    kept, faults = measure("keep", **environment)
    assert kept == "False"
    assert faults > 10_000


def test_other_allocators_are_left_alone(monkeypatch):
    monkeypatch.setattr(malloc.sys, "platform", "darwin")
    assert malloc.keep_freed_memory() is False


def test_without_mallopt_nothing_is_set(monkeypatch):
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: object())
    assert malloc.keep_freed_memory() is False


def test_optimized_detectors_keep_memory(monkeypatch):
    calls = []
    monkeypatch.setattr(optimize, "keep_freed_memory", lambda: calls.append(1))
    optimize.optimize(tiny_detector())
    assert calls == [1]


def test_training_on_a_cpu_keeps_memory(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(run, "keep_freed_memory", lambda: calls.append(1))
    synthesize(tmp_path / "data", train=2, val=1, size=(96, 80))
    options = "--model rpn --backbone test_resnet --weights none --max_steps 1 --batch_size 1 --num_workers 0"
    assert (
        main(["train", "--data", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run"), *options.split()]) == 0
    )
    assert calls == [1]

"""A compiled run has the losses of an eager run."""

import re
import shutil

import numpy as np
import pytest

from libradet.errors import UserError
from libradet.evaluation.curves import read_metrics
from libradet.models.detector import Detector
from libradet.models.optimize import compile_in_place
from libradet.models.zoo import make_config


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="there is no compiler")
def test_losses_match_an_eager_run(tiny_data, tiny, tmp_path, start):
    losses = {}
    for name, more in (("eager", ()), ("compiled", ("--compile", "true"))):
        run = start(tiny(tiny_data, tmp_path / name, "--max_steps", "8", "--lr", "0.001", *more))
        assert run.wait() == [0], run.said
        losses[name] = read_metrics(tmp_path / name / "metrics.csv")["loss"].values
    # Chance inside a graph is drawn otherwise, so samples differ, and with them losses a little.
    np.testing.assert_allclose(losses["compiled"][0], losses["eager"][0], rtol=0.1)
    np.testing.assert_allclose(losses["compiled"].mean(), losses["eager"].mean(), rtol=0.1)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=re.escape("g++")):
        compile_in_place(Detector(make_config("rpn", 2, "test_resnet")))

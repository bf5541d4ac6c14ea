"""A detector as compiled code."""

import os
import shutil

import torch

from libradet.errors import UserError
from libradet.models.detector import Detector

GRAPHS = 64
"""More than a run needs: two for each canvas and each padded number of objects."""


def compile_in_place(model: Detector) -> None:
    """Have a detector's steps compiled, one graph for each shape of a batch, when the shape first comes.

    Weights stay where they are, under their names. Loaders give few shapes, so after the first batches nothing is
    compiled any more.

    Raises:
        UserError: there is no compiler for the model's device.
    """
    if model.device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise UserError("--compile needs a C++ compiler on a CPU, and there is neither g++ nor clang++: install one")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    model.compile(dynamic=False)

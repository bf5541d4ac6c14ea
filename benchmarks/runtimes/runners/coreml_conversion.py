"""Converts a .pt2 file to Core ML; only macOS can run it."""

import sys

import coremltools
import torch
import torchvision  # noqa: F401 (registers its operators)

program = torch.export.load(sys.argv[1]).run_decompositions({})
coremltools.convert(program, minimum_deployment_target=coremltools.target.iOS18)

"""Converts a .pt2 file to ExecuTorch with the XNNPACK backend and runs it."""

import torch
import torchvision  # noqa: F401 (registers its operators)
from common import Run, run_cases
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime

torch.set_num_threads(1)
programs = []


def _prepare(model: str, _: tuple[int, ...]) -> Run:
    lowered = to_edge_transform_and_lower(torch.export.load(model), partitioner=[XnnpackPartitioner()])
    program = Runtime.get().load_program(lowered.to_executorch().buffer)
    programs.append(program)  # a method needs its program, and does not keep it
    method = program.load_method("forward")
    return lambda images: [output.numpy() for output in method.execute([torch.from_numpy(images)])]


run_cases(_prepare)

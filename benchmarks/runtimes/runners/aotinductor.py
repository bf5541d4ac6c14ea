"""Compiles a .pt2 file with AOTInductor and runs the compiled package."""

import tempfile
from pathlib import Path

import torch
import torchvision  # noqa: F401 (registers its operators)
from common import Run, run_cases

torch.set_num_threads(1)
packages: dict[str, str] = {}


def _prepare(model: str, _: tuple[int, ...]) -> Run:
    if model not in packages:
        path = Path(tempfile.mkdtemp()) / "compiled.pt2"
        packages[model] = torch._inductor.aoti_compile_and_package(torch.export.load(model), package_path=str(path))
    compiled = torch._inductor.aoti_load_package(packages[model])

    def run(images):
        with torch.inference_mode():
            return [output.numpy() for output in compiled(torch.from_numpy(images))]

    return run


run_cases(_prepare)

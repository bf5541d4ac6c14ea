"""Converts a .pt2 file with litert-torch and runs it in LiteRT."""

import litert_torch
import torch
import torchvision  # noqa: F401 (registers its operators)
from common import Run, run_cases

torch.set_num_threads(1)


def _prepare(model: str, shape: tuple[int, ...]) -> Run:
    module = torch.export.load(model).module()
    converted = litert_torch.convert(module, (torch.zeros(shape, dtype=torch.uint8),))
    return lambda images: list(converted(torch.from_numpy(images)))


run_cases(_prepare)

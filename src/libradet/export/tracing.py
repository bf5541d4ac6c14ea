"""A detector's steps as a program of torch.export, its image sizes and batch size left open."""

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from libradet.errors import UserError
from libradet.export.description import Description
from libradet.export.portable import Portable
from libradet.models.detector import Detector
from libradet.utils.warnings_filter import silence_loggers

MOST_PIXELS = 2**15
"""On a side of an image."""


def trace(model: Detector, description: Description) -> ExportedProgram:
    """The program behind a file. Raises UserError if the detector cannot be followed with sizes left open."""
    portable = Portable(model, description.size if description.resizes else "original")
    batch, height, width = Dim("batch", min=1), *(Dim(n, min=1, max=MOST_PIXELS) for n in ("height", "width"))
    # Numbers that occur nowhere else, and no multiples of each other: nothing is mistaken for a constant.
    examples: list[torch.Tensor] = [torch.zeros(2, 89, 131, 3, dtype=torch.uint8)]
    shapes: list[dict] = [{0: batch, 1: height, 2: width}]
    if description.proposals:
        examples.append(torch.tensor([5.0, 6.0, 70.0, 80.0]).expand(2, 7, 4))
        shapes.append({0: batch, 1: Dim("boxes", min=1)})
    try:
        with silence_loggers("torch"):
            return _export(portable.eval(), tuple(examples), tuple(shapes))
    except Exception as error:  # tracers raise nearly anything
        first = str(error).strip().splitlines() or [type(error).__name__]
        backbone = model.config.backbone.name
        raise UserError(f"{model.name} on {backbone} cannot be exported with open sizes: {first[0][:200]}") from error


@torch.no_grad()
def _export(module: nn.Module, examples: tuple, shapes: tuple) -> ExportedProgram:
    return torch.export.export(module, examples, dynamic_shapes=shapes, strict=False)

"""Programs of torch.export (.pt2), which need torch and torchvision alone."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from numpy import ndarray
from torch.export import ExportedProgram

from libradet.errors import UserError
from libradet.export.description import Description, from_text, to_text
from libradet.export.running import Run
from libradet.utils.warnings_filter import silence_loggers

NOTE = "libradet.json"


def write_program(program: ExportedProgram, description: Description, path: Path) -> None:
    """One file with everything in it."""
    from libradet.export.program_operators import PLAIN

    with silence_loggers("torch", "torchvision"), path.open("wb") as file:
        plain = program.run_decompositions(PLAIN)
        torch.export.save(plain, file, extra_files={NOTE: json.dumps(to_text(description))})


def open_program(path: Path) -> tuple[Description, Run]:
    """What a .pt2 file says of itself, and a function that runs it, on the CPU.

    Such a file is code: torch may execute what is in it when it is loaded.

    Raises:
        UserError: this is no file of ours.
    """
    notes = {NOTE: ""}
    try:
        # By its content: while it is being written, its name is another.
        with silence_loggers("torch", "torch.export", "torch._export"):
            program = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=notes)
    except Exception as error:  # damaged archives raise nearly anything
        raise UserError(f"{path}: not a program of torch.export ({str(error).splitlines()[0][:120]})") from error
    description = from_text(json.loads(notes[NOTE] or "{}"), path)
    call = program.module()

    def run(arrays: Sequence[ndarray]) -> list[ndarray]:
        with torch.inference_mode():
            return [t.numpy() for t in call(*map(torch.from_numpy, arrays))]

    return description, run

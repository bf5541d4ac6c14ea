"""Outputs of a runner, or the line of its log that says why there are none."""

import json
import re
import signal
from pathlib import Path

import numpy as np
from numpy import ndarray

MAX_LENGTH = 220

_ERROR_LINE = re.compile(r"^([\w.]*(Error|Exception)\w*|\w+(\.\w+)*\.[A-Z]\w+): \S")


def read_outputs(path: Path) -> tuple[dict[str, ndarray], float]:
    """Return a runner's outputs by name, and its processor time in seconds."""
    document = json.loads(path.read_text())
    seconds = document.pop("seconds")
    outputs = {name: np.array(values) for name, values in document.items()}
    outputs["boxes"] = outputs["boxes"].reshape(*outputs["scores"].shape, 4)
    return outputs, seconds


def first_error(log: str, code: int) -> str:
    """Return one line of a failed runner's log: the last exception's message, or the signal that ended it."""
    if code < 0:
        return f"the process ended by {signal.Signals(-code).name}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR_LINE.match(line)]
    line = (errors or lines or [f"exit code {code}"])[-1]
    line = re.sub(r"/\S+/", "", line)  # folders of this machine
    return line if len(line) <= MAX_LENGTH else line[: MAX_LENGTH - 3] + "..."

"""Values that mmdetection computed, where they are at hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def parity(shared_data: Path) -> Callable[[str], dict[str, Tensor]]:
    """Read the arrays of one module by its name; skips where they are absent."""

    def read(name: str) -> dict[str, Tensor]:
        path = shared_data.parent / "parity" / "modules" / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"{path} is absent")
        with np.load(path) as arrays:
            return {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}

    return read

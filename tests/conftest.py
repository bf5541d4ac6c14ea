"""Shared by all tests: run-time checks of shapes, the datasets that lie beside the repository, fixed seeds."""

import gc
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook
from torch import Tensor

# Imported modules and collected tests live as long as the process. The garbage collector would traverse them again and
# again, a tenth of the time: it starts after the collection of tests, and leaves out what was there before.
gc.disable()

# Before anything of the package is imported, so that every annotated function is checked.
install_import_hook("libradet", "beartype.beartype")

# Tests are many small tensors: more threads only wait for each other, above all beside other processes. Set in the
# environment, it also holds for the processes and notebook kernels that tests start.
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))

# The same examples on every run, and no time limit on a machine that others use, too.
settings.register_profile("libradet", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("libradet")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, so that processes end together: the last ones to be shared out are short."""
    items.sort(key=lambda item: "export" not in item.path.parts)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (for libraries that draw from it)
    torch.manual_seed(0)


@pytest.fixture
def without_type_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of wrong types reach the package, as they do from users' code."""
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real datasets; tests that need it are skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LIBRADET_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no datasets at {folder} (LIBRADET_SHARED)")
    return folder


@pytest.fixture(scope="session")
def parity(shared_data: Path) -> Callable[[str], dict[str, Tensor]]:
    """Read the values that mmdetection computed for one module, by its name; skips where they are absent."""

    def read(name: str) -> dict[str, Tensor]:
        path = shared_data.parent / "parity" / "modules" / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"{path} is absent")
        with np.load(path) as arrays:
            return {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}

    return read

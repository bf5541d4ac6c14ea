"""PyTorch implementation of Libra R-CNN: training, evaluation and export of balanced object detectors."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libradet.api import create_model, evaluate, export_model, load_model, optimize, train
    from libradet.data.batch import Batch

__version__ = version("libradet")
__all__ = ["Batch", "__version__", "create_model", "evaluate", "export_model", "load_model", "optimize", "train"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that the command line starts without torch."""
    if name == "Batch":
        from libradet.data.batch import Batch

        return Batch
    if name in __all__:
        from libradet import api

        return getattr(api, name)
    raise AttributeError(f"module 'libradet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

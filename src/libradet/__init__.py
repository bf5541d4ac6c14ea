"""PyTorch implementation of Libra R-CNN: training, evaluation and export of balanced object detectors."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libradet.api import create_model, evaluate, export_model, load_model, optimize, train
    from libradet.data.batch import Batch
    from libradet.errors import UserError
    from libradet.models.config import DetectorConfig
    from libradet.models.detector import Detector
    from libradet.structures import Detections
    from libradet.training.config import TrainConfig

__version__ = version("libradet")
__all__ = [
    "Batch",
    "Detections",
    "Detector",
    "DetectorConfig",
    "TrainConfig",
    "UserError",
    "__version__",
    "create_model",
    "evaluate",
    "export_model",
    "load_model",
    "optimize",
    "train",
]

_MODULES = {
    "Batch": "libradet.data.batch",
    "Detections": "libradet.structures",
    "Detector": "libradet.models.detector",
    "DetectorConfig": "libradet.models.config",
    "TrainConfig": "libradet.training.config",
    "UserError": "libradet.errors",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that the command line starts without torch."""
    if name not in __all__:
        raise AttributeError(f"module 'libradet' has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "libradet.api")), name)


def __dir__() -> list[str]:
    return __all__

"""Training with Lightning: modules, data and callbacks that also fit into anybody's own Trainer."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libradet.training.datamodule import DetectorData
    from libradet.training.module import DetectorModule

__all__ = ["DetectorData", "DetectorModule"]


def __getattr__(name: str) -> Any:
    """Loaded when first used: settings and their help need no Lightning."""
    if name == "DetectorData":
        from libradet.training.datamodule import DetectorData

        return DetectorData
    if name == "DetectorModule":
        from libradet.training.module import DetectorModule

        return DetectorModule
    raise AttributeError(f"module 'libradet.training' has no attribute {name!r}")

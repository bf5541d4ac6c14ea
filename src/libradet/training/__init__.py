"""Training with Lightning: module, data module and callbacks, which also work with a custom Trainer."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libradet.training.datamodule import DetectorData
    from libradet.training.module import DetectorModule

__all__ = ["DetectorData", "DetectorModule"]


def __getattr__(name: str) -> Any:
    """Import on first use: the configuration does not need Lightning."""
    if name == "DetectorData":
        from libradet.training.datamodule import DetectorData

        return DetectorData
    if name == "DetectorModule":
        from libradet.training.module import DetectorModule

        return DetectorModule
    raise AttributeError(f"module 'libradet.training' has no attribute {name!r}")

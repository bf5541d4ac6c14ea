"""torchvision's non-maximum suppression and RoIAlign in place of mmcv's compiled operators, which need a compiler."""

import importlib.util
import sys
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torchvision.ops import nms


class _Operators(ModuleType):
    """The extension module of mmcv, of which only non-maximum suppression works."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_args: Any, **_kwargs: Any) -> Any:
            raise RuntimeError(f"mmcv's operator {name} is not compiled")

        return missing

    @staticmethod
    def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
        """Return the rows of the boxes that remain, best first."""
        if offset:
            raise RuntimeError("boxes that include their last pixel are not supported")
        return nms(boxes, scores, iou_threshold)


def install() -> None:
    """Provide the operators, unless mmcv has its own. Before mmcv.ops is imported."""
    if importlib.util.find_spec("mmcv._ext") is None:
        sys.modules["mmcv._ext"] = _Operators("mmcv._ext")


def use_torchvision_roi_align(model: nn.Module) -> None:
    """Make the RoIAlign of a model that of torchvision, if mmcv's is not compiled."""
    if isinstance(sys.modules.get("mmcv._ext"), _Operators):
        for module in model.modules():
            if type(module).__name__ == "RoIAlign":
                module.use_torchvision = True  # pyrefly: ignore

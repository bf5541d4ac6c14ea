"""The engine "compiled": inductor with frozen weights."""

import os
from pathlib import Path

import torch
from torch import Tensor

from libradet.models.detector import Detector
from libradet.models.ops.winograd import use_winograd
from libradet.models.optimize import MIN_RECOMPILE_LIMIT


class CompiledDense:
    """The dense part of a detector as graphs of ``torch.compile``, one for each padded size, made when it first occurs.

    Weights are constants in the graphs: packed once, with the operations that follow a convolution fused into it. On a
    CPU, the images of a batch run one after the other, which costs the same time, so that a batch of another size needs
    no graph of its own. In float32 on a CPU, 3 x 3 convolutions of stride 1 are computed by
    :class:`libradet.models.ops.winograd.WinogradConv2d`.

    Args:
        model: optimized detector, which is modified.
        cache_dir: folder for inductor's compiled code, unless ``TORCHINDUCTOR_CACHE_DIR`` is set.
    """

    def __init__(self, model: Detector, cache_dir: Path) -> None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir / "inductor"))
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MIN_RECOMPILE_LIMIT)
        if model.device.type == "cpu" and model.dtype == torch.float32:
            # The second stage is not in the graph and keeps its layers.
            for part in (model.backbone, model.pyramid, model.balance, model.anchor_head):
                if part is not None:
                    use_winograd(part)
        self._run = torch.compile(model.compute_dense, dynamic=False, options={"freezing": True})

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return what :meth:`libradet.models.detector.Detector.compute_dense` does."""
        # Always in the same mode: there would be other graphs for another one, and weights are frozen only in this one.
        with torch.inference_mode():
            if images.device.type != "cpu" or len(images) == 1:
                return self._run(images)
            return join_images([self._run(image) for image in images.split(1)])


def join_images(outputs: list[list[Tensor]]) -> list[Tensor]:
    """Return the tensors of a batch from those of its images."""
    return outputs[0] if len(outputs) == 1 else [torch.cat(tensors) for tensors in zip(*outputs, strict=True)]

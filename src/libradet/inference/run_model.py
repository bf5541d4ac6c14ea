"""A model in evaluation mode and on a device, run on a batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from libradet.data.batch import Batch
from libradet.errors import UserError
from libradet.predictor import Predictor
from libradet.structures import Detections
from libradet.utils.devices import check_device

OnBatch = Callable[[Detections, Batch], None]
"""Receives the detections of one batch, and the batch with its ``index`` and ``scales``."""


def run_model(model: Predictor, batch: Batch) -> Detections:
    """Run a model that is in evaluation mode, on its own device and without gradients."""
    with torch.inference_mode():
        return model(batch.to(model.device, non_blocking=True))


@contextmanager
def eval_mode(model: Predictor) -> Iterator[None]:
    """Set evaluation mode, and restore the mode of every submodule afterwards."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def on_device(model: Predictor, device: str | torch.device | None) -> Iterator[None]:
    """Move a model to a device, None for its own, and back afterwards.

    Raises:
        UserError: the device cannot be used, or the model runs on its own only, as exported files do.
    """
    if device is None:
        yield
        return
    check_device(device)
    original, module = model.device, model if isinstance(model, nn.Module) else nn.Module()
    module.to(device)
    try:
        if model.device.type != torch.device(device).type:
            raise UserError(f"device is {device}: this {model.name} runs on {model.device.type} only; leave it out")
        yield
    finally:
        module.to(original)

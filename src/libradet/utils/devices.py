"""Devices that computation runs on."""

import torch

from libradet.errors import UserError


def check_device(device: str | torch.device) -> None:
    """Raise UserError unless tensors can be created on a device."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"device is {device}: it cannot be used here; use cpu, or leave it out ({reason})") from error

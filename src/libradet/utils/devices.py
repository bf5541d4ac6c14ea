"""Devices that computation runs on."""

import torch

from libradet.errors import UserError

CPU_CAPABILITY = torch.backends.cpu.get_cpu_capability()
"""The widest vector instructions that torch uses, such as "AVX2" or "AVX512"."""


def check_device(device: str | torch.device) -> None:
    """Raise UserError unless tensors can be created on a device."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"device is {device}: it cannot be used here; use cpu, or leave it out ({reason})") from error


def has_bf16_instructions() -> bool:
    """Return whether the CPU meets oneDNN's condition for bf16 kernels that are not emulated."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()

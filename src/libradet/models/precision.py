"""In what numbers to compute."""

from typing import Literal

import torch

Precision = Literal["32", "bf16"]


def choose_precision(asked: Literal["auto", "32", "bf16"], device: str) -> tuple[Precision, str]:
    """The precision to compute in, and why, in a few words.

    The processor's instructions decide, never a clock: a busy machine computes what an idle one does.

    Args:
        device: type of the device, such as "cpu" or "cuda".
    """
    if asked != "auto":
        return asked, "as asked"
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU has it") if native else ("32", "the GPU has no bf16")
    # What oneDNN asks before it takes bf16 kernels that are not emulated.
    if device == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return "bf16", "this CPU computes in it"
    return "32", "this CPU would emulate bf16, which is slower" if device == "cpu" else f"bf16 is untried on {device}"

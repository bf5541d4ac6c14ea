"""Empty slots of fixed-size outputs, which detectors need not compute in eager mode on a CPU."""

import torch
from jaxtyping import Bool
from torch import Tensor


def count_used_slots(valid: Bool[Tensor, "B S"]) -> int:
    """Return the number of slots, the first ones, that have to be computed; at least 1.

    On a CPU, an empty slot costs as much as a box. The number depends on data, so all slots count where shapes must be
    fixed or reading the number would wait for the device: in compiled and exported graphs, and on other devices.
    """
    num_slots = valid.shape[1]
    if valid.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return num_slots
    last_used = (valid.any(0) * torch.arange(1, num_slots + 1)).max()
    return max(int(last_used), 1)

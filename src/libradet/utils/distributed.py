"""State of torch.distributed; torch is imported when a function is called, not with this module."""


def is_distributed() -> bool:
    """Return whether this process belongs to an initialized process group."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Return the number of processes in the default process group; 1 without one."""
    import torch.distributed as dist

    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Return the rank of this process in the default process group; 0 without one."""
    import torch.distributed as dist

    return dist.get_rank() if is_distributed() else 0

"""Default number of data loading processes."""

import os


def default_num_workers(max_workers: int = 4, min_workers: int = 0, num_processes: int = 1) -> int:
    """Return half of the cores that each process has, between ``min_workers`` and ``max_workers``.

    The defaults are those of evaluation and analysis, which read images once. Training passes ``max_workers=8``,
    ``min_workers=1`` and its number of processes: augmentation costs more than decoding, and it must not run in
    the training process.
    """
    cores = os.cpu_count() or 1
    return min(max_workers, max(min_workers, cores // (2 * num_processes)))

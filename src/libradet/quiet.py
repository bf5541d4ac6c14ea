"""Libraries that speak up where nobody asked, without the speech."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

with warnings.catch_warnings():
    # It advises to install OpenCV; Pillow does all that we ask of it.
    warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
    import supervision

__all__ = ["quietly", "supervision"]


@contextmanager
def quietly(*names: str) -> Iterator[None]:
    """Nothing below an error is heard from the loggers of ``names``, and no warning from their modules."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for name in names:
            warnings.filterwarnings("ignore", module=rf"{name}(\..*)?")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

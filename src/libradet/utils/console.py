"""Console output that stays whole when it is piped."""

import os

from rich.console import Console

PIPED_WIDTH = 10_000
"""Columns of output that is not a terminal, so that no path is broken across lines."""


def stdout_console() -> Console:
    """Return a console on stdout: as wide as the terminal, and without line breaks if the output is piped.

    The environment variable COLUMNS overrides the width of both.
    """
    console = Console()
    is_piped = not console.is_terminal and not console.is_jupyter
    if is_piped and "COLUMNS" not in os.environ:
        console.width = PIPED_WIDTH
    return console

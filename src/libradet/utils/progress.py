"""Progress bars."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress_bar(visible: bool, transient: bool = False) -> Progress:
    """Return a progress bar on stderr with count, elapsed time and remaining time.

    Args:
        visible: whether it is drawn at all.
        transient: remove it when it is complete.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=transient,
        disable=not visible,
    )

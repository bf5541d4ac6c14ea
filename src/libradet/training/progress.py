"""What a run shows while it runs: a live bar on a terminal, now and then a line in a log."""

from collections.abc import Iterable
from time import monotonic

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_SECONDS = 30.0


class _Bar(Progress):
    """A progress bar with a line below, which on a narrow terminal has no room beside it."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.below, "dim")


class ProgressDisplay:
    """Shows epoch, losses, rate and time left of a run, and how far a measurement is.

    Args:
        epochs: of the whole run.
        total: batches of the whole run.
        done: batches done by the run that continues here.
        visible: False for all processes but the first.
    """

    def __init__(self, console: Console, epochs: int, total: int, done: int, visible: bool) -> None:
        self._console = console
        self._epochs, self._total = epochs, total
        self._live = visible and console.is_terminal
        self._lines = visible and not console.is_terminal
        self._last_line = monotonic()
        self._started, self._at_start = monotonic(), done
        self._bar = _Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not self._live,
        )
        self._run = self._bar.add_task("", total=total, completed=done, text="")
        self._measuring: TaskID | None = None
        self._measuring_since = 0.0

    def start(self) -> None:
        """Show it."""
        if self._live:
            self._bar.start()

    def step(self, done: int, epoch: int, losses: dict[str, float], rate: float) -> None:
        """After a batch: ``done`` batches of the run, in ``epoch`` (from 1), the last known losses."""
        terms = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        loss, speed = f"loss {sum(losses.values()):.3f} ({terms})", f"{rate:.1f} images/s"
        self._bar.below = loss
        self._bar.update(self._run, completed=done, description=f"epoch {epoch}/{self._epochs}", text=speed)
        if self._lines and (monotonic() - self._last_line > LINE_SECONDS or done == self._total):
            self._last_line = monotonic()
            batch = f"epoch {epoch}/{self._epochs} · batch {done:,}/{self._total:,}"
            self.say(f"{batch} · {loss} · {speed} · {self._left(done)} left")

    def measuring(self, done: int, total: int) -> None:
        """How many of the batches to measure on are done."""
        if self._measuring is None:
            self._measuring = self._bar.add_task("measuring", total=total, text="")
            self._measuring_since = monotonic()
        self._bar.update(self._measuring, completed=done, total=total)

    def measured(self) -> None:
        """Take the bar of the measurement away; the time it took says nothing about training."""
        if self._measuring is not None:
            self._bar.remove_task(self._measuring)
            self._measuring = None
            self._started += monotonic() - self._measuring_since

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._live or self._lines:
            self._console.print(text, highlight=False, markup=False)

    def stop(self) -> None:
        """Take the live display away."""
        if self._live:
            self._bar.stop()

    def _left(self, done: int) -> str:
        seconds = (monotonic() - self._started) / max(1, done - self._at_start)
        minutes, seconds = divmod(round(seconds * (self._total - done)), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"

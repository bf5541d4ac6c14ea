"""What a run shows while it runs: a live bar on a terminal, now and then a line in a log."""

from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomProgress
from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from libradet.training.module import DetectorModule

LINE_SECONDS = 30.0


class _Bar(CustomProgress):
    """A progress bar with a line below, which on a narrow terminal has no room beside it."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.below, "dim")


class RunProgress(RichProgressBar):
    """Lightning's bar, for the whole run instead of one epoch, with losses, images per second and time left.

    Where there is no terminal it writes a line now and then.

    Args:
        console: where to show it.
        epochs: of the whole run.
        visible: False for all processes but the first.
    """

    def __init__(self, console: Console, epochs: int, visible: bool = True) -> None:
        super().__init__()
        self._out = console
        self._epochs = epochs
        self._live = visible and console.is_terminal
        self._lines = visible and not console.is_terminal
        self._total, self._at_start = 0, 0
        self._last_line = self._started = self._measuring_since = monotonic()

    def on_train_start(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """Show it, from where the run stands."""
        self._total, self._at_start = self._epochs * module.batches_per_epoch, module.batches_done
        self._last_line = self._started = monotonic()
        super().on_train_start(trainer, module)
        if self.progress is not None:
            task = self.progress.add_task("", total=self._total, completed=self._at_start, text="")
            self.train_progress_bar_id = task

    def on_train_epoch_start(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """The bar goes on."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: "DetectorModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The last known losses; nothing waits for them."""
        if module.watch.latest is not None:
            rate = (module.batches_done - self._at_start) * module.config.batch_size * trainer.world_size
            seconds = max(monotonic() - self._started, 1e-9)
            self.step(module.batches_done, trainer.current_epoch + 1, module.watch.latest.losses, rate / seconds)

    def step(self, done: int, epoch: int, losses: dict[str, float], rate: float) -> None:
        """After a batch: ``done`` batches of the run, in ``epoch`` (from 1), images per second."""
        terms = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        loss, speed = f"loss {sum(losses.values()):.3f} ({terms})", f"{rate:.1f} images/s"
        if isinstance(self.progress, _Bar) and self.train_progress_bar_id is not None:
            self.progress.below = loss
            title = f"epoch {epoch}/{self._epochs}"
            self.progress.update(self.train_progress_bar_id, completed=done, description=title, text=speed)
            self.refresh()
        if self._lines and (monotonic() - self._last_line > LINE_SECONDS or done == self._total):
            self._last_line = monotonic()
            batch = f"epoch {epoch}/{self._epochs} · batch {done:,}/{self._total:,}"
            self.say(f"{batch} · {loss} · {speed} · {self._left(done)} left")

    def on_validation_start(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """A second bar."""
        self._measuring_since = monotonic()
        super().on_validation_start(trainer, module)

    def on_validation_end(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """The time it took says nothing about training."""
        self._started += monotonic() - self._measuring_since
        if self.progress is not None and self.val_progress_bar_id is not None:
            self.progress.remove_task(self.val_progress_bar_id)
            self.val_progress_bar_id = None
        self.reset_dataloader_idx_tracker()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """Nothing changes."""

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._live or self._lines:
            self._out.print(text, highlight=False, markup=False)

    def stop(self) -> None:
        """Take the live display away."""
        self._stop_progress()

    def _init_progress(self, trainer: pl.Trainer) -> None:
        # Lightning's reconfigures the console of the whole process; the run has one of its own.
        if self.progress is None or self._progress_stopped:
            self._reset_progress_bar_ids()
            self.progress = _Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=self._out,
                transient=True,
                disable=not self._live,
            )
            self.progress.start()
            self._progress_stopped = False

    def _add_task(self, total_batches: int | float, description: str, visible: bool = True) -> Any:
        assert self.progress is not None
        return self.progress.add_task("measuring", total=total_batches, text="")

    def _left(self, done: int) -> str:
        seconds = (monotonic() - self._started) / max(1, done - self._at_start)
        minutes, seconds = divmod(round(seconds * (self._total - done)), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"

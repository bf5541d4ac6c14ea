"""What happens at the end of epochs."""

from contextlib import contextmanager

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EMAWeightAveraging

from libradet.training.keeper import Keeper
from libradet.training.measuring import Measurer
from libradet.training.module import DetectorTraining
from libradet.training.settings import TrainConfig


class Milestones(pl.Callback):
    """Measures every few epochs and at the end of the run; with averaged weights, those.

    Args:
        keeper: knows whether the run has to stop, and lets processes agree.
        averaging: the averaged weights, if there are any.
    """

    def __init__(
        self, config: TrainConfig, measurer: Measurer, keeper: Keeper, averaging: EMAWeightAveraging | None
    ) -> None:
        self._config = config
        self._measurer = measurer
        self._keeper = keeper
        self._averaging = averaging

    def on_train_start(self, trainer: pl.Trainer, module: DetectorTraining) -> None:
        """A run that was stopped while it measured catches up."""
        assert self._keeper.agreement is not None
        complete = module.batches_done > 0 and module.batches_done % module.batches_per_epoch == 0
        if (
            complete
            and self._is_due(trainer, module)
            and self._keeper.agreement.any(self._measurer.missing(trainer.global_step))
        ):
            self._measure(trainer, module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: DetectorTraining) -> None:
        """Also called where a run ends inside an epoch."""
        if self._is_due(trainer, module) and not self._keeper.stopping:
            self._measure(trainer, module)

    def _is_due(self, trainer: pl.Trainer, module: DetectorTraining) -> bool:
        epochs, rest = divmod(module.batches_done, module.batches_per_epoch)
        over = epochs == self._config.epochs or trainer.global_step == self._config.max_steps
        return over or (rest == 0 and epochs % self._config.eval_every == 0)

    def _measure(self, trainer: pl.Trainer, module: DetectorTraining) -> None:
        assert self._keeper.agreement is not None
        with self._averaged(trainer, module):
            complete = self._measurer.measure(
                module.detector,
                step=trainer.global_step,
                epoch=(module.batches_done - 1) // module.batches_per_epoch,
                cast=trainer.precision_plugin.forward_context(),
                stopped=lambda: self._keeper.interrupted,
                any_process=self._keeper.agreement.any,
            )
        if not complete:
            self._keeper.stopping = trainer.should_stop = True

    @contextmanager
    def _averaged(self, trainer: pl.Trainer, module: DetectorTraining):
        """Lightning swaps averaged weights in around its own validation; this is ours."""
        if self._averaging is None:
            yield
            return
        self._averaging.on_validation_epoch_start(trainer, module)
        try:
            yield
        finally:
            self._averaging.on_validation_epoch_end(trainer, module)

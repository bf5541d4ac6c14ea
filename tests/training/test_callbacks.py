"""Tests of the progress bar and of progress lines."""

import lightning.pytorch as pl
import torch
from rich.console import Console

from libradet.training.callbacks import ProgressLines, TrainingProgressBar
from libradet.training.config import TrainConfig
from libradet.training.loss_reader import AsyncLossReader
from libradet.training.module import DetectorModule

LOSSES = {"class": 1.0, "box": 0.5}


class SmallModule(DetectorModule):
    """A module with the attributes that progress callbacks read."""

    batches_per_epoch, batches_done = 5, 5

    def __init__(self):
        pl.LightningModule.__init__(self)
        self.loss_reader = AsyncLossReader()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        self.loss_reader.enqueue({name: torch.tensor(value) for name, value in LOSSES.items()}, [])
        self.loss_reader.poll()
        return self.weight.sum()

    def on_fit_start(self):
        """No classes to count."""

    def on_train_epoch_start(self):
        """No data to shuffle."""

    def on_train_batch_start(self, batch, batch_idx):
        """Nothing to seed."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(**options):
    return pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)


def test_a_terminal_gets_lightnings_bar_with_losses(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    with (tmp_path / "log").open("w+") as file:
        bar = TrainingProgressBar(Console(file=file, force_terminal=True))
        options = {"max_epochs": 2, "enable_model_summary": False, "default_root_dir": tmp_path}
        trainer(**options, callbacks=[bar]).fit(SmallModule(), torch.utils.data.DataLoader([0, 1, 2], num_workers=0))
        bar.print_line("done")
        file.seek(0)
        text = file.read()
    assert "Epoch 1/1" in text
    assert "loss: 1.500 class: 1.000 box: 0.500" in text
    assert "done" in text
    assert "\x1b[" in text


def test_a_log_gets_lines(tmp_path):
    with (tmp_path / "log").open("w+") as file:
        lines = ProgressLines(Console(file=file, width=160), TrainConfig("", max_epochs=2))
        lines.on_train_start(trainer(), SmallModule())
        lines.print_line(lines.line(10, 2, LOSSES, 12.34))
        lines.print_line("done")
        file.seek(0)
        text = file.read()
    assert "epoch 2/2" in text
    assert "loss 1.500 (class 1.000 box 0.500)" in text
    assert "12.3 images/s" in text
    assert "done" in text
    assert "\x1b[" not in text


def test_the_last_batch_of_a_run_gets_a_line(tmp_path):
    with (tmp_path / "log").open("w+") as file:
        lines, module = ProgressLines(Console(file=file, width=160), TrainConfig("", max_epochs=1)), SmallModule()
        module.config = type("Config", (), {"batch_size": 2})
        one = trainer()
        lines.on_train_start(one, module)
        module.training_step(None, 0)
        lines.on_train_batch_end(one, module, None, None, 4)
        file.seek(0)
        assert "epoch 1/1 - batch 5/5 - loss 1.500" in file.read()


def test_max_steps_shorten_the_run(tmp_path):
    with (tmp_path / "log").open("w+") as file:
        lines = ProgressLines(Console(file=file, width=160), TrainConfig("", max_epochs=1000, max_steps=7))
        lines.on_train_start(trainer(), SmallModule())
        lines.print_line(lines.line(6, 2, LOSSES, 12.34))
        file.seek(0)
        assert "epoch 2/2 - batch 6/7" in file.read()


def test_only_the_first_process_prints(capsys):
    lines = ProgressLines(Console(quiet=True), TrainConfig("", max_epochs=2))
    lines.on_train_start(trainer(), SmallModule())
    lines.print_line(lines.line(10, 2, LOSSES, 1.0))
    assert capsys.readouterr().out == ""

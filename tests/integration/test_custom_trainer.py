"""Custom Trainer, callbacks and loggers, and early stopping."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

import libradet
from libradet.cli import main
from libradet.errors import UserError
from libradet.evaluation.curves import read_metrics
from libradet.models.config import ClassBalanceConfig, SamplingConfig
from libradet.training import DetectorData, DetectorModule
from libradet.training.config import TrainConfig
from libradet.training.resume import read_checkpoint
from tests.helpers.training_runs import rows, tiny_config

SETTINGS = {"num_workers": 0, "num_val_images_logged": 0, "batch_size": 2, "precision": "fp32"}


def small(names=("ball", "crate"), config=None):
    torch.manual_seed(0)
    return libradet.create_model(config=config or tiny_config(), class_names=list(names))


def scheduled():
    """A configuration whose sampler depends on the progress of the training."""
    config = tiny_config()
    config.roi.sampling = SamplingConfig(32, negatives="iou_balanced", random_schedule="linear")
    return config


def seesaw():
    """A configuration whose loss depends on the samples of all steps before."""
    config = tiny_config()
    config.roi.class_balance = ClassBalanceConfig("seesaw")
    return config


class Progress(pl.Callback):
    """The progress that the sampler of the box head is at, in each step."""

    def __init__(self):
        self.fractions = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.fractions.append(float(pl_module.detector.roi.progress))


def data_of(folder, model):
    return DetectorData(folder, size=(64, 96), batch_size=2, size_divisible=model.size_divisible, num_workers=0)


def trainer_of(folder, **more):
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(default_root_dir=folder, num_sanity_val_steps=0, use_distributed_sampler=False, **options | more)


class Counting(pl.Callback):
    """A user's callback that reads what a run logs."""

    def __init__(self):
        self.losses, self.precisions = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(trainer.callback_metrics["train/loss"]))

    def on_validation_end(self, trainer, pl_module):
        self.precisions.append(float(trainer.callback_metrics["val/AP"]))


def test_custom_trainer(tiny_data, tmp_path):
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = Counting()
    module = DetectorModule(model, TrainConfig(data="", batch_size=2))
    trainer = trainer_of(tmp_path, max_epochs=2, callbacks=[seen], enable_checkpointing=False)
    trainer.fit(module, datamodule=data_of(tiny_data, model))
    assert len(seen.losses) == 12
    assert len(seen.precisions) == 2
    assert module.metrics["images"] == 4
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("configure", [tiny_config, scheduled, seesaw])
def test_custom_trainer_resumes_within_an_epoch(tiny_data, tmp_path, configure):
    ends, path = [], None
    for _ in range(2):
        model = small(config=configure())
        module = DetectorModule(model, TrainConfig(data="", batch_size=2, warmup_steps=0, lr_milestones=[]))
        saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
        trainer = trainer_of(tmp_path, max_epochs=2, limit_val_batches=0, callbacks=[saving])
        trainer.fit(module, datamodule=data_of(tiny_data, model), ckpt_path=path, weights_only=True)
        ends.append(model.state_dict())
        path = tmp_path / "step=4.ckpt"
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_a_schedule_follows_the_progress_of_the_training(tiny_data, tmp_path):
    model, progress = small(config=scheduled()), Progress()
    module = DetectorModule(model, TrainConfig(data="", batch_size=2, warmup_steps=0, lr_milestones=[]))
    trainer = trainer_of(tmp_path, max_epochs=2, limit_val_batches=0, callbacks=[progress], accumulate_grad_batches=2)
    trainer.fit(module, datamodule=data_of(tiny_data, model))
    batches = len(progress.fractions)
    assert progress.fractions == pytest.approx([i / batches for i in range(batches)])
    assert "roi.progress" not in model.state_dict()


def test_other_data_is_refused(tiny_data, tmp_path):
    loader = torch.utils.data.DataLoader([0])
    with pytest.raises(UserError, match="DetectorData"):
        trainer_of(tmp_path, max_epochs=1, enable_checkpointing=False).fit(DetectorModule(small()), loader)


def test_custom_callbacks_and_loggers(tiny_data, tmp_path):
    seen, logger = Counting(), CSVLogger(tmp_path / "own", name="", version="")
    callbacks = [seen, LearningRateMonitor("step"), EarlyStopping("val/AP", min_delta=2.0, patience=1, mode="max")]
    out = tmp_path / "run"
    options = {"max_epochs": 5, "log_every_n_steps": 1, "callbacks": callbacks, "logger": ["tensorboard", logger]}
    result = libradet.train(small(), tiny_data, output_dir=str(out), **options, **SETTINGS)
    assert len(seen.precisions) == 2, "the second validation is no better by 2.0, which nothing can be"
    assert len(seen.losses) == 12
    assert result.metrics is not None
    assert list(out.glob("events.*"))
    written = (tmp_path / "own" / "metrics.csv").read_text()
    assert "train/loss_rpn_class" in written
    assert "val/AP" in written
    assert rows(out)[-1] == "12"


@pytest.mark.slow
def test_four_loggers(tiny_data, tiny, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    client = pytest.importorskip("mlflow").MlflowClient
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "run"
    names = ["csv", "tensorboard", "wandb", "mlflow"]
    assert main(tiny(tiny_data, out, "--max_epochs", "1", "--log_every_n_steps", "1", "--logger", *names)) == 0
    written = read_metrics(out / "metrics.csv")["loss"].values
    assert list(out.glob("events.*"))
    assert list(out.glob("wandb/offline-run-*/*.wandb"))
    store = client(f"sqlite:///{out / 'mlflow.db'}")
    (run,) = store.search_runs([store.get_experiment_by_name("libradet").experiment_id])
    tracked = [entry.value for entry in store.get_metric_history(run.info.run_id, "train/loss")]
    assert tracked == pytest.approx(list(written), rel=1e-5)
    assert "val/AP" in run.data.metrics


def test_a_logger_that_is_not_installed_is_named(tiny_data, tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("libradet.training.loggers.find_spec", lambda name: None)
    assert main(tiny(tiny_data, tmp_path / "run", "--logger", "wandb")) == 2
    assert "pip install wandb" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def stop_of(precisions, patience):
    """Return after how many validations a run stops."""
    best, waited = -1.0, 0
    for count, precision in enumerate(precisions, start=1):
        best, waited = (precision, 0) if precision > best else (best, waited + 1)
        if waited == patience:
            return count
    return None


def test_patience_stops_a_run_and_keeps_it_stopped(tiny_data, tiny, tmp_path):
    out = tmp_path / "run"
    assert main(tiny(tiny_data, out, "--lr", "1e-12", "--max_epochs", "9", "--patience", "1")) == 0
    epochs = stop_of(read_metrics(out / "metrics.csv")["AP"].values.tolist(), patience=1)
    assert epochs is not None, "this test is about a run that stops"
    assert epochs < 9
    assert read_checkpoint(out / "last.ckpt")["global_step"] == 6 * epochs
    assert main(["train", "--resume", str(out)]) == 0
    assert read_checkpoint(out / "last.ckpt")["global_step"] == 6 * epochs
    assert main(["train", "--resume", str(out), "--patience", "8"]) == 0
    assert read_checkpoint(out / "last.ckpt")["global_step"] > 6 * epochs


def test_an_unknown_logger_is_named(tiny_data, tiny, tmp_path, capsys):
    assert main(tiny(tiny_data, tmp_path / "run", "--logger", "csv", "comet")) == 2
    said = capsys.readouterr().err
    assert "logger" in said
    assert "mlflow" in said
    assert not (tmp_path / "run").exists()

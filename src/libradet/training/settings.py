"""Everything about a training run that is not the detector."""

from dataclasses import dataclass, field
from typing import Literal

from libradet.errors import UserError

CONFIG = "config.yaml"
"""The file in a run folder that holds all settings of the run."""


@dataclass
class TrainConfig:
    """A training run; what is None is filled in from the data and the number of devices, and said.

    Args:
        data: folder with images and annotations.
        model: name in the zoo (`libradet models`).
        backbone: any timm model with features at strides 4 to 32; the zoo entry's own if null.
        weights: none (random), imagenet (for the backbone), or the path of a saved model or of a checkpoint of
            mmdetection, torchvision or detectron2; its class layers start at random if the classes are others.
        allow_partial: take over the weights that fit; other layers start at random and are named.
        out: run folder; runs/MODEL-BACKBONE, numbered, if null.
        train_split: split to train on.
        val_split: split to measure on, if the data has it.
        proposals: for a model without rpn, file of proposals, or folder with one for each split.
        val_proposals: file of those to measure on, if it is another.
        epochs: passes over the training images.
        max_steps: stop after this many optimizer steps.
        batch_size: images per process and step.
        accumulate: batches whose gradients are added up for one optimizer step.
        optimizer: sgd with momentum, or adamw.
        lr: peak learning rate. If null, of sgd 0.02 for 16 images per step, scaled linearly (Goyal et al., 2017), of
            adamw 0.0001 for 16 (Swin Transformer, Liu et al., 2021), scaled with the square root (Malladi et al.,
            2022).
        momentum: of SGD.
        weight_decay: 0.0001 with sgd, 0.05 with adamw, if null.
        decay_norm_bias: whether norms and biases decay too.
        layer_decay: learning rates fall by this factor from each stage of the backbone to the one before it, beginning
            with the last, and once more to the stem (as in BEiT, Bao et al., 2022); the same rate everywhere if null.
        schedule: of the learning rate after warm-up. It falls in steps, or at each step of the optimizer along a
            cosine (SGDR without restarts, Loshchilov & Hutter, 2017) to final_lr at the end of the run.
        warmup: optimizer steps of linear warm-up; 500, at most a tenth of the run, if null.
        warmup_from: fraction of lr at which warm-up starts.
        steps: with schedule steps, epochs after which lr is multiplied by gamma; 2/3 and 11/12 of the run if null.
        gamma: see steps.
        final_lr: with schedule cosine, fraction of lr at which the run ends.
        clip: largest norm of the gradient; null does not clip.
        ema: decay of an exponential moving average of the weights, which is then what is measured and kept.
        checkpointing: keep less of the backbone for the backward pass and compute it again; spares memory, costs time.
        precision: auto takes bf16 where the processor computes in it, else 32.
        compile: have the steps compiled; the first step of each shape takes minutes on a CPU, the others are faster.
        devices: processes per machine, one per GPU where there are any.
        nodes: machines.
        strategy: auto is ddp as soon as there are several processes.
        workers: processes that load images, per training process; by the number of cores if null.
        cache: keep decoded and resized images for the next epochs, in shared memory (ram) or in a file in the run
            folder (disk, deleted at the end); each process keeps its own, and the size is said before.
        seed: of weights, order, augmentation and sampling.
        flip: probability of a horizontal flip.
        scale_jitter: resize images by a random factor between these two, such as [0.1, 2], and cut a random part out
            of what is larger than its canvas then (large-scale jitter, Ghiasi et al., 2021). What keeps less than a
            tenth of its box, or less than a pixel, is no object any more. A cache grows with the larger factor.
        mosaic: probability of parts of four images in place of one (Bochkovskiy et al., 2020).
        copy_paste: probability of objects of another image pasted in (Ghiasi et al., 2021), along their
            segmentations; as rectangles where there are none.
        color_jitter: brightness, contrast and saturation vary by up to this fraction, hue by a quarter of it in turns.
        plain_epochs: epochs at the end without mosaic and copy_paste (as in YOLOX, Ge et al., 2021).
        eval_every: epochs between two measurements; the last epoch is always measured.
        patience: stop after so many measurements without a better one; null trains all epochs.
        save_minutes: minutes between two writes of last.ckpt inside an epoch.
        save_steps: optimizer steps between two writes of last.ckpt, beside save_minutes.
        log_every: optimizer steps between two rows of metrics.csv.
        logger: where numbers go beside metrics.csv, several at once; wandb and mlflow are installed on their own.
        monitor: also log learning rates of all groups (lr), or the state of the devices (device).
        samples: validation images to draw after each measurement.
    """

    data: str
    model: str = "libra_faster_rcnn"
    backbone: str | None = None
    weights: str | None = None
    allow_partial: bool = False
    out: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    proposals: str | None = None
    val_proposals: str | None = None
    epochs: int = 12
    max_steps: int | None = None
    batch_size: int = 4
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float | None = None
    decay_norm_bias: bool = True
    layer_decay: float | None = None
    schedule: Literal["steps", "cosine"] = "steps"
    warmup: int | None = None
    warmup_from: float = 1 / 3
    steps: list[float] | None = None
    gamma: float = 0.1
    final_lr: float = 0.01
    clip: float | None = 35.0
    ema: float | None = None
    checkpointing: bool = False
    precision: Literal["auto", "32", "bf16"] = "auto"
    compile: bool = False
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    workers: int | None = None
    cache: Literal["ram", "disk"] | None = None
    seed: int = 0
    flip: float = 0.5
    scale_jitter: list[float] | None = None
    mosaic: float = 0.0
    copy_paste: float = 0.0
    color_jitter: float = 0.0
    plain_epochs: int = 0
    eval_every: int = 1
    patience: int | None = None
    save_minutes: float = 10.0
    save_steps: int | None = None
    log_every: int = 10
    logger: list[Literal["csv", "tensorboard", "wandb", "mlflow"]] = field(
        default_factory=lambda: ["csv", "tensorboard"]
    )
    monitor: list[Literal["lr", "device"]] = field(default_factory=list)
    samples: int = 4

    @property
    def world_size(self) -> int:
        """Processes that train together."""
        return self.devices * self.nodes

    @property
    def images_per_step(self) -> int:
        """Images behind one optimizer step, over all processes."""
        return self.batch_size * self.accumulate * self.world_size


@dataclass(frozen=True)
class Circumstances:
    """What has to stay the same for a run to continue with the data and the optimizer that it began with.

    ``train_data`` and ``val_data`` are fingerprints, see :mod:`libradet.training.fingerprint`.
    """

    images: int
    class_names: list[str]
    seed: int
    batch_size: int
    accumulate: int
    processes: int
    optimizer: str
    layer_decay: float | None
    flip: float
    scale_jitter: list[float] | None
    mosaic: float
    copy_paste: float
    color_jitter: float
    train_data: list[int]
    val_data: list[int]


_POSITIVE = (
    *("epochs", "max_steps", "batch_size", "accumulate", "lr", "gamma", "clip", "devices", "nodes"),
    *("eval_every", "patience", "save_steps", "log_every", "layer_decay"),
)
_NOT_NEGATIVE = ("momentum", "weight_decay", "warmup", "samples", "workers", "save_minutes", "seed", "plain_epochs")
_FRACTIONS = (
    *("warmup_from", "final_lr", "layer_decay", "ema"),
    *("flip", "mosaic", "copy_paste", "color_jitter"),
)


def check(config: TrainConfig) -> None:
    """Refuse values that no run can use. Raises UserError with field, value and range."""
    rules = (
        (_POSITIVE, lambda v: v > 0, "above 0"),
        (_NOT_NEGATIVE, lambda v: v >= 0, "0 or above"),
        (_FRACTIONS, lambda v: 0 <= v <= 1, "between 0 and 1"),
    )
    for names, holds, wanted in rules:
        for name in names:
            value = getattr(config, name)
            if value is not None and not holds(value):
                raise UserError(f"{name} is {value}; it has to be {wanted}")
    jitter = config.scale_jitter
    if jitter is not None and not (len(jitter) == 2 and 0 < jitter[0] <= jitter[1]):
        raise UserError(f"scale_jitter is {list(jitter)}; it has to be two factors, the smaller one first, above 0")

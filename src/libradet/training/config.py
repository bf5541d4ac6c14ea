"""Settings of a training run that do not belong to the detector."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from libradet.data.transforms.entries import encode_entries
from libradet.errors import UserError
from libradet.geometry.tiles import MIN_AREA_RATIO, as_tiles
from libradet.utils.ranges import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    Seed,
    UnitInterval,
    check_ranges,
)


@dataclass
class TrainConfig:
    """Configuration of a training run; fields that are None are resolved from the data and the number of devices.

    Args:
        data: folder with images and annotations.
        model: name in the zoo (`libradet models`).
        backbone: any timm model with features at strides 4 to 32; the default of the zoo entry if null.
        weights: none (random), imagenet (backbone only), coco (the published detector of highest AP of this model and
            backbone), a name of `libradet models --weights`, or the path of a saved model or of a checkpoint of
            mmdetection, torchvision or detectron2; its class layers start at random if the classes differ.
        allow_partial: load the weights that fit; the other layers start at random and are listed.
        output_dir: run folder; runs/MODEL-BACKBONE with a number if null.
        train_split: split to train on.
        val_split: split to validate on, if the dataset has it.
        proposals: for a model without RPN, file of precomputed proposals, or folder with one file per split.
        val_proposals: file of precomputed proposals for validation, if it is another one.
        max_epochs: passes over the training images.
        max_steps: maximum number of optimizer steps.
        batch_size: images per process and batch.
        accumulate_grad_batches: batches whose gradients are summed for one optimizer step.
        optimizer: sgd with momentum, or adamw.
        lr: peak learning rate. If null, 0.02 for sgd at 16 images per step, scaled linearly (Goyal et al., 2017), or
            0.0001 for adamw at 16 (Swin Transformer, Liu et al., 2021), scaled with the square root (Malladi et al.,
            2022).
        momentum: of SGD.
        weight_decay: 0.0001 with sgd, 0.05 with adamw, if null.
        decay_norm_bias: whether weight decay applies to norms and biases, too.
        layer_decay: factor between the learning rate of a backbone stage and that of the stage before it, starting at
            the last stage and ending at the stem (as in BEiT, Bao et al., 2022); equal learning rates if null.
        lr_schedule: after warm-up, multistep (drops at lr_milestones) or cosine, without restarts (SGDR, Loshchilov &
            Hutter, 2017), to min_lr_ratio at the end of the run.
        warmup_steps: optimizer steps of linear warm-up; 500, at most a tenth of the run, if null.
        warmup_start_factor: fraction of lr at which warm-up starts.
        lr_milestones: with lr_schedule multistep, epochs after which lr is multiplied by lr_gamma; 2/3 and 11/12 of
            the run, which max_steps may shorten, if null.
        lr_gamma: factor at each of lr_milestones.
        min_lr_ratio: with lr_schedule cosine, fraction of lr at the end of the run.
        gradient_clip_val: maximum norm of the gradient; null disables clipping.
        ema: decay of an exponential moving average of the weights, which is then validated and saved.
        activation_checkpointing: recompute activations of the backbone in the backward pass; saves memory, costs time.
        precision: auto is bf16 where the processor supports it, else fp32.
        compile: compile the training step with torch.compile; the first step of each shape needs minutes on a CPU.
        devices: processes per machine, one per GPU if there are any.
        num_nodes: machines.
        strategy: auto is ddp for more than one process.
        num_workers: data loading processes per training process; from the number of cores if null.
        cache: keep decoded and resized images for later epochs, in shared memory (ram) or in a file in the run folder
            (disk, deleted at the end); each process keeps its own, and the size is reported before.
        seed: of weights, order, augmentation and sampling.
        hflip_prob: probability of a horizontal flip.
        scale_jitter: resize images by a random factor between these two, such as [0.1, 2], and crop what exceeds the
            padded size (large-scale jitter, Ghiasi et al., 2021). Objects that keep less than a tenth of their box, or
            less than a pixel, are removed. A cache grows with the larger factor.
        mosaic_prob: probability of a mosaic of four images (Bochkovskiy et al., 2020).
        copy_paste_prob: probability of pasting objects of another image (Ghiasi et al., 2021), along their
            segmentations; as rectangles where there are none.
        color_jitter: maximum relative change of brightness, contrast and saturation; the hue rotates by up to a quarter
            of this value, in turns.
        vflip_prob: probability of a vertical flip.
        rotate90_prob: probability of a rotation by 90, 180 or 270 degrees; shrunk to the padded size where it exceeds
            it.
        mixup_prob: probability that another image is averaged in, with its objects (Zhang et al., 2018).
        gaussian_blur: largest standard deviation in pixels of a blur, which is drawn between 0 and it.
        gaussian_noise: largest standard deviation of noise as a fraction of white, drawn between 0 and it.
        augmentations: list of transforms of torchvision.transforms.v2, each as class_path and init_args, and of
            Albumentations pipelines, as albumentations and a file that albumentations.save wrote; applied last, in this
            order.
        no_aug_epochs: epochs at the end without mosaic, copy-paste and mixup (as in YOLOX, Ge et al., 2021).
        repeat_factor_thresh: classes in a smaller fraction of the training images are rare: their images occur up to
            sqrt(repeat_factor_thresh / fraction) times in an epoch (repeat-factor sampling of LVIS, Gupta et al.,
            2019); 0 repeats none.
        tiles: size in pixels and overlap as a fraction, such as 640 0.2: train on tiles of the images, each resized to
            the size of training, and validate on merged detections of tiles, as evaluate --tiles does.
        tile_min_area_ratio: share of an object's area from which on it is an object of a tile (as in SAHI, Akyon et
            al., 2022); smaller parts are background.
        tile_empty_fraction: fraction of the tiles without objects that are trained on in an epoch, others in each; 0
            leaves all of them out.
        check_val_every_n_epoch: epochs between two validations; the last epoch is always validated.
        patience: stop after this many validations without improvement; null trains all epochs.
        save_every_n_minutes: minutes between two writes of last.ckpt inside an epoch.
        save_every_n_steps: optimizer steps between two writes of last.ckpt, in addition to save_every_n_minutes.
        log_every_n_steps: optimizer steps between two rows of metrics.csv.
        logger: loggers in addition to metrics.csv; wandb and mlflow have to be installed separately.
        log_lr: also log the learning rates of all parameter groups; metrics.csv has only that of the first.
        log_device_stats: also log the state of the devices, such as memory and utilization, not in metrics.csv.
        num_val_images_logged: validation images to draw after each validation.
    """

    data: str
    model: str = "libra_faster_rcnn"
    backbone: str | None = None
    weights: str | None = None
    allow_partial: bool = False
    output_dir: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    proposals: str | None = None
    val_proposals: str | None = None
    max_epochs: PositiveInt = 12
    max_steps: PositiveInt | None = None
    batch_size: PositiveInt = 4
    accumulate_grad_batches: PositiveInt = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat | None = None
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat | None = None
    decay_norm_bias: bool = True
    layer_decay: Annotated[float, Range(gt=0, le=1)] | None = None
    lr_schedule: Literal["multistep", "cosine"] = "multistep"
    warmup_steps: NonNegativeInt | None = None
    warmup_start_factor: UnitInterval = 1 / 3
    lr_milestones: list[NonNegativeFloat] | None = None
    lr_gamma: PositiveFloat = 0.1
    min_lr_ratio: UnitInterval = 0.01
    gradient_clip_val: PositiveFloat | None = 35.0
    ema: Annotated[float, Range(ge=0, lt=1)] | None = None
    activation_checkpointing: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    devices: PositiveInt = 1
    num_nodes: PositiveInt = 1
    strategy: Literal["auto", "ddp"] = "auto"
    num_workers: NonNegativeInt | None = None
    cache: Literal["ram", "disk"] | None = None
    seed: Seed = 0
    hflip_prob: UnitInterval = 0.5
    scale_jitter: list[float] | None = None
    mosaic_prob: UnitInterval = 0.0
    copy_paste_prob: UnitInterval = 0.0
    color_jitter: UnitInterval = 0.0
    vflip_prob: UnitInterval = 0.0
    rotate90_prob: UnitInterval = 0.0
    mixup_prob: UnitInterval = 0.0
    gaussian_blur: NonNegativeFloat = 0.0
    gaussian_noise: UnitInterval = 0.0
    augmentations: list[str] = field(default_factory=list)
    no_aug_epochs: NonNegativeInt = 0
    repeat_factor_thresh: UnitInterval = 0.0
    tiles: list[float] | None = None
    tile_min_area_ratio: UnitInterval = MIN_AREA_RATIO
    tile_empty_fraction: UnitInterval = 1.0
    check_val_every_n_epoch: PositiveInt = 1
    patience: PositiveInt | None = None
    save_every_n_minutes: NonNegativeFloat = 10.0
    save_every_n_steps: PositiveInt | None = None
    log_every_n_steps: PositiveInt = 10
    logger: list[Literal["csv", "tensorboard", "wandb", "mlflow"]] = field(
        default_factory=lambda: ["csv", "tensorboard"]
    )
    log_lr: bool = False
    log_device_stats: bool = False
    num_val_images_logged: NonNegativeInt = 4

    def __post_init__(self) -> None:
        """Check the values. Raises UserError with field, value and range."""
        check_ranges(self)
        self.augmentations = encode_entries(self.augmentations)
        jitter = self.scale_jitter
        if jitter is not None and not (len(jitter) == 2 and 0 < jitter[0] <= jitter[1]):
            raise UserError(f"scale_jitter is {list(jitter)}: it must be two positive factors, the smaller one first")
        self.tiles = None if self.tiles is None else [float(value) for value in as_tiles(self.tiles)]

    @property
    def world_size(self) -> int:
        """Number of processes that train together."""
        return self.devices * self.num_nodes

    @property
    def effective_batch_size(self) -> int:
        """Images per optimizer step, over all processes."""
        return self.batch_size * self.accumulate_grad_batches * self.world_size

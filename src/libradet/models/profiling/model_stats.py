"""Parameters, multiply-adds and memory of detectors, computed with tensors without storage."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from libradet.data.batch import Batch
from libradet.errors import UserError
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.models.ops.activation_checkpointing import set_activation_checkpointing
from libradet.models.profiling.memory import (
    EfficientAttentionMode,
    LinearMemory,
    fit_linear_memory,
    trace_inference,
    trace_training,
)
from libradet.models.zoo import MODELS, make_config

OBJECTS_PER_IMAGE = 20
"""Ground truths per image in training; they hardly change the numbers."""


class ModelStats(NamedTuple):
    """Parameters, arithmetic and memory of a detector at one image size.

    Attributes:
        input_size: height and width in pixels of the padded image.
        num_params: number of parameters.
        multiply_adds: of one image: convolutions, linear layers and matrix products, a multiplication and its addition
            counted once. All proposals count, also slots that a real image leaves empty; RoIAlign, non-maximum
            suppression and element-wise operations do not.
        weight_bytes: of parameters and buffers.
        inference: memory of weights, batch and intermediate tensors.
        training: the same of a training step, with momentum, gradients and saved activations.
    """

    input_size: tuple[int, int]
    num_params: int
    multiply_adds: int
    weight_bytes: int
    inference: LinearMemory
    training: LinearMemory


def compute_stats(
    config: DetectorConfig, activation_checkpointing: bool = False, bf16: bool = False, ema: bool = False
) -> ModelStats:
    """Return statistics at the padded size of ``config.image.size``, in seconds and with little memory.

    Args:
        activation_checkpointing: the backbone's blocks are recomputed in the backward pass.
        bf16: autocast computes in bfloat16; weights stay in fp32.
        ema: training keeps an exponential moving average of the weights.

    Raises:
        UserError: the detector cannot be built.
    """
    # Autocast does not support the meta device; fake tensors stand for those of a CPU, and are half as fast.
    device = "cpu" if bf16 else "meta"
    with FakeTensorMode() if bf16 else torch.device("meta"):
        model = Detector(config)
        set_activation_checkpointing(model.backbone.body, activation_checkpointing)
        multiple = model.size_divisible
        height, width = (-(-side // multiple) * multiple for side in config.image.size)

        def batch(num_images: int) -> Batch:
            return _empty_batch(config, num_images, height, width, device)

        return ModelStats(
            input_size=(height, width),
            num_params=sum(p.numel() for p in model.parameters()),
            multiply_adds=_multiply_adds(model, batch(1)),
            weight_bytes=sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())),
            inference=fit_linear_memory(lambda num_images: trace_inference(model, batch(num_images), bf16)),
            training=fit_linear_memory(lambda num_images: trace_training(model, batch(num_images), bf16, ema)),
        )


def compute_zoo_stats(
    names: Iterable[str] | None = None,
    num_classes: int = 80,
    backbone: str = "resnet50",
    size: tuple[int, int] = (800, 1333),
    activation_checkpointing: bool = False,
    freeze: bool = False,
    bf16: bool = False,
    ema: bool = False,
) -> dict[str, ModelStats]:
    """Return statistics of models of the zoo, all by default.

    Args:
        activation_checkpointing, bf16, ema: as in :func:`compute_stats`.
        freeze: stem, first stage and norm statistics are frozen, as with ImageNet weights.

    Raises:
        UserError: unknown names, or sizes or numbers of classes below 1.
    """
    if min(*size, num_classes) < 1:
        raise UserError(f"size is {size[0]} {size[1]}, num_classes {num_classes}: both must be at least 1")
    stats = {}
    for name in names or MODELS:
        config = make_config(name, num_classes, backbone, "imagenet" if freeze else None)
        config.image.size = size
        stats[name] = compute_stats(config, activation_checkpointing, bf16, ema)
    return stats


def _multiply_adds(model: Detector, batch: Batch) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), EfficientAttentionMode(), counter:
        model.eval()(batch)
    return counter.get_total_flops() // 2


def _empty_batch(config: DetectorConfig, num_images: int, height: int, width: int, device: str) -> Batch:
    """Return a batch of uninitialized images and ground truths."""

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(num_images, *shape, dtype=dtype, device=device)

    num_proposals = config.rpn.test_proposals.post_nms_top_n if config.rpn else 1000
    return Batch(
        images=empty(3, height, width, dtype=torch.uint8),
        sizes=empty(2, dtype=torch.int64),
        boxes=empty(OBJECTS_PER_IMAGE, 4),
        labels=empty(OBJECTS_PER_IMAGE, dtype=torch.int64),
        crowd=empty(OBJECTS_PER_IMAGE, dtype=torch.bool),
        masks=empty(OBJECTS_PER_IMAGE, height, width // 8, dtype=torch.uint8) if config.mask else None,
        proposals=empty(num_proposals, 4),
    )

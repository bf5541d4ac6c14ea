"""What a detector costs: parameters, arithmetic and memory, found by running it on tensors without contents."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from libradet.data.batch import Batch
from libradet.errors import UserError
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.models.memory import FusedAttention, Memory, memory_by_images, trace_detection, trace_training
from libradet.models.recompute import recompute_blocks
from libradet.models.zoo import MODELS, make_config

OBJECTS = 20
"""Ground truths of an image that is trained on; few of the numbers depend on it, and those hardly."""


class Cost(NamedTuple):
    """What images cost.

    Attributes:
        canvas: height and width in pixels of the padded image.
        parameters: how many.
        multiply_adds: of a detection: convolutions, linear layers and matrix products, a multiplication and its
            addition counted once. All proposals are counted, also slots that a real image leaves empty;
            RoIAlign, suppression and what is done element by element are not.
        weights: bytes of parameters and statistics.
        detecting: bytes of tensors while a batch is looked at: weights, batch and all that comes of it.
        training: the same in a training step, with momentum, gradients and what the backward pass needs.
    """

    canvas: tuple[int, int]
    parameters: int
    multiply_adds: int
    weights: int
    detecting: Memory
    training: Memory


def measure_cost(config: DetectorConfig, checkpointing: bool = False, bf16: bool = False, ema: bool = False) -> Cost:
    """Cost of images that fill the canvas of ``config.image.size``; takes seconds and next to no memory.

    Args:
        checkpointing: train with the backbone's blocks computed again.
        bf16: compute in bfloat16 where autocast does; weights stay in fp32.
        ema: train with a moving average of the weights beside them.

    Raises:
        UserError: as for building the detector.
    """
    # Autocast does not know the meta device; fake tensors pass for those of a CPU, and take twice as long.
    device = "cpu" if bf16 else "meta"
    with FakeTensorMode() if bf16 else torch.device("meta"):
        model = Detector(config)
        recompute_blocks(model.backbone.body, checkpointing)
        height, width = (-(-side // model.divisor) * model.divisor for side in config.image.size)

        def batch(images: int) -> Batch:
            return _batch(config, images, height, width, device)

        return Cost(
            canvas=(height, width),
            parameters=sum(p.numel() for p in model.parameters()),
            multiply_adds=_multiply_adds(model, batch(1)),
            weights=sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())),
            detecting=memory_by_images(lambda images: trace_detection(model, batch(images), bf16)),
            training=memory_by_images(lambda images: trace_training(model, batch(images), bf16, ema)),
        )


def measure_zoo(
    names: Iterable[str] | None = None,
    num_classes: int = 80,
    backbone: str = "resnet50",
    size: tuple[int, int] = (800, 1333),
    checkpointing: bool = False,
    frozen: bool = False,
    bf16: bool = False,
    ema: bool = False,
) -> dict[str, Cost]:
    """Cost of entries of the zoo, all by default.

    Args:
        checkpointing: train with the backbone's blocks computed again.
        frozen: stem, first stage and norm statistics are not trained, as from ImageNet weights.
        bf16: compute in bfloat16 where autocast does; weights stay in fp32.
        ema: train with a moving average of the weights beside them.

    Raises:
        UserError: unknown names, sizes or numbers that no detector can have.
    """
    if min(*size, num_classes) < 1:
        raise UserError(f"size is {size[0]} {size[1]}, num_classes {num_classes}; both have to be above 0")
    costs = {}
    for name in names or MODELS:
        config = make_config(name, num_classes, backbone, "imagenet" if frozen else None)
        config.image.size = size
        costs[name] = measure_cost(config, checkpointing, bf16, ema)
    return costs


def _multiply_adds(model: Detector, batch: Batch) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), FusedAttention(), counter:
        model.eval()(batch)
    return counter.get_total_flops() // 2


def _batch(config: DetectorConfig, images: int, height: int, width: int, device: str) -> Batch:
    """Images without contents."""

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(images, *shape, dtype=dtype, device=device)

    proposals = config.rpn.test_proposals.total if config.rpn else 1000
    return Batch(
        images=empty(3, height, width, dtype=torch.uint8),
        sizes=empty(2, dtype=torch.int64),
        boxes=empty(OBJECTS, 4),
        labels=empty(OBJECTS, dtype=torch.int64),
        crowd=empty(OBJECTS, dtype=torch.bool),
        masks=empty(OBJECTS, height, width // 8, dtype=torch.uint8) if config.mask else None,
        proposals=empty(proposals, 4),
    )

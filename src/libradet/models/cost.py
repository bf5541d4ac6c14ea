"""What a detector costs: parameters, arithmetic and memory, found by running it on tensors without contents."""

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from libradet.data.batch import Batch
from libradet.errors import UserError
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.models.recompute import recompute_blocks
from libradet.models.zoo import MODELS, make_config

OBJECTS = 20
"""Ground truths of the picture that is trained on; few of the numbers depend on it, and those hardly."""


class Cost(NamedTuple):
    """What one picture costs in fp32.

    Attributes:
        canvas: height and width in pixels of the padded picture.
        parameters: how many.
        multiply_adds: of a detection: convolutions, linear layers and matrix products, a multiplication and its
            addition counted once. All proposals are counted, also slots that a real picture leaves empty;
            RoIAlign, suppression and what is done element by element are not.
        weights: bytes of parameters and statistics.
        detecting: most bytes held at any moment of a detection, beside weights and batch.
        training: most bytes held at any moment of forward and backward pass, beside weights, their gradients,
            the optimiser's momentum and the batch.
    """

    canvas: tuple[int, int]
    parameters: int
    multiply_adds: int
    weights: int
    detecting: int
    training: int


def measure_cost(config: DetectorConfig, checkpointing: bool = False) -> Cost:
    """Cost of a picture that fills the canvas of ``config.image.size``; takes seconds and next to no memory.

    Args:
        checkpointing: train with the backbone's blocks computed again.

    Raises:
        UserError: as for building the detector.
    """
    with torch.device("meta"):
        model = Detector(config)
    recompute_blocks(model.backbone.body, checkpointing)
    for p in model.parameters():
        p.grad = torch.empty_like(p) if p.requires_grad else None
    height, width = (-(-side // model.divisor) * model.divisor for side in config.image.size)
    batch = _batch(config, height, width)
    counter, peak = FlopCounterMode(display=False), _Peak(_tensors(model, batch))
    with torch.no_grad(), _FusedAttention(), counter, peak:
        model.eval()(batch)
    tensors = [*model.parameters(), *model.buffers()]
    return Cost(
        canvas=(height, width),
        parameters=sum(p.numel() for p in model.parameters()),
        multiply_adds=counter.get_total_flops() // 2,
        weights=sum(t.numel() * t.element_size() for t in tensors),
        detecting=peak.most,
        training=_training_peak(model, batch),
    )


def measure_zoo(
    names: Iterable[str] | None = None,
    num_classes: int = 80,
    backbone: str = "resnet50",
    size: tuple[int, int] = (800, 1333),
    checkpointing: bool = False,
    frozen: bool = False,
) -> dict[str, Cost]:
    """Cost of entries of the zoo, all by default.

    Args:
        checkpointing: train with the backbone's blocks computed again.
        frozen: stem, first stage and norm statistics are not trained, as from ImageNet weights.

    Raises:
        UserError: unknown names, sizes or numbers that no detector can have.
    """
    if min(*size, num_classes) < 1:
        raise UserError(f"size is {size[0]} {size[1]}, num_classes {num_classes}; both have to be above 0")
    costs = {}
    for name in names or MODELS:
        config = make_config(name, num_classes, backbone, "imagenet" if frozen else None)
        config.image.size = size
        costs[name] = measure_cost(config, checkpointing)
    return costs


def _training_peak(model: Detector, batch: Batch) -> int:
    peak = _Peak(_tensors(model, batch))
    with _FusedAttention(), peak:
        torch.stack(list(model.train()(batch).values())).sum().backward()
    return peak.most


def _batch(config: DetectorConfig, height: int, width: int) -> Batch:
    """One picture without contents."""
    proposals = config.rpn.test_proposals.total if config.rpn else 1000
    masks = torch.empty(1, OBJECTS, height, width // 8, dtype=torch.uint8, device="meta") if config.mask else None
    return Batch(
        images=torch.empty(1, 3, height, width, dtype=torch.uint8, device="meta"),
        sizes=torch.empty(1, 2, dtype=torch.int64, device="meta"),
        boxes=torch.empty(1, OBJECTS, 4, device="meta"),
        labels=torch.empty(1, OBJECTS, dtype=torch.int64, device="meta"),
        crowd=torch.empty(1, OBJECTS, dtype=torch.bool, device="meta"),
        masks=masks,
        proposals=torch.empty(1, proposals, 4, device="meta"),
    )


def _tensors(model: Detector, batch: Batch) -> Iterable[Tensor]:
    yield from (t for t in batch if t is not None)
    yield from model.buffers()
    for p in model.parameters():
        yield from (p,) if p.grad is None else (p, p.grad)


class _FusedAttention(TorchFunctionMode):
    """Attention without its matrix of weights, as on real devices; tensors without contents would write it out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        query, key, value, mask, *_ = (*args, *[None] * 4)
        given = {"attn_mask": mask, **(kwargs or {})}
        return fused(query, key, value, attn_mask=given["attn_mask"], scale=given.get("scale"))[0]


class _Peak(TorchDispatchMode):
    """Follows every tensor from its making to its end.

    Attributes:
        most: bytes alive at once at the worst moment, without ``known`` tensors.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.most = 0
        self._now = 0
        self._alive = {t.untyped_storage()._cdata for t in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and t.untyped_storage()._cdata not in self._alive:
                self._begin(t.untyped_storage())
        return out

    def _begin(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        self._alive.add(address)
        self._now += size
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._end, address, size)

    def _end(self, address: int, size: int) -> None:
        self._alive.discard(address)
        self._now -= size

"""Benchmark cases: a detector's step, and the implementations that are compared on it."""

from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from itertools import product
from typing import Literal

Task = Literal["infer", "train"]
Precision = Literal["fp32", "bf16"]

MODELS = ("faster_rcnn", "libra_faster_rcnn", "retinanet", "libra_retinanet", "mask_rcnn")
SIZES = ((480, 640), (800, 1344))
BATCHES = (1, 2, 8)
OURS = ("ours", "before")
"""Libraries that are libradet: this checkout, and another one."""


@dataclass(frozen=True)
class Contender:
    """An implementation.

    Attributes:
        variant: ``eager`` or ``compiled`` for libradet; for torchvision the memory layout of weights and images.
    """

    library: Literal["ours", "before", "torchvision", "mmdetection", "detectron2"]
    precision: Precision
    variant: Literal["eager", "compiled", "plain", "channels_last"] = "eager"

    @property
    def name(self) -> str:
        """Name such as ``ours-bf16-compiled``."""
        name = f"{self.library}-{self.precision}"
        return name if self.variant == "eager" else f"{name}-{self.variant}"


@dataclass(frozen=True)
class Case:
    """A step: inference, or training from losses to the optimizer.

    Attributes:
        size: height and width of the images in pixels.
        objects: per image.
        backbone: but for ResNet-50, only libradet is measured.
    """

    task: Task
    model: str
    size: tuple[int, int]
    batch: int
    backbone: str = "resnet50"
    objects: int = 8

    @property
    def name(self) -> str:
        """Name such as ``train/faster_rcnn/480x640/b2``."""
        model = self.model if self.backbone == "resnet50" else f"{self.model}:{self.backbone}"
        return f"{self.task}/{model}/{self.size[0]}x{self.size[1]}/b{self.batch}"

    @property
    def shared_model(self) -> str:
        """The detector without Libra components, which the other libraries have too and whose weights are shared."""
        return self.model.removeprefix("libra_")


SMALL_BACKBONES = ("tf_efficientnet_lite0", "resnet18")
SMALL = tuple(Case("train", "libra_faster_rcnn", (256, 448), 2, backbone) for backbone in SMALL_BACKBONES)
DEFAULT = (
    Case("infer", "faster_rcnn", (480, 640), 1),
    Case("train", "faster_rcnn", (480, 640), 2),
    Case("train", "libra_faster_rcnn", (480, 640), 2),
    *SMALL,
)
ALL = (*(Case(*c) for c in product(("infer", "train"), MODELS, SIZES, BATCHES)), *SMALL)


def shrink(case: Case) -> Case:
    """Return the case on tiny images, for a smoke test."""
    return Case(**asdict(case) | {"size": (128, 192)})


def list_contenders(case: Case, compiled: bool, before: bool) -> list[Contender]:
    """Return the contenders of a case in the order of their turns.

    Args:
        compiled: include compiled libradet.
        before: include the libradet of another checkout.
    """
    variants = ("eager", "compiled") if compiled else ("eager",)
    ours = OURS if before else OURS[:1]
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    if case.backbone != "resnet50":
        return [Contender(library, "bf16", variant) for variant in variants for library in ours]
    contenders = [Contender(library, p, variant) for p in precisions for variant in variants for library in ours]
    layouts = ("plain", "channels_last")
    contenders += [Contender("torchvision", p, layout) for p in precisions for layout in layouts]
    return contenders + [Contender(library, p) for library in ("mmdetection", "detectron2") for p in precisions]


def select_cases(cases: tuple[Case, ...], patterns: list[str]) -> list[Case]:
    """Return the cases whose names match one of the patterns; all of them without patterns."""
    return [c for c in cases if not patterns or any(fnmatch(c.name, p) for p in patterns)]

"""What is compared: a step of a detector, and who takes it."""

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
"""Sides that are libradet: this checkout, and another."""


@dataclass(frozen=True)
class Contender:
    """Who takes the step, computing in what.

    ``form``: of ours ``eager`` or ``compiled``; of torchvision's the memory layout of weights, and thereby of the
    images.
    """

    side: Literal["ours", "before", "torchvision", "mmdetection", "detectron2"]
    precision: Precision
    form: Literal["eager", "compiled", "plain", "channels_last"] = "eager"

    @property
    def name(self) -> str:
        """Such as ``ours-bf16-compiled``."""
        return "-".join([self.side, self.precision] + ([] if self.form == "eager" else [self.form]))


@dataclass(frozen=True)
class Case:
    """A step: inference, or training from losses to the optimizer.

    ``backbone`` and ``objects`` (in each image) differ from those of the comparison only where it is ours alone.
    """

    task: Task
    model: str
    size: tuple[int, int]
    batch: int
    backbone: str = "resnet50"
    objects: int = 8

    @property
    def name(self) -> str:
        """Such as ``train/faster_rcnn/480x640/b2``."""
        model = self.model if self.backbone == "resnet50" else f"{self.model}:{self.backbone}"
        return f"{self.task}/{model}/{self.size[0]}x{self.size[1]}/b{self.batch}"

    @property
    def alike(self) -> str:
        """The detector of the same arithmetic that others have too, whose weights are shared."""
        return self.model.removeprefix("libra_")


LITE = tuple(Case("train", "libra_faster_rcnn", (256, 448), 2, b) for b in ("tf_efficientnet_lite0", "resnet18"))
DEFAULT = (
    *(Case("infer", "faster_rcnn", (480, 640), 1), Case("train", "faster_rcnn", (480, 640), 2)),
    *(Case("train", "libra_faster_rcnn", (480, 640), 2), *LITE),
)
ALL = (*(Case(*c) for c in product(("infer", "train"), MODELS, SIZES, BATCHES)), *LITE)


def tiny(case: Case) -> Case:
    """The same on an image of a few cells, to see whether it runs."""
    return Case(**asdict(case) | {"size": (128, 192)})


def contenders(case: Case, compiled: bool, before: bool) -> list[Contender]:
    """All that can take the step, in the order of their turns."""
    forms = ("eager", "compiled") if compiled else ("eager",)
    sides = OURS if before else OURS[:1]
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    if case.backbone != "resnet50":
        return [Contender(side, "bf16", form) for form in forms for side in sides]
    found = [Contender(side, p, form) for p in precisions for form in forms for side in sides]
    layouts = ("plain", "channels_last")
    found += [Contender("torchvision", p, layout) for p in precisions for layout in layouts]
    return found + [Contender(peer, p) for peer in ("mmdetection", "detectron2") for p in precisions]


def chosen(cases: tuple[Case, ...], patterns: list[str]) -> list[Case]:
    """Those whose names match one of the patterns; all without any."""
    return [c for c in cases if not patterns or any(fnmatch(c.name, p) for p in patterns)]

"""Benchmark cases: a detector's step, and the implementations that are compared on it."""

from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from itertools import product
from typing import Literal

Task = Literal["infer", "train"]
Precision = Literal["fp32", "bf16", "int8"]
Variant = Literal["eager", "packed", "compiled", "onnxruntime", "openvino", "checkpointed", "plain", "channels_last"]

MODELS = ("faster_rcnn", "libra_faster_rcnn", "retinanet", "libra_retinanet", "mask_rcnn")
SIZES = ((480, 640), (800, 1344))
BATCHES = (1, 2, 8)
OURS = ("ours", "before")
"""Libraries that are libradet: this checkout, and another one."""
ENGINE_PRECISIONS: dict[Variant, tuple[Precision, ...]] = {
    "eager": ("fp32", "bf16"),
    "packed": ("fp32", "bf16", "int8"),
    "compiled": ("fp32", "bf16"),
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
}
"""Precisions in which each of libradet's engines for inference is measured."""


@dataclass(frozen=True)
class Contender:
    """An implementation.

    Attributes:
        library: rf-detr has another detector, which is not compared with the others' outputs.
        variant: libradet's engine; for torchvision the memory layout of weights and images.
    """

    library: Literal["ours", "before", "torchvision", "mmdetection", "detectron2", "rf-detr"]
    precision: Precision
    variant: Variant = "eager"

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

    @property
    def has_shared_weights(self) -> bool:
        """Whether torchvision has this detector, so that its outputs are compared."""
        return self.model == self.shared_model and self.backbone == "resnet50"


SMALL_BACKBONES = ("tf_efficientnet_lite0", "resnet18")
SMALL = tuple(Case("train", "libra_faster_rcnn", (256, 448), 2, backbone) for backbone in SMALL_BACKBONES)
INFER = Case("infer", "faster_rcnn", (480, 640), 1)
TRAIN = Case("train", "faster_rcnn", (480, 640), 2)
LIBRA = Case("train", "libra_faster_rcnn", (480, 640), 2)
TARGETS = (INFER, TRAIN, LIBRA, *SMALL)
"""Cases of the performance targets, in every round."""
OTHERS = (
    Case("infer", "retinanet", (480, 640), 1),
    Case("infer", "mask_rcnn", (480, 640), 1),
    Case("infer", "faster_rcnn", (800, 1344), 1),
    Case("infer", "faster_rcnn", (480, 640), 8),
    Case("train", "retinanet", (480, 640), 2),
    Case("train", "mask_rcnn", (480, 640), 2),
    Case("train", "faster_rcnn", (800, 1344), 2),
    Case("train", "faster_rcnn", (480, 640), 8),
)
"""Further cases of the default run: one round with fewer steps, the most common first."""
ALL = tuple(
    dict.fromkeys((*TARGETS, *OTHERS, *(Case(*c) for c in product(("infer", "train"), MODELS, SIZES, BATCHES))))
)


def shrink(case: Case) -> Case:
    """Return the case on tiny images, for a smoke test."""
    return Case(**asdict(case) | {"size": (128, 192)})


def list_contenders(
    case: Case, bf16: bool, before: bool = False, engines: bool = False, compiled: bool = False, peers: bool = False
) -> list[Contender]:
    """Return the contenders of a case in the order of their turns.

    Args:
        bf16: include bf16, which processors without it emulate; light backbones are measured in one precision.
        before: include the libradet of another checkout.
        engines: include libradet's other engines for inference.
        compiled: include compiled training.
        peers: include the libraries that are installed in environments of their own.
    """
    ours = OURS if before else OURS[:1]
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if bf16 else ("fp32",)
    if case.backbone != "resnet50":
        return [Contender(library, precisions[-1]) for library in ours]
    contenders = [Contender(library, precision) for precision in precisions for library in ours]
    contenders += [Contender("torchvision", p, layout) for p in precisions for layout in ("plain", "channels_last")]
    if case.task == "infer" and engines:
        others = [(engine, p) for engine, choices in ENGINE_PRECISIONS.items() if engine != "eager" for p in choices]
        contenders += [Contender("ours", p, engine) for engine, p in others if bf16 or p != "bf16"]
    if case.task == "train" and compiled:
        contenders += [Contender("ours", p, "compiled") for p in precisions]
    if peers:
        contenders += [Contender(library, "fp32") for library in ("mmdetection", "detectron2")]
        if case.task == "infer" and case.model == "faster_rcnn" and case.batch == 1:
            contenders.append(Contender("rf-detr", "fp32"))
    return contenders


def select_cases(cases: tuple[Case, ...], patterns: list[str]) -> list[Case]:
    """Return the cases whose names match one of the patterns; all of them without patterns."""
    return [c for c in cases if not patterns or any(fnmatch(c.name, p) for p in patterns)]

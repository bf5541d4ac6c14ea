"""The graph of an exported detector: from decoded images to detections in their pixels, traced by torch.export."""

import io
from contextlib import redirect_stderr
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Num, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from libradet.data.batch import Batch
from libradet.data.transforms.resize import Size, target_size
from libradet.errors import UserError
from libradet.export.metadata import MAX_IMAGE_SIDE, ExportMetadata
from libradet.export.resizing import multiply_weights, resize_onto_canvas, resize_weights, target_sides
from libradet.export.static_operators import STATIC_DECOMPOSITIONS
from libradet.models.detector import Detector
from libradet.models.ops.fast_depthwise import DepthwiseConv2d
from libradet.models.optimize import optimize
from libradet.utils.warnings_filter import silence_loggers

MIN_TORCH = (2, 13)
"""First version of torch whose tracer keeps sizes dynamic that depend on data."""

Outputs = (
    tuple[Float[Tensor, "B D 4"], Float[Tensor, "B D"], Int[Tensor, "B D"], Bool[Tensor, "B D"]]
    | tuple[
        Float[Tensor, "B D 4"], Float[Tensor, "B D"], Int[Tensor, "B D"], Bool[Tensor, "B D"], Float[Tensor, "B D M M"]
    ]
)


class ExportWrapper(nn.Module):
    """Module that is exported: preprocessing, detector and postprocessing for any number of equally large images.

    Args:
        model: detector; it is copied, not changed.
        size: (short, long) side to resize to; "original" for images that are resized before.
    """

    def __init__(self, model: Detector, size: Size) -> None:
        super().__init__()
        self.detector = optimize(model)
        use_static_padding(self.detector)
        self.size = size

    def forward(self, images: UInt8[Tensor, "B H W 3"], proposals: Float[Tensor, "B P 4"] | None = None) -> Outputs:
        """Return boxes (xyxy in pixels of ``images``), scores, labels, which rows are valid, and masks if any.

        Args:
            images: RGB.
            proposals: xyxy in pixels of ``images``; boxes without area are padding.
        """
        batch_size, height, width = images.shape[:3]
        padded, sides = self._resize_and_pad(images.permute(0, 3, 1, 2))
        image_ends = torch.stack([torch.full_like(sides[0], side) for side in (width, height)]).repeat(2)
        scale = sides.flip(0).repeat(2).float() / image_ends.float()
        zeros = torch.zeros(batch_size, 1, device=images.device)
        detections = self.detector(
            Batch(
                images=padded,
                sizes=sides.expand(batch_size, 2),
                boxes=zeros[..., None].expand(-1, -1, 4),
                labels=zeros.long() - 1,
                crowd=zeros.bool(),
                proposals=None if proposals is None else proposals * scale,
            )
        )
        boxes = torch.minimum(detections.boxes / scale, image_ends.float())
        outputs = boxes, detections.scores, detections.labels, detections.valid
        return outputs if detections.masks is None else (*outputs, detections.masks)

    def _resize_and_pad(self, images: Num[Tensor, "B 3 H W"]) -> tuple[Num[Tensor, "B 3 _ _"], Int[Tensor, "2"]]:
        """Return the images resized and padded to multiples of ``size_divisible``, and their sides without padding."""
        sides = target_sides(images.shape[2], images.shape[3], self.size, images)
        divisor = self.detector.size_divisible
        # Read from a tensor, so that the tracer has two symbolic integers and not formulas with roundings.
        cells = (sides + divisor - 1).div(divisor, rounding_mode="floor")
        rows, columns = (cast(int, side.item()) for side in cells.unbind())
        for count in (rows, columns):
            torch._check(count >= 1)
        height, width = rows * divisor, columns * divisor
        if self.size != "original":
            return resize_onto_canvas(images, sides, height, width), sides
        for padding in (height - images.shape[2], width - images.shape[3]):
            torch._check(padding >= 0)
        return _pad_to(images, height, width), sides


class StaticExportWrapper(ExportWrapper):
    """The module for images of one size: all sizes in its graph are constants.

    Args:
        model, size: see :class:`ExportWrapper`.
        height, width: of the images.
    """

    def __init__(self, model: Detector, size: Size, height: int, width: int) -> None:
        super().__init__(model, size)
        self.detector.to(memory_format=torch.contiguous_format)  # required by ExecuTorch
        target = target_size(height, width, size)
        self.padded = tuple(-(-side // model.size_divisible) * model.size_divisible for side in target)
        self.register_buffer("sides", torch.tensor(target))
        self.resizes = target != (height, width)
        if self.resizes:
            weights = zip((height, width), self.sides, self.padded, strict=True)
            (rows, row_unit), (columns, column_unit) = (resize_weights(*arguments) for arguments in weights)
            self.register_buffer("row_weights", rows)
            self.register_buffer("row_unit", row_unit)
            self.register_buffer("column_weights", columns)
            self.register_buffer("column_unit", column_unit)

    def _resize_and_pad(self, images: Num[Tensor, "B 3 H W"]) -> tuple[Num[Tensor, "B 3 _ _"], Int[Tensor, "2"]]:
        if not self.resizes:
            return _pad_to(images, *self.padded), self.sides
        rows, columns = (self.row_weights, self.row_unit), (self.column_weights, self.column_unit)
        return multiply_weights(images, rows, columns), self.sides


def _pad_to(images: Num[Tensor, "B 3 _ _"], height: int, width: int) -> Num[Tensor, "B 3 {height} {width}"]:
    return F.pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))


class StaticSamePadConv2d(nn.Module):
    """Convolution with TensorFlow's "SAME" padding for inputs whose sides are multiples of the stride.

    This holds for the padded images of a detector, and then the padding does not depend on the input's size.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        totals = [
            max((k - 1) * d + 1 - s, 0) for k, s, d in zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
        ]
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
        self.padding = (left, right, top, bottom)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of the padded input."""
        conv = self.conv
        return F.conv2d(F.pad(x, self.padding), conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def use_static_padding(module: nn.Module) -> None:
    """Replace, in place, every convolution that computes its padding from the size of its input."""
    from timm.layers import Conv2dSame

    for name, child in module.named_children():
        if isinstance(child, Conv2dSame) or (isinstance(child, DepthwiseConv2d) and child.same):
            setattr(module, name, StaticSamePadConv2d(child))
        else:
            use_static_padding(child)


def trace_detector(model: Detector, metadata: ExportMetadata) -> ExportedProgram:
    """Trace a detector with dynamic batch and image size, or for the static shape in the metadata.

    Raises:
        UserError: the detector cannot be traced.
    """
    check_torch_version(torch.__version__)
    size = metadata.image_size if metadata.embed_preprocess else "original"
    try:
        # The tracer prints the whole graph before it fails.
        with silence_loggers("torch"), redirect_stderr(io.StringIO()):
            if metadata.static is None:
                return _trace_dynamic(ExportWrapper(model, size), metadata)
            return _trace_static(StaticExportWrapper(model, size, *metadata.static[1:]), metadata)
    except Exception as error:  # the tracer raises nearly any exception
        lines = str(error).strip().splitlines() or [type(error).__name__]
        is_dynamic = metadata.static is None
        kind, hint = (
            ("dynamic", "\ntry --static BATCH HEIGHT WIDTH, a file for one size") if is_dynamic else ("static", "")
        )
        raise UserError(
            f"{model.name} on {model.config.backbone.name} cannot be exported with {kind} sizes by torch "
            f"{torch.__version__}: {lines[0][:200]}{hint}"
        ) from error


@torch.no_grad()
def _trace_dynamic(wrapper: ExportWrapper, metadata: ExportMetadata) -> ExportedProgram:
    batch, height, width = Dim("batch", min=1), *(Dim(n, min=1, max=MAX_IMAGE_SIDE) for n in ("height", "width"))
    # Sizes that occur nowhere else and are not multiples of each other, so that the tracer treats none as a constant.
    examples: list[Tensor] = [torch.zeros(2, 89, 131, 3, dtype=torch.uint8)]
    dynamic_shapes: list[dict] = [{0: batch, 1: height, 2: width}]
    if metadata.num_proposals:
        examples.append(torch.tensor([5.0, 6.0, 70.0, 80.0]).expand(2, 7, 4))
        dynamic_shapes.append({0: batch, 1: Dim("boxes", min=1)})
    return torch.export.export(wrapper.eval(), tuple(examples), dynamic_shapes=tuple(dynamic_shapes), strict=False)


@torch.no_grad()
def _trace_static(wrapper: StaticExportWrapper, metadata: ExportMetadata) -> ExportedProgram:
    assert metadata.static is not None
    batch_size, height, width = metadata.static
    examples = [torch.zeros(batch_size, height, width, 3, dtype=torch.uint8)]
    if metadata.num_proposals:
        examples.append(torch.zeros(batch_size, metadata.num_proposals, 4))
    program = torch.export.export(wrapper.eval(), tuple(examples), strict=False)
    return program.run_decompositions(STATIC_DECOMPOSITIONS)


def check_torch_version(version: str) -> None:
    """Raise UserError if a version of torch cannot export detectors."""
    numbers = tuple(int(number) for number in version.split(".")[:2])
    if numbers < MIN_TORCH:
        required = ".".join(map(str, MIN_TORCH))
        raise UserError(f"exporting needs torch {required} or newer, and {version} is installed; update torch")

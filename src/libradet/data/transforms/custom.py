"""Users' own augmentations: torchvision's v2 transforms and whatever is called like them, applied and checked.

A transform is called with an image and a target, and returns both:

- image: ``tv_tensors.Image``, uint8 [3, H, W];
- target: ``boxes``, ``tv_tensors.BoundingBoxes`` [G, 4]; ``labels``, int64 [G], class numbers, -1 - class for crowd
  regions; and ``masks``, ``tv_tensors.Mask``, uint8 [G, H, W], if masks are trained.

It may change the number of objects and the size of the image. All that it returns is checked.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Image, Mask, is_rotated_bounding_format

from libradet.data.transforms.describe import name_of
from libradet.data.transforms.sample import (
    Sample,
    filter_instances,
    is_at_least_one_pixel,
    remove_empty_masks,
)
from libradet.data.transforms.seeding import seeded
from libradet.errors import UserError

Transform = Callable[..., Any]
Target = dict[str, Any]

NUM_CHECKED_SEEDS = 4

MAX_CANVAS_ERROR = 1
"""Tolerated difference, in pixels, between an image's size and the one that its boxes have: torchvision's rotation with
``expand`` rounds them differently."""


def apply_transforms(
    sample: Sample, transforms: Sequence[Transform], seed: int, num_classes: int, file: str = ""
) -> Sample:
    """Apply transforms one after the other, clip boxes to the image, and remove objects of which nothing remains.

    These are boxes with a side below one pixel, and objects whose mask is empty.

    Args:
        sample: is not modified.
        transforms: see the module.
        seed: below 2**32, of the global generators of torch, numpy and Python, whose states are restored afterwards.
        num_classes: C, to check labels.
        file: name of the image, for messages.

    Raises:
        UserError: a transform raised an exception or returned something else than it should; the message names it.
    """
    image, target = _to_tv_tensors(sample)
    with seeded(seed):
        for transform in transforms:
            image, target = _apply(transform, image, target, num_classes, file)
    return _to_sample(sample, image, target)


def check_transforms(sample: Sample, transforms: Sequence[Transform], num_classes: int, file: str = "") -> None:
    """Check on one image that transforms return a valid result, the same whenever they are called with the same seed.

    Raises:
        UserError: see :func:`apply_transforms`; or a transform draws from a generator of its own, so that a run could
            not be resumed exactly.
    """
    for seed in range(NUM_CHECKED_SEEDS):
        for number, transform in enumerate(transforms):
            first, second = (apply_transforms(sample, [transform], seed + number, num_classes, file) for _ in range(2))
            if not _is_equal(first, second):
                raise UserError(
                    f"augmentation {name_of(transform)}: two calls with the same seed differ, so a run could not be "
                    "resumed exactly; draw random numbers from the global generators of torch, numpy or random"
                )


def _is_equal(first: Sample, second: Sample) -> bool:
    pairs = ((first.image, second.image), (first.boxes, second.boxes), (first.labels, second.labels))
    return all(torch.equal(a, b) for a, b in pairs)


def corner_boxes(boxes: Float[Tensor, "G 4"], height: int, width: int) -> Any:
    """Return boxes, xyxy in pixels of an image of this size, as a tv_tensor."""
    make: Any = BoundingBoxes  # whose arguments type checkers do not know
    return make(boxes, format=BoundingBoxFormat.XYXY, canvas_size=(height, width))


def _to_tv_tensors(sample: Sample) -> tuple[Tensor, Target]:
    # Copies, since a transform may write to them: pixels may lie in a cache, labels in the dataset.
    height, width = sample.image.shape[1:]
    boxes = corner_boxes(sample.boxes.clone(), height, width)
    labels = torch.where(sample.crowd, ~sample.labels, sample.labels)
    target: Target = {"boxes": boxes, "labels": labels}
    if sample.masks is not None:
        target["masks"] = Mask(sample.masks.clone())
    return Image(sample.image.clone()), target


def _apply(transform: Transform, image: Tensor, target: Target, num_classes: int, file: str) -> tuple[Tensor, Target]:
    where = f"augmentation {name_of(transform)}{file and f', image {file}'}"
    has_masks = "masks" in target
    try:
        result = transform(image, target)
    except UserError:
        raise
    except Exception as e:  # a stranger's code raises any
        raise UserError(f"{where}: {type(e).__name__}: {' '.join(str(e).split())[:300]}") from e
    if problem := _describe_problem(result, has_masks, num_classes):
        raise UserError(f"{where}: {problem}")
    image, target = result
    boxes = F.convert_bounding_box_format(target["boxes"], new_format=BoundingBoxFormat.XYXY)
    height, width = image.shape[1:]
    kept: Target = {"boxes": corner_boxes(boxes.as_subclass(Tensor), height, width), "labels": target["labels"]}
    if has_masks:
        kept["masks"] = Mask(target["masks"].to(torch.uint8))
    return Image(image), kept


def _describe_problem(result: Any, has_masks: bool, num_classes: int) -> str:
    """Return why a result is not valid; empty if it is."""
    if not (isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[1], dict)):
        return f"it returned {_describe(result)}, not image and target; it is called with both and returns both"
    image, target = result
    missing = {"boxes", "labels", *(["masks"] if has_masks else [])} - target.keys()
    if missing:
        return f"the target that it returned has no {', '.join(sorted(missing))}"
    return (
        _image_problem(image)
        or _boxes_problem(target["boxes"], image)
        or _labels_problem(target, num_classes)
        or (_masks_problem(target, image) if has_masks else "")
    )


def _image_problem(image: Any) -> str:
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3:
        return "it returned an image without pixels" if 0 in image.shape else ""
    hint = "detectors normalize images themselves, and batches are made of tensors: leave out what converts it"
    if isinstance(image, Tensor) and image.dtype == torch.uint8:
        hint = "keep three channels, gray images as RGB"
    return f"it returned an image of {_describe(image)}, not of uint8 [3, H, W]; {hint}"


def _boxes_problem(boxes: Any, image: Tensor) -> str:
    if not isinstance(boxes, BoundingBoxes):
        return (
            f"it returned boxes of {_describe(boxes)}, not tv_tensors.BoundingBoxes; "
            "tv_tensors.wrap(boxes, like=...) restores the type that operations on them lose"
        )
    if is_rotated_bounding_format(boxes.format) or boxes.ndim != 2 or boxes.shape[1] != 4:
        return f"it returned boxes of format {boxes.format.name} {list(boxes.shape)}, not [G, 4] without rotation"
    sizes = list(boxes.canvas_size), list(image.shape[1:])
    if len(boxes) and max(abs(a - b) for a, b in zip(*sizes, strict=True)) > MAX_CANVAS_ERROR:
        return f"it returned boxes for an image of {sizes[0]} (height, width), and one of {sizes[1]}"
    if not boxes.is_floating_point() or not boxes.isfinite().all():
        return "it returned boxes that are not finite floating-point numbers"
    corners = F.convert_bounding_box_format(boxes, new_format=BoundingBoxFormat.XYXY).as_subclass(Tensor)
    if (corners[:, 2:] < corners[:, :2]).any():
        return "it returned a box whose right or lower side lies before its left or upper one"
    return ""


def _labels_problem(target: Target, num_classes: int) -> str:
    boxes, labels = target["boxes"], target["labels"]
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
        return f"it returned labels of {_describe(labels)}, not of int64 [G]"
    if len(boxes) != len(labels):
        return f"it returned {len(boxes)} boxes and {len(labels)} labels"
    if len(labels) and not -num_classes <= int(labels.min()) <= int(labels.max()) < num_classes:
        return f"it returned labels from {int(labels.min())} to {int(labels.max())}; there are {num_classes} classes"
    return ""


def _masks_problem(target: Target, image: Tensor) -> str:
    masks, expected = target["masks"], (len(target["labels"]), *image.shape[1:])
    if not isinstance(masks, Tensor) or tuple(masks.shape) != expected:
        return f"it returned masks of {_describe(masks)}, not of {list(expected)}"
    if masks.dtype not in (torch.uint8, torch.bool) or (masks.numel() and int(masks.max()) > 1):
        return f"it returned masks of {_describe(masks)} with other values than 0 and 1 of uint8"
    return ""


def _describe(value: Any) -> str:
    """Return a type in words; for tensors with element type and shape."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"type {type(value).__name__}"


def _to_sample(sample: Sample, image: Tensor, target: Target) -> Sample:
    boxes = F.clamp_bounding_boxes(target["boxes"]).as_subclass(Tensor).float()
    labels, masks = target["labels"].as_subclass(Tensor), target.get("masks")
    masks = None if masks is None else masks.as_subclass(Tensor)
    crowd = labels < 0
    labels = torch.where(crowd, ~labels, labels)
    image = image.as_subclass(Tensor)
    changed = sample._replace(image=image, boxes=boxes, labels=labels, crowd=crowd, masks=masks)
    changed = filter_instances(changed, is_at_least_one_pixel(boxes))
    return changed if masks is None else remove_empty_masks(changed)

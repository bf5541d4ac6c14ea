"""Everybody's detector with the shared weights, ready to take the step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, Contender
from benchmarks.scene import Scene, as_batch, as_lists


class Side(NamedTuple):
    """Attributes:
    model: what holds the parameters.
    call: detections of the scene's images, or losses by name.
    """

    model: nn.Module
    call: Callable[[], Any]


def our_model(case: Case, weights: Path):
    """Our detector with the shared weights, if it has a ResNet-50; parts that torchvision's lacks are random.

    From other backbones on it is random, and stem, first stage and norms are frozen, as with ImageNet weights.
    """
    import libradet
    from libradet.models.zoo import make_config

    torch.manual_seed(0)
    if case.backbone != "resnet50":
        config = make_config(case.model, backbone=case.backbone)
        config.backbone.freeze_at, config.backbone.frozen_norm = 2, True
        return libradet.create_model(config=config)
    model = libradet.load_model(weights)
    if case.model == case.alike:
        _set_as_torchvision(model.config)
    else:
        names = model.class_names
        model = libradet.create_model(case.model, class_names=names, weights=weights, allow_partial=True)
    for module in model.backbone.modules():
        # torchvision trains none of a frozen norm's parameters; here they are trained unless told otherwise.
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    return model


def _set_as_torchvision(config) -> None:
    """What no file of weights says, so that losses can be compared."""
    if config.dense is not None:
        config.dense.box_loss.kind = "l1"
    else:
        config.rpn.match.min_positive, config.rpn.train_proposals.min_size = 0.0, 1e-3
        config.roi.box_loss.beta = 1 / 9


def ours(model, case: Case, contender: Contender, scene: Scene) -> Side:
    """Our detector in the form in which it is used."""
    batch = as_batch(scene, model.divisor)
    model.train(case.task == "train")
    form = model if model.training else inference_form(model, contender.precision)
    form = torch.compile(form, dynamic=False) if contender.form == "compiled" else form
    return Side(model, lambda: form(batch))


def inference_form(model, precision: str):
    """What detects fastest: norms folded, weights converted."""
    import libradet

    # Another checkout that is measured beside this one may not know it yet.
    make = getattr(libradet, "optimize", None)
    return model if make is None else make(model, {"fp32": "32", "bf16": "bf16"}[precision])


def torchvision(case: Case, layout: str, scene: Scene, weights: Path) -> Side:
    """torchvision's, which leaves masks as they come out of the network, as ours does."""
    from benchmarks.torchvision_models import build

    model = build(case.model)
    model.load_state_dict(torch.load(weights, weights_only=True, mmap=True))
    model.train(case.task == "train")
    model.transform.postprocess = lambda result, *_: result
    if layout == "channels_last":
        model.to(memory_format=torch.channels_last)
    images, targets = as_lists(scene, int(case.model != "retinanet"))
    return Side(model, lambda: model(images, targets if model.training else None))


def total(losses: dict[str, Tensor]) -> Tensor:
    """The sum that gradients are taken of."""
    return torch.stack([loss.float() for loss in losses.values()]).sum()

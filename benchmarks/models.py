"""Detectors of libradet and torchvision with the shared weights, ready for a step."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, Contender
from benchmarks.synthetic_inputs import SyntheticInputs, make_inputs, to_batch, to_torchvision


class ModelUnderTest(NamedTuple):
    """A detector with its inputs.

    Attributes:
        model: module with the parameters.
        call: returns detections of the inputs, or losses by name.
        autocast: bf16 is computed by autocast; otherwise weights are converted.
        training: ``plain`` frees gradients after the next forward pass, as the training scripts of the other libraries,
            ``freeing`` after the optimizer's step, as libradet's training; ``fused`` frees them so, and the optimizer's
            step is one pass over each parameter, as in libradet's training in fp32 on a CPU.
    """

    model: nn.Module
    call: Callable[[], Any]
    autocast: bool = True
    training: Literal["plain", "freeing", "fused"] = "plain"


def build_libradet(case: Case, weights: Path):
    """Return libradet's detector with the shared weights; parts that torchvision's detector lacks are random.

    With backbones other than ResNet-50 all weights are random, and stem, first stage and norms are frozen, as with
    ImageNet weights.
    """
    import libradet
    from libradet.models.zoo import make_config

    torch.manual_seed(0)
    if case.backbone != "resnet50":
        config = make_config(case.model, backbone=case.backbone)
        config.backbone.freeze_at, config.backbone.frozen_norm = 2, True
        return libradet.create_model(config=config)
    model = libradet.load_model(weights)
    if case.model == case.shared_model:
        _match_torchvision_losses(model.config)
    else:
        names = model.class_names
        model = libradet.create_model(case.model, class_names=names, weights=weights, allow_partial=True)
    for module in model.backbone.modules():
        # torchvision's FrozenBatchNorm2d has no trainable parameters.
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    return model


def _match_torchvision_losses(config) -> None:
    """Set what a file of weights does not contain, so that losses are comparable."""
    if config.retinanet is not None:
        config.retinanet.box_loss.type = "l1"
    else:
        config.rpn.match.min_pos_iou, config.rpn.train_proposals.min_size = 0.0, 1e-3
        config.roi.box_loss.beta = 1 / 9


def prepare_libradet(model, case: Case, contender: Contender, inputs: SyntheticInputs) -> ModelUnderTest:
    """Return libradet's detector: for inference with the contender's engine, for training compiled if asked for."""
    import libradet
    from libradet.models.ops.activation_checkpointing import set_activation_checkpointing

    batch = to_batch(inputs, model.size_divisible)
    model.train(case.task == "train")
    if contender.variant == "checkpointed":
        set_activation_checkpointing(model.backbone.body)
    if model.training:
        if contender.library == "ours":  # as libradet.train; an older checkout did not
            from libradet.utils.malloc import keep_freed_memory

            keep_freed_memory()
        module = torch.compile(model, dynamic=False) if contender.variant == "compiled" else model
    elif contender.precision == "int8" and contender.variant != "packed":
        module = _export_int8(model, case, contender.variant)
    elif contender.variant == "eager":
        module = libradet.optimize(model, precision=contender.precision)
    else:
        # Engines are compared with the detector, and so prepared, at the size of the case.
        model.config.image.size = (min(case.size), max(case.size))
        settings = {"image": inputs.images[0].permute(1, 2, 0).numpy()}
        if contender.precision == "int8":
            settings["calibration_images"] = _calibration_images(case)
        module = libradet.optimize(model, engine=contender.variant, precision=contender.precision, **settings)
    # An older checkout trained without a fused step.
    is_fused = contender.library == "ours" and contender.precision == "fp32"
    training = "fused" if is_fused else "freeing"
    return ModelUnderTest(model, lambda: module(batch), autocast=case.task == "train", training=training)


def _calibration_images(case: Case) -> list:
    """Return the four images that INT8 is calibrated on, uint8 RGB [H, W, 3]."""
    return [make_inputs(replace(case, batch=1), seed).images[0].permute(1, 2, 0).numpy() for seed in range(4)]


def _export_int8(model, case: Case, runtime: str):
    """Return an exported file of the detector, quantized with the ranges of activations on four images."""
    import libradet

    size = min(case.size), max(case.size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        libradet.export_model(
            model, path, size=size, embed_preprocess=False, calibration_images=_calibration_images(case)
        )
        return libradet.load_model(path, runtime=runtime)


def prepare_torchvision(case: Case, layout: str, inputs: SyntheticInputs, weights: Path) -> ModelUnderTest:
    """Return torchvision's detector; its masks are not pasted into images, as libradet's are not."""
    from benchmarks.torchvision_models import build

    model = build(case.model)
    model.load_state_dict(torch.load(weights, weights_only=True, mmap=True))
    model.train(case.task == "train")
    model.transform.postprocess = lambda result, *_: result
    if layout == "channels_last":
        model.to(memory_format=torch.channels_last)
    images, targets = to_torchvision(inputs, int(case.model != "retinanet"))
    return ModelUnderTest(model, lambda: model(images, targets if model.training else None))


def sum_losses(losses: dict[str, Tensor]) -> Tensor:
    """Return the sum of the losses in float32."""
    return torch.stack([loss.float() for loss in losses.values()]).sum()

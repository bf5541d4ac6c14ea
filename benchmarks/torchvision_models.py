"""torchvision's detectors, with random weights that yield many detections."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.ops import FrozenBatchNorm2d

from benchmarks.cases import Case
from benchmarks.synthetic_inputs import CLASSES, make_inputs, to_torchvision

NAMES = {
    "faster_rcnn": "fasterrcnn_resnet50_fpn",
    "mask_rcnn": "maskrcnn_resnet50_fpn",
    "retinanet": "retinanet_resnet50_fpn",
}
# Standard deviation of a layer's outputs over locations. Objectness stays small: where it is large, its sigmoids, by
# which torchvision sorts, are all 1.
OUTPUT_DEVIATIONS = {
    "rpn.head.cls_logits": 0.7,
    "rpn.head.bbox_pred": 0.1,
    "roi_heads.box_predictor.cls_score": 2.0,
    "roi_heads.box_predictor.bbox_pred": 0.3,
    "roi_heads.mask_predictor.mask_fcn_logits": 1.5,
    "head.classification_head.cls_logits": 1.3,
    "head.regression_head.bbox_reg": 0.1,
}
# About one in a hundred pairs of proposal and class passes the threshold of 0.05.
BACKGROUND_BIAS = 5.0
RETINANET_BIAS = -5.0


def build(name: str) -> nn.Module:
    """Build a model without resizing, with stem, first stage and norms frozen as in torchvision's recipes."""
    classes = CLASSES + ("rcnn" in name)
    model = get_model(NAMES[name], weights=None, weights_backbone=None, num_classes=classes)
    model.transform.resize = lambda image, target=None: (image, target)
    for part, parameter in model.backbone.body.named_parameters():
        # torchvision freezes these itself only with pretrained weights.
        parameter.requires_grad_(part.startswith(("layer2", "layer3", "layer4")))
    _freeze_norms(model.backbone.body)
    return model.eval()


def _freeze_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features))
        else:
            _freeze_norms(child)


def write_weights(case: Case, path: Path, seed: int = 0) -> None:
    """Write random weights of the case's detector, scaled as those of a trained one, in torchvision's format."""
    torch.manual_seed(seed)
    model = build(case.shared_model)
    with torch.no_grad():
        _scale_outputs(model, to_torchvision(make_inputs(case, seed + 1), 1)[0][:1])
    torch.save(model.state_dict(), path)


def _scale_outputs(model: nn.Module, images: list[Tensor]) -> None:
    for name, layer in model.named_modules():
        if isinstance(layer, FrozenBatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(1.5, 2.5)
        if isinstance(layer, nn.Conv2d) and ".conv." in name:
            nn.init.kaiming_normal_(layer.weight)
        if name in OUTPUT_DEVIATIONS:
            layer.register_forward_hook(_scale_on_first_call(OUTPUT_DEVIATIONS[name]))
    model(images)
    for name, layer in model.named_modules():
        layer._forward_hooks.clear()
        if name.endswith("cls_score"):
            layer.bias[0] += BACKGROUND_BIAS
        if name.endswith("classification_head.cls_logits"):
            layer.bias += RETINANET_BIAS


def _scale_on_first_call(deviation: float):
    """Return a hook that scales each channel of a layer to this deviation around 0 on the first input."""

    def hook(layer: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
        if hasattr(layer, "is_scaled"):
            return None
        layer.is_scaled = True
        others = [d for d in range(output.dim()) if d != 1]
        scale = deviation / output.std(others).clamp(min=1e-6)
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias.copy_((layer.bias - output.mean(others)) * scale)
        return layer.forward(*inputs)

    return hook

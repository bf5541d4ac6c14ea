"""Detectors and batches small enough for a test."""

import torch

from libradet.balance import BalancedFeaturePyramid
from libradet.data.batch import Batch
from libradet.models import box_head, mask_head
from libradet.models import detector as detector_module
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.models.zoo import make_config


def tiny_config(name: str = "libra_faster_rcnn", num_classes: int = 3, backbone: str = "test_resnet") -> DetectorConfig:
    """The zoo's configuration on a small ResNet with narrow heads."""
    config = make_config(name, num_classes, backbone)
    config.class_names = tuple(f"class_{i}" for i in range(num_classes))
    config.pyramid.channels, config.roi.fc_dim = 16, 32
    config.rpn.train_proposals.post_nms_top_n = config.rpn.test_proposals.post_nms_top_n = 60
    return config


def tiny_zoo_config(name: str, num_classes: int = 3, backbone: str = "test_resnet") -> DetectorConfig:
    """Any entry of the zoo on a small ResNet with narrow heads and few samples."""
    config = make_config(name, num_classes, backbone)
    config.class_names = tuple(f"class_{i}" for i in range(num_classes))
    config.pyramid.channels = 16
    if config.rpn is not None:
        config.rpn.train_proposals.post_nms_top_n = config.rpn.test_proposals.post_nms_top_n = 60
    if config.roi is not None:
        config.roi.fc_dim, config.roi.sampling.batch_size_per_image = 32, 64
    if config.mask is not None:
        config.mask.channels = 8
    if config.retinanet is not None:
        config.retinanet.num_convs, config.retinanet.prior_prob = 2, 0.3
    return config


def take_all_samples(config: DetectorConfig) -> DetectorConfig:
    """Make sampling deterministic: there is a slot for every candidate."""
    for sampling in (config.rpn.sampling, config.roi.sampling):
        sampling.batch_size_per_image, sampling.positive_fraction, sampling.neg_pos_ub = 8192, 0.5, None
    config.roi.sampling.batch_size_per_image = 256
    return config


def tiny_detector(config: DetectorConfig | None = None, seed: int = 0) -> Detector:
    """Scores and boxes of a fresh detector hardly differ; this one's do."""
    torch.manual_seed(seed)
    model = Detector(config or tiny_config())
    heads = {"rpn": (0.3, 0.05), "retinanet": (0.3, 0.05), "roi": (1.0, 0.2)}
    for name, layer in model.named_modules():
        part, kind = name.split(".")[0], name.split(".")[-1]
        if part in heads and kind in ("logits", "deltas"):
            torch.nn.init.normal_(layer.weight, std=heads[part][kind == "deltas"])
    return model


def lively(model: Detector) -> Detector:
    """Norms and gates that do something, and detections of all scores."""
    for part in model.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias, 0, 0.3)
        if isinstance(part, BalancedFeaturePyramid) and part.gate is not None:
            part.gate.data.copy_(torch.linspace(-0.5, 0.5, len(part.gate)))
    return model.eval()


def tiny_batch(
    boxes=((5, 6, 50, 40), (30, 20, 90, 60)),
    labels=(0, 2),
    crowd=None,
    num_images=2,
    size=(64, 96),
    seed=1,
    proposals=0,
    masks=False,
) -> Batch:
    """``num_images`` random images with the same ground truths each; none of them stands for an image without objects.

    ``proposals``: how many come with it, the ground truths moved about. ``masks``: ellipses in the boxes.
    """
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num_images, 3, *size), dtype=torch.uint8, generator=g)
    boxes, labels = (boxes, labels) if len(boxes) else (((0, 0, 0, 0),), (-1,))
    crowd = [False] * len(boxes) if crowd is None else crowd
    corners = torch.tensor(boxes, dtype=torch.float32)
    moved = corners.repeat(-(-proposals // len(corners)) or 1, 1)[:proposals]
    moved = moved + torch.randn(moved.shape, generator=g) * 4 * (moved > 0)
    batch = Batch(
        images,
        torch.tensor([size] * num_images),
        torch.tensor(boxes, dtype=torch.float32).expand(num_images, -1, -1).clone(),
        torch.tensor(labels).expand(num_images, -1).clone(),
        torch.tensor(crowd).expand(num_images, -1).clone(),
    )
    return batch._replace(
        proposals=moved.expand(num_images, -1, -1).clone() if proposals else None,
        masks=ellipses(batch.boxes, *size) if masks else None,
    )


def ellipses(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Masks [B, G, H, W] of the ellipses that fill the boxes."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    center, half = (boxes[..., :2] + boxes[..., 2:]) / 2, ((boxes[..., 2:] - boxes[..., :2]) / 2).clamp(min=1e-3)
    across = (x - center[..., None, None, 0]) / half[..., None, None, 0]
    down = (y - center[..., None, None, 1]) / half[..., None, None, 1]
    return (across**2 + down**2 <= 1).to(torch.uint8)


def compute_all_slots(monkeypatch) -> None:
    """Let detectors compute empty slots on the CPU as well, as they do on a GPU."""
    for module in (detector_module, box_head, mask_head):
        monkeypatch.setattr(module, "count_used_slots", lambda valid: valid.shape[1])

"""torchvision's Faster R-CNN, plain and balanced, trained with torchvision's reference loop.

    python examples/balance_torchvision.py --data DIR --weights tf_efficientnet_lite0.in1k.safetensors

The loop is that of torchvision's reference: SGD with momentum, linear warmup in the first epoch, the learning rate
divided by ten near the end, horizontal flips. The two models differ in one line: ``balance(model)``. Both start from
the same weights, train on the same images in the same order, and are evaluated with COCO metrics.
"""

import argparse
import time
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR, MultiStepLR, SequentialLR
from torch.utils.data import DataLoader
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.transforms.v2.functional import horizontal_flip

from libradet.data.image_io import read_image
from libradet.data.read import read
from libradet.data.records import Dataset
from libradet.evaluation.metric import CocoMetric
from libradet.interop.reading import read_tensors
from libradet.interop.torchvision import balance
from libradet.models.backbone import Backbone
from libradet.models.config import BackboneConfig
from libradet.models.load_pretrained import BackboneWeights, pixel_statistics

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
FPN_CHANNELS, FC_DIM = 128, 512


class BackboneWithFPN(nn.Module):
    """A timm backbone with torchvision's FPN, for torchvision's detectors."""

    def __init__(self, name: str, weights: str | None) -> None:
        super().__init__()
        pretrained = BackboneWeights(weights, read_tensors(weights)[0]) if weights else False
        config = BackboneConfig(name, freeze_at=2, frozen_norm=True) if weights else BackboneConfig(name)
        self.body = Backbone(config, pretrained)
        self.fpn = FeaturePyramidNetwork(self.body.channels, FPN_CHANNELS, LastLevelMaxPool())
        self.out_channels = FPN_CHANNELS

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return self.fpn(OrderedDict((str(i), x) for i, x in enumerate(self.body(images))))


class TorchvisionDataset(torch.utils.data.Dataset):
    """Images in 0..1 and targets with labels from 1, as in torchvision's reference."""

    def __init__(self, dataset: Dataset, training: bool, seed: int = 0) -> None:
        self.dataset, self.training = dataset, training
        # Independent of the global generator, from which models sample.
        self.rng = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[Tensor, dict[str, Tensor]]:
        record = self.dataset.images[row]
        image = read_image(record.path, record.apply_exif).float() / 255
        # As in the reference, crowd regions are used in evaluation only.
        kept = ~record.crowd if self.training else slice(None)
        boxes, labels = torch.from_numpy(record.boxes[kept]), torch.from_numpy(record.labels[kept]) + 1
        if self.training and torch.rand((), generator=self.rng) < 0.5:
            image = horizontal_flip(image)
            boxes = torch.stack([record.width - boxes[:, 2], boxes[:, 1], record.width - boxes[:, 0], boxes[:, 3]], 1)
        extra = {"area": torch.from_numpy(record.area[kept]), "iscrowd": torch.from_numpy(record.crowd[kept])}
        return image, {"boxes": boxes, "labels": labels, **extra}


def make_model(args: argparse.Namespace, classes: int) -> FasterRCNN:
    """Return a model small enough to train on a CPU."""
    torch.manual_seed(args.seed)
    mean, std = pixel_statistics(args.backbone) or ((127.5,) * 3, (127.5,) * 3)
    return FasterRCNN(
        BackboneWithFPN(args.backbone, args.weights),
        min_size=args.size,
        max_size=args.size * 5 // 3,
        image_mean=[v / 255 for v in mean],
        image_std=[v / 255 for v in std],
        box_head=TwoMLPHead(FPN_CHANNELS * 49, FC_DIM),
        box_predictor=FastRCNNPredictor(FC_DIM, classes + 1),
        box_batch_size_per_image=256,
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=1000,
    )


def train(model: FasterRCNN, dataset: Dataset, args: argparse.Namespace) -> None:
    """Train with torchvision's reference loop on one device."""
    torch.manual_seed(args.seed)
    order = torch.Generator().manual_seed(args.seed)
    samples = TorchvisionDataset(dataset, True, args.seed)
    loader = DataLoader(samples, args.batch_size, shuffle=True, generator=order, drop_last=True, collate_fn=list)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.02 * args.batch_size / 16, momentum=0.9, weight_decay=1e-4)
    warmup, steps = min(1000, len(loader) - 1), args.epochs * len(loader)
    drops = [round(steps * part) - warmup for part in (2 / 3, 11 / 12)]
    schedule = SequentialLR(
        optimizer, [LinearLR(optimizer, 1e-3, total_iters=warmup), MultiStepLR(optimizer, drops)], [warmup]
    )
    for epoch in range(args.epochs):
        model.train()
        start, total = time.perf_counter(), 0.0
        for batch in loader:
            images, targets = (list(part) for part in zip(*batch, strict=True))
            loss = sum(model(images, targets).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"  epoch {epoch + 1}: loss {total / len(loader):.3f}, {time.perf_counter() - start:.0f} s", flush=True)


@torch.inference_mode()
def evaluate(model: FasterRCNN, dataset: Dataset, args: argparse.Namespace) -> dict[str, float]:
    """Return COCO metrics."""
    metric = CocoMetric(dataset.class_names)
    model.eval()
    for batch in DataLoader(TorchvisionDataset(dataset, training=False), args.batch_size, collate_fn=list):
        samples, targets = (list(part) for part in zip(*batch, strict=True))
        parts = ([one | {"labels": one["labels"] - 1} for one in part] for part in (model(samples), targets))
        metric.update(*parts)
    return {name: value.item() for name, value in metric.compute().items()}


def main() -> None:
    """Train and evaluate both models."""
    parser = argparse.ArgumentParser(description="torchvision's Faster R-CNN, plain and balanced")
    parser.add_argument("--data", required=True, help="dataset with train and val splits, in any format")
    parser.add_argument("--weights", help="file with ImageNet weights of the backbone (default: random weights)")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="timm model that supports features_only")
    parser.add_argument("--epochs", type=int, default=2, help="passes over the training images (default: 2)")
    parser.add_argument("--batch_size", type=int, default=2, help="images per step (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and flips (default: 0)")
    parser.add_argument("--size", type=int, default=224, help="shorter side of images in pixels (default: 224)")
    names = ["plain", "balanced"]
    parser.add_argument("--variants", nargs="+", choices=names, default=names, help="models to train (default: both)")
    args = parser.parse_args()
    train_set, _ = read(args.data, "train", masks=False)
    val_set, _ = read(args.data, "val", training=False, masks=False)
    results = {}
    for variant in args.variants:
        print(variant, flush=True)
        model = make_model(args, len(train_set.class_names))
        if variant == "balanced":
            balance(model)
        train(model, train_set, args)
        results[variant] = evaluate(model, val_set, args)
    print(f"{'':10}" + "".join(f"{name:>8}" for name in METRICS))
    for variant, metrics in results.items():
        print(f"{variant:10}" + "".join(f"{metrics.get(name, float('nan')):8.3f}" for name in METRICS))


if __name__ == "__main__":
    main()

"""Detectors and datasets of which the right answer is known."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from libradet.data.batch import Batch
from libradet.data.records import Dataset, ImageRecord
from libradet.inference.detections import Detections
from libradet.models.config import DetectorConfig, ImageConfig, RoIConfig, RPNConfig
from libradet.models.detector import Detector


class FixedDetector(Detector):
    """Answers every image with given boxes, in fractions of its width and height, whatever its size.

    ``seen`` keeps the batches it was shown.
    """

    def __init__(self, boxes=(), scores=(), labels=(), names=("cat", "dog"), size=(64, 96), slots=6):
        nn.Module.__init__(self)
        self.config = DetectorConfig(
            num_classes=len(names), class_names=tuple(names), image=ImageConfig(size), rpn=RPNConfig(), roi=RoIConfig()
        )
        self.weight = nn.Parameter(torch.zeros(1))
        self.norm = nn.BatchNorm2d(1)
        self.strides = [4, 8, 16, 32]
        self.slots = slots
        self.boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        self.scores, self.labels = torch.tensor(scores, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64)
        self.seen: list[Batch] = []

    def forward(self, batch: Batch) -> Detections:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.append(batch)
        sides = batch.sizes.flip(1).repeat(1, 2).float()
        count, found = len(sides), len(self.boxes)
        boxes, scores = torch.full((count, self.slots, 4), 7.0), torch.ones(count, self.slots)
        labels, valid = torch.zeros(count, self.slots, dtype=torch.int64), torch.zeros(count, self.slots).bool()
        boxes[:, :found] = self.boxes * sides[:, None]
        scores[:, :found], labels[:, :found], valid[:, :found] = self.scores, self.labels, True
        return Detections(boxes, scores, labels, valid)


class TruthDetector(FixedDetector):
    """Finds exactly the objects of a dataset, in images recognized by their number."""

    def __init__(self, dataset: Dataset, names=None, jitter: float = 0.0):
        super().__init__(names=names or dataset.class_names, slots=110)
        self.dataset, self.jitter = dataset, jitter

    def forward(self, batch: Batch) -> Detections:
        count = len(batch.sizes)
        boxes, scores = torch.zeros(count, self.slots, 4), torch.zeros(count, self.slots)
        labels, valid = torch.zeros(count, self.slots, dtype=torch.int64), torch.zeros(count, self.slots).bool()
        for i, index in enumerate(batch.index.tolist()):
            image = self.dataset.image_records[index]
            rng = np.random.default_rng(index)
            found = image.boxes + rng.normal(0, self.jitter, image.boxes.shape)
            n = len(found)
            boxes[i, :n] = torch.as_tensor(found).float() * batch.scales[i].repeat(2)
            scores[i, :n] = torch.as_tensor(rng.uniform(0.1, 1, n)).float()
            labels[i, :n] = torch.tensor(
                [self.config.class_names.index(self.dataset.class_names[k]) for k in image.labels], dtype=torch.int64
            )
            valid[i, :n] = True
        return Detections(boxes, scores, labels, valid)


def make_dataset(folder: Path, image_records: int = 5, seed: int = 0, names=("cat", "dog", "bird")) -> Dataset:
    """Noise images of several shapes with random boxes, one crowd region, and one image without objects."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(image_records):
        width, height = [(60, 40), (40, 60), (50, 50)][i % 3]
        path = folder / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        count = {0: 4, 1: 0}.get(i, int(rng.integers(1, 5)))
        corner = rng.uniform(0, [width - 25, height - 25], (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, 25, (count, 2))], axis=1).astype(np.float32)
        made.append(
            ImageRecord(
                id=100 + 3 * i,
                path=path,
                width=width,
                height=height,
                boxes=boxes,
                labels=rng.integers(0, len(names), count),
                crowd=np.arange(count) == (3 if i == 0 else -1),
                area=(boxes[:, 2:] - boxes[:, :2]).prod(1).astype(np.float64),
                annotation_ids=np.arange(count) + 10 * i,
            )
        )
    return Dataset(folder, "val", made, [4 + 5 * k for k in range(len(names))], list(names))


def random_box(rng, width, height):
    w, h = np.exp(rng.uniform(np.log(4), np.log(0.9 * min(width, height)), 2))
    return [float(rng.uniform(0, width - w)), float(rng.uniform(0, height - h)), float(w), float(h)]


def random_case(seed, images=6, classes=4, max_truths=7, max_found=15, rounding=1):
    """Ground truth with crowds, empty images and an empty class, and detections with ties near and far from it."""
    rng = np.random.default_rng(seed)
    categories = [{"id": 7 * k + 3, "name": f"class {k}"} for k in range(classes)]
    image_records = [{"id": 11 * i, "width": 320, "height": 240, "file_name": f"{i}.jpg"} for i in range(images)]
    annotations, results = [], []
    for image in image_records:
        for _ in range(rng.integers(0, max_truths)):
            box = random_box(rng, 320, 240)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image["id"],
                    "category_id": 7 * int(rng.integers(0, max(classes - 1, 1))) + 3,
                    "bbox": box,
                    "area": box[2] * box[3] * float(rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
        near = [a["bbox"] for a in annotations if a["image_id"] == image["id"]]
        for _ in range(rng.integers(0, max_found)):
            box = random_box(rng, 320, 240)
            if near and rng.random() < 0.7:
                x, y, w, h = near[rng.integers(len(near))]
                jitter = rng.normal(0, 0.08, 4)
                box = [x + w * jitter[0], y + h * jitter[1], w * np.exp(jitter[2]), h * np.exp(jitter[3])]
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": 7 * int(rng.integers(0, classes)) + 3,
                    "bbox": [float(v) for v in box],
                    "score": round(float(rng.random()), rounding),
                }
            )
    return {"images": image_records, "categories": categories, "annotations": annotations}, results

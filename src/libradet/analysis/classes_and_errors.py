"""Classes, sizes and errors: which objects a detector finds, and what it gets wrong where it does not."""

from typing import Any

import hotcoco
import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from libradet.analysis.feature_level import SIZES
from libradet.data.read import to_coco
from libradet.data.records import Dataset
from libradet.evaluation.coco_metrics import Metrics

ERRORS = {
    "Cls": "classification",
    "Loc": "localization",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}
"""hotcoco's names of the errors of TIDE (Bolya et al., ECCV 2020), and ours."""

POSITIVE, BACKGROUND = 0.5, 0.1
"""IoU from which a detection finds an object, and below which it lies on none."""


def decompose(dataset: Dataset, rows: Float64[ndarray, "D 7"]) -> dict[str, Any]:
    """What kinds of errors cost how much AP50 (TIDE).

    Args:
        rows: detections: image id, x, y, width, height (pixels of the file), score, category id.

    Returns:
        ``AP50``, and for each kind ``count`` and ``cost``: by how much AP50 rises when errors of this kind alone are
        mended; objects that are missed are mended by not asking for them. Costs do not add up to what is missing.
    """
    truth = to_coco(dataset)
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["id"] = number
    known = hotcoco.COCO(truth)
    evaluation = hotcoco.COCOeval(known, known.load_res(rows), "bbox")
    evaluation.params.img_ids = [image.id for image in dataset.images]
    evaluation.evaluate()
    found = evaluation.tide_errors(POSITIVE, BACKGROUND)
    return {
        "AP50": float(found["ap_base"]),
        "kinds": {
            name: {"count": int(found["counts"][key]), "cost": float(found["delta_ap"][key])}
            for key, name in ERRORS.items()
        },
    }


def by_class(metrics: Metrics, dataset: Dataset) -> list[dict[str, Any]]:
    """Classes from the most to the least frequent one: objects, AP and AP50 where they were measured."""
    counts = count_objects(dataset)
    rows = [
        {
            "class": name,
            "objects": counts[label],
            "AP": metrics["per_class"].get(name),
            "AP50": metrics["per_class_AP50"].get(name),
        }
        for label, name in enumerate(dataset.class_names)
    ]
    return sorted(rows, key=lambda row: -row["objects"])


def count_objects(dataset: Dataset) -> list[int]:
    """Objects by label; crowd regions left out."""
    labels = [image.labels[~image.crowd] for image in dataset.images]
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=len(dataset.class_names)).tolist()


def by_size(metrics: Metrics, dataset: Dataset) -> list[dict[str, Any]]:
    """Small, medium and large objects (COCO's): how many there are, AP (None for proposals) and AR of 100."""
    areas = np.concatenate([np.zeros(0), *(image.area[~image.crowd] for image in dataset.images)])
    counts = np.bincount(np.digitize(areas, [32**2, 96**2]), minlength=len(SIZES)).tolist()
    return [
        {"size": size, "objects": count, "AP": metrics.get(f"AP{size[0]}"), "AR": metrics.get(f"AR{size[0]}")}
        for size, count in zip(SIZES, counts, strict=True)
    ]


def frequency_correlation(classes: list[dict[str, Any]]) -> float | None:
    """Correlation of AP with the logarithm of the number of objects; None with fewer than five classes measured."""
    measured = [(np.log(row["objects"]), row["AP"]) for row in classes if row["objects"] and row["AP"] is not None]
    if len(measured) < 5 or min(np.std(measured, axis=0)) == 0:
        return None
    return float(np.corrcoef(np.array(measured).T)[0, 1])

"""Results by object size, and the cost of each error type (TIDE)."""

from typing import Any

import hotcoco
import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from libradet.analysis.levels.feature import SIZE_LIMITS, SIZES
from libradet.data.records import Dataset
from libradet.evaluation.coco import Metrics
from libradet.evaluation.ground_truth import ground_truth_from_dataset

ERROR_TYPES = {
    "Cls": "classification",
    "Loc": "localization",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}
"""Error types of TIDE (Bolya et al., ECCV 2020): hotcoco's keys and the report's."""

FG_IOU_THRESH, BG_IOU_THRESH = 0.5, 0.1
"""IoU from which a detection matches an object, and below which it is on background."""


def compute_error_types(dataset: Dataset, rows: Float64[ndarray, "D 7"]) -> dict[str, Any]:
    """Return the cost in AP50 of each error type (TIDE).

    Args:
        rows: detections as of ``CocoEvaluator.rows``: image number, x, y, width, height, score, label + 1.

    Returns:
        ``AP50`` and ``types``: for each error type its ``count`` and ``cost``, the increase of AP50 when errors of this
        type alone are fixed; missed objects are fixed by removing them. The costs do not add up to 1 - AP50.
    """
    truth = ground_truth_from_dataset(dataset)
    ground_truth = truth.to_hotcoco("bbox")
    evaluation = hotcoco.COCOeval(ground_truth, ground_truth.load_res(rows), "bbox")
    evaluation.params.img_ids = [image["id"] for image in truth.images]
    evaluation.evaluate()
    tide = evaluation.tide_errors(FG_IOU_THRESH, BG_IOU_THRESH)
    return {
        "AP50": float(tide["ap_base"]),
        "types": {
            name: {"count": int(tide["counts"][key]), "cost": float(tide["delta_ap"][key])}
            for key, name in ERROR_TYPES.items()
        },
    }


def size_results(metrics: Metrics, dataset: Dataset, is_proposal_model: bool) -> list[dict[str, Any]]:
    """Return number, AP and AR100 of small, medium and large objects (COCO's sizes).

    AP of proposals is None: what they are for is recall.
    """
    areas = np.concatenate([np.zeros(0), *(image.area[~image.crowd] for image in dataset.images)])
    counts = np.bincount(np.digitize(areas, SIZE_LIMITS), minlength=len(SIZES)).tolist()
    return [
        {
            "size": size,
            "objects": count,
            "AP": None if is_proposal_model else metrics.get(f"AP{size[0]}"),
            "AR": metrics.get(f"AR{size[0]}"),
        }
        for size, count in zip(SIZES, counts, strict=True)
    ]

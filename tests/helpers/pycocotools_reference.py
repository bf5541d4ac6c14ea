"""COCO metrics computed by pycocotools."""

import contextlib
import copy
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from libradet.evaluation.coco import STANDARD_METRICS


def pycocotools_metrics(ground_truth, results, iou_type="bbox", limits=(1, 10, 100), use_cats=True, image_ids=None):
    """Return metrics and AP by class of pycocotools; undefined ones (-1) are None."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(ground_truth)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), iou_type)
        evaluation.params.maxDets = list(limits)
        evaluation.params.useCats = int(use_cats)
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize() if len(limits) == 3 else None
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]

    def mean(table):
        return table[table > -1].mean() if (table > -1).any() else None

    numbers = {} if len(limits) > 3 else dict(zip(STANDARD_METRICS, evaluation.stats, strict=True))
    numbers = {k: None if v == -1 else v for k, v in numbers.items()}
    numbers |= {f"AR{limit}": mean(recall[:, :, 0, m]) for m, limit in enumerate(limits)}
    by_class = [mean(precision[:, :, k, 0, 2]) for k in range(precision.shape[2])]
    return numbers, by_class

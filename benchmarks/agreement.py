"""Equality of libradet's and torchvision's detections and losses."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Case, Contender
from benchmarks.models import build_libradet, prepare_libradet, prepare_torchvision, sum_losses
from benchmarks.step import make_step
from benchmarks.synthetic_inputs import make_inputs, to_batch

Detected = list[tuple[Tensor, Tensor, Tensor]]
"""Boxes, scores and labels of each image."""

EXACT = (0.1, 1e-3)
"""Pixels and score by which equal detections may differ by rounding."""
NEAR = (8.0, 0.1)
"""The same where one was computed in bf16 or int8, which have about three and two digits."""
MIN_MATCHED = 0.98
MAX_LOSS_DIFFERENCE = 0.01


def write_reference(case: Case, weights: Path, file: Path) -> dict[str, Any]:
    """Write torchvision's detections in fp32 to a file; return their number, and that of proposals of both."""
    inputs = make_inputs(case)
    model = build_libradet(case, weights)
    # Counted before the model is optimized for inference.
    proposals = {} if model.rpn is None else {"ours": count_proposals(model, case)}
    there = prepare_torchvision(case, "plain", inputs, weights)
    their_proposals: list[list[int]] = []
    if proposals:

        def count(_module: Any, _inputs: Any, output: Any) -> None:
            their_proposals.append([len(boxes) for boxes in output[0]])

        there.model.rpn.register_forward_hook(count)
    detected = _to_detected(make_step(there, case, "fp32")(), case)
    if their_proposals:
        proposals["theirs"] = their_proposals[0]
    torch.save(detected, file)
    return {"detections": sum(len(boxes) for boxes, _, _ in detected), "proposals": proposals}


def compare_detections(output: Any, case: Case, file: Path) -> dict[str, Any]:
    """Compare a step's detections with those of :func:`write_reference`.

    Returns:
        ``same``: at least 98 % of the detections of each side match; the counts behind it; ``near``: matches with
        wider tolerances, for precisions other than fp32.
    """
    reference, detected = torch.load(file, weights_only=True), _to_detected(output, case)
    exact, near = match(reference, detected, EXACT), match(reference, detected, NEAR)["matched"]
    num_detections = max(exact["theirs"], exact["ours"], 1)
    return {"same": exact["matched"] >= MIN_MATCHED * num_detections, **exact, "near": near}


def count_proposals(model, case: Case) -> list[int]:
    """Return the number of proposals that libradet's detector has for each image."""
    batch = to_batch(make_inputs(case), model.size_divisible)
    with torch.inference_mode():
        output = model.eval().rpn(model.extract_features(batch))
        proposals = model.rpn.propose(output, batch.sizes, training=False)
    return proposals.valid.sum(1).tolist()


def _to_detected(output: Any, case: Case) -> Detected:
    """Return boxes, scores and labels of a library's output."""
    if isinstance(output, list) and hasattr(output[0], "pred_instances"):  # mmdetection
        instances = [image.pred_instances for image in output]
        return [(d.bboxes.float(), d.scores.float(), d.labels) for d in instances]
    if isinstance(output, list) and "instances" in output[0]:  # detectron2
        instances = [image["instances"] for image in output]
        return [(d.pred_boxes.tensor.float(), d.scores.float(), d.pred_classes) for d in instances]
    if isinstance(output, list):  # torchvision
        first_label = int(case.model != "retinanet")
        return [(d["boxes"].float(), d["scores"].float(), d["labels"] - first_label) for d in output]
    fields = zip(output.boxes.float(), output.scores.float(), output.labels, output.valid, strict=True)
    return [(boxes[valid], scores[valid], labels[valid]) for boxes, scores, labels, valid in fields]


def match(theirs: Detected, ours: Detected, limits: Sequence[float]) -> dict[str, Any]:
    """Match detections of a class one to one if boxes and scores differ by at most the limits; return counts."""
    counts: dict[str, Any] = {"theirs": 0, "ours": 0, "matched": 0, "pixels": 0.0, "score": 0.0}
    for (boxes, scores, labels), (own_boxes, own_scores, own_labels) in zip(theirs, ours, strict=True):
        counts["theirs"] += len(boxes)
        counts["ours"] += len(own_boxes)
        box_distance = (boxes[:, None] - own_boxes[None]).abs().amax(-1)
        score_distance = (scores[:, None] - own_scores[None]).abs()
        near = (labels[:, None] == own_labels[None]) & (box_distance <= limits[0])
        near &= score_distance <= limits[1]
        for i in range(len(boxes)):
            if near[i].any():
                j = int(torch.where(near[i], box_distance[i], torch.inf).argmin())
                near[:, j] = False
                counts["matched"] += 1
                counts["pixels"] = max(counts["pixels"], box_distance[i, j].item())
                counts["score"] = max(counts["score"], score_distance[i, j].item())
    return counts


def losses_agree(case: Case, weights: Path) -> dict[str, Any]:
    """Compare the losses of one image where every candidate is sampled, so that they do not depend on random numbers.

    Returns:
        ``same``: sums of losses and gradient norms differ by at most 1 %; losses by name, norm of the gradient over
        all trained parameters, and the number of these.
    """
    # torchvision's RetinaNet normalizes by the positives of each image, ours by those of the batch: one image is equal.
    case = replace(case, batch=1)
    inputs = make_inputs(case)
    result: dict[str, Any] = {}
    for name in ("ours", "torchvision"):
        if name == "ours":
            model = build_libradet(case, weights)
            _sample_all_libradet(model, case)
            subject = prepare_libradet(model, case, Contender("ours", "fp32"), inputs)
        else:
            subject = prepare_torchvision(case, "plain", inputs, weights)
            _sample_all_torchvision(subject.model)
        losses = subject.call()
        sum_losses(losses).backward()
        trained = [p for p in subject.model.parameters() if p.requires_grad]
        gradients = [p.grad.norm() for p in trained if p.grad is not None]
        result[name] = {
            "losses": {key: loss.item() for key, loss in losses.items()},
            "total": sum_losses(losses).item(),
            "gradient": torch.stack(gradients).norm().item(),
            "trained": sum(p.numel() for p in trained),
        }
    ours, theirs = result["ours"], result["torchvision"]
    differ = {key: abs(ours[key] / theirs[key] - 1) for key in ("total", "gradient")}
    same = max(differ.values()) <= MAX_LOSS_DIFFERENCE
    return {"same": same, "differ": differ, **result}


def _count_candidates(case: Case, config) -> tuple[int, int]:
    """Return the number of anchors and of boxes that the RoI heads sample from."""
    cells = sum(-(-case.size[0] // s) * -(-case.size[1] // s) for s in (4, 8, 16, 32, 64))
    return 3 * cells, config.rpn.train_proposals.post_nms_top_n + case.objects


def _sample_all_libradet(model, case: Case) -> None:
    if model.rpn is not None:
        sizes = _count_candidates(case, model.config)
        for part, size in zip((model.config.rpn, model.config.roi), sizes, strict=True):
            part.sampling.batch_size_per_image, part.sampling.positive_fraction = size + size % 2, 0.5


def _sample_all_torchvision(model) -> None:
    if hasattr(model, "rpn"):
        for part in (model.rpn, model.roi_heads):
            part.fg_bg_sampler.batch_size_per_image, part.fg_bg_sampler.positive_fraction = 10**6, 0.5

"""Do ours and torchvision's find the same things, and learn the same from them? Asked before anything is timed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Case, Contender
from benchmarks.scene import draw
from benchmarks.sides import Side, our_model, ours, torchvision, total
from benchmarks.step import stepper

Found = list[tuple[Tensor, Tensor, Tensor]]
"""Boxes, scores and labels of each image."""

EXACT = (0.1, 1e-3)
"""Pixels and score by which two equal detections may differ: by rounding."""
NEAR = (8.0, 0.1)
"""The same where one was found in bf16, which has three digits."""
LEAST = 0.98
LOSSES_DIFFER = 0.01


def detections_agree(case: Case, weights: Path) -> dict[str, Any]:
    """How many of torchvision's detections (fp32) others find, too.

    Returns:
        ``same``: at least 98 % of them are found by ours in fp32, which finds no more than those 2 % beside them;
        numbers behind that; what bf16 makes of them, here and there.
    """
    scene = draw(case)
    first = int(case.model != "retinanet")
    model = our_model(case, weights)
    # As it is loaded, before it is made faster: how many proposals the second stage is given.
    proposals = {} if model.rpn is None else {"ours": _count_proposals(model, case)}
    found: dict[str, Found] = {}
    there = torchvision(case, "plain", scene, weights)
    given: list[list[int]] = []
    if proposals:
        there.model.rpn.register_forward_hook(lambda _m, _i, out: given.append([len(boxes) for boxes in out[0]]))
    for precision in ("fp32", "bf16"):
        found[f"torchvision-{precision}"] = _theirs(there, case, precision, first)
    proposals |= {"theirs": given[0]} if given else {}
    for precision in ("fp32", "bf16"):
        here = ours(our_model(case, weights), case, Contender("ours", precision), scene)
        found[f"ours-{precision}"] = _ours(here, case, precision)
    reference = found.pop("torchvision-fp32")
    exact = match(reference, found["ours-fp32"], EXACT)
    near = {name: match(reference, other, NEAR)["matched"] for name, other in found.items()}
    number = max(exact["theirs"], exact["ours"], 1)
    same = exact["matched"] >= LEAST * number
    return {"same": same, "proposals": proposals, **exact, "near": near}


def _count_proposals(model, case: Case) -> list[int]:
    from benchmarks.scene import as_batch
    from libradet.models.rpn import propose

    batch = as_batch(draw(case), model.divisor)
    with torch.inference_mode():
        output = model.eval().rpn(model.extract_features(batch))
        made = propose(output, batch.sizes, model.config.rpn.test_proposals, model.rpn.per_cell)
    return made.valid.sum(1).tolist()


def _theirs(side: Side, case: Case, precision: str, first: int) -> Found:
    found = stepper(side, case, precision)()
    return [(f["boxes"].float(), f["scores"].float(), f["labels"] - first) for f in found]


def _ours(side: Side, case: Case, precision: str) -> Found:
    d = stepper(side, case, precision)()
    fields = zip(d.boxes.float(), d.scores.float(), d.labels, d.valid, strict=True)
    return [(boxes[valid], scores[valid], labels[valid]) for boxes, scores, labels, valid in fields]


def match(theirs: Found, others: Found, limits: Sequence[float]) -> dict[str, Any]:
    """Pair detections of one class one to one, where boxes and scores differ by no more than the limits."""
    row: dict[str, Any] = {"theirs": 0, "ours": 0, "matched": 0, "pixels": 0.0, "score": 0.0}
    for (boxes, scores, labels), (own_boxes, own_scores, own_labels) in zip(theirs, others, strict=True):
        row["theirs"] += len(boxes)
        row["ours"] += len(own_boxes)
        away = (boxes[:, None] - own_boxes[None]).abs().amax(-1)
        off = (scores[:, None] - own_scores[None]).abs()
        near = (labels[:, None] == own_labels[None]) & (away <= limits[0]) & (off <= limits[1])
        for i in range(len(boxes)):
            if near[i].any():
                j = int(torch.where(near[i], away[i], torch.inf).argmin())
                near[:, j] = False
                row["matched"] += 1
                row["pixels"] = max(row["pixels"], away[i, j].item())
                row["score"] = max(row["score"], off[i, j].item())
    return row


def losses_agree(case: Case, weights: Path) -> dict[str, Any]:
    """Losses of one image where every candidate is a sample, so that chance has no part in them.

    Returns:
        ``same``: their sums differ by 1 % at most, and as many parameters are trained; losses by name, length of the
        gradient over all trained parameters, number of those.
    """
    # torchvision's RetinaNet divides by the positives of each image, ours by those of all: one image is alike.
    case = replace(case, batch=1)
    scene = draw(case)
    result: dict[str, Any] = {}
    for name in ("ours", "torchvision"):
        if name == "ours":
            model = our_model(case, weights)
            _sample_all_here(model, case)
            side = ours(model, case, Contender("ours", "fp32"), scene)
        else:
            side = torchvision(case, "plain", scene, weights)
            _sample_all_there(side.model, case)
        losses = side.call()
        total(losses).backward()
        trained = [p for p in side.model.parameters() if p.requires_grad]
        gradients = [p.grad.norm() for p in trained if p.grad is not None]
        result[name] = {
            "losses": {key: loss.item() for key, loss in losses.items()},
            "total": total(losses).item(),
            "gradient": torch.stack(gradients).norm().item(),
            "trained": sum(p.numel() for p in trained),
        }
    a, b = result["ours"], result["torchvision"]
    differ = {key: abs(a[key] / b[key] - 1) for key in ("total", "gradient")}
    same = max(differ.values()) <= LOSSES_DIFFER
    return {"same": same, "differ": differ, **result}


def _candidates(case: Case, config) -> tuple[int, int]:
    """How many anchors there are, and how many boxes the second stage chooses from."""
    cells = sum(-(-case.size[0] // s) * -(-case.size[1] // s) for s in (4, 8, 16, 32, 64))
    return 3 * cells, config.rpn.train_proposals.total + case.objects


def _sample_all_here(model, case: Case) -> None:
    if model.rpn is not None:
        sizes = _candidates(case, model.config)
        for part, size in zip((model.config.rpn, model.config.roi), sizes, strict=True):
            part.sampling.size, part.sampling.positive_fraction = size + size % 2, 0.5


def _sample_all_there(model, case: Case) -> None:
    if hasattr(model, "rpn"):
        for part in (model.rpn, model.roi_heads):
            part.fg_bg_sampler.batch_size_per_image, part.fg_bg_sampler.positive_fraction = 10**6, 0.5

"""Gradients of single loss terms: their norm at each pyramid level, and classification against box regression."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from libradet.analysis.candidates import at_end_of_schedules, capture_activations
from libradet.analysis.uncertainty import estimate
from libradet.data.batch import Batch
from libradet.inference.run_model import eval_mode
from libradet.models.detector import Detector

_BEFORE = "pyramid before balancing"


class GradientStatistics:
    """Norms of the gradient of each loss term at shared tensors, accumulated image by image."""

    def __init__(self) -> None:
        self._losses: list[dict[str, float]] = []
        self._norms: list[dict[str, dict[str, float]]] = []
        self._levels: list[dict[str, list[float]]] = []
        self._cosines: list[dict[str, float]] = []

    def update(self, losses: dict[str, Tensor], places: dict[str, list[Tensor]], pyramid: list[Tensor]) -> None:
        """Add the losses of one image.

        Args:
            places: tensors that several losses depend on, by a name for the place.
            pyramid: levels before balancing; ``places["pyramid"]`` are those that the heads receive.
        """
        self._losses.append({name: float(loss.detach()) for name, loss in losses.items()})
        all_places = places | {_BEFORE: pyramid}
        gradients = {name: _gradients(loss, all_places) for name, loss in losses.items()}
        self._norms.append(
            {place: {name: _norm(by_place[place]) for name, by_place in gradients.items()} for place in places}
        )
        self._cosines.append(
            {
                f"{place}/{a}/{b}": _cosine(gradients[a][place], gradients[b][place])
                for place in places
                for a, b in task_pairs(list(losses))
            }
        )
        self._levels.append({"before": _total_norms(gradients, _BEFORE), "after": _total_norms(gradients, "pyramid")})

    def compute(self, seed: int) -> dict[str, Any]:
        """Return means over images of losses and gradient norms, and the ratio of each pair of tasks."""
        names = list(self._losses[0])
        places = list(self._norms[0])
        norms = {
            place: {name: float(np.mean([n[place][name] for n in self._norms])) for name in names} for place in places
        }
        pairs = []
        for place in places:
            for a, b in task_pairs(names):
                first, second = (np.array([n[place][name] for n in self._norms]) for name in (a, b))
                if first.any() and second.any():
                    cosine = float(np.mean([c[f"{place}/{a}/{b}"] for c in self._cosines]))
                    ratio = estimate(first, second, seed)
                    pairs.append({"place": place, "class": a, "box": b, "ratio": ratio, "cosine": cosine})
        return {
            "images": len(self._losses),
            "losses": {name: float(np.mean([loss[name] for loss in self._losses])) for name in names},
            "norms": norms,
            "pairs": pairs,
            "levels": {when: np.mean([n[when] for n in self._levels], 0).tolist() for when in ("before", "after")},
        }


def measure_gradients(model: Detector, batches: Iterable[Batch], statistics: GradientStatistics, seed: int) -> None:
    """Add the training losses of every image to ``statistics``; each batch holds one image.

    Normalization layers use their stored statistics, and samplers with a schedule draw as at its end. The model is left
    unchanged.
    """
    with (
        eval_mode(model),
        at_end_of_schedules(model),
        capture_activations(model) as activations,
        torch.random.fork_rng(),
        torch.enable_grad(),
    ):
        # This flag alone decides whether the detector returns losses; its submodules stay in evaluation mode.
        model.training = True
        for number, batch in enumerate(batches):
            torch.manual_seed(seed * 1_000_003 + number)
            losses = {name: loss for name, loss in _weighted_losses(model, batch).items() if loss.requires_grad}
            statistics.update(losses, shared_places(model, activations.balanced), activations.pyramid)


def _weighted_losses(model: Detector, batch: Batch) -> dict[str, Tensor]:
    """Return the losses, without the log variances that uncertainty weighting adds to them, which may be negative."""
    losses = model(batch)
    added = {} if model.loss_weights is None else model.loss_weights.by_name()
    return {name: loss - added.get(f"log_variance_{name}", 0.0) for name, loss in losses.items()}


def shared_places(model: Detector, balanced: list[Tensor]) -> dict[str, list[Tensor]]:
    """Return the pyramid that all heads read, and the last layer that both tasks of a head share."""
    places = {"pyramid": balanced}
    head = None if model.roi is None else model.roi.box_heads[0]
    layers: dict[str, nn.Module | None] = {
        "RoI heads": _last(head, nn.Linear, ("logits", "deltas")),
        "RPN": _last(model.rpn, nn.Conv2d, ("logits", "deltas")),
    }
    for name, layer in layers.items():
        if layer is not None:
            places[f"last shared layer of the {name}"] = [layer.get_parameter("weight")]
    return places


def task_pairs(names: list[str]) -> list[tuple[str, str]]:
    """Return the pairs of classification and box losses of the same stage."""
    return [
        (name, name.replace("class", "box"))
        for name in names
        if "class" in name and name.replace("class", "box") in names
    ]


def _last(head: nn.Module | None, kind: type[nn.Module], without: tuple[str, ...]) -> nn.Module | None:
    if head is None:
        return None
    layers = [layer for name, layer in head.named_modules() if isinstance(layer, kind) and name not in without]
    return layers[-1] if layers else None


def _gradients(loss: Float[Tensor, ""], places: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    """Return the gradients at all places, in one backward pass."""
    tensors = [x for place in places.values() for x in place]
    raw = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    gradients = iter(torch.zeros_like(x) if g is None else g for g, x in zip(raw, tensors, strict=True))
    return {name: list(islice(gradients, len(place))) for name, place in places.items()}


def _total_norms(gradients: dict[str, dict[str, list[Tensor]]], place: str) -> list[float]:
    """Return the norm of the summed gradient of all losses at each tensor of a place."""
    by_tensor = zip(*(by_place[place] for by_place in gradients.values()), strict=True)
    return [_norm([torch.stack(parts).sum(0)]) for parts in by_tensor]


def _norm(gradients: list[Tensor]) -> float:
    return float(torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt())


def _cosine(a: list[Tensor], b: list[Tensor]) -> float:
    shared = torch.stack([(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]).sum()
    return float(shared) / max(_norm(a) * _norm(b), 1e-30)

"""Gradients of single loss terms: where in the pyramid they arrive, and which of two tasks is louder."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from libradet.analysis.uncertainty import estimate
from libradet.analysis.watching import watching
from libradet.data.batch import Batch
from libradet.models.detector import Detector
from libradet.models.roi_head import BoxHead

_BEFORE = "pyramid before balancing"


class GradientTally:
    """Norms of the gradients that each loss term sends to shared places, one image at a time."""

    def __init__(self) -> None:
        self._losses: list[dict[str, float]] = []
        self._norms: list[dict[str, dict[str, float]]] = []
        self._levels: list[dict[str, list[float]]] = []
        self._cosines: list[dict[str, float]] = []

    def update(self, losses: dict[str, Tensor], places: dict[str, list[Tensor]], pyramid: list[Tensor]) -> None:
        """Take in the losses of one image.

        Args:
            places: tensors that several losses depend on, by the name of the place.
            pyramid: levels before balancing; ``places["pyramid"]`` holds them as the heads read them.
        """
        self._losses.append({name: float(loss.detach()) for name, loss in losses.items()})
        every = places | {_BEFORE: pyramid}
        sent = {name: _gradients(loss, every) for name, loss in losses.items()}
        self._norms.append({place: {name: _norm(found[place]) for name, found in sent.items()} for place in places})
        self._cosines.append(
            {
                f"{place}/{a}/{b}": _cosine(sent[a][place], sent[b][place])
                for place in places
                for a, b in task_pairs(list(losses))
            }
        )
        self._levels.append({"before": _of_all(sent, _BEFORE), "after": _of_all(sent, "pyramid")})

    def result(self, seed: int) -> dict[str, Any]:
        """Means over images: of losses, of norms by place and loss, of norms by level; and the louder task."""
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


def measure_gradients(model: Detector, batches: Iterable[Batch], tally: GradientTally, seed: int) -> None:
    """Show ``tally`` the losses of every image; batches hold one each. Weights and norms' statistics do not change.

    Losses are those of training, except that norms use their stored statistics.
    """
    before = [(part, part.training) for part in model.modules()]
    model.eval()
    # This flag alone decides whether the detector gives losses; its parts stay in evaluation mode.
    model.training = True
    try:
        with watching(model) as seen, torch.random.fork_rng(), torch.enable_grad():
            for number, batch in enumerate(batches):
                torch.manual_seed(seed * 1_000_003 + number)
                losses = {name: loss for name, loss in model(batch).items() if loss.requires_grad}
                tally.update(losses, shared_places(model, seen.balanced), seen.pyramid)
    finally:
        for part, training in before:
            part.training = training


def shared_places(model: Detector, balanced: list[Tensor]) -> dict[str, list[Tensor]]:
    """The pyramid that all heads read, and the last layer that classes and boxes of a head share."""
    places = {"pyramid": balanced}
    head = model.roi if isinstance(model.roi, BoxHead) else next(iter(model.roi.children())) if model.roi else None
    layers: dict[str, nn.Module | None] = {
        "second stage": _last(head, nn.Linear, ("logits", "deltas")),
        "rpn": _last(model.rpn, nn.Conv2d, ("logits", "deltas")),
    }
    for name, layer in layers.items():
        if layer is not None:
            places[f"last shared layer of the {name}"] = [layer.get_parameter("weight")]
    return places


def task_pairs(names: list[str]) -> list[tuple[str, str]]:
    """Names of the classification and localization losses that belong together."""
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
    """In one backward pass."""
    tensors = [x for place in places.values() for x in place]
    found = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    gradients = iter(torch.zeros_like(x) if g is None else g for g, x in zip(found, tensors, strict=True))
    return {name: list(islice(gradients, len(place))) for name, place in places.items()}


def _of_all(sent: dict[str, dict[str, list[Tensor]]], place: str) -> list[float]:
    """Norm of the gradient that all losses together send to each tensor of a place."""
    return [
        _norm([torch.stack(parts).sum(0)]) for parts in zip(*(found[place] for found in sent.values()), strict=True)
    ]


def _norm(gradients: list[Tensor]) -> float:
    return float(torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt())


def _cosine(a: list[Tensor], b: list[Tensor]) -> float:
    shared = torch.stack([(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]).sum()
    return float(shared) / max(_norm(a) * _norm(b), 1e-30)

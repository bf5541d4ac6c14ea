"""Balancing of frequent and rare classes in the classification loss of a box head.

Each module is called with the samples that are trained on, and in training mode counts them; its ``sample_losses``
returns losses without counting.
"""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from libradet.models.config import ClassBalanceConfig, DetectorConfig
from libradet.utils.distributed import world_size


class ClassWeights(nn.Module):
    """Cross entropy in which each class has a fixed weight, and the background weighs 1.

    Args:
        weights: one per class.
    """

    weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        # Not saved: the configuration has the frequencies from which they follow.
        self.register_buffer("weights", torch.ones(len(weights) + 1), persistent=False)
        self.set_weights(weights)

    def set_weights(self, weights: Sequence[float]) -> None:
        """Replace the weights of the classes."""
        self.weights.copy_(torch.tensor([*weights, 1.0]))

    def forward(
        self, logits: Float[Tensor, "N C1"], labels: Int[Tensor, " N"], valid: Bool[Tensor, " N"]
    ) -> Float[Tensor, " N"]:
        """Return the loss of each sample."""
        return self.sample_losses(logits, labels)

    def sample_losses(self, logits: Float[Tensor, "N C1"], labels: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return the weighted cross entropy of each sample; label C is background."""
        return self.weights[labels] * F.cross_entropy(logits, labels, reduction="none")


class SeesawLoss(nn.Module):
    """Seesaw loss (Wang et al., CVPR 2021, equations 3 to 6), in which frequent classes suppress rare ones less.

    A sample of class i counts the exponential of another class j times M_ij * C_ij. The mitigation factor M_ij is
    (N_j / N_i)^p if class j has had fewer samples than i, else 1; the compensation factor C_ij is (s_j / s_i)^q, of the
    softmax scores s, if j has the higher score, else 1. A score s_i below 0.01 counts as 0.01. The authors treat the
    background in a branch of its own; here it is a class of the softmax for which both factors are 1.

    Args:
        num_classes: C.
        p, q: exponents of mitigation and compensation; 0 switches a factor off.

    Attributes:
        counts: number of samples of each class so far, of all processes; saved with the weights.
    """

    MIN_SCORE = 0.01

    counts: Tensor

    def __init__(self, num_classes: int, p: float, q: float) -> None:
        super().__init__()
        self.p, self.q = p, q
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))

    def forward(
        self, logits: Float[Tensor, "N C1"], labels: Int[Tensor, " N"], valid: Bool[Tensor, " N"]
    ) -> Float[Tensor, " N"]:
        """Return the loss of each sample; in training mode, its samples are counted first."""
        if self.training:
            self._count(labels, valid)
        return self.sample_losses(logits, labels)

    def sample_losses(self, logits: Float[Tensor, "N C1"], labels: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return the loss of each sample with the counts so far."""
        logits = logits + self._log_factors(logits, labels)
        return F.cross_entropy(logits, labels, reduction="none")

    @torch.no_grad()
    def _count(self, labels: Int[Tensor, " N"], valid: Bool[Tensor, " N"]) -> None:
        num_classes = len(self.counts)
        samples = self.counts.new_zeros(num_classes + 1).scatter_add(0, labels, valid.long())[:num_classes]
        if world_size() > 1:
            dist.all_reduce(samples)
        self.counts.add_(samples)

    @torch.no_grad()
    def _log_factors(self, logits: Float[Tensor, "N C1"], labels: Int[Tensor, " N"]) -> Float[Tensor, "N C1"]:
        """Return log(M_ij * C_ij) of each sample of class i and each class j; 0 where one is the background."""
        log_counts = self.counts.clamp(min=1).float().log()
        own_class = labels.clamp(max=len(log_counts) - 1)
        log_mitigation = self.p * (log_counts[None] - log_counts[own_class, None]).clamp(max=0)
        log_scores = logits.log_softmax(1)
        own_score = log_scores.gather(1, labels[:, None]).clamp(min=math.log(self.MIN_SCORE))
        log_compensation = self.q * (log_scores[:, :-1] - own_score).clamp(min=0)
        is_object = (labels < len(log_counts))[:, None]
        return F.pad((log_mitigation + log_compensation) * is_object, (0, 1))


class EqualizationLoss(nn.Module):
    """Equalization loss v2 (Tan et al., CVPR 2021): binary cross entropy that evens out gradients within each class.

    Each class, and the background as the last one, is a classifier of its own: the loss of a sample is the sum of its
    C + 1 binary cross entropies. Class j is weighted by 1 + alpha * (1 - f(g_j)) in its own samples and by f(g_j) in
    all others, background included; f(g) = 1 / (1 + exp(-gamma * (g - mu))), and g_j is the ratio of the weighted
    gradients at the logit of class j that its own samples and all others have had in the steps before. All weights are
    1 in the first step, and those of the background always. That is the published code, whose "objectness branch" is
    the background's logit: detections are scored by :func:`class_scores`.

    Args:
        num_classes: C.
        gamma, mu: steepness and center of f.
        alpha: how much more a class's own samples weigh.

    Attributes:
        positive_gradients, negative_gradients: sums of absolute values so far, of all processes; saved with the
            weights.
    """

    positive_gradients: Tensor
    negative_gradients: Tensor

    def __init__(self, num_classes: int, gamma: float, mu: float, alpha: float) -> None:
        super().__init__()
        self.gamma, self.mu, self.alpha = gamma, mu, alpha
        self.register_buffer("positive_gradients", torch.zeros(num_classes))
        self.register_buffer("negative_gradients", torch.zeros(num_classes))

    def forward(
        self, logits: Float[Tensor, "N C1"], labels: Int[Tensor, " N"], valid: Bool[Tensor, " N"]
    ) -> Float[Tensor, " N"]:
        """Return the loss of each sample; in training mode, its gradients count from the next step on."""
        targets = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        weights = self._weights(targets)
        if self.training:
            self._accumulate(logits, targets, weights * valid[:, None])
        return _weighted_binary_losses(logits, targets, weights)

    def sample_losses(self, logits: Float[Tensor, "N C1"], labels: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return the loss of each sample with the gradients so far."""
        targets = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return _weighted_binary_losses(logits, targets, self._weights(targets))

    @torch.no_grad()
    def _weights(self, targets: Float[Tensor, "N C1"]) -> Float[Tensor, "N C1"]:
        negative = self.negative_gradients
        ratio = torch.where(negative > 0, self.positive_gradients / negative.clamp(min=1e-10), torch.inf)
        of_others = F.pad(torch.sigmoid(self.gamma * (ratio - self.mu)), (0, 1), value=1.0)
        of_own = 1 + self.alpha * (1 - of_others)
        return torch.where(targets > 0, of_own, of_others)

    @torch.no_grad()
    def _accumulate(
        self, logits: Float[Tensor, "N C1"], targets: Float[Tensor, "N C1"], weights: Float[Tensor, "N C1"]
    ) -> None:
        gradients, targets = (weights * (logits.sigmoid() - targets).abs())[:, :-1], targets[:, :-1]
        sums = torch.stack([(gradients * targets).sum(0), (gradients * (1 - targets)).sum(0)])
        if world_size() > 1:
            dist.all_reduce(sums)
        self.positive_gradients.add_(sums[0])
        self.negative_gradients.add_(sums[1])


def _weighted_binary_losses(
    logits: Float[Tensor, "N C1"], targets: Float[Tensor, "N C1"], weights: Float[Tensor, "N C1"]
) -> Float[Tensor, " N"]:
    return (weights * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")).sum(1)


ClassBalance = ClassWeights | SeesawLoss | EqualizationLoss


def build_class_balance(config: ClassBalanceConfig | None, num_classes: int) -> ClassBalance | None:
    """Return the module of a configuration; None without one."""
    if config is None:
        return None
    if config.type == "seesaw":
        return SeesawLoss(num_classes, config.p, config.q)
    if config.type == "eql_v2":
        return EqualizationLoss(num_classes, config.gamma, config.mu, config.alpha)
    return ClassWeights(class_weights(config, num_classes))


def uses_sigmoid(config: ClassBalanceConfig | None) -> bool:
    """Return whether each class is a classifier of its own, so that scores do not sum to 1."""
    return config is not None and config.type == "eql_v2"


def class_scores(logits: Float[Tensor, "*N C1"], config: ClassBalanceConfig | None) -> Float[Tensor, "*N C1"]:
    """Return the score of each class, background last: softmax, or with equalization loss v2 sigmoid.

    With the latter, the sigmoid of a class is multiplied by 1 - sigmoid of the background.
    """
    if not uses_sigmoid(config):
        return logits.softmax(-1)
    scores = logits.sigmoid()
    background = scores[..., -1:]
    return torch.cat([scores[..., :-1] * (1 - background), background], -1)


def unbalanced_losses(
    logits: Float[Tensor, "N C1"], labels: Int[Tensor, " N"], config: ClassBalanceConfig | None
) -> Float[Tensor, " N"]:
    """Return the loss of each sample without balance: cross entropy, or the sum of those of binary classifiers."""
    if not uses_sigmoid(config):
        return F.cross_entropy(logits, labels, reduction="none")
    targets = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)


def class_weights(config: ClassBalanceConfig, num_classes: int) -> list[float]:
    """Return the weight of each class, all 1 if the frequencies are not known.

    The weights of classes with objects are 1 on average. A class without an object weighs as much as one with a single
    object: none of its samples is in a loss.
    """
    counts = [max(count, 1) for count in config.frequencies] or [1] * num_classes
    if config.type == "effective_number":
        weights = [(1 - config.beta) / (1 - config.beta**count) for count in counts]
    else:
        weights = [1 / count for count in counts]
    present = [weight for weight, count in zip(weights, config.frequencies, strict=False) if count > 0] or weights
    mean = sum(present) / len(present)
    return [weight / mean for weight in weights]


def needs_frequencies(config: DetectorConfig) -> bool:
    """Return whether a configuration has class weights whose frequencies are still to be counted."""
    balance = None if config.roi is None else config.roi.class_balance
    if balance is None or balance.frequencies:
        return False
    return balance.type in ("inverse_frequency", "effective_number")

"""Gradients are freed when each library's training frees them, and memory is counted once."""

import pytest
import torch
from torch import nn

from benchmarks.cases import Case
from benchmarks.memory_parts import MIB, count_saved
from benchmarks.models import ModelUnderTest
from benchmarks.resources import peak_allocated
from benchmarks.step import make_step

CASE = Case("train", "faster_rcnn", (128, 192), 1)


def tiny_subject(training):
    model = nn.Linear(4, 4)
    x = torch.ones(2, 4)
    seen = []

    def call():
        y = model(x)
        seen.append(model.weight.grad is None)
        return {"loss": y.square().sum()}

    return ModelUnderTest(model, call, training=training), seen


@pytest.mark.parametrize(
    ("training", "freed"),
    [("freeing", [True, True, True]), ("fused", [True, True, True]), ("plain", [True, False, False])],
)
def test_gradients_are_freed_before_the_next_forward_pass_only_by_libradet(training, freed):
    subject, seen = tiny_subject(training)
    step = make_step(subject, CASE, "fp32")
    losses = [step()["loss"].item() for _ in freed]
    assert seen == freed
    assert (subject.model.weight.grad is None) == (training != "plain")
    assert losses == losses[:1] * 3


def test_a_tensor_that_several_operations_save_is_counted_once_and_parameters_never():
    model = nn.Linear(4, 4)
    with count_saved(ModelUnderTest(model, lambda: None)) as saved:
        x = model(torch.ones(2, 4))  # saves its input
        y = x.square() + x.exp()  # the square saves x, the exponential its output
        z = y * x.flatten()[:4]  # saves both
    assert z.requires_grad
    sizes = [2 * 4 * 4] * 4  # the input, x, its exponential, y
    assert sorted(saved.values()) == sizes


def test_the_peak_of_a_step_is_that_of_its_largest_moment():
    def step():
        kept = torch.zeros(MIB // 4)
        twice = torch.zeros(MIB // 2)
        del twice
        torch.zeros(MIB // 4).add_(kept)

    assert peak_allocated(step) == 3 * MIB

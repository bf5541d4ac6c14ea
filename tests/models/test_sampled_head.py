import pytest
import torch

from libradet.models import rpn as rpn_module
from libradet.models.config import RPNConfig, SamplingConfig
from libradet.models.ops.sampled_head import neighborhoods
from libradet.models.profiling.memory import MemoryTracker
from libradet.models.rpn import RPNHead
from tests.helpers.tiny_detectors import tiny_batch

STRIDES = [4, 8, 16, 32, 64]
CHANNELS = 8


def make_head(samples=64, num_convs=1):
    torch.manual_seed(0)
    sampling = SamplingConfig(batch_size_per_image=samples, positive_fraction=0.5)
    head = RPNHead(CHANNELS, STRIDES, RPNConfig(sampling=sampling, num_convs=num_convs))
    for p in head.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return head


def make_features(size=(128, 192), dtype=torch.float32, layout=torch.contiguous_format):
    g, shapes = torch.Generator().manual_seed(1), [(-(-size[0] // s), -(-size[1] // s)) for s in STRIDES]
    maps = (torch.randn(2, CHANNELS, *shape, generator=g, dtype=dtype) for shape in shapes)
    return [x.to(memory_format=layout).requires_grad_() for x in maps]


def losses_and_gradients(head, features):
    torch.manual_seed(2)
    output = head(features)
    losses = head.losses(output, tiny_batch())
    gradients = torch.autograd.grad(losses["rpn_class"] + 3 * losses["rpn_box"], [*features, *head.parameters()])
    return output, losses, gradients


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(128, 192), (100, 150)])
def test_losses_are_the_dense_ones_and_gradients_are_equal(monkeypatch, layout, size):
    head, features = make_head().double(), make_features(size, torch.float64, layout)
    sampled, losses, gradients = losses_and_gradients(head, features)
    monkeypatch.setattr(rpn_module, "is_supported", lambda *args: False)
    dense, dense_losses, dense_gradients = losses_and_gradients(head, features)
    assert sampled.features is not None
    assert dense.features is None
    assert losses == dense_losses
    for ours, theirs in zip(gradients, dense_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert all(g.abs().max() > 0 for g in (gradients[0], *gradients[len(STRIDES) :]))


def test_losses_are_the_dense_ones_under_autocast(monkeypatch):
    head, features = make_head(), make_features()
    with torch.autocast("cpu", torch.bfloat16):
        _, losses, gradients = losses_and_gradients(head, features)
        monkeypatch.setattr(rpn_module, "is_supported", lambda *args: False)
        _, dense_losses, dense_gradients = losses_and_gradients(head, features)
    assert losses == dense_losses
    for ours, theirs in zip(gradients, dense_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02 * float(theirs.abs().max()))


def test_no_map_of_the_head_is_kept_for_the_backward_pass():
    kept = []

    def keep(x):
        kept.append(x.numel())
        return x

    head, features = make_head(), make_features()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        losses = head.losses(head(features), tiny_batch())
    assert losses["rpn_class"].requires_grad
    # The largest are the neighborhoods of 64 samples in each image and their masks.
    assert max(kept) <= 2 * 64 * 9 * CHANNELS


def test_one_map_of_the_head_exists_at_a_time():
    channels, maps = 64, [torch.ones(1, 64, 64, 64), *(torch.ones(1, 64, 64 // 2**i, 64 // 2**i) for i in range(1, 5))]
    head = RPNHead(channels, STRIDES, RPNConfig(sampling=SamplingConfig(batch_size_per_image=64)))
    weights = list(head.parameters())
    with MemoryTracker([*maps, *weights]) as tracker:
        output = head(maps)
    assert output.features is maps
    largest = maps[0].nbytes
    copies = 2 * head.convs[0].weight.nbytes  # that the tracker adds for a convolution
    assert max(tracker.bytes) - sum(t.nbytes for t in (*maps, *weights)) < 1.6 * largest + copies
    assert all((x == 1).all() for x in maps)
    dense = head.eval()(maps)
    assert torch.equal(output.logits, dense.logits)
    assert torch.equal(output.deltas, dense.deltas)


@pytest.mark.parametrize("head", [make_head(samples=512), make_head(num_convs=2)], ids=["many samples", "two layers"])
def test_heads_that_are_not_supported_are_dense(head):
    output = head(make_features())
    assert output.features is None
    assert output.logits.requires_grad


def test_neighborhoods_end_at_the_border_of_their_level():
    features = [torch.full((1, 1, 2, 2), 1.0), torch.full((1, 1, 1, 1), 5.0)]
    patches = neighborhoods(features, torch.tensor([[0, 7, 9]]), num_anchors=2)
    assert patches.tolist() == [
        [0, 0, 0, 0, 1, 1, 0, 1, 1],
        [1, 1, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 5, 0, 0, 0, 0],
    ]

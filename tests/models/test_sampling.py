import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libradet.geometry.matching import IGNORED, NEGATIVE, Matches
from libradet.models.config import SamplingConfig
from libradet.models.sampling import max_positives, sample

POSITIVE_SAMPLERS = ["random", "instance_balanced", "ohem"]
NEGATIVE_SAMPLERS = ["random", "iou_balanced", "ohem"]


def make_matches(rows):
    gt = torch.tensor(rows)
    iou = torch.where(gt >= 0, 0.5 + torch.rand(gt.shape) / 2, torch.rand(gt.shape) / 2)
    return Matches(gt, iou)


@settings(deadline=None, max_examples=120)
@given(
    st.lists(st.lists(st.integers(IGNORED, 3), min_size=16, max_size=16), min_size=1, max_size=3),
    st.sampled_from(POSITIVE_SAMPLERS),
    st.sampled_from(NEGATIVE_SAMPLERS),
    st.sampled_from(["paper", "mmdet"]),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from([None, 0.5, 1.0, 3.0]),
)
def test_number_of_samples(rows, positives, negatives, bins, size, fraction, ratio):
    matches = make_matches(rows)
    config = SamplingConfig(size, fraction, positives, negatives, 3, bins, ratio)
    samples = sample(matches, 4, config, 0.5, torch.rand(matches.gt.shape))
    assert samples.index.shape == samples.valid.shape == samples.positive.shape == (len(rows), size)
    for b in range(len(rows)):
        gt = matches.gt[b]
        selected = samples.index[b][samples.valid[b]]
        assert len(set(selected.tolist())) == len(selected)
        assert (gt[selected] != IGNORED).all()
        assert torch.equal(gt[selected] >= 0, samples.positive[b][samples.valid[b]])
        assert not (samples.positive[b] & ~samples.valid[b]).any()
        num_positive = min(int((gt >= 0).sum()), max_positives(config))
        limit = size - num_positive if ratio is None else min(size - num_positive, int(ratio * max(num_positive, 1)))
        num_negative = min(int((gt == NEGATIVE).sum()), limit)
        assert int(samples.positive[b].sum()) == num_positive
        assert len(selected) == num_positive + num_negative
        # Positives come in the first slots, to which localization is restricted.
        assert samples.positive[b][:num_positive].all()


def test_iou_balanced_negatives_are_spread_over_bins():
    iou = torch.cat([torch.full((100,), 0.05), torch.full((100,), 0.2), torch.full((100,), 0.4), torch.full((9,), 0.9)])
    matches = Matches(torch.where(iou > 0.5, 0, NEGATIVE)[None], iou[None])
    config = SamplingConfig(batch_size_per_image=64, positive_fraction=0.25, negatives="iou_balanced", num_bins=3)
    samples = sample(matches, 1, config, max_iou=0.5)
    number = (samples.index[0][samples.valid[0] & ~samples.positive[0]] // 100).bincount()
    assert samples.positive.sum() == 9
    assert sorted(number.tolist()) == [18, 18, 19]


def test_ohem_samples_the_largest_losses():
    matches = make_matches([[NEGATIVE] * 8 + [0] * 8])
    candidate_loss = torch.arange(16.0)[None]
    samples = sample(matches, 1, SamplingConfig(6, 0.5, "ohem", "ohem"), 0.5, candidate_loss)
    assert sorted(samples.index[0].tolist()) == [5, 6, 7, 13, 14, 15]


def test_positives_are_spread_over_ground_truths():
    matches = make_matches([[0] * 50 + [1] * 4 + [2] * 20])
    samples = sample(matches, 3, SamplingConfig(32, 0.5, "instance_balanced"), 0.5)
    assert matches.gt[0][samples.index[0][samples.positive[0]]].bincount().tolist() == [6, 4, 6]

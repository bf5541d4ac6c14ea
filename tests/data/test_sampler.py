"""Batch sampler: order of training and evaluation, over several processes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from libradet.data.sampler import GroupedBatchSampler

group_id_lists = st.lists(st.integers(0, 2), min_size=1, max_size=40).map(
    lambda c: np.unique(c, return_inverse=True)[1]
)


@given(group_id_lists, st.integers(1, 4), st.integers(1, 3), st.integers(0, 5))
def test_training_order(group_ids, batch_size, world_size, epoch):
    ranks = [GroupedBatchSampler(group_ids, batch_size, True, 3, rank, world_size) for rank in range(world_size)]
    for sampler in ranks:
        sampler.set_epoch(epoch)
    plans = [list(sampler) for sampler in ranks]
    assert {len(plan) for plan in plans} == {len(ranks[0])}
    seen = [key.index for plan in plans for batch in plan for key in batch]
    assert set(seen) == set(range(len(group_ids)))
    for step in zip(*plans, strict=True):
        assert {len(batch) for batch in step} == {batch_size}
        assert len({group_ids[key.index] for batch in step for key in batch}) == 1
    whole = GroupedBatchSampler(group_ids, batch_size * world_size, True, 3, 0, 1)
    whole.set_epoch(epoch)
    assert list(whole) == [[key for batch in step for key in batch] for step in zip(*plans, strict=True)]


@given(group_id_lists, st.integers(1, 4), st.integers(1, 3))
def test_evaluation_order(group_ids, batch_size, world_size):
    plans = [list(GroupedBatchSampler(group_ids, batch_size, False, 3, rank, world_size)) for rank in range(world_size)]
    assert len({len(plan) for plan in plans}) == 1
    seen = [key.index for plan in plans for batch in plan for key in batch]
    assert set(seen) == set(range(len(group_ids)))
    if world_size == 1:
        assert len(seen) == len(group_ids)


@given(group_id_lists, st.integers(1, 4), st.integers(1, 3), st.integers(0, 5), st.integers(0, 3), st.data())
def test_processes_share_the_repeats_of_one(group_ids, batch_size, world_size, epoch, start, data):
    drawn = data.draw(st.lists(st.floats(0.25, 4), min_size=len(group_ids), max_size=len(group_ids)))
    options = True, 3
    whole = GroupedBatchSampler(group_ids, batch_size * world_size, *options, 0, 1, np.array(drawn))
    ranks = [
        GroupedBatchSampler(group_ids, batch_size, *options, rank, world_size, np.array(drawn))
        for rank in range(world_size)
    ]
    for sampler in (whole, *ranks):
        sampler.set_epoch(epoch)
        sampler.set_start(start)
    steps = list(zip(*ranks, strict=True))
    assert list(whole) == [[key for batch in step for key in batch] for step in steps]
    assert len(steps) == max(0, len(whole) - start)
    assert {len(batch) for step in steps for batch in step} <= {batch_size}


def test_epochs_and_seeds_differ():
    def order(seed, epoch):
        sampler = GroupedBatchSampler(np.zeros(30, np.int64), 3, True, seed, 0, 1)
        sampler.set_epoch(epoch)
        return [key.index for batch in sampler for key in batch]

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert orders[0] == order(0, 0)
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_start_skips_batches_of_the_current_epoch():
    sampler = GroupedBatchSampler(np.zeros(30, np.int64), 3, True, 0, 0, 1)
    sampler.set_epoch(4)
    full = list(sampler)
    sampler.set_start(7)
    sampler.set_epoch(4)
    assert list(sampler) == full[7:]
    assert len(sampler) == 10
    sampler.set_epoch(5)
    assert len(list(sampler)) == 10

"""Batch sampler whose order depends on (seed, epoch) only."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from libradet.data.dataset import SampleIndex
from libradet.data.repeat_factors import draw_repeats, num_repeated


class GroupedBatchSampler:
    """Lists of :class:`SampleIndex`, one for each batch of this process; images of a batch share a padded size.

    Training: every image at least once in an epoch; the last batch of a group is filled up with its first
    images, so that all batches are full. Evaluation: every image once over all processes, except
    that a process without images left repeats one to stay in step: gather results by ``Batch.index``.

    Args:
        group_ids: number of the padded size of each image.
        batch_size: images per process.
        training: shuffled and full batches; otherwise in order.
        seed: of the order.
        rank, world_size: of the processes that share the joint batches.
        factors: how often each image occurs in an epoch of training, on average; once each if None. Images with a
            factor below 1 occur in some epochs only.
    """

    def __init__(
        self,
        group_ids: Int64[ndarray, " N"],
        batch_size: int,
        training: bool,
        seed: int,
        rank: int,
        world_size: int,
        factors: Float64[ndarray, " N"] | None = None,
    ) -> None:
        self.group_ids, self.batch_size, self.training, self.seed = group_ids, batch_size, training, seed
        self.rank, self.world_size = rank, world_size
        self.factors = factors if training else None
        self.epoch, self.start = 0, 0
        joint = batch_size * world_size
        self.length = sum(-(-count // joint) for count in self._group_sizes())

    def set_epoch(self, epoch: int) -> None:
        """Change to another epoch, from its first batch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def set_start(self, batches: int) -> None:
        """Skip the first batches of the current epoch, without loading their images."""
        self.start = batches

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""
        return self.length

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        joint_batches = self._shuffled() if self.training else self._in_order()
        for rows in joint_batches[self.start :]:
            own = rows[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
            own = own if len(own) else rows[-1:]
            yield [SampleIndex(self.epoch, int(index), int(repeat)) for index, repeat in own]

    def _group_sizes(self) -> list[int]:
        if self.factors is None:
            return np.bincount(self.group_ids).tolist()
        return [num_repeated(self.factors[self.group_ids == group_id]) for group_id in np.unique(self.group_ids)]

    def _shuffled(self) -> list[Int64[ndarray, "joint 2"]]:
        """Return the joint batches of an epoch: index of each image, and number of its occurrence."""
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.factors is not None:
            return self._repeated(self.factors, rng)
        order = rng.permutation(len(self.group_ids))
        joint = self.batch_size * self.world_size
        batches: list[ndarray] = []
        for group_id in np.unique(self.group_ids):
            group = order[self.group_ids[order] == group_id]
            full = np.resize(group, -(-len(group) // joint) * joint)
            batches += list(_without_repeats(full).reshape(-1, joint, 2))
        return [batches[i] for i in rng.permutation(len(batches))]

    def _repeated(self, factors: Float64[ndarray, " N"], rng: np.random.Generator) -> list[Int64[ndarray, "joint 2"]]:
        joint = self.batch_size * self.world_size
        batches: list[ndarray] = []
        for group_id in np.unique(self.group_ids):
            members = np.flatnonzero(self.group_ids == group_id)
            repeats = draw_repeats(factors[members], rng)
            rows = np.repeat(members, repeats)
            occurrence = np.arange(len(rows)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
            group = rng.permutation(np.stack([rows, occurrence], axis=1))
            full = np.resize(group, (-(-len(group) // joint) * joint, 2))
            batches += list(full.reshape(-1, joint, 2))
        return [batches[i] for i in rng.permutation(len(batches))]

    def _in_order(self) -> list[Int64[ndarray, "_ 2"]]:
        joint = self.batch_size * self.world_size
        groups = (np.flatnonzero(self.group_ids == group_id) for group_id in np.unique(self.group_ids))
        return [_without_repeats(group[i : i + joint]) for group in groups for i in range(0, len(group), joint)]


def _without_repeats(indices: Int64[ndarray, " N"]) -> Int64[ndarray, "N 2"]:
    return np.stack([indices, np.zeros_like(indices)], axis=1)

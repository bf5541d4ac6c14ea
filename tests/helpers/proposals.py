"""Random proposals, and checks on the proposals that images get."""

import numpy as np
import pytest

from libradet.data.proposals.precomputed import proposals_for_dataset
from libradet.data.proposals.proposal_file import ImageProposals
from libradet.errors import UserError


def random_proposals(dataset, counts=(3, 0, 5, 1), seed=0):
    """Return random proposals in the images of a dataset, best first."""
    rng = np.random.default_rng(seed)
    found = []
    for p, count in zip(dataset.images, counts, strict=True):
        corners = rng.uniform(0, [p.width, p.height], (count, 2, 2))
        boxes = np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)
        scores = np.sort(rng.random(count))[::-1].astype(np.float32)
        found.append(ImageProposals(p.id, f"images/{p.path.name}", p.width, p.height, boxes, scores))
    return found


def boxes_by_image(given, dataset):
    """Return the proposals of every image."""
    return [given.boxes_of(i, p.width, p.height).numpy() for i, p in enumerate(dataset.images)]


def same_boxes(boxes, found):
    """Return whether boxes equal those of ``ImageProposals``."""
    return all(np.array_equal(a, p.boxes) for a, p in zip(boxes, found, strict=True))


def assert_refused(path, dataset, match):
    """Check that a file is refused in two lines at most that name it."""
    with pytest.raises(UserError, match=match) as error:
        proposals_for_dataset(path, dataset, 10)
    assert path.name in str(error.value)
    assert len(str(error.value).splitlines()) <= 2

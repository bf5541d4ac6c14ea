"""A detector shown every image of a dataset."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from libradet.data.batch import Batch
from libradet.data.loading.loader import make_loader
from libradet.data.loading.transforms import Size
from libradet.data.proposals.given import GivenProposals
from libradet.data.records import Dataset
from libradet.inference.detections import Detections
from libradet.inference.finder import Finder, size_for
from libradet.inference.predictor import find
from libradet.utils.progress import progress_bar

Take = Callable[[Detections, Batch], None]
"""Takes in the detections of one batch, whose ``index`` and ``scales`` say what they were found in."""


def look_through(
    model: Finder,
    dataset: Dataset,
    take: Take,
    proposals: GivenProposals | None = None,
    *,
    size: Size | None = None,
    batch_size: int = 4,
    workers: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    own_canvas: bool = False,
) -> None:
    """Show ``model`` every image of ``dataset``, and ``take`` what it finds; mode and device are left as they were.

    In a job of several processes each looks at its share.

    Args:
        size: (short, long) side to resize to; None as trained; "original" for no resizing.
        batch_size: images that go through the model together, per process.
        workers: processes that load images; half the cores, at most four, if None.
        device: where to compute; where the model is, if None.
        progress: show a bar on stderr.
        own_canvas: see :class:`libradet.models.config.ImageConfig`.

    Raises:
        UserError: an image cannot be read.
    """
    loader = make_loader(
        dataset,
        size=size_for(model, size),
        batch_size=batch_size,
        training=False,
        divisor=model.divisor,
        workers=min(4, (os.cpu_count() or 1) // 2) if workers is None else workers,
        seed=0,
        rank=dist.get_rank() if in_a_job() else 0,
        world_size=dist.get_world_size() if in_a_job() else 1,
        proposals=proposals,
        own_canvas=own_canvas,
    )
    with _on(model, device), progress_bar(progress and not (in_a_job() and dist.get_rank())) as bar:
        for batch in bar.track(loader, description="measuring"):
            take(find(model, batch), batch)


def in_a_job() -> bool:
    """Whether this is one of several processes that work together."""
    return dist.is_available() and dist.is_initialized()


@contextmanager
def _on(model: Finder, device: str | torch.device | None) -> Iterator[None]:
    """The model on a device, and afterwards where it was."""
    if device is None or not isinstance(model, nn.Module):
        yield
        return
    home = model.device
    model.to(device)
    try:
        yield
    finally:
        model.to(home)

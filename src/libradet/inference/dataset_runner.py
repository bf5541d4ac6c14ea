"""Inference on all images of a dataset."""

from typing import Any

import torch

from libradet.data.loader import make_loader
from libradet.data.proposals.precomputed import PrecomputedProposals
from libradet.data.records import Dataset
from libradet.data.tile_batches import TileBatches
from libradet.data.transforms.resize import Size
from libradet.inference.run_model import OnBatch, eval_mode, on_device, run_model
from libradet.inference.tiles import TileMerger, Tiling
from libradet.predictor import Predictor, bit_depth_of, check_batch_size, resolve_size
from libradet.utils.distributed import rank, world_size
from libradet.utils.progress import progress_bar
from libradet.utils.workers import default_num_workers


def run_on_dataset(
    model: Predictor,
    dataset: Dataset,
    on_batch: OnBatch,
    proposals: PrecomputedProposals | None = None,
    *,
    size: Size | None = None,
    batch_size: int = 4,
    num_workers: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    batch_invariant_padding: bool = False,
    tiling: Tiling | None = None,
) -> None:
    """Run ``model`` on every image of ``dataset`` and pass its detections to ``on_batch``.

    Mode and device of the model are restored afterwards. Each process of a distributed job runs on its share.

    Args:
        size: (short, long) side to resize to; None for the size of training; "original" for no resizing.
        batch_size: images per batch, per process.
        num_workers: data loading processes; half of the cores, at most four, if None.
        device: device to run on; that of the model if None.
        progress: show a progress bar on stderr.
        batch_invariant_padding: see :class:`libradet.models.config.ImageConfig`.
        tiling: run it on tiles, each resized to ``size``, of which ``batch_size`` are a batch; ``on_batch`` receives
            the merged detections of one image at a time. A thread reads them in place of data loading processes.

    Raises:
        UserError: an image cannot be read.
    """
    check_batch_size(batch_size)
    shared: dict[str, Any] = {
        "size": resolve_size(model, size),
        "batch_size": batch_size,
        "size_divisible": model.size_divisible,
        "rank": rank(),
        "world_size": world_size(),
        "batch_invariant_padding": batch_invariant_padding,
        "bit_depth": bit_depth_of(model),
    }
    if tiling is not None:
        loader = TileBatches(dataset, tiling.tiles, **shared)
        on_batch = TileMerger(loader, on_batch, tiling).update
    else:
        workers = default_num_workers() if num_workers is None else num_workers
        loader = make_loader(dataset, training=False, num_workers=workers, seed=0, proposals=proposals, **shared)
    with on_device(model, device), eval_mode(model), progress_bar(progress and rank() == 0) as bar:
        for batch in bar.track(loader, description="predicting"):
            on_batch(run_model(model, batch), batch)

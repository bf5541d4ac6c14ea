"""Published weights as local files: downloaded to torch.hub's folder and converted there, both once."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from libradet import __version__
from libradet.errors import UnwritableError, UserError
from libradet.interop.coco_weights import (
    BUILDER,
    COCO_WEIGHTS,
    PublishedWeights,
    by_name,
    require_weights,
    with_torchvision_facts,
)
from libradet.utils.tables import TextTable

if TYPE_CHECKING:
    from libradet.models.detector import Detector

MIRROR = "LIBRADET_WEIGHTS_URL"
"""Environment variable with a base address that replaces scheme and host of all addresses."""

# mmdetection published its version 2.0 with files that were trained before that release and say 1.x. Their layers, and
# the settings behind their AP, are version 2's.
MMDETECTION_METADATA: Mapping[str, Any] = {"mmdet_version": "2.0.0"}


class LocalWeights(NamedTuple):
    """Weights on this machine.

    Attributes:
        path: file to read.
        metadata: replaces that in the file; None for the file's own.
    """

    path: str | Path
    metadata: Mapping[str, Any] | None = None


def local_weights(weights: str | Path) -> LocalWeights:
    """Return the local .safetensors file of published weights, downloaded and converted if necessary.

    Where the cache has the origin's file and cannot be written, it is the origin's.

    Args:
        weights: a name; the path of a file is returned as it is.

    Raises:
        UserError: neither a file nor a known name; the download failed; or the file is not what was published.
    """
    published = by_name(weights)
    if published is None:
        require_weights(weights)
        return LocalWeights(weights)
    return _cached(with_torchvision_facts(published))


def cache_path(weights: PublishedWeights) -> Path:
    """Return where the origin's file is, or would be: in the folder of ``torch.hub`` (``TORCH_HOME``)."""
    import torch

    return Path(torch.hub.get_dir(), "checkpoints", weights.file_name)


def converted_path(weights: PublishedWeights) -> Path:
    """Return the path of the converted file; another version of libradet may read the original differently."""
    original = cache_path(weights)
    return original.with_name(f"{original.stem}.libradet-{__version__}.safetensors")


def cached_bytes(weights: PublishedWeights) -> int | None:
    """Return the size of the origin's file, or of the converted one, in the cache; None if neither is there."""
    paths = (cache_path(weights), converted_path(weights))
    return next((path.stat().st_size for path in paths if path.is_file()), None)


def address(weights: PublishedWeights) -> str:
    """Return the address to download from: the origin's, or that of a mirror.

    Raises:
        UserError: the environment variable of the mirror is not an address.
    """
    mirror = os.environ.get(MIRROR, "")
    if not mirror:
        return weights.url
    if not mirror.startswith(("http://", "https://", "file://")):
        raise UserError(f"{MIRROR} is {mirror}: it must be an address such as https://mirror.example.org")
    return mirror.rstrip("/") + urlsplit(weights.url).path


def _cached(weights: PublishedWeights) -> LocalWeights:
    original, converted = cache_path(weights), converted_path(weights)
    if converted.is_file():
        return LocalWeights(converted)
    from libradet.interop.download import check_hash
    from libradet.utils.file_lock import locked

    try:
        with locked(original, "set TORCH_HOME to another folder, or put the file there"):
            if not converted.is_file():  # by the process that had the lock
                if original.exists():
                    check_hash(original, weights.sha256)
                    _convert(weights, original, converted)
                else:
                    _download_and_convert(weights, original, converted)
        return LocalWeights(converted)
    except UnwritableError:
        if not original.is_file():
            raise
        check_hash(original, weights.sha256)
        _load_original(weights, original)
        return LocalWeights(original, _metadata(weights))


def _metadata(weights: PublishedWeights) -> Mapping[str, Any] | None:
    if weights.origin == "torchvision":
        return {BUILDER: weights.name.removesuffix("_coco")}
    return MMDETECTION_METADATA if weights.origin == "mmdetection" else None


def _load_original(weights: PublishedWeights, original: Path) -> "Detector":
    """Return the detector in the origin's file. Raises UserError if it is another than the name says."""
    from libradet.interop.loading import load_checkpoint

    model = load_checkpoint(original, metadata=_metadata(weights)).model
    content = (model.config.model, model.config.backbone.name)
    if content != (weights.model, weights.backbone):
        raise UserError(f"{original}: contains {' on '.join(content)}, not {weights.model} on {weights.backbone}")
    return model


def _download_and_convert(weights: PublishedWeights, original: Path, converted: Path) -> None:
    """Download and convert; a download without known hash that is not the detector is deleted.

    Otherwise every later attempt would read and refuse it again.
    """
    from libradet.interop.download import download

    download(address(weights), original, weights.sha256)
    try:
        _convert(weights, original, converted)
    except UnwritableError:
        raise
    except UserError as error:
        if weights.sha256:
            raise
        original.unlink(missing_ok=True)
        raise UserError(f"{error}; it was not kept, and the next attempt downloads it again") from error


def _convert(weights: PublishedWeights, original: Path, converted: Path) -> None:
    from libradet.models.serialization import save_model

    model = _load_original(weights, original)
    save_model(model, converted)
    for outdated in original.parent.glob(f"{original.stem}.libradet-*.safetensors"):
        if outdated != converted:
            outdated.unlink(missing_ok=True)


def weights_table() -> TextTable:
    """Return the table of all published weights: origin, AP, size, and whether they are cached."""
    columns = ["name", "origin", "license", "box AP", "mask AP", "MB", "cached"]
    rows = []
    for weights in map(with_torchvision_facts, COCO_WEIGHTS):
        cached = cached_bytes(weights)
        megabytes = weights.megabytes if cached is None else cached / 1e6
        numbers = (weights.box_ap, weights.mask_ap, None if megabytes is None else round(megabytes))
        cells = ["" if number is None else str(number) for number in numbers]
        rows.append([weights.name, weights.origin, weights.license, *cells, "no" if cached is None else "yes"])
    title = "Detectors trained on COCO; AP on val2017 as published by their origin"
    return TextTable(title, columns, rows, [f"cached in {cache_path(COCO_WEIGHTS[0]).parent}"])

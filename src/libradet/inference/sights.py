"""From what people name - files, folders, patterns, videos, arrays - to images, one after the other."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from libradet.data.headers import SUFFIXES
from libradet.data.images import load_image
from libradet.data.loading.transforms import pixels_of
from libradet.errors import UserError

if TYPE_CHECKING:
    import supervision

VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"})
"""Files that end like this are looked at frame by frame."""


@dataclass(frozen=True, eq=False)
class Sight:
    """An image to look at, and where it comes from.

    Attributes:
        image: upright, RGB 0-255.
        path: its file, if it has one.
        frame: its number in a video, from 0; None in an image file.
        proposals: where to look for objects, best first, xyxy in its pixels, for a detector without rpn.
    """

    image: UInt8[Tensor, "3 H W"]
    path: Path | None = None
    frame: int | None = None
    proposals: Float[Tensor, "P 4"] | None = None


def find_images(sources: Sequence[str | Path]) -> list[Path]:
    """The images and videos behind files, folders (not those inside them) and globs (``**`` goes into folders).

    Each once, in order.

    Raises:
        UserError: something does not exist, or nothing in it is an image.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_file():
            found[path] = None
            continue
        if path.is_dir():
            candidates = path.iterdir()
            problem = f"{path}: there is no image in this folder; for its subfolders use '{path}/**/*'"
        else:
            candidates = map(Path, glob.glob(str(path), recursive=True))
            problem = f"{path}: no such file or folder, and no image matches it as a pattern"
        images = sorted(p for p in candidates if p.suffix.lower() in SUFFIXES | VIDEOS and p.is_file())
        if not images:
            raise UserError(problem)
        found |= dict.fromkeys(images)
    if not found:
        raise UserError("No images were named: give files, folders or patterns")
    return list(found)


def is_video(path: Path) -> bool:
    """Whether the file is looked at frame by frame."""
    return path.suffix.lower() in VIDEOS


def video_info(path: Path) -> "supervision.VideoInfo":
    """Size and frames per second; the number of frames is what the file says, not always what it holds.

    Raises:
        UserError: it is missing, or no video that can be read.
    """
    from libradet.utils.warnings_filter import supervision as sv

    if not path.is_file():
        raise UserError(f"{path}: the video is missing.")
    try:
        info = sv.VideoInfo.from_video_path(str(path))
    except Exception as error:  # decoders raise nearly anything on damaged input
        raise UserError(f"{path}: is not a video that can be read.") from error
    if min(info.width, info.height) < 1:
        raise UserError(f"{path}: holds no frames that can be read.")
    return info


def frames(path: Path) -> Iterator[Sight]:
    """The frames of a video. Raises UserError as :func:`video_info` does."""
    from libradet.utils.warnings_filter import supervision as sv

    video_info(path)
    for number, frame in enumerate(sv.get_video_frames_generator(str(path))):
        rgb = torch.from_numpy(np.ascontiguousarray(frame[..., ::-1])).permute(2, 0, 1)
        yield Sight(rgb, path, number)


def sights(images: Iterable[Any], proposals: Iterable[Any] | None = None) -> Iterator[Sight]:
    """Files, Pillow images and arrays as sights, one at a time.

    Args:
        proposals: boxes [P, 4] of each image, if a detector wants them.

    Raises:
        UserError: something else, or a file that cannot be read.
    """
    given = None if proposals is None else iter(proposals)
    for image in images:
        path = Path(image) if isinstance(image, str | Path) else None
        pixels = load_image(path) if path else pixels_of(image)
        yield Sight(pixels, path, proposals=None if given is None else _boxes(next(given, None)))


def _boxes(proposals: Any) -> Float[Tensor, "P 4"]:
    if proposals is None:
        raise UserError("proposals are given for fewer images than there are")
    boxes = torch.as_tensor(proposals, dtype=torch.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError("proposals of an image are an array [P, 4] of corners x0, y0, x1, y1")
    return boxes

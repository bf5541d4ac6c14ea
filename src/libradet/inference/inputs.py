"""Input images: files, folders, glob patterns, videos and arrays, read one at a time."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from libradet.data.bit_depth import DEFAULT_BIT_DEPTH
from libradet.data.formats.filenames import is_image_name
from libradet.data.image_io import image_to_tensor, read_image
from libradet.data.windows import DecodedImage, WindowReader, open_windows
from libradet.errors import UserError

if TYPE_CHECKING:
    import supervision

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"})
"""Suffixes of files that are read frame by frame."""

_NO_FRAMES = "has no frames that can be read; it may be damaged"


@dataclass(frozen=True, eq=False)
class InputImage:
    """An image to run a model on, and its origin.

    Attributes:
        image: RGB 0-255, EXIF orientation applied.
        path: its file, None for an array.
        frame: frame number from 0 in a video, None otherwise.
        proposals: precomputed proposals for a detector without RPN, best first, xyxy in pixels of ``image``.
        windows: reads windows of a file that is not decoded whole; ``image`` is then empty.
    """

    image: UInt8[Tensor, "3 H W"]
    path: Path | None = None
    frame: int | None = None
    proposals: Float[Tensor, "P 4"] | None = None
    windows: WindowReader | None = None

    @property
    def reader(self) -> WindowReader:
        """Reads windows of the image, whether it is in memory or not."""
        return self.windows or DecodedImage(self.image)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.reader.height, self.reader.width


def list_image_files(sources: Sequence[str | Path]) -> list[Path]:
    """Return the images and videos among files, folders (not recursive) and globs (``**`` is recursive).

    Resource forks of macOS (``._a.jpg``) are left out. Each file is listed once, in the order of the sources and sorted
    by name within a source.

    Raises:
        UserError: a source does not exist or has no images.
    """
    paths: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_file():
            paths[path] = None
            continue
        if path.is_dir():
            candidates = path.iterdir()
            problem = f"{path}: no image in this folder; to search its subfolders, use '{path}/**/*'"
        else:
            candidates = map(Path, glob.glob(str(path), recursive=True))
            problem = f"{path}: no such file or folder, and no image matches it as a pattern"
        images = sorted(p for p in candidates if _is_readable_name(p) and p.is_file())
        if not images:
            raise UserError(problem)
        paths |= dict.fromkeys(images)
    if not paths:
        raise UserError("no images were named: pass files, folders or patterns")
    return list(paths)


def _is_readable_name(path: Path) -> bool:
    is_fork = path.name.startswith("._")  # a resource fork of macOS, such as ._a.mp4
    return is_image_name(path.name) or (is_video(path) and not is_fork)


def is_video(path: Path) -> bool:
    """Return whether the suffix is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def video_info(path: Path) -> "supervision.VideoInfo":
    """Return size, frame rate and number of frames of a video; the number is the header's and may be wrong.

    Raises:
        UserError: the file is missing or cannot be read as a video.
    """
    from libradet.utils.quiet_supervision import supervision as sv

    if not path.is_file():
        raise UserError(f"{path}: no such video; check the path")
    try:
        info = sv.VideoInfo.from_video_path(str(path))
    except Exception as error:  # decoders raise exceptions of any type on damaged input
        raise UserError(f"{path}: cannot be read as a video; it may be damaged or of an unsupported format") from error
    if min(info.width, info.height) < 1:
        raise UserError(f"{path}: {_NO_FRAMES}")
    return info


def video_frames(path: Path) -> Iterator[InputImage]:
    """Yield the frames of a video.

    Raises:
        UserError: as :func:`video_info`, or no frame can be read although the header can.
    """
    from libradet.utils.quiet_supervision import supervision as sv

    video_info(path)
    number = -1
    for number, frame in enumerate(sv.get_video_frames_generator(str(path))):
        rgb = torch.from_numpy(np.ascontiguousarray(frame[..., ::-1])).permute(2, 0, 1)
        yield InputImage(rgb, path, number)
    if number < 0:
        raise UserError(f"{path}: {_NO_FRAMES}")


def read_input(
    path: Path, bit_depth: int = DEFAULT_BIT_DEPTH, by_window: bool = False, proposals: Tensor | None = None
) -> Iterator[InputImage]:
    """Yield one image, with its file open for windows until the next one is requested if ``by_window`` and it has some.

    Raises:
        UserError: the file cannot be read.
    """
    if not by_window:
        yield InputImage(read_image(path, bit_depth=bit_depth), path, proposals=proposals)
        return
    with open_windows(path, bit_depth=bit_depth) as reader:
        yield to_input(reader, path)


def to_input(reader: WindowReader, path: Path) -> InputImage:
    """Return an open image as an input of tiled inference, for as long as it is open."""
    if isinstance(reader, DecodedImage):
        return InputImage(reader.pixels, path)
    return InputImage(torch.zeros(3, 0, 0, dtype=torch.uint8), path, windows=reader)


def iter_inputs(
    images: Iterable[Any],
    proposals: Iterable[Any] | None = None,
    bit_depth: int = DEFAULT_BIT_DEPTH,
    by_window: bool = False,
) -> Iterator[InputImage]:
    """Read files, Pillow images and arrays, one at a time.

    Args:
        proposals: boxes [P, 4] for each image, for a detector without RPN.
        bit_depth: of the values in 16-bit files.
        by_window: leave the pixels of files that have windows in their files; each is open until the next is requested.

    Raises:
        UserError: an image of another type, or a file that cannot be read.
    """
    remaining = None if proposals is None else iter(proposals)
    for image in images:
        boxes = None if remaining is None else _to_boxes(next(remaining, None))
        if isinstance(image, str | Path):
            if is_video(Path(image)):
                raise UserError(
                    f"{image}: is a video among images; leave it out, and predict its frames by its own path"
                )
            yield from read_input(Path(image), bit_depth, by_window, boxes)
        else:
            yield InputImage(image_to_tensor(image, bit_depth), proposals=boxes)


def _to_boxes(proposals: Any) -> Float[Tensor, "P 4"]:
    if proposals is None:
        raise UserError("proposals has fewer entries than there are images: pass one array per image")
    boxes = torch.as_tensor(proposals, dtype=torch.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError(f"proposals of an image have shape {tuple(boxes.shape)}: pass an array [P, 4] of xyxy boxes")
    return boxes

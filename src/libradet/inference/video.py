"""Writing of annotated videos."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from libradet.errors import UserError
from libradet.inference.inputs import video_info
from libradet.inference.visualize import RGB
from libradet.utils.quiet_supervision import supervision as sv


class VideoWriter:
    """Writes videos frame by frame, one file at a time, at the frame rate of the source video.

    A context manager: the current file is closed when the next one begins and at the end, also after an interrupt.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._path: Path | None = None
        self._sink: sv.VideoSink | None = None

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def write(self, path: Path, source: Path, frame: RGB) -> None:
        """Append an annotated frame of the video ``source`` to ``path``. Raises UserError if it cannot be written."""
        # Usual encoders store color for blocks of 2 x 2 pixels, so both sides must be even.
        height, width = (side - side % 2 for side in frame.shape[:2])
        if path != self._path:
            self._open(path, source, height, width)
        assert self._sink is not None
        self._sink.write_frame(np.ascontiguousarray(frame[:height, :width, ::-1]))

    def _open(self, path: Path, source: Path, height: int, width: int) -> None:
        self._stack.close()
        info = sv.VideoInfo(width, height, video_info(source).fps or 25.0)
        self._path = path
        try:
            self._sink = self._stack.enter_context(sv.VideoSink(str(path), info))
        except Exception as error:  # encoders raise exceptions of any type
            raise UserError(f"{path}: cannot be written ({error})") from error

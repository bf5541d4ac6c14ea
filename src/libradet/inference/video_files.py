"""Videos of drawings, written frame by frame."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from libradet.errors import UserError
from libradet.inference.drawing import RGB
from libradet.inference.sights import video_info
from libradet.utils.warnings_filter import supervision as sv


class VideoFiles:
    """One video file at a time, at the speed of the video that it is drawn on; closed when the next begins.

    Used as a context: what was written until then is whole.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._path: Path | None = None
        self._sink: sv.VideoSink | None = None

    def __enter__(self) -> "VideoFiles":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def write(self, path: Path, source: Path, frame: RGB) -> None:
        """Add a frame to ``path``, which shows ``source``. Raises UserError if it cannot be written."""
        # The usual coding of color is by blocks of two by two pixels.
        height, width = (side - side % 2 for side in frame.shape[:2])
        if path != self._path:
            self._open.close()
            info = sv.VideoInfo(width, height, video_info(source).fps or 25.0)
            self._path = path
            try:
                self._sink = self._open.enter_context(sv.VideoSink(str(path), info))
            except Exception as error:  # so does the encoder
                raise UserError(f"{path}: cannot be written ({error})") from error
        assert self._sink is not None
        self._sink.write_frame(np.ascontiguousarray(frame[:height, :width, ::-1]))

"""Import supervision without its advice to install OpenCV (Pillow is enough here), and without splines of tracks."""

import warnings

from libradet.utils.deferred_import import deferred_import

with warnings.catch_warnings(), deferred_import("scipy.interpolate"):
    warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
    import supervision

__all__ = ["supervision"]

"""Import supervision without its advice to install OpenCV (Pillow is enough here), and without parts of scipy.

Those are the splines of its tracks, and the search trees of its dataset formats.
"""

import warnings

from libradet.utils.deferred_import import deferred_import

with warnings.catch_warnings(), deferred_import("scipy.interpolate"), deferred_import("scipy.spatial"):
    warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
    import supervision

__all__ = ["supervision"]

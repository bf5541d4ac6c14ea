"""Import supervision without its advice to install OpenCV: Pillow is enough here."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
    import supervision

__all__ = ["supervision"]

"""Libraries that speak up on import, without the speech."""

import warnings

with warnings.catch_warnings():
    # It advises to install OpenCV; Pillow does all that we ask of it.
    warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
    import supervision

__all__ = ["supervision"]

"""Inference: images, videos and datasets in, detections in pixels of the original images out."""

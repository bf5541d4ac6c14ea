"""Tensor functions on boxes, anchors and masks; depends on torch and torchvision only."""

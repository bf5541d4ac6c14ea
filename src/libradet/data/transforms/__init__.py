"""Resizing and augmentation of images together with their boxes, masks and proposals."""

"""Checkpoints of mmdetection, torchvision and detectron2, in and out. Nothing in a file is executed."""

"""Evaluation: COCO metrics, their tables and plots, and a visual comparison of predictions with ground truth."""

"""Names of the files in a run folder."""

CONFIG = "config.yaml"
"""All settings of the run."""

LAST_CHECKPOINT, PREVIOUS_CHECKPOINT = "last.ckpt", "previous.ckpt"
"""The latest checkpoint, and the one before it in case the latest gets damaged."""

BEST_MODEL, BEST_METRICS = "best.safetensors", "metrics.json"
"""The model of the best validation, and its metrics."""

METRICS_CSV, CURVES = "metrics.csv", "curves.png"
"""Logged numbers, and their plot."""

BEST_PREDICTIONS, PREDICTIONS_DIR = "val_predictions.png", "val_predictions"
"""Drawn validation images of the best validation, and the folder with those of all validations."""

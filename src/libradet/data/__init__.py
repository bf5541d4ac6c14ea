"""Datasets: reading, validation, conversion, augmentation and batching. Independent of any model."""

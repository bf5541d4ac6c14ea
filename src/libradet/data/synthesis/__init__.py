"""Datasets that are drawn."""

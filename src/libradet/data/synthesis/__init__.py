"""Synthetic datasets for tests and examples."""

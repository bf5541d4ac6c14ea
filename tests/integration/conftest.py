"""Fixtures of training runs."""

from tests.helpers.training_fixtures import start, tiny, tiny_data

__all__ = ["start", "tiny", "tiny_data"]

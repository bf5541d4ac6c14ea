"""Fixtures of the tests of datasets."""

import pytest

from tests.helpers.data_building import essence, write


@pytest.fixture
def reference(tmp_path) -> list:
    """Files, classes and boxes of the dataset of ``records()``."""
    return essence(write(tmp_path / "reference"))

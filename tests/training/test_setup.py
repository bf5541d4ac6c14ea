"""Settings that have no effect are refused before the data are read."""

import pytest

from libradet.errors import UserError
from libradet.training.config import TrainConfig
from libradet.training.setup import setup_training


@pytest.mark.parametrize(("name", "value"), [("tile_min_area_ratio", 0.3), ("tile_empty_fraction", 0.0)])
def test_settings_of_tiles_need_tiles(name, value):
    with pytest.raises(UserError, match=f"{name} is {value}, which needs tiles"):
        setup_training(TrainConfig(data="missing", **{name: value}))

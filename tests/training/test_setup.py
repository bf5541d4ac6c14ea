"""Settings that have no effect are refused before the data are read."""

import pytest

from libradet.errors import UserError
from libradet.training.config import TrainConfig
from libradet.training.setup import setup_training


@pytest.mark.parametrize(("name", "value"), [("tile_min_area_ratio", 0.3), ("tile_empty_fraction", 0.0)])
def test_settings_of_tiles_need_tiles(name, value):
    with pytest.raises(UserError, match=f"{name} is {value}, which needs tiles"):
        setup_training(TrainConfig(data="missing", **{name: value}))


def test_epochs_without_mixing_need_mixing():
    with pytest.raises(UserError, match="no_aug_epochs is 2, which needs mosaic, copy-paste or mixup: set mosaic_prob"):
        setup_training(TrainConfig(data="missing", no_aug_epochs=2))
    for name in ("mosaic_prob", "copy_paste_prob", "mixup_prob"):
        with pytest.raises(UserError, match="missing"):
            setup_training(TrainConfig(data="missing", no_aug_epochs=2, **{name: 0.5}))

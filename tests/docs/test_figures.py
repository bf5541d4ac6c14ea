"""The figures of the pages are those that ``make figures`` draws."""

import importlib.util

import numpy as np
import pytest
from pages import ROOT
from PIL import Image


@pytest.mark.slow
def test_figures_are_drawn_by_the_present_code(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    committed = sorted(figures.FOLDER.glob("*.png"))
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    figures.main()
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == [path.name for path in committed]
    for path in committed:
        drawn, page = (np.asarray(Image.open(p).convert("RGB"), float) for p in (tmp_path / path.name, path))
        assert drawn.shape == page.shape, path.name
        # Other versions of matplotlib may round a few pixels differently.
        assert (np.abs(drawn - page).max(-1) > 32).mean() < 0.001, f"{path.name}: run make figures"

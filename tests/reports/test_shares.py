"""Bars of shares: means over seeds with their spread, one panel for each row and point."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from reports.shares import Shares, share_figures


def _shares(row: str, seed: int, *mean: float, std: float = 0.0) -> Shares:
    return Shares(row, row.upper(), "", seed, "K600", np.array(mean), np.full(len(mean), std), 100, f"{row}{seed}")


def _results(*found: Shares) -> Any:
    return SimpleNamespace(shares=found)


def test_bars_are_means_over_seeds() -> None:
    found = (_shares("prism", 0, 0.7, 0.3, std=0.05), _shares("prism", 1, 0.5, 0.5), _shares("mote", 0, 0.5, 0.5))
    (picture,) = share_figures(_results(*found))
    assert (picture.section, picture.name) == ("experts", "expert-shares")
    prism, mote = picture.figure.axes
    assert [bar.get_height() for bar in prism.patches if isinstance(bar, Rectangle)] == pytest.approx([60, 40])
    assert [text.get_text() for text in prism.texts] == ["60.0", "40.0"]
    assert "2 seeds" in prism.get_title() and "1 seed" in mote.get_title()
    (bars,) = (own for own in prism.collections if isinstance(own, LineCollection))
    low, high = bars.get_segments()[0][:, 1]
    assert (high - low) / 2 == pytest.approx(100 * np.std([0.7, 0.5], ddof=1))
    assert "at most 5.0 points" in picture.figure.get_supxlabel()
    assert prism.get_ylim() == mote.get_ylim()


def test_shares_that_are_alike_for_all_videos_say_so() -> None:
    (picture,) = share_figures(_results(_shares("mote", 0, 0.25, 0.25, 0.25, 0.25)))
    assert "alike for every video" in picture.figure.get_supxlabel()
    assert "Error bars" not in picture.figure.get_supxlabel()


def test_nothing_is_drawn_where_no_method_tells_them() -> None:
    assert list(share_figures(_results())) == []

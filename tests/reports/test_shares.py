"""Bars of experts' shares: of the answer, and of the draws in training with the odds that they are measured against."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports.experts import routing_figures, share_figures
from reports.facts import Routing, Shares, Subject
from tests.reports import synthetic


def _shares(row: str, seed: int, *mean: float, std: float = 0.0) -> Shares:
    subject = Subject(row, row.upper(), "", f"{row}{seed}", seed)
    return Shares(subject, "K600", np.array(mean), np.full(len(mean), std), 100)


def _results(*found: Shares) -> Any:
    return SimpleNamespace(shares=found)


def test_bars_are_means_over_seeds() -> None:
    found = (_shares("prism", 0, 0.7, 0.3, std=0.05), _shares("prism", 1, 0.5, 0.5), _shares("mote", 0, 0.6, 0.4))
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
    (picture,) = share_figures(_results(_shares("mote", 0, 0.4, 0.2, 0.2, 0.2)))
    assert "alike for every video" in picture.figure.get_supxlabel()
    assert "Error bars" not in picture.figure.get_supxlabel()


def test_nothing_is_drawn_where_no_method_tells_them_or_all_are_equal() -> None:
    assert list(share_figures(_results())) == []
    equal = _shares("mote", 0, 0.25, 0.25, 0.25, 0.25)
    assert list(share_figures(_results(equal))) == []
    (picture,) = share_figures(_results(equal, _shares("prism", 0, 0.5, 0.5, std=0.1)))
    assert len(picture.figure.axes) == 1


# --- in training -----------------------------------------------------------------------------------------------------

COUNTS_LE = np.array([[10, 30, 60], [20, 20, 60]])


def _routing(seed: int, odds: tuple[float, ...] = (0.1, 0.3, 0.6), pool: str = "routing") -> Routing:
    subject = Subject("mote", "MoTE", "", f"r{seed}{pool}", seed)
    return Routing(subject, pool, COUNTS_LE + seed * np.array([0, 10, -10]), odds)


def _routing_figure(*found: Routing) -> Figure:
    (picture,) = routing_figures(replace(synthetic.plain(), routing=found))
    assert picture.name == "expert-routing-mote"
    return picture.figure


def test_bars_are_mean_shares_over_seeds() -> None:
    figure = _routing_figure(_routing(0), _routing(1))
    (axes,) = figure.axes
    heights = [patch.get_height() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert heights == pytest.approx([10, 35, 55, 20, 25, 55])
    assert "100 draws per layer in each of 2 seeds" in figure.get_supxlabel()


def test_nominal_odds_have_the_width_of_chance() -> None:
    figure = _routing_figure(_routing(0))
    (axes,) = figure.axes
    ends = [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines]
    levels = {round(float(height[0]), 6) for height in ends if len(height) == 2}
    assert {10.0, 30.0, 60.0} <= levels
    low, high = axes.collections[-1].get_paths()[0].get_extents().intervaly
    assert (high - low) / 2 == pytest.approx(196 * np.sqrt(0.6 * 0.4 / 100))
    assert "95 %" in figure.get_supxlabel() and "1 seed" in figure.get_supxlabel()


def test_without_odds_there_are_bars_alone() -> None:
    figure = _routing_figure(_routing(0, ()))
    assert not figure.axes[0].collections and "nominal" not in figure.get_supxlabel()


def test_every_pool_has_its_panel() -> None:
    figure = _routing_figure(_routing(0), _routing(0, pool="routing_down"))
    assert [axes.get_title() for axes in figure.axes] == ["routing", "routing_down"]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1

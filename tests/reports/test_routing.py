"""Shares of draws as bars, and the odds that they are measured against."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from reports.routing import Routing, routing_figures

COUNTS_LE = np.array([[10, 30, 60], [20, 20, 60]])


def _routing(seed: int, odds: tuple[float, ...] = (0.1, 0.3, 0.6), pool: str = "routing") -> Routing:
    return Routing("mote", "MoTE", "", seed, pool, COUNTS_LE + seed * np.array([0, 10, -10]), odds, f"r{seed}{pool}")


def test_bars_are_mean_shares_over_seeds() -> None:
    figures = routing_figures([_routing(0), _routing(1)])
    assert list(figures) == [("mote", "")]
    (axes,) = figures["mote", ""].axes
    heights = [patch.get_height() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert heights == pytest.approx([10, 35, 55, 20, 25, 55])
    assert "100 draws per layer in each of 2 seeds" in figures["mote", ""].get_supxlabel()


def test_nominal_odds_have_the_width_of_chance() -> None:
    (figure,) = routing_figures([_routing(0)]).values()
    (axes,) = figure.axes
    ends = [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines]
    levels = {round(float(height[0]), 6) for height in ends if len(height) == 2}
    assert {10.0, 30.0, 60.0} <= levels
    low, high = axes.collections[-1].get_paths()[0].get_extents().intervaly
    assert (high - low) / 2 == pytest.approx(196 * np.sqrt(0.6 * 0.4 / 100))
    assert "95 %" in figure.get_supxlabel() and "1 seed" in figure.get_supxlabel()


def test_without_odds_there_are_bars_alone() -> None:
    (figure,) = routing_figures([_routing(0, ())]).values()
    assert not figure.axes[0].collections and "nominal" not in figure.get_supxlabel()


def test_every_pool_has_its_panel() -> None:
    (figure,) = routing_figures([_routing(0), _routing(0, pool="routing_down")]).values()
    assert [axes.get_title() for axes in figure.axes] == ["routing", "routing_down"]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1

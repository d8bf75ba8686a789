"""Curves along axes of doublings and of both signs, and what a row has without a value on the axis."""

from __future__ import annotations

import numpy as np
import pandas as pd

from reports.curves import curve_figure
from tests.reports import synthetic

VALUES = (-9.6, -2.4, -0.6, 0.6, 2.4, 9.6)


def test_doublings_of_both_signs_are_a_broken_curve_and_none_is_a_level() -> None:
    cells = [cell for tau in (None, *VALUES) for cell in synthetic.cells("mote", {"tau": tau}, (0, 0))]
    results = synthetic.suite(pd.DataFrame(cells), {"tau": "τ"})
    figure = curve_figure(results, "tau")
    assert figure
    axes = figure.axes[0]
    assert axes.get_xscale() == "symlog"
    chains = [np.asarray(line.get_xdata()).tolist() for line in axes.lines if line.get_linestyle() == "-"]
    assert [chain for chain in chains if len(chain) > 2] == [[*VALUES[:3]], [*VALUES[3:]]]
    levels = [line.get_ydata() for line in axes.lines if line.get_linestyle() == "--"]
    line = results.summary()
    assert [float(np.asarray(level)[0]) for level in levels] == [line.loc[line["tau"].isna(), "K400_mean"].item()]
    assert {text.get_text() for text in axes.texts} == {"MoTE", "MoTE, none"}


def test_few_doublings_are_linear() -> None:
    figure = curve_figure(synthetic.layered(), "layers")
    assert figure and {axes.get_xscale() for axes in figure.axes} == {"linear"}


def test_only_what_goes_through_an_axis_or_is_measured_alike_is_drawn() -> None:
    halves = synthetic.halves().table.assign(layers=np.nan)
    layered = synthetic.layered()
    both = pd.concat([layered.table, halves[halves["protocol"].isin(synthetic.HALVES)]], ignore_index=True)
    results = synthetic.suite(both, layered.axes)
    figure, alone = curve_figure(results, "layers"), curve_figure(layered, "layers")
    assert figure and alone and len(figure.axes) == len(alone.axes)
    assert figure.get_supxlabel() == alone.get_supxlabel()


def test_a_far_line_squeezes_no_others_and_stands_at_the_edge() -> None:
    cells = [
        cell
        for tau in VALUES
        for row in ("mote", "dense", "mean")
        for cell in synthetic.cells(row, {"tau": tau}, (0, 0))
    ]
    results = synthetic.suite(pd.DataFrame([*cells, *synthetic.cells("clip", {"tau": None}, (-30, 0))]), {"tau": "τ"})
    figure = curve_figure(results, "tau")
    assert figure and "Arrows" in figure.get_supxlabel()
    low = results.summary().query("row == 'clip'")["K400_mean"].item()
    closed = figure.axes[0]
    assert closed.get_ylim()[0] > 60 and f"CLIP (frozen) {low:.1f} ↓" in {text.get_text() for text in closed.texts}

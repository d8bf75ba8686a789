"""Charts of the page show what the figure shows, and tell what is behind each point."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from reports.charts import Chart, chart
from reports.curves import curve_figures
from reports.results import Results
from reports.scatter import pile
from reports.tradeoff import tradeoff_figures
from tests.reports import synthetic


def _chart(results: Results) -> Chart:
    (picture,) = tradeoff_figures(results)
    return chart(picture.figure, picture.measures, results)


def _middle(path: str) -> np.ndarray:
    corners = np.array(re.findall(r"([-\d.]+) ([-\d.]+)", path), dtype=float)
    return np.asarray((corners.min(axis=0) + corners.max(axis=0)) / 2)


def test_points_lie_as_in_the_figure_and_tell_what_they_are() -> None:
    results = synthetic.plain()
    (plot,) = _chart(results).plots
    means = results.summary().set_index("row")[["K400_mean", "hm_zs_mean"]]
    places = np.array([_middle(spot.path) for spot in plot.spots])
    own = means.loc[[spot.row for spot in plot.spots]].to_numpy(float)
    assert len(plot.spots) == 6
    for values, at, sign in ((own[:, 0], places[:, 0], 1), (own[:, 1], places[:, 1], -1)):
        assert sign * np.corrcoef(values, at)[0, 1] == pytest.approx(1, abs=1e-3)
    mote = next(spot for spot in plot.spots if spot.row == "mote")
    first = results.table.query("row == 'mote'")["identity"].iloc[0]
    assert mote.told.splitlines()[0] == "MoTE" and "n = 3; records " in mote.told and first in mote.told
    assert re.search(r"Trade-off: 66\.8 ± 0\.6; 95 % interval \d+\.\d–\d+\.\d over 200 videos and 3 seeds", mote.told)
    texts = [line for text in plot.texts for _, line in text.lines]
    assert {"Harmonic mean, HM_ZS (%)", "MoTE", "CLIP (frozen)"} <= set(texts)


def test_every_curve_is_of_its_row() -> None:
    results = synthetic.joined()
    (picture,) = curve_figures(results)
    found = chart(picture.figure, picture.measures, results)
    assert len(found.plots) == 2 and set(found.rows) == {"mean", "dense", "mote"}
    for plot in found.plots:
        solid = [curve for curve in plot.curves if curve.row]
        assert [curve.row for curve in solid] == ["mean", "dense", "mote"] and len(plot.spots) == 18
        assert all(curve.path.count("L") == 5 for curve in solid)
        assert any(curve.dashed for curve in plot.curves)  # CLIP does not go through the axis


def test_a_far_point_does_not_squeeze_the_others() -> None:
    table = synthetic.plain().table
    far = table.assign(top1=table["top1"].where((table["row"] != "clip") | (table["protocol"] != "K400"), 5.0))
    found = _chart(synthetic.suite(far, reference="clip"))
    near, whole = found.plots
    assert (near.view, whole.view) == ("near", "whole") and "clip" in found.rows
    assert {spot.row for spot in whole.spots} - {spot.row for spot in near.spots} == {"clip"}
    assert "without CLIP (frozen)" in [line for text in near.texts for _, line in text.lines]
    assert [plot.view for plot in _chart(synthetic.plain()).plots] == [""]


@pytest.mark.parametrize(("x", "kept"), [([1, 2, 3], 3), ([1, 50, 51, 52], 3), ([1, 2, 50, 51], 4), ([1, 2, 3, 4], 4)])
def test_a_pile_is_what_most_points_are_in(x: list[float], kept: int) -> None:
    lines = pd.DataFrame({"x": x, "y": 1.0, "dx": 0.5, "dy": 0.5})
    assert pile(lines).sum() == kept

"""Each expert alone against the merge: which rows are drawn beside them, as points or as levels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes

from reports.experts import accuracy_figures, similarity_figures
from reports.results import Results
from tests.reports import synthetic


def _moved(results: Results, row: str, points: float) -> Results:
    """Results with another closed-set accuracy of one row."""
    table = results.table.copy()
    table.loc[(table["row"] == row) & (table["protocol"] == "K400"), "top1"] += points
    return replace(results, table=table)


def _levels(axes: Axes) -> list[float]:
    return sorted({float(np.asarray(line.get_ydata())[0]) for line in axes.lines if line.get_linestyle() == "--"})


def _texts(axes: Axes) -> set[str]:
    return {text.get_text() for text in axes.texts}


def test_near_references_are_points_and_far_ones_levels() -> None:
    results = synthetic.experts()
    axes = next(accuracy_figures(results)).figure.axes[0]
    clip = results.summary().query("row == 'clip'").iloc[0]
    assert _levels(axes) == pytest.approx([clip["UCF_mean"]])
    assert {"Text4Vis", "Mean pooling", f"CLIP (frozen) (K400 {clip['K400_mean']:.1f})"} <= _texts(axes)
    near = next(accuracy_figures(_moved(results, "clip", 20))).figure.axes[0]
    assert not _levels(near) and "CLIP (frozen)" in _texts(near)


def test_a_level_off_the_panel_widens_it() -> None:
    results = synthetic.experts()
    table = results.table.copy()
    table.loc[(table["row"] == "clip") & (table["protocol"] == "UCF"), "top1"] = 20.0
    axes = next(accuracy_figures(replace(results, table=table))).figure.axes[0]
    assert axes.get_ylim()[0] < 20


def test_rows_of_the_same_method_are_no_references() -> None:
    results = synthetic.experts()
    table = results.table.assign(method=results.table["method"].replace("dense", "mote"))
    texts = _texts(next(accuracy_figures(replace(results, table=table))).figure.axes[0])
    assert "Text4Vis" not in texts and "Mean pooling" in texts


def test_every_choice_has_its_bars_and_its_number_of_seeds() -> None:
    figure = next(accuracy_figures(synthetic.experts())).figure
    for axes in figure.axes:
        assert {"merged", "expert 0", "expert 1", "expert 2", "expert 3"} <= _texts(axes)
    note = figure.get_supxlabel()
    assert "±1 s.d. over seeds, n = 2–3" in note and "Single run, no bars: CLIP (frozen)" in note


def test_similarities_name_the_feature_and_their_spread() -> None:
    results = synthetic.experts()
    first, second, _ = results.probes
    probes = (
        first,
        replace(second, similarity=second.similarity - 0.02),
        replace(first, subject=replace(first.subject, point="alpha 1"), feature="z"),
    )
    figure = next(similarity_figures(replace(results, probes=probes))).figure
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert "video embedding" in titles[1] and "1 seed" in titles[1]
    assert "2 seeds, s.d. ≤ 0.014" in titles[0]
    assert figure.axes[0].collections[0].get_clim() == (0.5, 1.0)

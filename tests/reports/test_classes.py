"""Gains and losses by class: known differences, classes by name over splits, and what is shown of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.classes import FEWEST, PICTURES, SIDE, class_changes, class_figures, class_grids
from reports.results import Results
from tests.reports import synthetic

CLASSES, EACH = 20, 12


def _predictions(identity: str) -> pd.DataFrame:
    """MoTE is right on 6 of 12 videos of each class, Text4Vis on 0 to 12, by class; the last class has 3 videos."""
    label_N = np.repeat(np.arange(CLASSES), EACH)[: -EACH + 3]
    right = 6 if identity.startswith("mote") else label_N * EACH // (CLASSES - 1)
    correct = np.tile(np.arange(EACH), CLASSES)[: len(label_N)] < right
    videos = [f"v{n}" for n in range(len(label_N))]
    return pd.DataFrame({"video": videos, "label": label_N, "prediction": label_N, "correct": correct})


def _names(identity: str) -> list[str]:
    """The second split of UCF numbers the classes otherwise."""
    names = [f"name {n}" for n in range(CLASSES)]
    return names[::-1] if ":test2:" in identity else names


def _results(base: Results) -> Results:
    return replace(base, predictions=_predictions, class_names=_names)


def test_differences_are_known_and_sorted() -> None:
    first = class_changes(_results(synthetic.plain()))[0]
    assert (first.a, first.b, first.protocol, first.seeds) == ("MoTE", "Text4Vis", "K400", (3, 3))
    own = first.classes.set_index("class")
    assert own["difference"].is_monotonic_decreasing and len(own) == CLASSES
    for label in (0, 7, 18):
        assert own.loc[f"name {label}", "difference"] == pytest.approx(100 * (6 - label * 12 // 19) / 12)
    assert own.loc["name 19", "videos"] == 3 < FEWEST and np.isnan(own["low"]["name 19"])


def test_the_interval_is_a_bootstrap_over_the_videos_of_the_class() -> None:
    own = class_changes(_results(synthetic.plain()))[0].classes.set_index("class").loc["name 5"]
    values = 100 * ((np.arange(EACH) < 6).astype(float) - (np.arange(EACH) < 3))
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    assert (own["low"], own["high"]) == pytest.approx((theirs.low, theirs.high), abs=9)  # a video is 8.3 points


def test_classes_of_splits_are_known_by_name() -> None:
    ucf = next(own for own in class_changes(_results(synthetic.parts())) if own.protocol == "UCF")
    assert set(ucf.classes["class"]) == {f"name {n}" for n in range(CLASSES)}
    assert ucf.classes["videos"].sum() == 2 * len(_predictions("mote"))  # v0 is of another class in the second split


def test_figures_are_few_and_show_the_largest_gains_and_losses() -> None:
    figures = list(class_figures(_results(synthetic.layered())))
    assert len(figures) == PICTURES and {picture.section for picture in figures} == {"classes"}
    labels = [label.get_text() for label in figures[0].figure.axes[0].get_yticklabels()]
    assert len(labels) == 2 * SIDE and labels[0] == "name 0 (12)" and labels[-1] == "name 18 (12)"
    assert "12 of 20 classes" in figures[0].figure.get_supxlabel()


def test_the_grid_shows_the_same_and_its_file_has_every_class() -> None:
    results = _results(synthetic.plain())
    (grid,) = class_grids(results)
    assert len(grid.rows) == PICTURES * 2 * SIDE and len(grid.values) == 8 * CLASSES
    assert grid.rows[0][3:6] == ("name 0", "12", "+50.0")


def test_a_deviating_or_missing_side_and_a_single_class_have_nothing() -> None:
    changes = class_changes(_results(synthetic.deviating()))
    assert "UCF" not in {own.protocol for own in changes} and len(changes) == 6
    assert list(class_grids(synthetic.plain())) == [] == list(class_figures(synthetic.plain()))

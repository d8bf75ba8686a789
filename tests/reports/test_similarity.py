"""Distances between experts: means over seeds in the cells, and every pair in the table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from reports.experts import distance_figures, distance_table
from reports.facts import Distances, Subject
from tests.reports import synthetic

EXPERTS = 3


def _distances(seed: int, point: str = "") -> Distances:
    distance_GEE = np.full((3, EXPERTS, EXPERTS), 0.5 + 0.2 * seed) * (1 - np.eye(EXPERTS))
    distance_GEE[2] /= 2
    groups, parameters = ("all layers", "layer 0", "layer 1"), (300, 200, 100)
    cosine_GEE = 1 - distance_GEE**2 / 2
    subject = Subject("mote", "MoTE", point, f"w{seed}{point}", seed)
    return Distances(subject, groups, parameters, distance_GEE, cosine_GEE)


def _figures(*found: Distances) -> dict[str, Figure]:
    return {own.name: own.figure for own in distance_figures(replace(synthetic.plain(), distances=found))}


def test_figure_has_distance_and_cosine_of_all_then_each_layer() -> None:
    figures = _figures(_distances(0), _distances(1), _distances(0, "layers 2"))
    assert list(figures) == ["expert-weights-mote", "expert-weights-mote-layers-2"]
    figure = figures["expert-weights-mote"]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["distance, all layers", "cosine, all layers", "distance, layer 0", "distance, layer 1"]
    assert [text.get_text() for text in figure.axes[0].texts][:2] == ["0.00", "0.60"]
    assert [text.get_text() for text in figure.axes[3].texts][:2] == ["0.00", "0.30"]
    assert "2 seeds, s.d. at most 0.141; 300 parameters" in figure.get_supxlabel()
    assert "One seed" in figures["expert-weights-mote-layers-2"].get_supxlabel()


def test_a_group_of_zeros_leaves_the_others_as_they_are() -> None:
    own = _distances(0)
    own.distance[1] = own.cosine[1] = np.nan
    (figure,) = _figures(own).values()
    assert [text.get_text() for text in figure.axes[0].texts][1] == "0.50"


def test_table_has_every_pair_of_every_group() -> None:
    table = distance_table([_distances(0), _distances(1)])
    assert len(table) == 3 * EXPERTS and set(table["seeds"]) == {2}
    line = table.query("group == 'layer 1' and a == 0 and b == 2").iloc[0]
    found = line[["distance_mean", "distance_std"]].to_numpy(float)
    assert found == pytest.approx([0.3, np.std([0.25, 0.35], ddof=1)])
    assert line["parameters"] == 100
    assert distance_table([]).empty and _figures() == {}

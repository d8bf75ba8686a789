"""Pareto fronts with known members, and what the pictures of costs draw, name and leave out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports.cost_figures import cost_figures
from reports.costs import digits, pareto_front
from reports.facts import Cost
from reports.results import Results
from tests.reports import costly, synthetic


def pictures(results: Results) -> dict[str, Figure]:
    return {picture.name: picture.figure for picture in cost_figures(results)}


def names(axes: Axes) -> set[str]:
    """The direct labels of a panel."""
    return {text.get_text() for text in axes.texts}


def drawn(axes: Axes) -> Iterator[tuple[float, float]]:
    """The points with bars of a panel."""
    for container in axes.containers:
        yield from zip(*(map(float, values) for values in container[0].get_data()), strict=True)


@pytest.fixture(scope="module")
def plain() -> dict[str, Figure]:
    return pictures(costly.costly())


@pytest.mark.parametrize(
    ("prices", "accuracies", "front"),
    [
        ([1, 2, 3], [50, 60, 55], [0, 1]),
        ([1, 1, 2], [50, 50, 50], [0, 1]),  # equals in both stay, the dearer one goes
        ([1, 1, 2], [50, 60, 60], [1]),
        ([3, 2, 1], [60, 50, 40], [0, 1, 2]),
        ([0, 5], [70, 60], [0]),
        ([7], [1], [0]),
        ([], [], []),
    ],
)
def test_the_front_is_what_nothing_beats(prices: list[float], accuracies: list[float], front: list[int]) -> None:
    assert np.flatnonzero(pareto_front(prices, accuracies)).tolist() == front


def test_the_front_by_its_definition_on_random_points() -> None:
    points = np.random.default_rng(0).integers(0, 6, (40, 2)).astype(float)
    expected = [
        not any((p <= price and a >= accuracy) and (p < price or a > accuracy) for p, a in points)
        for price, accuracy in points
    ]
    assert pareto_front(*points.T).tolist() == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (649.31, "649.3"),
        (98.8, "98.8"),
        (0.0123, "0.0123"),
        (1299, "1,299.0"),
        (0, "0"),
        (math.nan, "–"),
        (5.9, "5.90"),
    ],
)
def test_digits(value: float, text: str) -> None:
    assert digits(value) == text


def test_a_spread_has_the_digits_of_its_mean() -> None:
    assert digits(0.3, like=6.3) == "0.30"


def test_every_price_has_a_panel_with_every_row(plain: dict[str, Figure]) -> None:
    figure = plain["costs"]
    assert [axes.get_xlabel().partition("\n")[0] for axes in figure.axes] == [
        "GFLOPs per video (2 per multiply-add)",
        "Median ms per video",
        "Trainable parameters (M)",
    ]
    assert "cpu (AVX512), fp32, batch 1" in figure.axes[1].get_xlabel()
    scores = costly.costly().summary(alike=True).set_index("row")["trade_off_mean"]
    for place, axes in enumerate(figure.axes):
        expected = sorted((price[place], scores[row]) for row, price in costly.PRICES.items())
        assert np.array(sorted(drawn(axes))) == pytest.approx(np.array(expected))


def test_members_of_the_front_are_named_and_joined_by_steps(plain: dict[str, Figure]) -> None:
    (axes, *_) = plain["costs"].axes
    scores = costly.costly().summary(alike=True).set_index("row")["trade_off_mean"]
    lines = [np.asarray(line.get_data(), dtype=float) for line in axes.lines]
    x, y = next(own for own in lines if own.shape[1] > 2)
    assert y == pytest.approx(np.repeat(scores[["clip", "mean", "mote"]], 2))
    assert x[:-1] == pytest.approx([140.0, 140.5, 140.5, 141.3, 141.3]) and x[-1] == axes.get_xlim()[1]
    sizes = {text.get_text(): float(text.get_fontsize()) for text in axes.texts}
    assert {name for name, size in sizes.items() if size > 7} == {"CLIP (frozen)", "Mean pooling", "MoTE"}
    assert len(sizes) == len(costly.PRICES)  # the others by their best point


def test_wide_prices_are_logarithmic_and_nothing_trained_stands_at_zero(plain: dict[str, Figure]) -> None:
    flops, _, trained = plain["costs"].axes
    assert flops.get_xscale() == "linear" and trained.get_xscale() == "symlog"
    assert trained.get_xlim()[0] < 0 and 0 in trained.get_xticks()
    costs = [own for own in costly.costly().costs if own.subject.row != "clip"]
    assert pictures(replace(costly.costly(), costs=tuple(costs)))["costs"].axes[2].get_xscale() == "log"


def test_rows_without_profile_or_accuracy_are_named_not_drawn() -> None:
    base = costly.costly()
    table = synthetic.missing(base.table, row="mean", protocol="K400")
    figure = pictures(replace(base, table=table, costs=tuple(own for own in base.costs if own.subject.row != "dense")))[
        "costs"
    ]
    assert (
        "no profile: Text4Vis" in figure.get_supxlabel() and "results missing: Mean pooling" in figure.get_supxlabel()
    )
    assert all(len(list(drawn(axes))) == 4 for axes in figure.axes)
    assert not any({"Text4Vis", "Mean pooling"} & names(axes) for axes in figure.axes)


def _without_latency(own: Any) -> Any:
    return replace(own, result={**own.result, "latency": []})


def test_latency_needs_measurements_on_one_device() -> None:
    base = costly.costly()
    none = pictures(replace(base, costs=tuple(map(_without_latency, base.costs))))["costs"]
    assert len(none.axes) == 2
    other = replace(base.costs[0], machine={**costly.MACHINE, "device": "NVIDIA H200"})
    figure = pictures(replace(base, costs=(other, *base.costs[1:])))["costs"]
    assert len(list(drawn(figure.axes[1]))) == len(base.costs) - 1 and len(list(drawn(figure.axes[0]))) == len(
        base.costs
    )
    assert "measured otherwise" in figure.get_supxlabel()


def test_a_disturbed_latency_is_hollow_and_no_front_is_drawn_over_time() -> None:
    base = costly.costly()
    (own,) = (cost for cost in base.costs if cost.subject.row == "mote")
    entries = [{**entry, "disturbed": "load 7.5 of 2 cores"} for entry in own.result["latency"]]
    spoilt = replace(own, result={**own.result, "latency": entries})
    costs = tuple(spoilt if cost is own else cost for cost in base.costs)
    flops, time, trained = pictures(replace(base, costs=costs))["costs"].axes
    steps = [sum(len(np.asarray(line.get_data()[0])) > 2 for line in axes.lines) for axes in (flops, time, trained)]
    assert steps == [1, 0, 1]
    assert max(float(text.get_fontsize()) for text in time.texts) < 7 and names(time)
    hollow = [c[0].get_markerfacecolor() == "white" for axes in (flops, time, trained) for c in axes.containers]
    assert hollow.count(True) == 1
    note = flops.figure.get_supxlabel()
    assert "No front over time" in note and "MoTE: load 7.5 of 2" in " ".join(note.split())


def test_a_single_row_has_no_front() -> None:
    base = costly.costly()
    one = pictures(replace(base, costs=tuple(own for own in base.costs if own.subject.row == "mote")))["costs"]
    assert "Pareto" not in one.get_supxlabel()
    assert not any(len(np.asarray(line.get_data()[0])) > 2 for axes in one.axes for line in axes.lines)


def test_facets_have_their_own_panels_and_points_their_values() -> None:
    base = synthetic.layered()
    points = base.table[["row", "point", "layers"]].drop_duplicates().itertuples(index=False)
    costs = [costly.cost(row, point, gflops=140 + (0 if math.isnan(n) else n)) for row, point, n in points]
    figure = pictures(replace(base, costs=tuple(costs)))["costs"]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["world narrow"] * 3 + ["world broad"] * 3
    assert "MoTE, temporal layers 6" in names(figure.axes[0])  # the best of its row


def test_a_suite_of_one_role_is_drawn_by_its_accuracy() -> None:
    base = synthetic.without("zero-shot")
    points = base.table[["row", "point"]].drop_duplicates().itertuples(index=False, name=None)
    figure = pictures(replace(base, costs=tuple(costly.cost(*key) for key in points)))["costs"]
    assert figure.axes[0].get_ylabel() == "Closed-set top-1, K400 (%)"


def test_several_harmonic_means_have_a_picture_each() -> None:
    base = synthetic.halves()
    points = base.table[["row", "point"]].drop_duplicates().itertuples(index=False, name=None)
    assert len(pictures(replace(base, costs=tuple(costly.cost(*key) for key in points)))) == 2


def _uneven(own: Cost) -> Cost:
    """A profile whose expert 0 has a head of twice the size."""
    dearer = {"counted": 2 * own.result["choices"][1]["flops"]["counted"]}
    choices = [choice | ({"flops": dearer} if choice["name"] == "expert 0" else {}) for choice in own.result["choices"]]
    return replace(own, result={**own.result, "choices": choices})


def test_bars_of_experts_are_what_they_cost_where_they_differ(plain: dict[str, Figure]) -> None:
    (own,) = (own for own in costly.costly().costs if own.subject.row == "mote")
    assert [axes.get_xlabel() for axes in plain["costs-experts"].axes] == ["expert, counted from 0"]  # heads are equal
    figure = pictures(replace(costly.costly(), costs=(_uneven(own),)))["costs-experts"]
    training, test = figure.axes
    heights = [[bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)] for axes in (training, test)]
    assert heights[0] == pytest.approx([expert["training"] / 1e9 for expert in own.result["experts"]])
    choices = [choice["flops"]["counted"] / 1e9 for choice in _uneven(own).result["choices"]]
    assert heights[1] == pytest.approx(choices)
    assert [tick.get_text() for tick in test.get_xticklabels()] == ["merged", "0", "1", "2", "3", "ensemble"]


def _identified(own: Cost, identity: str) -> Cost:
    return replace(own, subject=replace(own.subject, identity=identity))


def test_points_that_share_a_profile_have_its_experts_once() -> None:
    base = synthetic.joined()
    shared = [
        _identified(costly.cost("mote", point, experts=experts), f"p{experts}")
        for experts, point in product((2, 3), base.table.loc[base.table["row"] == "mote", "point"].unique())
    ]
    assert len(pictures(replace(base, costs=tuple(shared)))["costs-experts"].axes) == 2


def test_without_costs_nothing_is_drawn() -> None:
    assert pictures(synthetic.plain()) == {}
    assert list(pictures(replace(synthetic.plain(), costs=(costly.cost("mote", "elsewhere"),)))) == []

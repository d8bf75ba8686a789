"""The suites that are the field's table: they plan with real data and at toy scale, beside the published numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.graph.build import build_graph
from bench.graph.price import Speed, price
from bench.published.pairing import Pair, pairs
from bench.suite.named_protocols import named_protocol
from bench.suite.resolve import SUITES, load_suite
from bench.suite.trial import Suite
from methods.registry import BUILT_IN

NAMES = ("main-table", "main-table-matched", "few-shot-table", "base-to-novel-table")
LONGEST = 90 * 60  # seconds on two cores, for nineteen methods


def shipped(name: str, *overrides: str) -> Suite:
    return load_suite(SUITES / f"{name}.yaml", overrides)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_a_row_with_real_data_and_in_the_embedded_world(name: str) -> None:
    real, small = shipped(name), shipped(name, "world=glyphs")
    assert {row.method for row in real.file.rows.values()} == {*BUILT_IN}
    assert {t.row for t in real.trials} == {t.row for t in small.trials}
    assert {(t.row, t.point, t.seed) for t in real.trials} >= {(t.row, t.point, t.seed) for t in small.trials}
    embedded = build_graph(small)
    assert all(data.startswith("glyphs") for data in embedded.datasets) and not embedded.missing
    assert build_graph(real).missing


@pytest.mark.parametrize("name", NAMES)
def test_two_cores_finish_it_at_toy_scale(name: str) -> None:
    graph = build_graph(shipped(name, "world=glyphs"))
    assert price(list(graph.stages.values()), (), Speed("cpu"), 2).wall < LONGEST


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_the_embedded_world_are_measured_alike(name: str) -> None:
    small = shipped(name, "world=glyphs")
    told = {text for trial in small.trials for text in trial.deviations.values()}
    assert all("views" not in text and "dataset" not in text and "split" not in text for text in told)
    for trial in small.trials:
        if trial.config.trains and trial.config.tuned:
            assert trial.recipe.tower_lr_ratio == 0.06
        assert trial.recipe.views.frames == dict(trial.protocols).popitem()[1].views.frames == 4


def test_rows_are_measured_in_the_way_of_their_own_papers() -> None:
    ways = {trial.row: dict(trial.protocols) for trial in shipped("main-table", "seeds=[0]").trials}
    for row, how in (("vificlip", "vifi"), ("open_vclip", "open-vclip"), ("text4vis", "text4vis")):
        own = named_protocol(f"{how}/k400-4x3")
        assert ways[row]["K400"].templates == own["templates"] and ways[row]["K400"].fusion == own["fusion"]
    assert {ways[row]["K600"].split for row in ("open_vclip", "froster")} == {"validation"}
    assert {ways[row]["K600"].split for row in ways if "K600" in ways[row]} == {"validation", "test"}
    assert ways["mote"] == dict(shipped("main-table", "seeds=[0]").columns)
    matched = shipped("main-table-matched", "seeds=[0]")
    assert not any(trial.deviations for trial in matched.trials)
    trained = [trial.recipe for trial in matched.trials if trial.config.trains]
    assert {(own.batch, own.templates, own.views.frames, own.warmup_epochs) for own in trained} == {
        (144, "mote28", 8, 5)
    }


def _values(found: tuple[Pair, ...], row: str, point: str) -> dict[str, str]:
    return {pair.measure: pair.number.value for pair in found if pair.row == row and point in pair.point}


def test_published_numbers_stand_beside_the_released_settings() -> None:
    found = pairs(shipped("main-table"))
    assert sum(pair.comparable for pair in found) >= 60
    assert all(pair.measure for pair in found)
    large = _values(found, "mote", "L/14")
    assert (large["UCF"], large["hm_zs"], large["trade_off"]) == ("88.7", "74.4", "80.1")
    assert _values(found, "taco", "L/14") == {"UCF": "91.4", "HMDB": "64.2", "K600": "83.9"}
    assert _values(found, "froster", "B/16")["K600"] == "74.8"


def _alone(name: str) -> Iterator[str]:
    yield from (pair.label.partition(" ")[0] for pair in pairs(shipped(name)) if pair.label)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("main-table", {"OTI", "MAXI", "X-Florence", "DiST"}),
        ("main-table-matched", {"OTI", "MAXI", "X-Florence", "DiST"}),
        ("mote-table3", {"OTI", "MAXI", "X-Florence", "DiST"}),
        ("mote-table4", {"X-Florence", "DiST"}),
        ("mote-table5", {"MAXI"}),
        ("few-shot-table", {"MAXI", "X-Florence"}),
    ],
)
def test_what_nobody_can_run_again_is_published_only(name: str, labels: set[str]) -> None:
    assert {*_alone(name)} == labels


@pytest.mark.parametrize(
    ("name", "row", "values"),
    [
        ("mote-table3", "open_vclip", {"UCF": "87.6", "HMDB": "59.0", "K600": "81.1"}),
        ("mote-table3", "vificlip", {"UCF": "76.8", "HMDB": "51.3", "K600": "71.2"}),
        ("mote-table3", "actionclip", {"UCF": "58.3", "HMDB": "40.8", "K600": "67.7"}),
        ("mote-table4", "froster", {"K400": "78.9", "K400-1x1": "78.9", "hm_zs": "69.1", "trade_off": "73.7"}),
    ],
)
def test_motes_tables_have_first_hand_rows_of_other_methods(name: str, row: str, values: dict[str, str]) -> None:
    assert _values(pairs(shipped(name)), row, "") == values


def test_numbers_of_points_that_the_world_lacks_are_not_beside_its_own() -> None:
    """Lines that nobody can run again stand, if their point is there."""
    real, small = pairs(shipped("main-table", "seeds=[0]")), pairs(shipped("main-table", "world=glyphs", "seeds=[0]"))
    assert {own.point for own in real} >= {"model B/16", "model L/14"}
    assert {own.point for own in small} == {"model B/16"}
    assert {own.label for own in small if own.label} == {own.label for own in real if "B/16" in own.point and own.label}

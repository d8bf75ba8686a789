"""Paired tests between rows: which cells are compared, on what, and when that is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bench.errors import UserError
from bench.statistics import paired_permutation_test
from reports.comparisons import comparisons
from reports.results import ReportSettings, Results
from tests.reports import synthetic


def _mean_correct(results: Results, row: str, protocol: str) -> pd.Series:
    lines = results.table.query("row == @row and protocol == @protocol and expert == ''")
    correct = [synthetic.predictions(identity).set_index("video")["correct"] for identity in lines["identity"]]
    return pd.concat(correct, axis=1).mean(axis=1)


def test_correctness_is_averaged_over_seeds_before_the_test() -> None:
    results = synthetic.experts()
    found = comparisons(results)
    assert [(test.a, test.b) for test in found] == 4 * [("MoTE", "Text4Vis")] + 4 * [("MoTE", "CLIP (frozen)")]
    last = found[-1]
    expected = paired_permutation_test(_mean_correct(results, "mote", "K600"), _mean_correct(results, "clip", "K600"))
    assert (last.protocol, last.videos, last.seeds) == ("K600", synthetic.VIDEOS, (3, 1))
    assert (last.difference, last.p) == pytest.approx(expected)


def test_only_points_that_agree_are_compared() -> None:
    found = comparisons(synthetic.layered())
    assert len(found) == 4 * 2 * 4
    assert all(test.a.removeprefix("MoTE") == test.b.removeprefix("Text4Vis") for test in found)


def test_a_side_without_results_is_shown_as_missing() -> None:
    missing = [test for test in comparisons(synthetic.layered()) if not test.videos]
    assert [(test.b, test.seeds) for test in missing] == [("Text4Vis, temporal layers 6, world broad", (3, 0))]
    assert math.isnan(missing[0].p)


def test_the_order_of_videos_does_not_matter() -> None:
    results = synthetic.plain()
    shuffled = replace(
        results, predictions=lambda i: synthetic.predictions(i).sample(frac=1, random_state=sum(i.encode()))
    )
    pairs = zip(comparisons(shuffled), comparisons(results), strict=True)
    assert all((a.p, a.difference) == pytest.approx((b.p, b.difference)) for a, b in pairs)


def test_splits_are_one_test_of_the_mean_over_them() -> None:
    results = synthetic.parts()
    tests = {test.protocol: test for test in comparisons(results)}

    def accuracy(row: str) -> float:
        identities = results.table.query("row == @row and protocol == 'UCF'")["identity"]
        return 100 * float(np.mean([synthetic.predictions(identity)["correct"].mean() for identity in identities]))

    assert tests["UCF"].difference == pytest.approx(accuracy("mote") - accuracy("dense"))
    assert tests["UCF"].videos == 2 * synthetic.VIDEOS  # half of a split's videos are in the next one, too


def test_a_seed_without_all_parts_does_not_count() -> None:
    results = synthetic.parts(seeds=3)
    table = synthetic.missing(results.table, row="mote", seed=1, part="test3")
    tests = {test.protocol: test for test in comparisons(replace(results, table=table))}
    assert tests["UCF"].seeds == (2, 3) and tests["HMDB"].seeds == (3, 3)


def test_videos_in_no_draw_are_left_out() -> None:
    def half(identity: str) -> pd.DataFrame:
        predictions = synthetic.predictions(identity)
        return predictions.assign(correct=predictions["correct"].astype(float).where(predictions.index < 120))

    assert [test.videos for test in comparisons(replace(synthetic.plain(), predictions=half))] == 8 * [120]


def test_a_deviating_side_is_not_compared() -> None:
    found = comparisons(synthetic.deviating())
    skipped = [(test.b, test.protocol, test.skipped) for test in found if test.skipped]
    why = "MoTE has views.clips 1 instead of 3"
    assert skipped == [("Text4Vis", "UCF", why), ("CLIP (frozen)", "UCF", why)]
    assert all(math.isnan(test.p) == bool(test.skipped) for test in found)


def test_different_videos_are_refused() -> None:
    def partly(identity: str) -> pd.DataFrame:
        return synthetic.predictions(identity)[: 199 if identity.startswith("dense") else 200]

    with pytest.raises(ValueError, match="different videos"):
        comparisons(replace(synthetic.plain(), predictions=partly))


def test_an_unknown_row_is_named() -> None:
    settings = ReportSettings(compare=(("mote", "dens"),))
    with pytest.raises(UserError, match="did you mean 'dense'"):
        comparisons(replace(synthetic.plain(), settings=settings))

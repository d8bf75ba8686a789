"""Intervals of accuracies against closed forms, of harmonic means against the delta method, and which rows are tied."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports import bootstrap as module
from reports.bootstrap import answers, bootstrap
from reports.results import Results
from tests.reports import synthetic

CLIP, MOTE = ("clip", "", ""), ("mote", "", "")


def _deviation(results: Results, place: tuple[str, str, str], measure: str) -> float:
    own = bootstrap(results, False)
    return float(own.columns[measure].draws_GB[own.places[place]].std())


def _accuracies(results: Results, row: str) -> dict[str, float]:
    lines = results.table[(results.table["row"] == row) & (results.table["expert"] == "")]
    return dict(lines.groupby("protocol")["top1"].mean())


def test_one_runs_interval_is_that_of_a_share() -> None:
    results = synthetic.plain()
    top1 = _accuracies(results, "clip")["K400"]
    interval = bootstrap(results, False).interval(CLIP, "K400")
    assert interval is not None and interval.over == "200 videos, nothing else varies"
    share = stats.binomtest(round(2 * top1), 200).proportion_ci(method="wilson")
    assert (interval.low, interval.high) == pytest.approx((100 * share.low, 100 * share.high), abs=1.2)
    assert interval.text == f"95 % interval {interval.low:.1f}–{interval.high:.1f} over {interval.over}"


def test_harmonic_means_vary_as_the_delta_method_says() -> None:
    """d HM = HM² / k · Σ d accuracy / accuracy², protocols independent of each other."""
    results = synthetic.plain()
    top1 = _accuracies(results, "clip")
    variance = {name: value * (100 - value) / synthetic.VIDEOS for name, value in top1.items()}
    unseen = results.of_role("zero-shot")
    hm = stats.hmean([top1[name] for name in unseen])
    of_hm = sum(variance[name] * (hm**2 / 3 / top1[name] ** 2) ** 2 for name in unseen)
    assert _deviation(results, CLIP, "hm_zs") == pytest.approx(math.sqrt(of_hm), rel=0.06)
    both = stats.hmean([top1["K400"], hm])
    parts = [(variance["K400"], top1["K400"]), (of_hm, hm)]
    of_both = sum(own * (both**2 / 2 / value**2) ** 2 for own, value in parts)
    assert _deviation(results, CLIP, "trade_off") == pytest.approx(math.sqrt(of_both), rel=0.06)


def test_a_video_of_several_splits_adds_its_share_to_their_mean() -> None:
    results = synthetic.parts()
    lines = results.table.query("protocol == 'UCF' and row == 'mote'")
    ((trial, share_N),) = answers(results, lines).items()
    parts = [synthetic.predictions(identity) for identity in lines["identity"]]
    assert trial == ("mote", "", "", 0) and len(share_N) == 400
    assert share_N.mean() == pytest.approx(np.mean([part["correct"].mean() for part in parts]), abs=1e-5)
    inside = [part.set_index("video")["correct"].get("v150", 0) for part in parts]  # in the first two splits
    assert share_N[150] == pytest.approx(sum(map(float, inside)) * 400 / 200 / 3, abs=1e-5)
    assert _deviation(results, MOTE, "UCF") == pytest.approx(100 * share_N.std() / 20, rel=0.06)


def test_trials_without_all_parts_and_videos_without_a_draw_are_left_out() -> None:
    results = synthetic.parts(seeds=3)
    table = synthetic.missing(results.table, row="mote", seed=1, part="test3")
    found = answers(results, table.query("protocol == 'UCF' and row == 'mote'"))
    assert [seed for _, _, _, seed in found] == [0, 2]

    def half(identity: str) -> pd.DataFrame:
        predictions = synthetic.predictions(identity)
        return predictions.assign(correct=predictions["correct"].astype(float).where(predictions.index < 120))

    own = bootstrap(replace(synthetic.plain(), predictions=half), False).columns["UCF"]
    assert own.videos == 120


def test_intervals_surround_every_number_that_is_there() -> None:
    results = synthetic.layered()
    found, summary = bootstrap(results, False), results.summary()
    assert list(found.places) == list(summary[["row", "point", "expert"]].itertuples(index=False, name=None))
    for measure in results.measures:
        for place, mean in zip(found.places, summary[f"{measure}_mean"], strict=True):
            interval = found.interval(place, measure)
            assert math.isnan(mean) if interval is None else interval.low < mean < interval.high


def test_only_a_row_that_could_have_more_seeds_is_a_run_of_its_own() -> None:
    found = bootstrap(synthetic.plain(), False)
    assert found.fixed == {CLIP} and not found.alone(CLIP, "K400") and not found.alone(MOTE, "K400")
    single = bootstrap(synthetic.parts(), False)
    assert not single.fixed and single.alone(CLIP, "K400")
    table = synthetic.missing(synthetic.plain().table, row="mote", seed=1, protocol="UCF")
    left = bootstrap(
        replace(synthetic.plain(), table=synthetic.missing(table, row="mote", seed=2, protocol="UCF")), False
    )
    assert left.alone(MOTE, "UCF") and left.alone(MOTE, "hm_zs") and not left.alone(MOTE, "HMDB")


def test_gaps_are_to_the_best_and_corrected_over_the_column() -> None:
    found = bootstrap(synthetic.plain(), False)
    rows = [(row, "", "") for row in ("clip", "mean", "dense", "mote")]
    gaps = found.gaps("trade_off", rows)
    assert next(iter(gaps)) == MOTE and gaps[MOTE].points == 0
    assert gaps[CLIP].points == pytest.approx(12.1, abs=0.1) and gaps[CLIP].low > 0 and gaps[CLIP].p < 0.001
    pair = found.gaps("trade_off", [("dense", "", ""), MOTE])
    assert gaps[("dense", "", "")].p >= pair[("dense", "", "")].p


def test_suites_of_very_many_results_have_fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 10)
    assert bootstrap(synthetic.halves(), False).draws == module.FEW_DRAWS


def test_a_harmonic_mean_of_nothing_right_is_zero() -> None:
    zero, some = np.zeros((1, 2), np.float32), np.full((1, 2), 50, np.float32)
    assert list(module._harmonic_means([zero, some])[0]) == [0, 0]
    assert list(module._harmonic_means([some, 2 * some])[0]) == pytest.approx([200 / 3] * 2)

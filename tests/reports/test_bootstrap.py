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
    ((trial, (share_N, group_N)),) = answers(results, lines).items()
    parts = [synthetic.predictions(identity) for identity in lines["identity"]]
    assert trial == ("mote", "", "", 0) and len(share_N) == 400 and group_N is None
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


# --- groups: v000 to v009 are one, and so on --------------------------------------------------------------------------

TENS = r"(v\d+)\d"


def _in_tens(results: Results) -> Results:
    return replace(results, groups=dict.fromkeys(results.table["dataset"], TENS))


def _error(share_N: np.ndarray) -> float:
    """The cluster-robust standard error (CR1) of the mean of tens, in points."""
    sum_U = (share_N - share_N.mean()).reshape(-1, 10).sum(axis=1)
    return 100 * math.sqrt(len(sum_U) / (len(sum_U) - 1) * (sum_U**2).sum()) / len(share_N)


def test_groups_are_resampled_in_the_place_of_videos() -> None:
    results = _in_tens(synthetic.plain())
    interval = bootstrap(results, False).interval(CLIP, "K400")
    assert interval is not None and interval.over == "200 videos in 20 groups, nothing else varies"
    identity = results.table.query("row == 'clip' and protocol == 'K400'")["identity"].iloc[0]
    correct_N = synthetic.predictions(identity)["correct"].to_numpy(float)
    assert _deviation(results, CLIP, "K400") == pytest.approx(_error(correct_N), rel=0.06)
    width = 2 * stats.t.ppf(0.975, 19) * _error(correct_N)
    assert interval.high - interval.low == pytest.approx(width, rel=0.1)


def test_a_video_of_several_splits_stays_one_unit_of_its_group() -> None:
    results = _in_tens(synthetic.parts())
    lines = results.table.query("protocol == 'UCF' and row == 'mote'")
    ((_, (share_N, group_N)),) = answers(results, lines).items()
    assert group_N is not None and group_N.tolist() == [number // 10 for number in range(400)]
    assert share_N == pytest.approx(answers(synthetic.parts(), lines)["mote", "", "", 0].share_N)
    assert _deviation(results, MOTE, "UCF") == pytest.approx(_error(share_N.astype(float)), rel=0.06)
    counted = bootstrap(results, False).counted
    assert counted("UCF") == (40, 400, 1) and counted("hm_zs") == counted("K600") == (20, 200, 1)


def test_groups_of_videos_that_no_draw_has_are_no_groups() -> None:
    def half(identity: str) -> pd.DataFrame:
        predictions = synthetic.predictions(identity)
        return predictions.assign(correct=predictions["correct"].astype(float).where(predictions.index < 120))

    own = bootstrap(replace(_in_tens(synthetic.plain()), predictions=half), False)
    assert own.counted("UCF").text == "120 videos in 12 groups"


def test_groups_of_one_video_each_change_no_number() -> None:
    base, alone = (replace(synthetic.plain(), groups=groups) for groups in ({}, {"k400": {"v001": "film"}}))
    for measure, own in bootstrap(base, False).columns.items():
        np.testing.assert_array_equal(own.draws_GB, bootstrap(alone, False).columns[measure].draws_GB)
        assert (own.groups, own.videos) == (200, 200)


def test_a_column_of_the_list_tells_groups_as_a_pattern_does() -> None:
    results = synthetic.plain()
    column = {f"v{number:03d}": f"film {number // 10}" for number in range(200)}
    told = replace(results, groups=dict.fromkeys(results.table["dataset"], column))
    found, other = (bootstrap(own, False).columns["K400"] for own in (told, _in_tens(results)))
    np.testing.assert_array_equal(found.draws_GB, other.draws_GB)


def test_draws_of_classes_are_drawn_anew_and_test_lists_are_not() -> None:
    results = synthetic.parts()
    own = bootstrap(results, False)
    assert [own.counted(name).classes for name in ("K400", "UCF", "HMDB")] == [1, 1, 10]
    few = results.table["videos"].where(results.table["protocol"] != "HMDB", 20)  # ten lists of 20 make up the 200
    lists = bootstrap(replace(results, table=results.table.assign(videos=few)), False)
    assert lists.counted("HMDB").classes == 1
    interval = own.interval(MOTE, "HMDB")
    assert interval is not None and interval.over == "200 videos, 10 draws of classes, this seed only"
    lines = results.table.query("protocol == 'HMDB' and row == 'mote'")
    apart = results.table.assign(top1=results.table["top1"].where(results.table["part"] == "", lines["top1"].mean()))
    without = bootstrap(replace(results, table=apart), False).columns["HMDB"]
    place = own.places[MOTE]
    added_B = own.columns["HMDB"].draws_GB[place] - without.draws_GB[place]
    tails = stats.t.ppf(0.975, 9) / stats.norm.ppf(0.975)
    assert added_B.std() == pytest.approx(lines["top1"].std(ddof=1) * tails / 10**0.5, rel=0.05)

"""Paired tests between rows: which cells are compared, on what, and when that is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from bench.core.errors import UserError
from bench.measure.power import Variances, smallest
from bench.measure.statistics import mcnemar, sign_flip_test
from reports.accuracies import accuracy_table
from reports.comparisons import column_tests, comparison_tables, comparisons, p_text
from reports.findings import findings
from reports.results import ReportSettings, Results, place_of
from reports.table import TableRow, markdown
from tests.reports import synthetic


def _mean_correct(results: Results, row: str, protocol: str) -> pd.Series:
    lines = results.table.query("row == @row and protocol == @protocol and expert == ''")
    correct = [synthetic.predictions(identity).set_index("video")["correct"] for identity in lines["identity"]]
    return pd.concat(correct, axis=1).mean(axis=1)


def test_correctness_is_averaged_over_seeds_before_the_test_over_videos() -> None:
    results = synthetic.experts()
    found = comparisons(results)
    assert [(test.a, test.b) for test in found] == 6 * [("MoTE", "Text4Vis")] + 6 * [("MoTE", "CLIP (frozen)")]
    k600 = found[9]
    difference = _mean_correct(results, "mote", "K600") - _mean_correct(results, "clip", "K600")
    assert (k600.protocol, k600.videos, k600.seeds) == ("K600", synthetic.VIDEOS, (3, 1))
    assert k600.p == pytest.approx(sign_flip_test(difference.to_numpy()))


def test_the_difference_is_that_of_the_table() -> None:
    results = synthetic.plain()
    means = results.summary().set_index("row").filter(like="_mean").astype(float)
    for test in comparisons(results):
        name = {"HM_ZS": "hm_zs", "Trade-off": "trade_off"}.get(test.protocol, test.protocol)
        other = "dense" if test.b == "Text4Vis" else "clip"
        expected = means[f"{name}_mean"]["mote"] - means[f"{name}_mean"][other]
        assert test.difference == pytest.approx(expected)
        assert test.low < test.difference < test.high and (test.low > 0) == (test.p_seeds < 0.05)


def test_derived_measures_have_no_test_over_videos_alone() -> None:
    found = comparisons(synthetic.plain())
    assert [math.isnan(test.p) for test in found] == [not test.role for test in found]


@pytest.mark.parametrize("make", [synthetic.plain, synthetic.layered, synthetic.deviating, synthetic.parts])
def test_a_pair_has_the_p_of_its_column_where_the_best_is_a_side_and_the_others_are_corrected_together(
    make: Callable[[], Results],
) -> None:
    results = make()
    columns, found = column_tests(results), [test for test in comparisons(results) if test.videos]
    keys = [(test.measure, frozenset(map(place_of, test.lines))) for test in found]
    inside = [(test, columns[key]) for test, key in zip(found, keys, strict=True) if key in columns]
    others = [test for test, key in zip(found, keys, strict=True) if key not in columns]
    assert inside and all((test.corrected, test.tests) == (gap.p, gap.tests) for test, gap in inside)
    assert {test.tests for test in others} <= {len(others)}
    holm = multipletests([test.p_seeds for test in others], method="holm")[1] if others else []
    assert [test.corrected for test in others] == pytest.approx(list(holm))


@pytest.mark.parametrize("make", [synthetic.plain, synthetic.layered, synthetic.halves, synthetic.frames])
def test_the_opening_tells_the_p_of_the_table(make: Callable[[], Results]) -> None:
    results = replace(make(), settings=replace(make().settings, compare=()))
    shown = {f"p {p if p.startswith('<') else f'= {p}'} after Holm over {n} tests"
             for _, _, _, _, _, p, n, *_ in map(texts_of, next(comparison_tables(results)).rows)}  # fmt: skip
    told = [re.search(r"p [<=] [\d.]+ after Holm over \d+ tests", said) for said in findings(results)]
    assert any(told) and {found[0] for found in told if found and "Reference" in found.string} <= shown


def texts_of(row: TableRow) -> list[str]:
    return [cell.text for cell in row]


def test_one_run_each_is_mcnemars_test_and_says_that_it_is_of_this_run() -> None:
    results = synthetic.parts()
    k600 = next(test for test in comparisons(results) if test.protocol == "K600")
    a_N, b_N = (_mean_correct(results, row, "K600").to_numpy(float) for row in ("mote", "dense"))
    assert k600.p == mcnemar(a_N - b_N) and k600.alone
    assert not any(test.alone for test in comparisons(synthetic.plain()))  # CLIP has nothing to train


def test_without_named_pairs_every_row_is_compared_with_the_reference_or_the_best() -> None:
    results = synthetic.plain()
    alone = replace(results, settings=ReportSettings(reference="clip"))
    assert {test.b for test in comparisons(alone)} == {"CLIP (frozen)"} and len(comparisons(alone)) == 5 * 6
    best = replace(results, settings=ReportSettings())
    assert {test.b for test in comparisons(best)} == {"MoTE"}
    assert "report.compare" in next(comparison_tables(best)).notes[-1]


def test_the_table_has_every_test_and_marks_what_is_significant() -> None:
    (table,) = comparison_tables(synthetic.deviating())
    assert table.values is not None
    found = comparisons(synthetic.deviating())
    assert [row[2] for row in synthetic.texts(table)] == [test.protocol for test in found]
    assert {n for n, row in enumerate(table.rows) if any(cell.bold for cell in row)} == {
        n for n, test in enumerate(found) if test.corrected < 0.05
    }
    assert synthetic.texts(table)[1][3:] == ("not compared†", "–", "–", "–", "–", "3 / 3", "–")
    assert [column.head for column in table.columns].count("p") == 1
    assert table.notes[0] == "not compared†: MoTE has views.clips 1 instead of 3"
    assert table.values["low"][0] == found[0].low and table.values["p_seeds"][0] == found[0].p_seeds


def test_rows_that_were_not_measured_alike_are_marked_where_they_are_compared() -> None:
    base = synthetic.plain()
    machines = base.table["row"].map({"mote": "NVIDIA H200, torch 2.15.0"}).fillna("cpu (AVX2), torch 2.9.0")
    results = replace(base, table=base.table.assign(environment=machines))
    (table,) = comparison_tables(results)
    assert all(row[3].text.endswith("‡") for row in table.rows)  # MoTE is a side of all pairs
    for note in (table.notes[0], accuracy_table(results).notes[-1], *(s for s in findings(results) if "alike" in s)):
        assert "MoTE: NVIDIA H200, torch 2.15.0" in note and ": cpu (AVX2), torch 2.9.0" in note
    alike = replace(base, table=base.table.assign(environment="cpu"))
    assert "‡" not in markdown(next(comparison_tables(alike))) and not accuracy_table(alike).notes


def test_a_page_of_very_many_tests_has_fewer_permutations_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reports.comparisons.MANY_TESTS", 3)
    (table,) = comparison_tables(synthetic.plain())
    assert table.values is not None
    assert "Intervals are not corrected" in table.caption
    assert "2,000 permutations" in table.caption and "p_seeds" in table.values
    assert min(float(str(line["p"])) for line in table.values.to_dict("records")) == pytest.approx(1 / 2001)


@pytest.mark.parametrize(
    ("p", "text"), [(0.314, "0.31"), (0.0314, "0.031"), (0.00052, "0.0005"), (0.00001, "< 0.0001"), (math.nan, "–")]
)
def test_p_in_print(p: float, text: str) -> None:
    assert p_text(p) == text


def test_only_points_that_agree_are_compared() -> None:
    found = comparisons(synthetic.layered())
    assert len(found) == 4 * 2 * 6
    assert all(test.a.removeprefix("MoTE") == test.b.removeprefix("Text4Vis") for test in found)


def test_a_side_without_results_is_shown_as_missing() -> None:
    missing = [test for test in comparisons(synthetic.layered()) if not test.videos]
    assert {(test.b, test.seeds) for test in missing} == {("Text4Vis, temporal layers 6, world broad", (3, 0))}
    assert [test.protocol for test in missing] == ["K600", "HM_ZS", "Trade-off"]
    assert all(math.isnan(test.p_seeds) and math.isnan(test.corrected) for test in missing)


def test_splits_are_one_test_of_the_mean_over_them() -> None:
    results = synthetic.parts()
    ucf = next(test for test in comparisons(results) if test.protocol == "UCF")
    means = results.table.query("protocol == 'UCF'").groupby("row")["top1"].mean()
    assert ucf.difference == pytest.approx(means["mote"] - means["dense"])
    assert ucf.videos == 2 * synthetic.VIDEOS  # half of a split's videos are in the next one, too


def test_a_seed_without_all_parts_does_not_count() -> None:
    results = synthetic.parts(seeds=3)
    table = synthetic.missing(results.table, row="mote", seed=1, part="test3")
    tests = {test.protocol: test for test in comparisons(replace(results, table=table))}
    assert tests["UCF"].seeds == (2, 3) and tests["HMDB"].seeds == (3, 3) and tests["HM_ZS"].seeds == (2, 3)


def test_videos_in_no_draw_are_left_out() -> None:
    def half(identity: str) -> pd.DataFrame:
        predictions = synthetic.predictions(identity)
        return predictions.assign(correct=predictions["correct"].astype(float).where(predictions.index < 120))

    assert [test.videos for test in comparisons(replace(synthetic.plain(), predictions=half))] == 12 * [120]


def test_a_deviating_side_is_not_compared() -> None:
    found = comparisons(synthetic.deviating())
    skipped = [(test.b, test.protocol) for test in found if test.skipped]
    measures = ("UCF", "HM_ZS", "Trade-off")
    assert skipped == [(row, measure) for row in ("Text4Vis", "CLIP (frozen)") for measure in measures]
    assert found[2].skipped == "" and found[1].skipped == "MoTE has views.clips 1 instead of 3"
    assert all(math.isnan(test.p_seeds) == bool(test.skipped) for test in found)


@pytest.mark.parametrize("change", ["fewer", "another order"])
def test_different_videos_are_refused(change: str) -> None:
    def other(identity: str) -> pd.DataFrame:
        videos = synthetic.predictions(identity)
        if not identity.startswith("dense"):
            return videos
        return videos[:199] if change == "fewer" else videos[::-1]

    with pytest.raises(ValueError, match="different videos of K400, or in another order"):
        comparisons(replace(synthetic.plain(), predictions=other))


def test_an_unknown_row_is_named() -> None:
    settings = ReportSettings(compare=(("mote", "dens"),))
    with pytest.raises(UserError, match="did you mean 'dense'"):
        comparisons(replace(synthetic.plain(), settings=settings))


def test_groups_of_videos_are_flipped_together_also_of_one_run_each() -> None:
    base = synthetic.parts()
    results = replace(base, groups=dict.fromkeys(base.table["dataset"], r"(v\d+)\d"))
    k600 = next(test for test in comparisons(results) if test.protocol == "K600")
    a_N, b_N = (_mean_correct(results, row, "K600").to_numpy(float) for row in ("mote", "dense"))
    sum_U = (a_N - b_N).reshape(20, 10).sum(axis=1)
    assert k600.p == sign_flip_test(sum_U) != mcnemar(a_N - b_N) and (k600.videos, k600.groups) == (200, 20)
    assert k600.p_seeds == pytest.approx(stats.ttest_1samp(sum_U, 0).pvalue, rel=0.2)  # groups of one size
    (table,) = comparison_tables(results)
    assert table.values is not None
    assert {row[7] for row in synthetic.texts(table)} == {
        "200 (20)",
        "400 (40)",
    } and "in brackets, their groups" in table.caption
    assert set(table.values["groups"]) == {20, 40}
    assert "their groups" not in next(comparison_tables(base)).caption


def _two_rows(videos: int, correct: Callable[[str, int], np.ndarray], seeds: int = 3) -> Results:
    """Rows "mote" and "dense" under one protocol, with the videos that each seed is right on."""
    table = pd.DataFrame(
        [
            synthetic.line(row, {}, seed, "K400", 100 * float(correct(row, seed).mean()))
            | {"identity": f"{row}:{seed}", "videos": videos}
            for row in ("mote", "dense")
            for seed in range(seeds)
        ]
    )
    table["top1"] = [100 * correct(row, seed).mean() for row, seed in zip(table["row"], table["seed"], strict=True)]

    def predictions(identity: str) -> pd.DataFrame:
        row, seed = identity.split(":")
        right = correct(row, int(seed))
        names = [f"v{video}" for video in range(videos)]
        return pd.DataFrame({"video": names, "label": 0, "prediction": 1 - right.astype(int), "correct": right})

    return replace(synthetic.suite(table, compare=(("mote", "dense"),), reference=None), predictions=predictions)


def test_what_is_not_significant_says_what_there_is_not_enough_of() -> None:
    def seeds_differ(row: str, seed: int) -> np.ndarray:  # by 4 points, rows by 3, on the same hard videos
        return np.arange(4000) < 4000 * (0.6 + 0.03 * (row == "mote") + 0.04 * (seed - 1))

    (own,) = comparisons(_two_rows(4000, seeds_differ))
    assert own.difference == pytest.approx(3) and own.p_seeds > 0.05
    assert own.finds > 3 and own.verdict == "not enough seeds to tell"
    (row,) = synthetic.texts(next(comparison_tables(_two_rows(4000, seeds_differ))))
    assert row[5] == p_text(own.corrected) and row[-1] == f"finds {own.finds:.1f}; not enough seeds to tell"

    def rows_differ(row: str, seed: int) -> np.ndarray:  # on nearly all videos, whatever the seed
        return np.arange(100) < 51 if row == "mote" else np.arange(100) >= 52

    (own,) = comparisons(_two_rows(100, rows_differ))
    assert own.difference == pytest.approx(3) and own.verdict == "not enough videos to tell"
    difference_N = 100 * (rows_differ("mote", 0) * 1.0 - rows_differ("dense", 0))
    exact = smallest(Variances(float(difference_N.var(ddof=1)), (0.0, 0.0), (0.0, 0.0)), 100, (3, 3))
    assert own.finds == pytest.approx(exact, rel=0.1)


def test_what_is_significant_or_would_be_found_has_no_verdict() -> None:
    def clear(row: str, seed: int) -> np.ndarray:
        return np.arange(1000) < 1000 * (0.6 + 0.1 * (row == "mote") + 0.002 * (seed - 1))

    (own,) = comparisons(_two_rows(1000, clear))
    assert own.corrected < 0.05 and 0 < own.finds < 10 and own.verdict == ""
    (alone,) = comparisons(_two_rows(1000, clear, seeds=1))
    assert math.isnan(alone.finds) and alone.verdict == ""
    (same,) = comparisons(_two_rows(1000, lambda row, seed: np.arange(1000) < 600))
    assert same.difference == 0 and math.isnan(same.finds) and same.verdict == ""


def test_a_verdict_counts_the_tests() -> None:
    found = [own for own in comparisons(synthetic.plain()) if own.videos]
    assert {own.verdict for own in found} > {""} and all(own.finds > 0 for own in found)
    for own in found:
        assert not own.verdict or (own.corrected >= 0.05 and own.finds > abs(own.difference))
    harmonic = [own for own in found if not own.role]
    assert harmonic and all(0 < own.finds < 100 for own in harmonic)

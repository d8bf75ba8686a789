"""Rows ranked over targets: published numbers, known answers, and when there is no such table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports import ranks
from reports.comparisons import p_text
from reports.ranks import critical_difference, improvement, interquartile_mean, mean_ranks, rank_tables
from reports.results import Results
from tests.reports import synthetic

# Demšar 2006, Table 6: AUC of C4.5 and of three variants with other parameters on 14 datasets of UCI. The two results
# of "voting" that print alike have different ranks there.
DEMSAR = np.array(
    [
        (0.763, 0.768, 0.771, 0.798),
        (0.599, 0.591, 0.590, 0.569),
        (0.954, 0.971, 0.968, 0.967),
        (0.628, 0.661, 0.654, 0.657),
        (0.882, 0.888, 0.886, 0.898),
        (0.936, 0.931, 0.916, 0.931),
        (0.661, 0.668, 0.609, 0.685),
        (0.583, 0.583, 0.563, 0.625),
        (0.775, 0.838, 0.866, 0.875),
        (1.000, 1.000, 1.000, 1.000),
        (0.940, 0.962, 0.965, 0.962),
        (0.619, 0.666, 0.614, 0.669),
        (0.972, 0.981, 0.9752, 0.9751),
        (0.957, 0.978, 0.946, 0.970),
    ]
).T


def test_the_example_of_demsar() -> None:
    """Mean ranks, critical difference and Friedman's statistic as printed in section 3.2.2."""
    found = mean_ranks(DEMSAR)
    assert found == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=0.001)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    friedman = 12 * 14 / (4 * 5) * (np.square(found).sum() - 4 * 5**2 / 4)
    assert friedman == pytest.approx(9.28, abs=0.01)


@pytest.mark.parametrize(("rows", "quantile"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_values_are_those_of_demsars_table_5(rows: int, quantile: float) -> None:
    assert critical_difference(rows, 6) == pytest.approx(quantile * np.sqrt(rows * (rows + 1) / 36), rel=3e-4)


def test_the_chance_of_improvement_counts_pairs_of_runs() -> None:
    first, second = np.array([[60.0, 50.0], [70.0, 40.0]]), np.array([[65.0, 40.0], [55.0, 40.0], [60.0, 45.0]])
    # On the first target 1.5 of 3 and 3 of 3, on the second 3 of 3 and 1 of 3 (two ties, one lost).
    assert improvement(first, second) == pytest.approx(((1.5 + 3) / 6 + (3 + 1) / 6) / 2)
    assert improvement(first, second) + improvement(second, first) == pytest.approx(1)
    own = [stats.mannwhitneyu(first[:, target], second[:, target]).statistic / 6 for target in (0, 1)]
    assert improvement(first, second) == pytest.approx(np.mean(own))


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    values = np.array([[1.0, 2.0, 3.0, 100.0], [4.0, 5.0, -50.0, 6.0]])
    assert interquartile_mean(values) == pytest.approx((2 + 3 + 4 + 5) / 4)


def seeded(seeds: int) -> Results:
    """The rows of the plain suite but the one that lacks a result, with so many seeds each."""
    base, generator = synthetic.plain(), np.random.default_rng(0)
    table = base.table[(base.table["row"] != "adapter") & (base.table["seed"] == 0)]
    runs = [
        table.assign(seed=seed, top1=table["top1"] + generator.normal(0, 0.5, len(table)), identity=f":{seed}:50.0")
        for seed in range(seeds)
    ]
    again = pd.concat(runs, ignore_index=True)
    return replace(base, table=again.assign(identity=[f"{n}:{top1:.1f}" for n, top1 in enumerate(again["top1"])]))


def test_the_table_ranks_complete_rows_from_the_best_on() -> None:
    results = synthetic.plain()
    (table,) = rank_tables(results)
    means = results.summary().set_index("row")[[f"{name}_mean" for name in synthetic.PROTOCOLS]].drop("adapter")
    expected = (-means).rank().mean(axis=1)
    assert table.values is not None
    own = dict(zip(table.values["row"], table.values["mean_rank"], strict=True))
    assert own == pytest.approx({results.labels[str(row)]: rank for row, rank in expected.items()})  # one is incomplete
    assert list(table.values["mean_rank"]) == sorted(table.values["mean_rank"])
    friedman = stats.friedmanchisquare(*means.to_numpy()).pvalue
    assert f"p = {p_text(friedman)}." in table.notes[0]
    assert synthetic.heads(table) == ["Method", "Mean rank", "Improvement", "95 % interval"]
    (_, _, *first), *others = synthetic.texts(table)
    assert first == ["–", "–"] and all("–" in row[3] and row[2] != "–" for row in others)


def test_interquartile_means_need_five_seeds() -> None:
    results = seeded(5)
    (table,) = rank_tables(results)
    assert synthetic.heads(table)[-2:] == ["IQM", "95 % interval of IQM"] and "IQM" in table.caption
    assert table.values is not None
    for line in table.values.to_dict("records"):
        own = results.table.loc[results.table["label"] == line["row"], "top1"]
        assert line["iqm"] == pytest.approx(stats.trim_mean(own, 0.25))
        assert line["iqm_low"] <= line["iqm"] <= line["iqm_high"]
    (fewer,) = rank_tables(seeded(4))
    assert "IQM" not in fewer.caption and len(fewer.columns) == 4


def test_an_interval_is_over_seeds_and_the_same_every_time() -> None:
    first, again = (next(rank_tables(seeded(3))) for _ in range(2))
    assert synthetic.texts(first) == synthetic.texts(again)
    assert first.values is not None
    for line in first.values[1:].to_dict("records"):
        assert 0 <= line["improvement_low"] <= line["improvement"] <= line["improvement_high"] <= 1
    alone = next(rank_tables(seeded(1)))
    assert {row[3] for row in synthetic.texts(alone)} == {"–"}  # one run each


def test_only_ranks_that_friedmans_test_tells_apart_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    (table,) = rank_tables(synthetic.plain())  # p = 0.052
    assert not any(row[1].bold for row in table.rows) and "may be chance" in table.notes[0]
    monkeypatch.setattr(ranks, "LEVEL", 0.1)
    monkeypatch.setattr(ranks, "critical_difference", lambda rows, targets: 2.0)
    (table,) = rank_tables(synthetic.plain())
    assert [row[1].text for row in table.rows] == ["1.25", "2.50", "3.00", "4.00", "4.25"]
    assert [row[1].bold for row in table.rows] == [True, True, True, False, False]
    assert [row[1].top for row in table.rows] == [True, False, False, False, False] and "2.00" in table.notes[0]


def test_there_is_none_of_few_rows_few_targets_or_equal_ranks() -> None:
    base = synthetic.plain()
    two_rows = base.table[base.table["row"].isin(["mote", "dense"])]
    two_targets = base.table[base.table["protocol"].isin(["K400", "UCF"])]
    again = base.table.assign(dataset=base.table["dataset"].replace({"hmdb": "ucf", "k600": "ucf"}))
    alike = base.table.assign(top1=50.0, identity=[f"{n}:50.0" for n in range(len(base.table))])
    for table in (two_rows, two_targets, again, alike):
        assert not [*rank_tables(replace(base, table=table))]


def test_each_panel_has_its_own() -> None:
    assert [table.name for table in rank_tables(synthetic.layered())] == ["ranks-1", "ranks-2"]

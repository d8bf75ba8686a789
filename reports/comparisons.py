"""Paired tests between the rows that a suite names: the same videos, sign flips over videos. N videos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product

import pandas as pd

from bench.errors import unknown
from bench.statistics import paired_permutation_test
from reports.results import Results

Correct = Callable[[str], pd.Series]


@dataclass(frozen=True)
class Comparison:
    """Row `a` minus row `b` on one protocol; `difference` in points, nan with `p` where a side has no result yet.

    `skipped` says why the two cannot be compared, if they cannot.
    """

    a: str
    b: str
    protocol: str
    role: str
    difference: float
    p: float
    videos: int
    seeds: tuple[int, int]
    skipped: str = ""


def comparisons(results: Results) -> list[Comparison]:
    """Every protocol that both rows of a pair have, at every two points that agree on the axes that both rows have.

    Each video's correctness is averaged over seeds first, so p speaks of these videos, not of new seeds. Splits of one
    protocol are one test, in which a video counts as often as in their mean. A side that is measured otherwise than
    its column is skipped. Raises UserError for an unknown row and ValueError if the two sides were measured on
    different videos.
    """
    correct = cache(lambda identity: results.predictions(identity).set_index("video")["correct"].astype(float).dropna())
    return [
        _compare(a, b, results, correct)
        for row_a, row_b in results.settings.compare
        for (measured_a, a), (measured_b, b) in product(_cells(results, row_a), _cells(results, row_b))
        if measured_a == measured_b and results.comparable(a.iloc[0], b.iloc[0])
    ]


def _cells(results: Results, row: str) -> list[tuple[list[str], pd.DataFrame]]:
    """The protocol with its dataset, and the lines of all seeds, for each point × protocol of `row`."""
    if row not in results.labels():
        raise unknown("row", row, results.labels(), where=f"{results.suite}: reports.compare")
    lines = results.table[(results.table["row"] == row) & (results.table["expert"] == "")]
    groups = lines.groupby(["point", "protocol"], sort=False)
    return [(group[["protocol", "dataset"]].iloc[0].to_list(), group) for _, group in groups]


def _compare(a: pd.DataFrame, b: pd.DataFrame, results: Results, correct: Correct) -> Comparison:
    names = [results.name(side.iloc[0], list(results.axes)) for side in (a, b)]
    protocol, role = a["protocol"].iloc[0], a["role"].iloc[0]
    deviating = [(name, side["deviation"].iloc[0]) for name, side in zip(names, (a, b), strict=True)]
    skipped = "; ".join(f"{name} has {deviation}" for name, deviation in deviating if deviation)
    measured = [[list(seed["identity"].unique()) for _, seed in side.groupby("seed")] for side in (a, b)]
    measured = [[seed for seed in side if all(seed)] for side in measured]
    seeds = (len(measured[0]), len(measured[1]))
    if skipped or not all(seeds):
        return Comparison(names[0], names[1], protocol, role, float("nan"), float("nan"), 0, seeds, skipped)
    a_N, b_N = (_per_video([_shares([correct(i) for i in parts]) for parts in side]) for side in measured)
    if set(a_N.index) != set(b_N.index):
        raise ValueError(f"{names[0]} and {names[1]} were measured on different videos of {protocol}")
    difference, p = paired_permutation_test(a_N.to_numpy(), b_N[a_N.index].to_numpy())
    return Comparison(names[0], names[1], protocol, role, difference, p, len(a_N), seeds)


def _shares(correct_of_parts: list[pd.Series]) -> pd.Series:
    """What each video adds to the mean of the parts' accuracies, times N so that the mean over videos is that mean.

    A video of several splits is one unit of the test: its answers are not independent.
    """
    added = pd.concat([part / len(part) for part in correct_of_parts], axis=1).sum(axis=1)
    return added * len(added) / len(correct_of_parts)


def _per_video(correct_of_seeds: list[pd.Series]) -> pd.Series:
    mean_N = pd.concat(correct_of_seeds, axis=1).mean(axis=1, skipna=False)
    if mean_N.isna().any():
        raise ValueError(f"video '{mean_N.index[mean_N.isna()][0]}' was not measured with every seed")
    return mean_N

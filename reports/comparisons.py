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
    """Row `a` minus row `b` on one protocol; `difference` in points, nan with `p` where a side has no result yet."""

    a: str
    b: str
    protocol: str
    role: str
    difference: float
    p: float
    videos: int
    seeds: tuple[int, int]


def comparisons(results: Results) -> list[Comparison]:
    """Every protocol that both rows of a pair have, at every two points that agree on the axes that both rows have.

    Each video's correctness is averaged over seeds first, so p speaks of these videos, not of new seeds. Raises
    UserError for an unknown row and ValueError if the two sides were measured on different videos.
    """
    correct = cache(lambda identity: results.predictions(identity).set_index("video")["correct"].astype(float))
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
    measured = [[identity for identity in side["identity"] if identity] for side in (a, b)]
    protocol, role, seeds = a["protocol"].iloc[0], a["role"].iloc[0], (len(measured[0]), len(measured[1]))
    if not all(seeds):
        return Comparison(names[0], names[1], protocol, role, float("nan"), float("nan"), 0, seeds)
    a_N, b_N = (_per_video([correct(identity) for identity in identities]) for identities in measured)
    if set(a_N.index) != set(b_N.index):
        raise ValueError(f"{names[0]} and {names[1]} were measured on different videos of {protocol}")
    difference, p = paired_permutation_test(a_N.to_numpy(), b_N[a_N.index].to_numpy())
    return Comparison(names[0], names[1], protocol, role, difference, p, len(a_N), seeds)


def _per_video(correct_of_seeds: list[pd.Series]) -> pd.Series:
    mean_N = pd.concat(correct_of_seeds, axis=1).mean(axis=1, skipna=False)
    if mean_N.isna().any():
        raise ValueError(f"video '{mean_N.index[mean_N.isna()][0]}' was not measured with every seed")
    return mean_N

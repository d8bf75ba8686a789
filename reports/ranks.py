"""Rows ranked over several targets: mean ranks with a critical difference, chances of improvement, interquartile means.

After Demšar (JMLR 7, 2006) and Agarwal et al. (NeurIPS 2021, "rliable"); docs/statistics.md says what differs. A target
is a column of the table; of columns of one dataset and role, the first.
Legend: G rows, M targets, S and R seeds, B draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from bench.core.seeds import seed_for
from bench.measure.statistics import DRAWS, Floats, percentiles
from reports.accuracies import LEVEL, score
from reports.comparisons import p_text
from reports.results import Results, place_of
from reports.table import Table, TableCell, cells, columns, frame

FEWEST = 3  # rows, and targets
FEWEST_SEEDS = 5  # of an interquartile mean
HEADS = {
    **{"Method": False, "Mean rank": True, "Improvement": True, "95 % interval": True},
    **{"IQM": True, "95 % interval of IQM": True},
}


class Ranked(NamedTuple):
    """A row with the accuracies of its seeds on the targets, [S,M] in percent."""

    name: str
    values_SM: Floats


def mean_ranks(mean_GM: Floats) -> Floats:
    """The mean over targets of each row's rank, 1 for the most accurate; equal ones share the mean of their ranks."""
    return np.asarray(stats.rankdata(-mean_GM, axis=0).mean(axis=1))


def critical_difference(rows: int, targets: int, level: float = LEVEL) -> float:
    """Nemenyi's: mean ranks that differ by it or more differ significantly (Demšar 2006, section 3.2.2)."""
    quantile = stats.studentized_range.ppf(1 - level, rows, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(rows * (rows + 1) / (6 * targets)))


def improvement(first_SM: Floats, second_RM: Floats) -> float:
    """Chance that a run of the first row is more accurate than one of the second, mean over targets; ties count half.

    Agarwal et al. 2021, section 4.3; the rows may have different numbers of seeds, S and R.
    """
    return float(_ahead(first_SM, second_RM).mean())


def _ahead(first_SM: Floats, second_RM: Floats) -> Floats:
    """On how many of the targets a run of the first row is more accurate than one of the second, [S,R] in [0,1]."""
    return np.asarray((np.sign(first_SM[:, None] - second_RM) + 1).mean(axis=2) / 2)


def interquartile_mean(values_SM: Floats) -> float:
    """The mean of the middle half of all seeds and targets (Agarwal et al. 2021, section 4.3)."""
    return float(stats.trim_mean(values_SM, 0.25, axis=None))


def rank_tables(results: Results) -> Iterator[Table]:
    """A table for each panel of three rows and more that have three targets and more; each row at its best point."""
    facets = results.facets(results.summary(alike=True), None)
    tables = [(title, ranked) for title, lines in facets.items() if (ranked := _ranked(results, lines))]
    for number, (title, ranked) in enumerate(tables, start=1):
        name = "ranks" if len(tables) == 1 else f"ranks-{number}"
        yield _table(results, name, title if len(facets) > 1 else "", ranked)


def _targets(results: Results) -> list[str]:
    """The first protocol of each dataset and role: others of them show the same videos again."""
    found: dict[tuple[str, str], str] = {}
    for protocol, role in results.roles.items():
        found.setdefault((results.datasets[protocol], role), protocol)
    return [*found.values()]


def _ranked(results: Results, lines: pd.DataFrame) -> list[Ranked]:
    """The rows of a panel that have all targets, at their best points, in the order of the suite; empty if too few."""
    targets, headline = _targets(results), f"{results.headlines[0]}_mean"
    whole = [all(score(line, own, results).competes for own in targets) for _, line in lines.iterrows()]
    best = lines[whole].sort_values(headline, ascending=False, kind="stable").drop_duplicates("row").sort_index()
    if len(best) < FEWEST or len(targets) < FEWEST:
        return []
    values = {
        place: own[targets].to_numpy(float) for place, own in results.scores().groupby(["row", "point", "expert"])
    }
    own_axes = [axis for axis in results.axes if axis not in results.facet_axes(None)]
    ranked = [Ranked(results.name(line, own_axes), values[place_of(line)]) for _, line in best.iterrows()]
    return ranked if np.ptp(mean_ranks(_means(ranked))) > 0 else []


def _means(ranked: Sequence[Ranked]) -> Floats:
    return np.array([own.values_SM.mean(axis=0) for own in ranked])


def _table(results: Results, name: str, panel: str, ranked: list[Ranked]) -> Table:
    targets, mean_GM = _targets(results), _means(ranked)
    rank_G, critical = mean_ranks(mean_GM), critical_difference(*mean_GM.shape)
    p = float(stats.friedmanchisquare(*mean_GM).pvalue)
    order = np.argsort(rank_G, kind="stable")
    best, least = ranked[order[0]], float(rank_G.min())
    values = [
        {"row": ranked[g].name, "mean_rank": float(rank_G[g]), **_compared(best, ranked[g], panel)} for g in order
    ]
    middles = any(not np.isnan(own["iqm"]) for own in values)
    rows = []
    for own in values:
        near = p < LEVEL and own["mean_rank"] - least < critical
        rank = TableCell(f"{own['mean_rank']:.2f}", bold=near, top=near and own["mean_rank"] == least)
        middle = _with_interval(own, "iqm", 1) if middles else ()
        rows.append((*cells(own["row"]), rank, *cells(*_with_interval(own, "improvement", 2), *middle)))
    heads = {head: numbers for place, (head, numbers) in enumerate(HEADS.items()) if middles or place < 4}
    caption, note = _caption(results, panel, targets, best.name, middles), _note(p, critical, len(targets))
    return Table("ranks", name, caption, columns(heads), tuple(rows), (note,), frame(values))


def _compared(best: Ranked, own: Ranked, panel: str) -> dict[str, Any]:
    """The chance that the best row improves on a row, and the row's interquartile mean, with intervals over seeds.

    Runs are drawn with replacement for each row; a training's numbers on all targets stay together.
    """
    first_BS, second_BR = (_picked(row, panel) for row in (best, own))
    found: dict[str, Any] = {"seeds": len(own.values_SM)}
    chance, chances_B = np.nan, np.array([])
    if own is not best:
        chance, ahead_SR = improvement(best.values_SM, own.values_SM), _ahead(best.values_SM, own.values_SM)
        if ahead_SR.size > 1:
            chances_B = ahead_SR[first_BS[:, :, None], second_BR[:, None]].mean(axis=(1, 2))
    middle, middles_B = np.nan, np.array([])
    if len(own.values_SM) >= FEWEST_SEEDS:
        middle = interquartile_mean(own.values_SM)
        middles_B = stats.trim_mean(own.values_SM[second_BR].reshape(DRAWS, -1), 0.25, axis=1)
    for name, number, drawn_B in (("improvement", chance, chances_B), ("iqm", middle, middles_B)):
        low, high = percentiles(drawn_B, axis=0) if drawn_B.size else (np.nan, np.nan)
        found |= {name: float(number), f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


def _picked(own: Ranked, panel: str) -> NDArray[np.int64]:
    runs = len(own.values_SM)
    return np.random.default_rng(seed_for("ranks", panel, own.name)).integers(0, runs, (DRAWS, runs))


def _with_interval(values: dict[str, Any], name: str, digits: int) -> tuple[str, str]:
    low, number, high = (values[own] for own in (f"{name}_low", name, f"{name}_high"))
    between = "–" if np.isnan(low) else f"{low:.{digits}f}–{high:.{digits}f}"
    return "–" if np.isnan(number) else f"{number:.{digits}f}", between


def _caption(results: Results, panel: str, targets: list[str], best: str, middles: bool) -> str:
    middle = f" IQM: interquartile mean of all seeds and targets, of rows of {FEWEST_SEEDS} seeds or more."
    title = ", ".join(filter(None, [results.title, panel]))
    return (
        f"{title}: rows by their mean rank over {', '.join(targets)}, each at its best point, 1 for the "
        "most accurate; rows without one of these are left out. Improvement: the chance that "
        f"a run of {best} is more accurate than one of this row, mean over targets, with a 95 % interval over seeds."
        f"{middle if middles else ''}"
    )


def _note(p: float, critical: float, targets: int) -> str:
    """What the ranks prove: nothing, unless Friedman's test finds that rows differ."""
    test = f"Friedman's test that all rows are alike on {targets} targets: p = {p_text(p)}".replace("= <", "<")
    if p >= LEVEL:
        return f"{test}. The ranks may be chance, and none is marked as better ({critical:.2f} would be between two)."
    return f"{test}. Bold: less than the critical difference {critical:.2f} (Nemenyi, 5 %) from the best mean rank."

"""Class by class: where one row of a compared pair gains on the other and where it loses, on the same videos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.core.seeds import seed_for
from bench.measure.statistics import TAILS
from reports import style
from reports.comparisons import interval_text, pairings, signed
from reports.results import TRIAL, Results
from reports.shown import Grid, Picture

PICTURES, CASES = 6, 12  # compared pairs × protocols that are drawn, and that are in the table's file
SIDE = 6  # classes of a figure that gain, and that lose
LONGEST = 30  # characters of a class name that a column has room for
FEWEST = 5  # videos of a class from which an interval is given
DRAWS = 500
HEADS = {
    **{"Row": False, "minus": False, "Protocol": False, "Class": False, "Videos": True},
    **{"Difference": True, "95 % interval": True},
}


@dataclass(frozen=True)
class Changes:
    """Row `a` minus row `b` on a protocol: a line per class with `videos`, `difference`, `low`, `high` in points.

    Sorted from the largest gain to the largest loss; the interval is nan for classes of fewer than `FEWEST` videos.
    """

    a: str
    b: str
    protocol: str
    seeds: tuple[int, int]
    classes: pd.DataFrame

    @property
    def extremes(self) -> pd.DataFrame:
        """The classes with the largest gains and losses."""
        signs = np.sign(self.classes["difference"].to_numpy())
        rows = np.concatenate([np.flatnonzero(signs > 0)[:SIDE], np.flatnonzero(signs < 0)[-SIDE:]])
        return self.classes.iloc[rows]


def class_figures(results: Results) -> Iterator[Picture]:
    """The classes of the largest gains and losses of the first compared pairs, for `PICTURES` pairs × protocols."""
    drawn = [own for own in class_changes(results) if len(own.extremes)]
    for number, own in enumerate(drawn[:PICTURES], start=1):
        caption = f"{own.a} minus {own.b} by class on {own.protocol}: the largest gains and losses."
        yield Picture("classes", f"classes-{number}", caption, _figure(own))


def class_grids(results: Results) -> Iterator[Grid]:
    """The classes that the figures show as a table, and all classes in its file."""
    found = class_changes(results)
    shown = [own for own in found if len(own.extremes)][:PICTURES]
    if not shown:
        return
    rows = [_row(own, line) for own in shown for _, line in own.extremes.iterrows()]
    values = [
        {"a": own.a, "b": own.b, "protocol": own.protocol, **{str(name): value for name, value in line.items()}}
        for own in found
        for _, line in own.classes.iterrows()
    ]
    caption = (
        f"{results.title}: the {SIDE} classes of the largest gains and losses in top-1, in points, mean over seeds, "
        f"with bootstrap intervals over the class's videos given the seeds, for the first {len(shown)} of the compared "
        f"pairs and protocols. The CSV file has every class of the first {len(found)}. Classes chosen by these numbers "
        "overstate differences, and the intervals are not corrected for their number."
    )
    yield Grid("classes", "classes", caption, HEADS, tuple(rows), values=tuple(values))


@lru_cache(maxsize=2)
def class_changes(results: Results) -> tuple[Changes, ...]:
    """The first `CASES` compared pairs × protocols that both sides have results of and measure as the column says."""
    return tuple(islice(_changes(results), CASES))


def _changes(results: Results) -> Iterator[Changes]:
    cells = results.table.groupby([*TRIAL[:3], "protocol"], sort=False).indices
    for a, b in pairings(results):
        names = [results.name(side, list(results.axes)) for side in (a, b)]
        for protocol in results.roles:
            if any(side[f"{protocol}_deviation"] or not side[f"{protocol}_n"] for side in (a, b)):
                continue
            keys = [(side["row"], side["point"], side["expert"], protocol) for side in (a, b)]
            first, second = (_by_video(results, results.table.iloc[cells[key]]) for key in keys)
            difference = (100 * (first - second)).dropna()
            if difference.index.get_level_values("class").nunique() > 1:
                seeds = (int(a[f"{protocol}_n"]), int(b[f"{protocol}_n"]))
                seed = seed_for("bootstrap classes", protocol)
                yield Changes(names[0], names[1], protocol, seeds, _by_class(difference, seed))


def _by_video(results: Results, lines: pd.DataFrame) -> pd.Series:
    """Correctness by video and class name of one cell, the mean over seeds, and over splits that have the video."""
    own = lines[lines.groupby("seed")["identity"].transform("min") != ""].drop_duplicates(["seed", "identity"])
    parts = [_part(results, list(seeds["identity"])) for _, seeds in own.groupby("part", sort=False)]
    return pd.concat(parts).groupby(["video", "class"], sort=False)["correct"].mean()


def _part(results: Results, identities: list[str]) -> pd.DataFrame:
    first, names = results.predictions(identities[0]), results.class_names(identities[0])
    labels = [names[label] if label < len(names) else f"class {label}" for label in first["label"]]
    correct_N = np.mean([results.correct(identity) for identity in identities], axis=0)
    return pd.DataFrame({"video": first["video"], "class": labels, "correct": correct_N}).dropna()


def _by_class(difference: pd.Series, seed: int) -> pd.DataFrame:
    groups = difference.groupby("class", sort=False)
    found = groups.agg(videos="size", difference="mean").reset_index()
    ordered_N = np.concatenate([own.to_numpy() for _, own in groups])
    low, high = np.quantile(_resample_classes(ordered_N, found["videos"].to_numpy(), seed), TAILS, axis=0)
    few = found["videos"] < FEWEST
    found = found.assign(low=np.where(few, np.nan, low), high=np.where(few, np.nan, high))
    return found.sort_values("difference", ascending=False, kind="stable", ignore_index=True)


def _resample_classes(values_N: NDArray[np.float64], videos_C: NDArray[np.intp], seed: int) -> NDArray[np.float64]:
    """Means [B,C] of classes whose videos are resampled within the class; values are in the order of classes."""
    first_C = np.cumsum(videos_C) - videos_C
    first_N, videos_N = np.repeat(first_C, videos_C), np.repeat(videos_C, videos_C)
    picks_BN = first_N + (np.random.default_rng(seed).random((DRAWS, len(values_N))) * videos_N).astype(int)
    means_BC: NDArray[np.float64] = np.add.reduceat(values_N[picks_BN], first_C, axis=1) / videos_C
    return means_BC


def _row(own: Changes, line: pd.Series) -> tuple[str, ...]:
    interval = "–" if np.isnan(line["low"]) else interval_text(line["low"], line["high"])
    return own.a, own.b, own.protocol, str(line["class"]), str(line["videos"]), signed(line["difference"]), interval


def _figure(own: Changes) -> Figure:
    lines = own.extremes
    with style.look():
        figure, (axes,) = style.panels(1, 3.6, max(2.2, 1.1 + 0.22 * len(lines)))
        _draw(axes, lines)
        axes.set_xlabel(f"{own.a} − {own.b}\ntop-1 of the class, {own.protocol} (points)", parse_math=False)
        videos = int(own.classes["videos"].sum())
        style.note(
            figure,
            f"{len(lines)} of {len(own.classes)} classes, with numbers of videos ({videos} in all); "
            f"n = {own.seeds[0]} / {own.seeds[1]} seeds.\nBars: 95 % bootstrap intervals over the class's videos.\n"
            "Classes chosen by these numbers overstate differences.",
        )
    return figure


def _draw(axes: Axes, lines: pd.DataFrame) -> None:
    axes.axvline(0, color=style.FAINT, linewidth=0.8)
    for place, (_, line) in enumerate(lines.iterrows()):
        colour, middle = style.PALETTE[0 if line["difference"] > 0 else 1], line["difference"]
        if not np.isnan(line["low"]):
            axes.plot([line["low"], line["high"]], [place, place], color=colour, linewidth=0.9)
        axes.plot([middle], [place], color=colour, marker="o", markersize=4, linestyle="none")
    names = [_shortened(str(line["class"])) + f" ({line['videos']})" for _, line in lines.iterrows()]
    axes.set_yticks(range(len(lines)), names, parse_math=False)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.grid(axis="x", color=style.GRID, linewidth=0.5)


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"

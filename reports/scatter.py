"""Points with error bars in both directions from lines of `Results.summary`, and notes on the bars."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from reports import labels, style
from reports.results import Results


def axis_title(results: Results, measure: str) -> str:
    """E.g. "Closed-set top-1, K400 (%)"."""
    words = f"Harmonic mean, {style.HM_ZS}" if measure == "hm_zs" else results.words(measure)
    return f"{words[0].upper()}{words[1:]} (%)"


def seed_note(lines: pd.DataFrame, *measures: str) -> str:
    """The meaning of bars and n, for lines of `Results.summary` of which these measures are drawn."""
    n = lines[[f"{measure}_n" for measure in measures]].min(axis=1)
    repeated = sorted({int(count) for count in n if count > 1})
    single = list(lines.loc[n == 1, "label"].unique())
    spans = f"{repeated[0]}–{repeated[-1]}" if len(repeated) > 1 else "".join(map(str, repeated))
    bars = [f"Error bars: ±1 s.d. over seeds, n = {spans}."] if repeated else []
    return " ".join(bars + ([f"Single run, no bars: {', '.join(single)}."] if single else []))


def missing_note(lines: pd.DataFrame, *measures: str) -> str:
    """Names of the lines that have these measures but could not be drawn, with the reason."""
    lacking = [lines[f"{measure}_planned"] & lines[f"{measure}_mean"].isna() for measure in measures]
    lines = lines[np.logical_or.reduce(lacking)]
    deviating = (lines[[f"{measure}_deviation" for measure in measures]] != "").any(axis=1)
    reasons = {"results missing": lines[~deviating], "measured otherwise than the column says": lines[deviating]}
    names = {reason: "; ".join(_name(line) for _, line in some.iterrows()) for reason, some in reasons.items()}
    return "".join(f"\nNot drawn, {reason}: {some}." for reason, some in names.items() if some)


def _name(line: pd.Series) -> str:
    return ", ".join(filter(None, [line["label"], line["point"], line["expert"]]))


def heights(lines: pd.DataFrame, measure: str, y: str = "y") -> pd.DataFrame:
    """`lines` with the columns y, dy: mean and one standard deviation (0 for a single run) of `measure`, in percent."""
    return lines.assign(**{y: lines[f"{measure}_mean"], f"d{y}": lines[f"{measure}_std"].astype(float).fillna(0.0)})


def points(lines: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """`lines` with the columns x, dx, y, dy of the measures `x` and `y`, in percent."""
    return heights(heights(lines, x, "x"), y)


def bars(axes: Axes, lines: pd.DataFrame, mark: style.Mark) -> None:
    """Points with error bars in both directions, from `points`."""
    size = 9 if mark.marker == "*" else 5.5
    axes.errorbar(
        lines["x"], lines["y"], xerr=lines["dx"], yerr=lines["dy"], linestyle="none", color=mark.colour,
        marker=mark.marker, markersize=size, markeredgecolor="white", markeredgewidth=0.5, elinewidth=0.9,
        zorder=3,
    )  # fmt: skip


def crosses(lines: pd.DataFrame) -> np.ndarray:
    """Points and their bars as obstacles [K,2] for labels, in data units."""
    arms = [
        labels.along([x - dx, x + dx, x, x], [y, y, y - dy, y + dy])
        for x, y, dx, dy in lines[["x", "y", "dx", "dy"]].to_numpy(float)
    ]
    return np.concatenate([np.empty((0, 2)), *arms])


def fit(axes: Axes, lines: pd.DataFrame, margin: float = 0.12) -> None:
    """Limits around points and bars with a margin, at least two points wide and never beyond 0–100 %."""
    for values, spread, limit in (("x", "dx", axes.set_xlim), ("y", "dy", axes.set_ylim)):
        low, high = (lines[values] - lines[spread]).min(), (lines[values] + lines[spread]).max()
        room = max(margin * (high - low), 1 - (high - low) / 2)
        limit(max(low - room, 0 if low >= 0 else low), min(high + room, 100.5))

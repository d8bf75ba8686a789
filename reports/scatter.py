"""Lines of `Results.summary` as points with error bars in both directions, and what the bars mean in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from reports import labels, style


def seed_note(lines: pd.DataFrame) -> str:
    """What bars and n are, for lines of `Results.summary`."""
    counts = sorted(lines["trade_off_n"].unique())
    repeated = [int(n) for n in counts if n > 1]
    single = list(lines.loc[lines["trade_off_n"] == 1, "label"].unique())
    spans = f"{repeated[0]}–{repeated[-1]}" if len(repeated) > 1 else "".join(map(str, repeated))
    bars = [f"Error bars: ±1 s.d. over seeds, n = {spans}."] if repeated else []
    return " ".join(bars + ([f"Single run, no bars: {', '.join(single)}."] if single else []))


def missing_note(lines: pd.DataFrame) -> str:
    """Names the lines of a summary that a figure could not draw in full."""
    names = [", ".join(filter(None, [line["label"], line["point"], line["expert"]])) for _, line in lines.iterrows()]
    return f"\nNot drawn, results missing: {'; '.join(names)}." if names else ""


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
    """The pixels-to-be of points and their bars as obstacles [K,2] for labels, in data units."""
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


def share_scale(panels: list[Axes]) -> None:
    """Gives panels side by side the same y limits, so that heights compare across them."""
    limits = [axes.get_ylim() for axes in panels]
    for axes in panels:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))

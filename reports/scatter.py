"""Points with error bars, notes on the bars, and direct labels.

Labels stand beside the points instead of a legend, clear of points, bars, curves and each other.
L labels, K obstacles, T texts, P candidate positions; everything in pixels, boxes as (left, bottom, right, top).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from bench.measure.statistics import Floats
from reports import style
from reports.results import Results, is_set, value_text

DISTANCES = (6.0, 9.5, 15.0, 24.0, 36.0, 52.0)  # points between a mark and its label, nearest first
ANGLES = np.radians([0, 45, 90, 315, 180, 135, 270, 225, 22, 338, 67, 293, 158, 202, 113, 247])
STEPS = 24  # obstacles per segment of a curve or bar: closer together than a label is high
VIEWS = "near", "whole"  # labels of the axes of two panels that show the same points
SQUEEZED = 2.5  # from here on, the range of all points over that of the pile of most, the pile has a panel of its own
ROUNDS = 8  # each round lets every label react to where the others went, and doubles the cost of touching them


@dataclass(frozen=True)
class Label:
    """`text` for the point (x, y) in data units."""

    x: float
    y: float
    text: str
    colour: str = style.INK
    size: float = 7.5


def along(x_K: ArrayLike, y_K: ArrayLike) -> Floats:
    """Points [K*STEPS,2] along the polyline (x, y), in data units, as obstacles for labels."""
    vertices = np.column_stack([np.asarray(x_K, dtype=float), np.asarray(y_K, dtype=float)])
    vertices = vertices[~np.isnan(vertices).any(axis=1)]
    shares = np.linspace(0, 1, STEPS)[:, None]
    pieces = [a + shares * (b - a) for a, b in pairwise(vertices)]
    return np.concatenate([vertices, *pieces])


def place(axes: Axes, labels: Sequence[Label], obstacles_K2: Floats) -> None:
    """Draw `labels` inside `axes`, whose limits must be final, at the least crowded positions; the layout stays.

    They keep off the texts that the axes have already. A label that had to move away from its point gets a thin leader.
    """
    axes.figure.set_layout_engine("none")  # type: ignore[union-attr]
    if not labels:
        return
    taken_T4 = np.array([text.get_window_extent().extents for text in axes.texts]).reshape(-1, 4)
    texts = [_text(axes, label) for label in labels]
    anchors_L2 = axes.transData.transform([(label.x, label.y) for label in labels])
    obstacles_K2 = np.concatenate([axes.transData.transform(obstacles_K2), anchors_L2])
    extents = [text.get_window_extent() for text in texts]
    pixels = axes.figure.dpi / 72
    candidates = [
        _candidates(anchor, box.width, box.height, pixels) for anchor, box in zip(anchors_L2, extents, strict=True)
    ]
    frame = np.array(axes.get_window_extent().extents)
    fixed = [
        _fixed_cost(boxes_P4, obstacles_K2, frame, pixels)
        + 400 * pixels**2 * _misread(boxes_P4, anchors_L2, i)
        + 1000 * _overlap(boxes_P4, taken_T4)
        for i, boxes_P4 in enumerate(candidates)
    ]
    boxes_L4 = np.array([boxes_P4[cost_P.argmin()] for boxes_P4, cost_P in zip(candidates, fixed, strict=True)])
    for turn in range(ROUNDS):
        for i, boxes_P4 in enumerate(candidates):
            others = np.delete(boxes_L4, i, axis=0)
            boxes_L4[i] = boxes_P4[(fixed[i] + 4 * 2**turn * _overlap(boxes_P4, others)).argmin()]
    for text, anchor, box in zip(texts, anchors_L2, boxes_L4, strict=True):
        _move(axes, text, anchor, box, pixels)


def stack(axes: Axes, labels: Sequence[Label]) -> None:
    """Draw `labels` right of `axes`, each at the height of its point or the nearest one where it touches no other,
    with a thin line to it.
    """
    if not labels:
        return
    height = max(label.size for label in labels) * 1.25 * axes.figure.dpi / 72
    labels = sorted(labels, key=lambda label: label.y)
    wanted = axes.transData.transform([(label.x, label.y) for label in labels])[:, 1]
    # Least squares under y[i+1] - y[i] >= height is isotonic regression of y - i * height.
    steps = np.arange(len(labels)) * height
    low, high = axes.get_window_extent().intervaly
    bounds = low + height / 2, max(high - height / 2 - steps[-1], low + height / 2)
    heights = np.clip(isotonic_regression(wanted - steps).x, *bounds) + steps
    shares = axes.transAxes.inverted().transform(np.column_stack([heights, heights]))[:, 1]
    ends = np.clip(axes.transAxes.inverted().transform(np.column_stack([wanted, wanted]))[:, 1], 0, 1)
    for label, end, y in zip(labels, ends, shares, strict=True):
        axes.plot(
            [1.01, 1.06], [end, y], color=label.colour, linewidth=0.5, transform=axes.transAxes, clip_on=False, zorder=1
        )
        axes.annotate(
            label.text, (1.07, y), xycoords="axes fraction", va="center", color=label.colour, fontsize=label.size,
            parse_math=False,
        )  # fmt: skip


def _text(axes: Axes, label: Label) -> Any:
    halo = [withStroke(linewidth=2, foreground="white")]
    text = axes.text(
        label.x, label.y, label.text, color=label.colour, fontsize=label.size, ha="center", va="center", zorder=5,
        path_effects=halo, parse_math=False,
    )  # fmt: skip
    text.set_in_layout(False)
    return text


def _candidates(anchor: Floats, width: float, height: float, pixels: float) -> Floats:
    half = np.array([width / 2, height / 2])
    directions = np.column_stack([np.cos(ANGLES), np.sin(ANGLES)])
    centres_P2 = np.concatenate([anchor + directions * (half + gap * pixels) for gap in DISTANCES])
    return np.hstack([centres_P2 - half, centres_P2 + half])


def _fixed_cost(boxes_P4: Floats, obstacles_K2: Floats, frame: Floats, pixels: float) -> Floats:
    """Cost in square pixels of each candidate: obstacles hidden, area outside the axes, distance, plain preference."""
    margin = 3.5 * pixels
    low_P12, high_P12 = boxes_P4[:, None, :2] - margin, boxes_P4[:, None, 2:] + margin
    hidden_P = ((obstacles_K2 > low_P12) & (obstacles_K2 < high_P12)).all(axis=2).sum(axis=1)
    area_P = np.prod(boxes_P4[:, 2:] - boxes_P4[:, :2], axis=1)
    outside_P = area_P - _overlap(boxes_P4, frame[None])
    distance_P = np.repeat(np.array(DISTANCES) - DISTANCES[0], len(ANGLES))
    preference_P = np.tile(np.arange(len(ANGLES)), len(DISTANCES))
    return np.asarray(pixels**2 * (40 * hidden_P + 6 * distance_P + 2 * preference_P) + 1000 * outside_P)


def _misread(boxes_P4: Floats, anchors_L2: Floats, own: int) -> Floats:
    """The number of other points that each candidate of label `own` is nearer to than to its own point."""
    nearest_PL2 = np.clip(anchors_L2[None], boxes_P4[:, None, :2], boxes_P4[:, None, 2:])
    distance_PL = np.linalg.norm(nearest_PL2 - anchors_L2[None], axis=2)
    return np.asarray((distance_PL < distance_PL[:, [own]]).sum(axis=1), dtype=float)


def _overlap(boxes_P4: Floats, others_L4: Floats) -> Floats:
    low = np.maximum(boxes_P4[:, None, :2], others_L4[None, :, :2])
    high = np.minimum(boxes_P4[:, None, 2:], others_L4[None, :, 2:])
    return np.asarray(np.clip(high - low, 0, None).prod(axis=2).sum(axis=1))


def _move(axes: Axes, text: Any, anchor: Floats, box: Floats, pixels: float) -> None:
    centre = (box[:2] + box[2:]) / 2
    text.set_position(axes.transData.inverted().transform(centre))
    nearest = np.clip(anchor, box[:2], box[2:])
    if np.hypot(*(nearest - anchor)) > 1.3 * DISTANCES[1] * pixels:
        (x0, y0), (x1, y1) = axes.transData.inverted().transform([anchor, nearest])
        axes.plot([x0, x1], [y0, y1], color=style.FAINT, linewidth=0.4, zorder=1.5)


# --- points -----------------------------------------------------------------------------------------------------------


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
    return "".join(f"\nNot drawn, {reason}: {named(some)}." for reason, some in reasons.items() if len(some))


def named(lines: pd.DataFrame) -> str:
    """The names of lines in small print; of a row with several, their number."""
    return "; ".join(
        ", ".join(filter(None, own[["label", "point", "expert"]].iloc[0]))
        if len(own) == 1
        else f"{label}, {len(own)} points"
        for label, own in lines.groupby("label", sort=False)
    )


def heights(lines: pd.DataFrame, measure: str, y: str = "y") -> pd.DataFrame:
    """`lines` with the columns y, dy: mean and one standard deviation (0 for a single run) of `measure`, in percent."""
    return lines.assign(**{y: lines[f"{measure}_mean"], f"d{y}": lines[f"{measure}_std"].astype(float).fillna(0.0)})


def points(lines: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """`lines` with the columns x, dx, y, dy of the measures `x` and `y`, in percent."""
    return heights(heights(lines, x, "x"), y)


def bars(axes: Axes, lines: pd.DataFrame, mark: style.Mark, hollow: bool = False, share: float = 1.0) -> None:
    """Points with error bars in both directions, from `points`; `share` of an axis: the less, the lighter."""
    size, face = 9 if mark.marker == "*" else 5.5, "white" if hollow else style.shade(mark.colour, share)
    edged = hollow or share < 1
    drawn = axes.errorbar(
        lines["x"], lines["y"], xerr=lines["dx"], yerr=lines["dy"], linestyle="none", color=mark.colour,
        marker=mark.marker, markersize=size, markeredgecolor=mark.colour if edged else "white", markerfacecolor=face,
        markeredgewidth=1.0 if hollow else 0.7 if edged else 0.5, elinewidth=0.9, zorder=3,
    )  # fmt: skip
    name_points(drawn, lines)


def shares(lines: pd.DataFrame, results: Results) -> tuple[pd.Series, str]:
    """How far along the axis that is joined each line lies, 1 without a value on it, and what a figure says of it."""
    join = results.settings.join
    values = results.values(join) if join else []
    if join is None or lines.loc[lines[join].map(is_set), join].nunique() < 2:
        return pd.Series(1.0, lines.index), ""
    values = sorted(values, key=lambda own: float(str(own))) if results.is_numeric(join) else values
    places = {value: place / (len(values) - 1) for place, value in enumerate(values)}
    said = f" From light to dark: {results.axes[join]} {', '.join(map(value_text, values))}."
    return lines[join].map(places).fillna(1.0).astype(float), said


def name_points(drawn: ErrorbarContainer, lines: pd.DataFrame) -> None:
    """Say of which row and point each of the drawn points is, for charts of the page."""
    drawn.lines[0].set_gid(json.dumps(lines[["row", "point"]].to_numpy().tolist()))


def crosses(lines: pd.DataFrame) -> np.ndarray:
    """Points and their bars as obstacles [K,2] for labels, in data units."""
    arms = [
        along([x - dx, x + dx, x, x], [y, y, y - dy, y + dy])
        for x, y, dx, dy in lines[["x", "y", "dx", "dy"]].to_numpy(float)
    ]
    return np.concatenate([np.empty((0, 2)), *arms])


def pile(lines: pd.DataFrame, fewest: int = 4, squeezed: float = SQUEEZED) -> pd.Series:
    """True for the points that are left when those few are set aside whose distance squeezes the others.

    Beyond the widest gap lie at most a third of the points, and with them, the range is over `squeezed` times as long.
    Of fewer points than `fewest`, all are left.
    """
    kept = pd.Series(True, lines.index)
    for values, spread in (("x", "dx"), ("y", "dy")):
        own = lines[kept].sort_values(values)
        low, high = (own[values] - own[spread]).to_numpy(float), (own[values] + own[spread]).to_numpy(float)
        if len(own) < fewest:
            continue
        cut = int(np.diff(own[values].to_numpy(float)).argmax()) + 1
        pile = slice(cut, None) if cut <= len(own) / 2 else slice(0, cut)
        inside = max(high[pile].max() - low[pile].min(), 2.0)
        if len(lines) - len(own[pile]) <= len(lines) / 3 and high.max() - low.min() > squeezed * inside:
            kept &= kept.index.isin(own.index[pile])
    return kept


def fit(axes: Axes, lines: pd.DataFrame, margin: float = 0.12) -> None:
    """Limits around points and bars with a margin, at least two points wide and never beyond 0–100 %."""
    for values, spread, limit in (("x", "dx", axes.set_xlim), ("y", "dy", axes.set_ylim)):
        low, high = (lines[values] - lines[spread]).min(), (lines[values] + lines[spread]).max()
        room = max(margin * (high - low), 1 - (high - low) / 2)
        limit(max(low - room, 0 if low >= 0 else low), min(high + room, 100.5))

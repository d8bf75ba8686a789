"""Figures of the accuracy of each expert alone (MoTE, NeurIPS 2024, Fig. 3)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from reports import labels, scatter, style
from reports.results import Results
from reports.style import READS, Panel, Picture, expert_picture

REACH = 2.0  # how far from the experts a reference may lie to be a point, in widths of their range


def accuracy_figures(results: Results) -> Iterator[Picture]:
    """Per row and point with expert choices: trained classes against untrained ones, for each trade-off.

    Closed-set against each zero-shot target and HM_ZS; base against novel. Rows of other methods are references: points
    too, or levels where their accuracy in training lies too far away to tell the experts apart.
    """
    if (results.table["expert"] == "").all():
        return
    experts, rows = results.summary(experts=True, alike=True), results.summary(alike=True)
    for (row, point), lines in experts.groupby(["row", "point"], sort=False):
        drawn = [
            pair for pair in _pairs(results) if not scatter.points(lines, *pair)[["x", "y"]].isna().any(axis=1).all()
        ]
        if drawn:
            others = [results.comparable(x, lines.iloc[0]) for _, x in rows.iterrows()]
            references = rows[np.array(others) & (rows["method"] != lines["method"].iloc[0])]
            caption = ", ".join(
                filter(None, [f"What each expert of {results.labels[str(row)]} can do alone", str(point)])
            )
            figure = _accuracy_figure(results, str(row), lines, drawn, references)
            yield expert_picture("accuracy", (str(row), str(point)), f"{caption}; {READS}.", figure)


def _pairs(results: Results) -> list[tuple[str, str]]:
    """The measures (x, y) of a panel each: y is a side of a trade-off or one of what it is a mean of."""
    sides = [measure.needs for measure in results.trade_offs.values()]
    return [(x, target) for x, y in sides for target in (*results.measures[y].needs, y)]


def _accuracy_figure(
    results: Results, row: str, lines: pd.DataFrame, pairs: list[tuple[str, str]], references: pd.DataFrame
) -> Figure:
    measures = dict.fromkeys(measure for pair in pairs for measure in pair)
    absent = lines[[f"{measure}_mean" for measure in measures]].isna().any(axis=1)
    shown = pd.concat([lines.assign(label=lines["expert"]), references])

    def panel(x: str, y: str) -> Panel:
        experts, others = (scatter.points(own, x, y).dropna(subset=["x", "y"]) for own in (lines, references))
        near = _near(experts, others)
        points, levels = pd.concat([experts, others[near]]), others[~near]

        def draw(axes: Axes) -> None:
            scatter.fit(axes, points)
            _draw_levels(axes, levels)

        def label(axes: Axes) -> None:
            named = _name_levels(axes, levels, results.measures[x].title, scatter.crosses(points))
            _draw_points(axes, results, points, named)

        return Panel(draw, "", scatter.axis_title(results, x), scatter.axis_title(results, y), label)

    return style.figure(
        [panel(x, y) for x, y in pairs],
        *(3.4, 3.0, 2),
        title=", ".join(filter(None, [results.labels[row], lines["point"].iloc[0]])),
        note=scatter.seed_note(shown, *measures) + scatter.missing_note(lines[absent], *measures),
    )


def _near(experts: pd.DataFrame, others: pd.DataFrame) -> pd.Series:
    """True for references that are near enough to the experts to be points; the others are levels."""
    low, high = experts["x"].min(), experts["x"].max()
    room = REACH * max(high - low, 1.0)
    return others["x"].between(low - room, high + room)


def _draw_levels(axes: Axes, levels: pd.DataFrame) -> None:
    """Accuracies on the target as dashed lines, for which the axis is widened. Their training accuracy lies off it."""
    for height in levels["y"]:
        low, high = axes.get_ylim()
        room = 0.12 * (max(high, height) - min(low, height))
        axes.set_ylim(max(0.0, min(low, height - room)), min(100.5, max(high, height + room)))
        axes.axhline(height, color=style.FAINT, linestyle="--", linewidth=0.9, zorder=1)


def _name_levels(axes: Axes, levels: pd.DataFrame, trained: str, obstacles_K2: np.ndarray) -> np.ndarray:
    """Names the lines at the end and on the side with the fewest points; the obstacles with these names among them."""
    for _, line in levels.iterrows():
        text = f"{line['label']} ({trained} {line['x']:.1f})"
        tried = [_level_name(axes, text, line["y"], end, side) for end in ("left", "right") for side in (3, -3)]
        boxes = [name.get_window_extent().transformed(axes.transData.inverted()) for name in tried]
        hidden = [sum(box.contains(x, y) for x, y in obstacles_K2) for box in boxes]
        best = int(np.argmin(hidden))
        for other in (name for name in tried if name is not tried[best]):
            other.remove()
        box = boxes[best]
        obstacles_K2 = np.concatenate([obstacles_K2, labels.along([box.x0, box.x1], [box.y0 + box.height / 2] * 2)])
    return obstacles_K2


def _level_name(axes: Axes, text: str, height: float, end: str, side: int) -> Annotation:
    return axes.annotate(
        text, (0.01 if end == "left" else 0.99, height), xycoords=("axes fraction", "data"), xytext=(0, side),
        textcoords="offset points", ha=end, va="bottom" if side > 0 else "top", color=style.FAINT,
        fontsize=style.SMALL, parse_math=False,
    )  # fmt: skip


def _draw_points(axes: Axes, results: Results, points: pd.DataFrame, obstacles_K2: np.ndarray) -> None:
    """Experts in their row's colour, their merge larger, and references with marks of their own."""
    marks = style.marks(results.labels, results.settings.reference)
    texts = []
    for _, point in points.iterrows():
        mark, name = marks[point["row"]], point["expert"] or point["label"]
        if point["expert"]:
            mark = style.Mark(mark.colour, "D" if name == "merged" else "o")
        scatter.bars(axes, point.to_frame().T, mark)
        size = 7.5 if name == "merged" else style.SMALL
        texts.append(labels.Label(point["x"], point["y"], name, mark.colour, size))
    labels.place(axes, texts, obstacles_K2)

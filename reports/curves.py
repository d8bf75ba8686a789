"""Curves along a numeric axis: the sides of the trade-off, closed-set above HM_ZS, against it (MoTE, Fig. 1b)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import scatter, style
from reports.results import Results, is_set
from reports.style import READS, Panel, Picture

NAME = 7.5  # points; a name beside its line
SQUEEZED = 2.0  # from here on, the range of all lines over that of most, the others are at the edge
SIZE, AXES = 7.0, 2.3  # points of the numbers of the axis; inches of its length


def curve_figures(results: Results) -> Iterator[Picture]:
    """A figure for every numeric axis."""
    measured = style.sentence("; ".join(map(results.words, curve_measures(results))))
    for axis in curve_axes(results):
        if figure := curve_figure(results, axis):
            caption = f"{measured} against {results.axes[axis]}; {READS}."
            yield Picture("curves", f"curve-{style.slug(axis)}", caption, figure, tuple(curve_measures(results)))


def curve_axes(results: Results) -> list[str]:
    """The axes that have a curve: numeric, with at least two values, and the same protocols at each."""
    alike = [axis for axis in results.axes if axis not in results.protocol_axes]
    return [axis for axis in alike if results.is_numeric(axis) and len(results.values(axis)) > 1]


def curve_measures(results: Results) -> list[str]:
    """The sides of each trade-off, or the other measures that summarize the suite."""
    return [side for measure in results.headlines for side in _sides(results, measure)]


def curve_figure(results: Results, axis: str) -> Figure | None:
    """A column of a panel for each measure per facet, a line per row (and value of a further axis).

    None while nothing is measured. A row that does not go through the axis is a dashed line across it, and so is what a
    row has without a value on it. Panels side by side share their scale. Of lines that would squeeze the others, names
    and numbers stand at the edge.
    """
    summary = results.summary(alike=True)
    through = summary[summary[axis].map(is_set)]
    drawn = [name for name in curve_measures(results) if through[f"{name}_n"].any()]
    if not drawn:
        return None
    summary = summary[summary[[f"{name}_planned" for name in drawn]].any(axis=1)]
    absent = summary[[f"{name}_mean" for name in drawn]].isna()
    facets = results.facets(summary, axis)
    missing = scatter.missing_note(summary[absent.any(axis=1)], *drawn)
    series = {
        (measure, facet): [*_series(scatter.heights(lines, measure), results, axis)]
        for measure in drawn
        for facet, lines in facets.items()
    }

    def share_scales(panels: list[Axes]) -> None:
        for first in range(0, len(panels), len(facets)):
            style.share_heights(panels[first : first + len(facets)])

    def panel(measure: str, facet: str) -> Panel:
        title, y = facet if measure == drawn[0] else "", scatter.axis_title(results, measure)
        draw, label = (
            partial(own, series=series[measure, facet], results=results, axis=axis) for own in (_draw, _label)
        )
        return Panel(draw, title, results.axes[axis], y, label)

    names = [own.name for lines in series.values() for own in lines]
    letters = min(max(map(len, names)), style.LONGEST)
    off = (
        "\nArrows: lines beyond the panel, with their last number."
        if any(own.far for own in chain(*series.values()))
        else ""
    )
    return style.figure(
        [panel(measure, facet) for measure in drawn for facet in facets],
        2.7 + letters * NAME / style.LETTERS,
        max(2.4, 0.7 + max(map(len, series.values())) * NAME * style.LINE),
        len(facets) if len(facets) > 1 or len(drawn) < 3 else 2,
        note=scatter.seed_note(summary, *drawn) + off + missing,
    )


def _sides(results: Results, measure: str) -> tuple[str, ...]:
    return results.trade_offs[measure].needs if measure in results.trade_offs else (measure,)


@dataclass
class _Line:
    """A line to draw: `points` in axis order; `far` from the others, which it would squeeze."""

    row: str
    name: str
    points: pd.DataFrame
    far: bool = False

    @property
    def heights(self) -> pd.Series:
        return self.points["y"].dropna()


def _series(lines: pd.DataFrame, results: Results, axis: str) -> list[_Line]:
    others = [other for other in results.axes if other != axis and other not in results.facet_axes(axis)]
    groups = lines.assign(on=lines[axis].map(is_set)).groupby(["row", *others, "on"], sort=False, dropna=False)
    through = set(lines.loc[lines[axis].map(is_set), "row"])
    series = []
    for (row, *_), group in groups:
        beside = ", none" if row in through and not group["on"].iloc[0] else ""
        name = results.name(group.iloc[0], others) + beside
        series.append(_Line(str(row), name, group.sort_values(axis)))
    known = [own for own in series if len(own.heights)]
    low, high = np.array([[own.heights.min(), own.heights.max()] for own in known]).reshape(-1, 2).T
    spans = pd.DataFrame({"x": 0.0, "dx": 0.0, "y": (low + high) / 2, "dy": (high - low) / 2})
    for own, near in zip(known, scatter.pile(spans, fewest=3, squeezed=SQUEEZED), strict=True):
        own.far = not near
    return series


def _draw(axes: Axes, series: list[_Line], results: Results, axis: str) -> None:
    marks = style.marks(results.labels, results.settings.reference)
    axes.margins(y=0.12)
    for line in sorted(series, key=lambda own: own.far):
        if line.far:  # the others decide the limits
            axes.autoscale_view()
            axes.set_autoscaley_on(False)
        mark, group = marks[line.row], line.points
        if not is_set(group[axis].iloc[0]):
            axes.axhline(group["y"].iloc[0], color=mark.colour, linestyle=(0, (4, 3)), linewidth=0.9, zorder=2)
            continue
        x = group[axis].astype(float)
        for side in (group[x < 0], group[x >= 0]) if _logarithmic(results, axis) else (group,):
            drawn = axes.errorbar(
                side[axis].astype(float), side["y"], yerr=side["dy"], color=mark.colour, marker=mark.marker,
                markeredgecolor="white", markeredgewidth=0.5, elinewidth=0.9, zorder=3,
            )  # fmt: skip
            scatter.name_points(drawn, side)
    ticks = [float(str(value)) for value in results.values(axis)]
    if _logarithmic(results, axis):
        smallest = min(map(abs, ticks))
        axes.set_xscale("symlog", linthresh=smallest, linscale=0.5, base=2)
        axes.minorticks_off()
        if min(ticks) > 0:
            axes.set_xlim(left=smallest / 1.3)
    _set_ticks(axes, sorted(ticks))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color=style.GRID, linewidth=0.5)


def _set_ticks(axes: Axes, ticks: list[float]) -> None:
    """Ticks at the values, upright where their numbers would touch; one that is too near to the one before has none."""
    axes.autoscale_view()
    places = axes.transAxes.inverted().transform(
        axes.transData.transform([(tick, axes.get_ylim()[0]) for tick in ticks])
    )
    inches = AXES * places[:, 0]
    shown = [0]
    for place in range(1, len(ticks)):
        if inches[place] - inches[shown[-1]] >= SIZE / 72:
            shown.append(place)
    letters = max(len(f"{ticks[place]:g}") for place in shown) + 1
    upright = bool((np.diff(inches[shown]) < letters * SIZE / style.LETTERS).any())
    axes.set_xticks([ticks[place] for place in shown])
    axes.tick_params(axis="x", rotation=90 if upright else 0)


def _logarithmic(results: Results, axis: str) -> bool:
    """True if the axis spans more than three doublings and has no zero; a curve over both signs is then broken."""
    sizes = [abs(float(str(value))) for value in results.values(axis)]
    return min(sizes) > 0 and max(sizes) > 8 * min(sizes)


def _label(axes: Axes, series: list[_Line], results: Results, axis: str) -> None:
    marks = style.marks(results.labels, results.settings.reference)
    named = []
    for own in series:
        if len(own.heights):
            y = float(own.heights.iloc[-1])
            arrow = f" {y:.1f} {'↓' if y < axes.get_ylim()[0] else '↑'}" if own.far else ""
            named.append(scatter.Label(0, y, own.name + arrow, marks[own.row].colour, NAME))
    scatter.stack(axes, named)

"""Curves along a numeric axis: the sides of the trade-off, closed-set above HM_ZS, against it (MoTE, Fig. 1b)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import scatter, style
from reports.results import Results, is_set
from reports.style import READS, Panel, Picture

TICKS = 24  # of an axis; of more values, every second or third has one


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
    row has without a value on it. Panels side by side share their scale.
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

    def share_scales(panels: list[Axes]) -> None:
        for first in range(0, len(panels), len(facets)):
            style.share_heights(panels[first : first + len(facets)])

    def panel(measure: str, facet: str) -> Panel:
        lines = scatter.heights(facets[facet], measure)
        title, y = facet if measure == drawn[0] else "", scatter.axis_title(results, measure).replace(", ", ",\n")
        draw, label = (partial(own, lines=lines, results=results, axis=axis) for own in (_draw, _label))
        return Panel(draw, title, results.axes[axis], y, label)

    return style.figure(
        [panel(measure, facet) for measure in drawn for facet in facets],
        *(3.9, 2.4, len(facets) if len(facets) > 1 or len(drawn) < 3 else 2),
        note=scatter.seed_note(summary, *drawn) + missing,
        wrap=True,
        after=share_scales,
    )


def _sides(results: Results, measure: str) -> tuple[str, ...]:
    return results.trade_offs[measure].needs if measure in results.trade_offs else (measure,)


def _series(lines: pd.DataFrame, results: Results, axis: str) -> list[tuple[str, str, pd.DataFrame]]:
    """(row id, name, points in axis order) of each line to draw."""
    others = [other for other in results.axes if other != axis and other not in results.facet_axes(axis)]
    groups = lines.assign(on=lines[axis].map(is_set)).groupby(["row", *others, "on"], sort=False, dropna=False)
    through = set(lines.loc[lines[axis].map(is_set), "row"])
    series = []
    for (row, *_), group in groups:
        beside = ", none" if row in through and not group["on"].iloc[0] else ""
        series.append((str(row), results.name(group.iloc[0], others) + beside, group.sort_values(axis)))
    return series


def _draw(axes: Axes, lines: pd.DataFrame, results: Results, axis: str) -> None:
    marks = style.marks(results.labels, results.settings.reference)
    for row, _, group in _series(lines, results, axis):
        mark = marks[row]
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
    axes.set_xticks(ticks[:: -(-len(ticks) // TICKS)])
    axes.tick_params(axis="x", rotation=90 if len(ticks) > 7 else 0)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(y=0.12)
    axes.grid(axis="y", color=style.GRID, linewidth=0.5)


def _logarithmic(results: Results, axis: str) -> bool:
    """True if the axis spans more than three doublings and has no zero; a curve over both signs is then broken."""
    sizes = [abs(float(str(value))) for value in results.values(axis)]
    return min(sizes) > 0 and max(sizes) > 8 * min(sizes)


def _label(axes: Axes, lines: pd.DataFrame, results: Results, axis: str) -> None:
    marks = style.marks(results.labels, results.settings.reference)
    ends = [(row, name, group["y"].dropna()) for row, name, group in _series(lines, results, axis)]
    named = [scatter.Label(0, float(y.iloc[-1]), name, marks[row].colour) for row, name, y in ends if len(y)]
    scatter.stack(axes, named)

"""The trade-off plot: closed-set top-1 against HM_ZS, one point per row × axis values (MoTE, NeurIPS 2024, Fig. 1a).

Base against novel top-1 is drawn alike: both are two sides of a harmonic mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.core.words import counted
from reports import scatter, style
from reports.results import Results, is_set, value_text
from reports.style import READS, Panel, Picture

MOST = 40  # labels of a panel; of more points, only the best of each row are named
VALUES = 20  # points of a panel that have their values on the axis that is joined; of more, shades tell them


def tradeoff_figures(results: Results) -> Iterator[Picture]:
    """A figure for every trade-off: closed-set against HM_ZS, base against novel."""
    for name, measure in results.trade_offs.items():
        if figure := tradeoff_figure(results, name):
            x, y = map(results.words, measure.needs)
            caption = f"{style.sentence(x)}, against {y}, with lines of equal {results.words(name)}; {READS}."
            stem = "tradeoff" if name == "trade_off" else f"tradeoff-{style.slug(measure.title)}"
            yield Picture("tradeoff", stem, caption, figure, (*measure.needs, name))


def tradeoff_figure(results: Results, measure: str = "trade_off") -> Figure | None:
    """One panel per facet; None unless some row has both sides of `measure`, one of the suite's trade-offs.

    Where a few points squeeze all others, one without them comes before it. Rows without both sides are named below.
    """
    summary = results.summary(alike=True)
    if measure not in results.trade_offs or not (summary[f"{measure}_n"] > 0).any():
        return None
    drawable = summary[f"{measure}_n"] > 0
    sides = results.trade_offs[measure].needs
    located = scatter.points(summary[drawable], *sides)
    marks = style.marks(results.labels, results.settings.reference)
    facets = results.facets(located, results.settings.join)
    shares, said = scatter.shares(located, results)

    def draw(axes: Axes, lines: pd.DataFrame, view: str) -> None:
        axes.set_label(view)
        scatter.fit(axes, located.loc[which[view]])
        _iso_lines(axes, results.words(measure).partition(" ")[0])
        for row, group in lines.groupby("row", sort=False):
            for chain in _chains(group, results):
                axes.plot(chain["x"], chain["y"], color=marks[str(row)].colour, linewidth=1, alpha=0.6, zorder=2)
            for share, some in group.groupby(shares, sort=False):
                scatter.bars(axes, some, marks[str(row)], share=float(str(share)))

    def label(axes: Axes, lines: pd.DataFrame, drawn: pd.DataFrame) -> None:
        scatter.place(axes, _labels(_named(lines, measure), results, marks), _obstacles(drawn, results))

    x, y = (scatter.axis_title(results, side) for side in sides)
    many = max(map(len, facets.values())) > MOST
    near = scatter.pile(located)
    far = located.loc[~near, "label"].unique()
    whole = not located.loc[near, "label"].isin(far).any()
    which = {"": located.index} if near.all() else {"near": located.index[near], "whole": located.index}
    titles = {
        "": "",
        "near": f"without {' and '.join(far) if whole and len(far) < 3 else counted((~near).sum(), 'far point')}",
        "whole": "all",
    }

    def panel(view: str, facet: str) -> Panel:
        own = facets[facet][facets[facet].index.isin(which[view])]
        labelled = own[~near[own.index]] if view == "whole" else own
        title = ", ".join(filter(None, [facet, titles[view]]))
        draws, labels = partial(draw, lines=own, view=view), partial(label, lines=labelled, drawn=own)
        return Panel(draws, title, x, y, labels, pad=15.0)  # above the names of lines

    parts = [panel(view, facet) for view in which for facet in facets]
    return style.figure(
        parts,
        *((5.6, 4.2) if len(parts) == 1 else (4.1, 3.7)),
        columns=2,
        note=scatter.seed_note(summary[drawable], measure)
        + said
        + (f"\nOf more than {MOST} points, only the best of each row is named." if many else "")
        + scatter.missing_note(summary[~drawable], measure),
    )


def _named(lines: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The points that get a label: all of them, or where there are too many, the best of the best rows."""
    if len(lines) <= MOST:
        return lines
    ordered = lines.sort_values(f"{measure}_mean", ascending=False, kind="stable")
    return ordered.drop_duplicates("row").head(MOST)


def _chains(group: pd.DataFrame, results: Results) -> Iterable[pd.DataFrame]:
    """The points of one row to join, in axis order; a further axis makes several chains."""
    join = results.settings.join
    if join is None:
        return []
    others = [axis for axis in results.axes if axis != join]
    on_axis = group[[is_set(value) for value in group[join]]]
    order = {value: place for place, value in enumerate(results.values(join))}
    on_axis = on_axis.assign(order=on_axis[join] if results.is_numeric(join) else on_axis[join].map(order))
    ordered = on_axis.sort_values("order", kind="stable")
    return [chain for _, chain in ordered.groupby(others, sort=False, dropna=False)] if others else [ordered]


def _iso_lines(axes: Axes, name: str) -> None:
    """Thin lines of equal harmonic mean T, y = T x / (2 x - T), each labelled where it leaves the axes."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    corners = [2 * x * y / (x + y) for x, y in ((max(left, 1e-3), max(bottom, 1e-3)), (right, top))]
    for level in MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]).tick_values(*corners):
        x = np.linspace(max(left, level / 2 + 1e-6), right, 400)
        y = level * x / (2 * x - level)
        inside = (y >= bottom) & (y <= top)
        if inside.sum() > 1:
            axes.plot(x[inside], y[inside], color=style.GRID, linewidth=0.6, zorder=1)
            _iso_label(axes, f"{level:g}", x[inside], y[inside])
    _small(axes, name, (1, 1), (2, 2), "left", "bottom", "axes fraction")


def _iso_label(axes: Axes, text: str, x: np.ndarray, y: np.ndarray) -> None:
    """Outside on the right, else outside above, where no point can be; else inside, at the end on the x axis."""
    left, right = axes.get_xlim()
    if x[-1] == right:
        _small(axes, text, (x[-1], y[-1]), (2.5, 0), "left", "center")
    elif x[0] > left:
        _small(axes, text, (x[0], y[0]), (0, 2.5), "center", "bottom")
    else:
        _small(axes, text, (x[-1], y[-1]), (2.5, 2.5), "left", "bottom")


def _small(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], ha: str, va: str, coords: str = "data"
) -> None:
    small = {"fontsize": style.SMALL - 0.5, "color": style.FAINT, "ha": ha, "va": va}
    axes.annotate(text, at, offset, xycoords=coords, textcoords="offset points", **small)  # type: ignore[arg-type]


def _labels(lines: pd.DataFrame, results: Results, marks: dict[str, style.Mark]) -> list[scatter.Label]:
    """Row names at their point, or at the last point of a chain, and axis values at the others."""
    join = results.settings.join
    facet_axes = results.facet_axes(join)
    named = [axis for axis in results.axes if axis != join and axis not in facet_axes]
    texts: list[scatter.Label] = []
    for row, group in lines.groupby("row", sort=False):
        colour = marks[str(row)].colour
        chains = list(_chains(group, results))
        ends = {chain.index[-1] for chain in chains if len(chain)}
        for index, point in group.iterrows():
            value = value_text(point[join]) if join else ""
            name = results.name(point, named)
            if value and index not in ends and len(lines) > VALUES:
                continue
            if not value or index in ends:
                text = f"{name} ({results.axes[join]} {value})" if join and value else name
                texts.append(scatter.Label(point["x"], point["y"], text, colour))
            else:
                texts.append(scatter.Label(point["x"], point["y"], value, colour, style.SMALL))
    return texts


def _obstacles(lines: pd.DataFrame, results: Results) -> np.ndarray:
    chains = [chain for _, group in lines.groupby("row") for chain in _chains(group, results)]
    return np.concatenate([scatter.crosses(lines), *(scatter.along(chain["x"], chain["y"]) for chain in chains)])

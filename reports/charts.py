"""Figures as SVG for the page: the same points, curves and labels, and what a reader sees who points at one of them.

Everything is read off a finished figure, so page and paper show the same. Units are points of 1/72 inch, y downwards.
Legend: K vertices.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, Bbox
from numpy.typing import ArrayLike

from bench.measure.statistics import Floats
from reports import scatter, style
from reports.accuracies import score
from reports.bootstrap import bootstrap
from reports.results import Results, place_of

# Class of the page's style -> the colour of a figure.
COLOURS = {colour.lower(): f"c{place}" for place, colour in enumerate(style.PALETTE)}
COLOURS |= {style.INK.lower(): "ink", style.FAINT.lower(): "faint", style.GRID.lower(): "grid"}
ANCHORS = {"left": "start", "center": "middle", "right": "end"}
Flat = Callable[[ArrayLike], Floats]  # pixels of a figure -> points of the SVG, [K,2]
RECORDS = 3  # identities that a tooltip names
MARGIN = 3.0


class Words(NamedTuple):
    """A text whose lines begin, stand around or end at x, as `anchor` says; `turn` in degrees."""

    lines: list[tuple[float, str]]  # y, text
    x: float
    anchor: str
    size: float
    colour: str
    turn: str


class Curve(NamedTuple):
    """A line; `row` is empty for one that belongs to none."""

    row: str
    path: str
    colour: str
    width: float
    dashed: bool


class Spot(NamedTuple):
    """A row at a point of its axes: its mark, its error bars, and all that is known of it."""

    row: str
    path: str
    bars: str
    colour: str
    hollow: bool
    told: str


class Plot(NamedTuple):
    """A panel, with its box, axes and clipping path. `view`: "near" or "whole" where there are both, else empty."""

    view: str
    box: str
    frame: str
    clip: str
    texts: list[Words]
    curves: list[Curve]
    spots: list[Spot]


class Chart(NamedTuple):
    """The panels of a figure; `rows`: id -> name, class of its colour and mark, of all rows that have points."""

    plots: list[Plot]
    rows: dict[str, tuple[str, str, str]]
    note: str
    title: str


def chart(figure: Figure, measures: Sequence[str], results: Results) -> Chart:
    """A figure, whose points `scatter.bars` drew, as SVG; their tooltips tell of `measures`."""
    told = _told(results, measures)
    with style.look():
        figure.draw_without_rendering()
        plots = [_plot(axes, told) for axes in figure.axes]
    rows = {}
    for row, mark in style.marks(results.labels, results.settings.reference).items():
        if any(spot.row == row for plot in plots for spot in plot.spots):
            rows[row] = (
                results.labels[row],
                COLOURS[mark.colour.lower()],
                _mark(mark.marker, 4.5, np.array([6.0, 6.0])),
            )
    return Chart(plots, rows, figure.get_supxlabel(), figure.get_suptitle())


def _told(results: Results, measures: Sequence[str]) -> dict[tuple[str, str], str]:
    """Row and point -> value and interval of each measure, n, and the records behind them."""
    needed = {protocol for measure in measures for protocol in results.measures[measure].inputs}
    lines = results.lines(experts=False)
    lines = lines[lines["protocol"].isin(needed) & (lines["identity"] != "")]
    behind = lines.groupby(["row", "point"], sort=False)["identity"].unique()
    resampled, found = bootstrap(results, False), dict[tuple[str, str], str]()
    for line in results.summary().to_dict("records"):
        place, texts = place_of(line), [results.name(pd.Series(line))]
        for measure in measures:
            number, interval = score(line, measure, results).text, resampled.interval(place, measure)
            own = f"{style.sentence(results.words(measure))}: {number}"
            texts.append(own + (f"; {interval.text}" if interval else ""))
        records = [*behind.get(place[:2], ())]
        more = f" and {len(records) - RECORDS} more" if len(records) > RECORDS else ""
        texts.append(f"n = {line['seeds']}; records {', '.join(records[:RECORDS])}{more}")
        found[place[:2]] = "\n".join(texts)
    return found


def _plot(axes: Axes, told: dict[tuple[str, str], str]) -> Plot:
    scale, height = 72 / axes.figure.dpi, axes.figure.bbox.height

    def flat(places_K2: ArrayLike) -> Floats:
        places_K2 = np.asarray(places_K2, dtype=float).reshape(-1, 2)
        return np.column_stack([places_K2[:, 0], height - places_K2[:, 1]]) * scale

    def on(places_K2: ArrayLike) -> Floats:
        return flat(axes.transData.transform(places_K2))

    box = axes.get_window_extent()
    (left, top), (right, bottom) = _corners(box, flat)
    across, up = (_ticks(axis) for axis in (axes.xaxis, axes.yaxis))
    ticks = [
        f"M{x:.1f} {bottom:.1f}v3" for x, _ in on(np.array([(x, axes.get_ylim()[0]) for x in across]).reshape(-1, 2))
    ]
    ticks += [f"M{left:.1f} {y:.1f}h-3" for _, y in on(np.array([(axes.get_xlim()[0], y) for y in up]).reshape(-1, 2))]
    texts = [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label, *across.values(), *up.values()]
    texts = [text for text in texts if text.get_text()]
    corners = _corners(Bbox.union([box, *(text.get_window_extent() for text in texts)]), flat)
    sides = (*(corners[0] - MARGIN), *(corners[1] - corners[0] + 2 * MARGIN))
    own = {container.lines[0]: container for container in axes.containers if isinstance(container, ErrorbarContainer)}
    keys = {line: json.loads(line.get_gid() or "[]") for line in own}
    return Plot(
        view if (view := str(axes.get_label())) in scatter.VIEWS else "",
        " ".join(f"{side:.0f}" for side in sides),
        f"M{left:.1f} {top:.1f}V{bottom:.1f}H{right:.1f}{''.join(ticks)}",
        f"M{left - 1:.1f} {top - 1:.1f}H{right + 1:.1f}V{bottom + 1:.1f}H{left - 1:.1f}Z",
        [_words(text, flat) for text in texts],
        [
            _curve(line, flat, keys[line][0][0] if keys.get(line) else "")
            for line in axes.lines
            if line.get_linestyle() != "None"
        ],
        [spot for line, points in keys.items() for spot in _spots(own[line], points, on, told)],
    )


def _corners(box: Bbox, flat: Flat) -> Floats:
    """Top left and bottom right."""
    return flat([[box.x0, box.y1], [box.x1, box.y0]])


def _ticks(axis: Axis) -> dict[float, Text]:
    """The ticks inside the axes with their labels."""
    low, high = sorted(axis.get_view_interval())
    room = 1e-6 * (high - low)
    places = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    return {float(place): label for place, label in places if low - room <= place <= high + room}


def _words(text: Text, flat: Flat) -> Words:
    (left, top), (right, bottom), size = *_corners(text.get_window_extent(), flat), float(text.get_fontsize())
    told = text.get_text().replace(style.HM_ZS, "HM_ZS").split("\n")
    x, y, anchor, turned = (left + right) / 2, (top + bottom) / 2, "middle", text.get_rotation() == 90
    if not turned:
        anchor = ANCHORS[str(text.get_horizontalalignment())]
        x = {"start": left, "middle": x, "end": right}[anchor]
    first = y - 0.6 * size * (len(told) - 1) + 0.35 * size
    lines = [(round(first + 1.2 * size * number, 1), own) for number, own in enumerate(told)]
    colour = COLOURS.get(to_hex(text.get_color()).lower(), "ink")
    return Words(lines, round(x, 1), anchor, size, colour, f"rotate(-90 {x:.1f} {y:.1f})" if turned else "")


def _curve(line: Line2D, flat: Flat, row: str) -> Curve:
    places_K2 = flat(line.get_transform().transform(line.get_xydata()))
    colour = COLOURS.get(to_hex(line.get_color()).lower(), "faint")
    return Curve(row, _path(places_K2), colour, line.get_linewidth(), line.is_dashed())


def _spots(
    container: ErrorbarContainer, keys: list[list[str]], on: Flat, told: dict[tuple[str, str], str]
) -> Iterator[Spot]:
    line, _, bars = container.lines
    places_K2 = on(line.get_xydata())
    size = line.get_markersize() / 2
    for number, (key, at) in enumerate(zip(keys, places_K2, strict=True)):
        if np.isnan(at).any():
            continue
        segments = [own.get_segments()[number] for own in bars if isinstance(own, LineCollection)]
        drawn = "".join(_path(on(segment)) for segment in segments)
        hollow = to_hex(line.get_markerfacecolor()) == "#ffffff"
        colour = COLOURS.get(to_hex(line.get_color()).lower(), "ink")
        yield Spot(key[0], _mark(str(line.get_marker()), size, at), drawn, colour, hollow, told[key[0], key[1]])


def _mark(marker: str, size: float, at: Floats) -> str:
    """The outline of a mark of half the width `size` around a place."""
    own = MarkerStyle(marker)
    outline = own.get_path().transformed(Affine2D(own.get_transform().get_matrix()).scale(2 * size, -2 * size))
    return "".join(_path(np.asarray(polygon) + at) + "Z" for polygon in outline.to_polygons(closed_only=False))


def _path(places_K2: Floats) -> str:
    """The polyline as SVG; it is broken where a place is not known."""
    pieces, joined = [], False
    for x, y in places_K2:
        known = bool(np.isfinite(x) and np.isfinite(y))
        pieces += [f"{'L' if joined else 'M'}{x:.1f} {y:.1f}"] if known else []
        joined = known
    return "".join(pieces)

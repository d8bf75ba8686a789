"""One look for all figures: sizes for a paper's column, a colour-blind safe palette, reproducible files."""

from __future__ import annotations

import os
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import seaborn
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from methods.registry import BUILT_IN

INK, FAINT, GRID = "#222222", "#767676", "#d4d4d4"
HM_ZS = r"HM$_{\mathrm{ZS}}$"
SMALL = 6.5  # points; the smallest text that survives a paper's column
LETTERS = 120  # an inch has so many letters, over their size in points
LINE = 1.35 / 72  # inches of a line, of a size of one point
LONGEST = 40  # letters of a row's label
ROOM, TITLE = 0.7, 0.3  # inches of a panel that its axes, and that its title do not have
MATH_KINDS = ("rm", "it", "bf", "bfit", "sf", "tt", "cal")
READS = "its numbers are in the table of this page"
# Okabe & Ito (2008) without its yellow; the others are darkened where they are too light for text on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#B8578F", "#B27B00", "#2F86B8", "#7A4FA3", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
METHODS = (*BUILT_IN,)
FONT = Path(__file__).parent / "fonts/DejaVuSansCut.ttf"  # made by tools/font.py
FONT_NAME, FALLBACK = "DejaVu Sans Cut", "DejaVu Sans"
LOOK: Any = {
    **{"figure.dpi": 100, "savefig.dpi": 200, "pdf.fonttype": 42, "font.family": [FONT_NAME, FALLBACK], "font.size": 8},
    **{"mathtext.fontset": "custom", **dict.fromkeys((f"mathtext.{kind}" for kind in MATH_KINDS), FONT_NAME)},
    **{"axes.labelsize": 8, "axes.titlesize": 8.5, "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.linewidth": 0.6},
    **{"axes.edgecolor": INK, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK},
    **{"axes.spines.top": False, "axes.spines.right": False, "xtick.major.width": 0.6, "ytick.major.width": 0.6},
    **{"xtick.major.size": 3, "ytick.major.size": 3, "lines.linewidth": 1.2, "lines.markersize": 5},
}
font_manager.fontManager.addfont(FONT)


class Picture(NamedTuple):
    """A figure for a section of the page; its files have the stem `name`, and the caption says what it shows.

    With `measures`, the page tells a point's numbers of them where a reader points at it.
    """

    section: str
    name: str
    caption: str
    figure: Figure
    measures: tuple[str, ...] = ()


def expert_picture(kind: str, key: tuple[str, ...], caption: str, figure: Figure) -> Picture:
    """A picture of experts; `key` are the row, the point and what else tells it from others of its kind."""
    return Picture("experts", f"expert-{kind}-{slug(' '.join(key))}", caption, figure)


class Mark(NamedTuple):
    """The colour and marker of a row in every figure of a report."""

    colour: str
    marker: str


@contextmanager
def look() -> Iterator[None]:
    """The settings under which a figure has to be drawn and saved; the caller's own settings return afterwards."""
    with matplotlib.rc_context({**seaborn.axes_style("ticks"), **LOOK}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a label in other letters shows as boxes
        yield


def cut_labels(figure: Figure, labels: Iterable[str]) -> None:
    """Cut long labels of rows wherever a figure has them; tables have the full ones."""
    cuts: dict[str, str] = {}
    for label in sorted({*labels}, key=len, reverse=True):
        if len(label) > LONGEST:
            short = shortened(label, LONGEST)
            cuts[label] = short if short not in cuts.values() else f"{label[: LONGEST - 5]}… {len(cuts) + 1}"

    def cut(text: str) -> str:
        for label, short in cuts.items():
            text = text.replace(label, short)
        return text

    if cuts:
        for own in figure.findobj(Text):
            own.set_text(cut(own.get_text()))
        for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
            names = [own.get_text() for own in axis.get_ticklabels()]
            if (fitting := [cut(name) for name in names]) != names:
                axis.set_ticks(axis.get_ticklocs(), fitting, parse_math=False)


def marks(rows: Iterable[str], reference: str | None = None) -> dict[str, Mark]:
    """A mark per row id: in every report that of the method that the id names, as `mote` and `mote_base` name MoTE.

    Further rows of a method have a colour that is free or, where rows are many, its colour and other markers; ids of no
    method have what is free, in their order. The reference is a black star.
    """
    found: dict[str, Mark] = {reference: Mark(INK, "*")} if reference else {}
    rows = [row for row in rows if row != reference]
    named = {row: place for row in rows if (place := _place(row)) is not None}
    for row in sorted(named, key=lambda own: (own not in METHODS, len(own))):
        colour, markers = PALETTE[named[row] % len(PALETTE)], _from(MARKERS, named[row])
        if len(rows) > len(PALETTE) or colour not in {mark.colour for mark in found.values()}:
            found[row] = _free(product([colour], markers), found)
    for row in (row for row in rows if row not in found):
        used = {mark.colour for mark in found.values()}
        diagonal = zip(PALETTE * len(MARKERS), MARKERS * len(PALETTE), strict=True)
        found[row] = _free(sorted(diagonal, key=lambda pair: pair[0] in used), found)
    return {row: found[row] for row in [*rows, *filter(None, [reference])]}


def _place(row: str) -> int | None:
    """The place of the method that a row id names, with something behind it or in short, as `dense` for a long name."""
    methods = [own for own in METHODS if f"{row}_".startswith(f"{own}_") or own.startswith(f"{row}_")]
    return METHODS.index(max(methods, key=len)) if methods else None


def _from(values: tuple[str, ...], place: int) -> tuple[str, ...]:
    start = place % len(values)
    return values[start:] + values[:start]


def _free(pairs: Iterable[tuple[str, str]], taken: Mapping[str, Mark]) -> Mark:
    """The first mark that no row has; if all are taken, the first one again."""
    ordered = [Mark(*pair) for pair in pairs]
    return next((mark for mark in ordered if mark not in taken.values()), ordered[0])


def shade(colour: str, share: float) -> str:
    """A colour from light, at a share of 0, to itself at 1: the value of a point on an axis."""
    red, green, blue = (1 - (1 - part) * (0.35 + 0.65 * share) for part in to_rgb(colour))
    return to_hex((red, green, blue))


def colour(place: int) -> str:
    """The colour of an expert, by its number."""
    return PALETTE[place % len(PALETTE)]


def slug(text: str) -> str:
    """`text` as part of a file's name."""
    return re.sub(r"[^\w.]+", "-", text).strip("-")


def sentence(text: str) -> str:
    """`text` with a capital letter at its start."""
    return text[:1].upper() + text[1:]


def shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


class Panel(NamedTuple):
    """A panel of a figure: `draw` fills its axes, `label` names points in axes whose limits and layout are final."""

    draw: Callable[[Axes], object]
    title: str = ""
    x: str = ""
    y: str = ""
    label: Callable[[Axes], object] | None = None
    pad: float = 6.0  # points below the title


def figure(
    parts: Sequence[Panel], width: float, height: float, columns: int = 3, *, title: str = "", small: bool = False,
    note: str = "", beside: float = 0.0, after: Callable[[list[Axes]], object] | None = None,
) -> Figure:  # fmt: skip
    """A figure of `parts` of `width` × `height` inches; `after` is given all axes once they are drawn.

    Titles of panels are `small` where they have several lines. The note is small print below: the meaning of bars, n,
    and rows that could not be drawn. Texts are wrapped to the room that they have, and title and note add to the
    height; `beside` is room for a legend on the right.
    """
    with look():
        own, drawn = panels(len(parts), width, height, columns)
        own.set_figwidth(own.get_figwidth() + beside)
        if title:
            title = wrapped(title, own.get_figwidth(), 9)
            own.suptitle(title, fontsize=9, parse_math=False)
            own.set_figheight(own.get_figheight() + LINE * 9 * title.count("\n"))
        for axes, part in zip(drawn, parts, strict=True):
            size = 7.5 if small else 8.5
            axes.set_title(wrapped(part.title, width - TITLE, size), fontsize=size, pad=part.pad, parse_math=False)
            part.draw(axes)
            for set_text, text, room in ((axes.set_xlabel, part.x, width), (axes.set_ylabel, part.y, height)):
                if text:
                    set_text(wrapped(text, room - ROOM, 8), parse_math=HM_ZS in text)
        if after:
            after(drawn)
        if note:
            add_note(own, note)
        if any(part.label for part in parts):
            own.draw_without_rendering()  # settles the layout, which the labels' places depend on
        for axes, part in zip(drawn, parts, strict=True):
            if part.label:
                part.label(axes)
    return own


def add_note(figure: Figure, text: str) -> None:
    """Add small print under the figure, which grows by it."""
    text = wrapped(text.strip(), figure.get_figwidth(), SMALL)
    figure.set_figheight(figure.get_figheight() + LINE * SMALL * text.count("\n"))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=SMALL, color=FAINT, parse_math=False)


def wrapped(text: str, inches: float, size: float) -> str:
    """`text` in lines that are as wide as this at a size in points."""
    plain, letters = text.replace(HM_ZS, "HM_ZS"), int(LETTERS * inches / size)
    lines = [textwrap.fill(line, letters, break_on_hyphens=False) for line in plain.splitlines()]
    return "\n".join(lines).replace("HM_ZS", HM_ZS if HM_ZS in text else "HM_ZS")


def share_heights(panels: Sequence[Axes], low: float | None = None, most: float = inf, room: float = 1.0) -> None:
    """Give panels the same y limits, so that heights compare across them: up to `most`, with `room` above."""
    bottoms, tops = zip(*(axes.get_ylim() for axes in panels), strict=True)
    for axes in panels:
        axes.set_ylim(min(bottoms) if low is None else low, min(most, room * max(tops)))


def panels(count: int, width: float, height: float, columns: int = 3) -> tuple[Figure, list[Any]]:
    """A figure of `count` panels of `width` × `height` inches, in even rows of at most `columns`. Without pyplot."""
    rows = -(-count // columns)
    columns = -(-count // rows)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)  # keeps its renderer; a plain canvas makes one for each text that is measured
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write `stem`.png (200 dpi) and `stem`.pdf, each in one rename; without dates, so that files compare."""
    undated = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}
    for kind, metadata in undated.items():
        unfinished = stem.with_name(f".{stem.name}.{os.getpid()}.{kind}")
        with look():
            figure.savefig(unfinished, format=kind, metadata=metadata)
        unfinished.replace(stem.with_name(f"{stem.name}.{kind}"))
        figure.set_layout_engine("none")  # the layout of the first holds for the second
    return stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")

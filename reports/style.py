"""One look for all figures: sizes for a paper's column, a colour-blind safe palette, reproducible files."""

from __future__ import annotations

import os
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import seaborn
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

INK, FAINT, GRID = "#222222", "#767676", "#d4d4d4"
HM_ZS = r"HM$_{\mathrm{ZS}}$"
SMALL = 6.5  # points; the smallest text that survives a paper's column
LETTERS = 19  # of the small print, an inch
LONGEST = 40  # letters of a row's label
MATH_KINDS = ("rm", "it", "bf", "bfit", "sf", "tt", "cal")
READS = "its numbers are in the table of this page"
# Okabe & Ito (2008) without its yellow; the others are darkened where they are too light for text on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#B8578F", "#B27B00", "#2F86B8", "#7A4FA3", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
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
    """A mark per row id, by its order in the suite; the reference is a black star, whatever its place."""
    others = [row for row in rows if row != reference]
    marks = {row: Mark(PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, row in enumerate(others)}
    return marks | ({reference: Mark(INK, "*")} if reference else {})


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


def figure(
    parts: Sequence[Panel], width: float, height: float, columns: int = 3, *, title: str = "", small: bool = False,
    note: str = "", wrap: bool = False, after: Callable[[list[Axes]], object] | None = None,
) -> Figure:  # fmt: skip
    """A figure of `parts` of `width` × `height` inches; `after` is given all axes once they are drawn.

    Titles of panels are `small` where they have several lines. The note is small print below: the meaning of bars, n,
    and rows that could not be drawn.
    """
    with look():
        own, drawn = panels(len(parts), width, height, columns)
        if title:
            own.suptitle(title, fontsize=9 if small else "large", parse_math=False)
        for axes, part in zip(drawn, parts, strict=True):
            axes.set_title(part.title, fontsize=7.5 if small else 8.5, parse_math=False)
            part.draw(axes)
            for set_text, text in ((axes.set_xlabel, part.x), (axes.set_ylabel, part.y)):
                if text:
                    set_text(text, parse_math=HM_ZS in text)
        if after:
            after(drawn)
        if wrap:
            lines = note.strip().splitlines()
            note = "\n".join(textwrap.fill(line, int(LETTERS * own.get_figwidth())) for line in lines)
        if note:
            add_note(own, note)
        if any(part.label for part in parts):
            own.draw_without_rendering()  # settles the layout, which the labels' places depend on
        for axes, part in zip(drawn, parts, strict=True):
            if part.label:
                part.label(axes)
    return own


def add_note(figure: Figure, text: str) -> None:
    """Add small print under the figure."""
    figure.supxlabel(text, x=0.01, ha="left", fontsize=SMALL, color=FAINT)


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

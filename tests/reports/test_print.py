"""Figures of every shipped suite as they are printed: texts lie inside, touch no other text and cover no mark."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, islice
from typing import Any, NamedTuple

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from reports import style
from reports.page import FIGURES
from tests.reports.planned import NAMES, planned

HARD = ("main-table", "mote-table3", "interpolation", "tuned")
TOUCH = 1.0  # points that boxes may share: a line's box is higher than its letters
OUTSIDE = 0.5
ALIKE = 4  # figures of a kind that are drawn; further ones differ in their point


class Words(NamedTuple):
    """A text as it was drawn, and its box in points."""

    text: Text
    box: Bbox

    @property
    def said(self) -> str:
        return repr(self.text.get_text())


def drawn(figure: Figure) -> list[Words]:
    """Every text that a figure draws."""
    found, draw, scale = dict[Text, Bbox](), Text.draw, 72 / figure.dpi

    def noted(text: Text, renderer: Any, *args: Any, **more: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            box = Text.get_window_extent(text, renderer)
            found[text] = Bbox(scale * box.get_points())
        draw(text, renderer, *args, **more)

    with pytest.MonkeyPatch.context() as patch, style.look():
        patch.setattr(Text, "draw", noted)
        figure.draw_without_rendering()
    return [Words(text, box) for text, box in found.items()]


def faults(figure: Figure) -> Iterator[str]:
    """What makes a figure unfit for print."""
    words, (width, height) = drawn(figure), 72 * figure.get_size_inches()
    for own in words:
        x0, y0, x1, y1 = own.box.extents
        if min(x0, y0, width - x1, height - y1) < -OUTSIDE:
            yield f"{own.said} is cut"
    for a, b in combinations(words, 2):
        shared = Bbox.intersection(a.box, b.box)
        if shared and min(shared.width, shared.height) > TOUCH:
            yield f"{a.said} and {b.said} overlap"
    for axes in figure.axes:
        containers = [own for own in axes.containers if isinstance(own, ErrorbarContainer) and own.lines[0]]
        marks = [axes.transData.transform(own.lines[0].get_xydata()) for own in containers]
        for x, y in np.concatenate([np.empty((0, 2)), *marks]) * 72 / figure.dpi:
            yield from (
                f"{own.said} covers a mark" for own in words if own.text.axes is axes and own.box.contains(x, y)
            )


@pytest.mark.parametrize(
    "name", [name if name in HARD else pytest.param(name, marks=pytest.mark.prints) for name in NAMES]
)
def test_texts_are_whole_and_apart(name: str) -> None:
    results, found = planned(name), list[str]()
    for picture in (picture for figures in FIGURES for picture in islice(figures(results), ALIKE)):
        style.cut_labels(picture.figure, results.labels.values())
        found += [f"{picture.name}: {fault}" for fault in faults(picture.figure)]
    assert not found, "\n".join(found)

"""Labels keep off each other and off points, and stay where a reader can tell whose they are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text

from reports import scatter, style


def _axes() -> Axes:
    figure, (axes,) = style.panels(1, 5.0, 4.0)
    axes.set(xlim=(0, 10), ylim=(0, 10))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return axes  # type: ignore[no-any-return]


def _placed(axes: Axes) -> list[Text]:
    return [text for text in axes.texts if not isinstance(text, Annotation)]


@pytest.mark.parametrize("seed", range(5))
def test_eight_labels_overlap_neither_each_other_nor_points(seed: int) -> None:
    axes, points_L2 = _axes(), np.random.default_rng(seed).uniform(1, 9, (8, 2))
    wanted = [scatter.Label(x, y, f"method {i}") for i, (x, y) in enumerate(points_L2)]
    scatter.place(axes, wanted, points_L2)
    boxes = [text.get_window_extent() for text in _placed(axes)]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert not any(box.contains(*point) for box in boxes for point in axes.transData.transform(points_L2))


def test_labels_of_neighbours_are_not_swapped() -> None:
    axes, points = _axes(), [(5.0, 5.0), (5.25, 5.0)]
    scatter.place(axes, [scatter.Label(x, y, str(i)) for i, (x, y) in enumerate(points)], np.array(points))
    left, right = (text.get_position()[0] for text in _placed(axes))
    assert left < right


def test_labels_stay_inside_the_axes() -> None:
    axes = _axes()
    corners = [(0.0, 0.0), (10.0, 10.0), (0.0, 10.0), (10.0, 0.0)]
    scatter.place(axes, [scatter.Label(x, y, "a rather long label") for x, y in corners], np.array(corners))
    frame = axes.get_window_extent()
    for text in _placed(axes):
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


def test_dollar_signs_are_not_mathematics() -> None:
    axes = _axes()
    scatter.place(axes, [scatter.Label(5, 5, "$x")], np.empty((0, 2)))
    assert not _placed(axes)[0].get_parse_math()


def test_stacked_labels_keep_their_order_and_distance() -> None:
    axes, heights = _axes(), [5.0, 5.01, 4.99, 9.0]
    scatter.stack(axes, [scatter.Label(0, y, f"{y}") for y in heights])
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert not any(a.overlaps(b) for a, b in combinations(boxes.values(), 2))
    assert sorted(boxes, key=lambda name: boxes[name].y0) == ["4.99", "5.0", "5.01", "9.0"]
    free = axes.transData.inverted().transform((0, (boxes["9.0"].y0 + boxes["9.0"].y1) / 2))[1]
    assert free == pytest.approx(9.0, abs=0.1)


def test_polylines_skip_missing_vertices() -> None:
    assert not np.isnan(scatter.along([0, np.nan, 2], [0, 1, 2])).any()

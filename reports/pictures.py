"""The figures of a report with their captions: accuracies, and what experts are like."""

from __future__ import annotations

import re
from collections.abc import Iterator

from reports.categories import category_figures
from reports.curves import curve_axes, curve_figure, curve_measures
from reports.experts import accuracy_figures, similarity_figures
from reports.maps import map_figures
from reports.results import Results
from reports.routing import routing_figures
from reports.shown import Picture
from reports.tradeoff import tradeoff_figure
from reports.weights import distance_figures

READS = "its numbers are in the table of this page"


def trade_offs(results: Results) -> Iterator[Picture]:
    """A figure for every measure that weighs two sides."""
    for name, measure in results.trade_offs.items():
        if figure := tradeoff_figure(results, name):
            x, y = map(results.words, measure.needs)
            caption = f"{_sentence(f'{x}, against {y}')}, with lines of equal {results.words(name)}; {READS}."
            stem = "tradeoff" if name == "trade_off" else f"tradeoff-{_slug(measure.title)}"
            yield Picture("tradeoff", stem, caption, figure)


def curves(results: Results) -> Iterator[Picture]:
    """A figure for every numeric axis."""
    measured = _sentence("; ".join(map(results.words, curve_measures(results))))
    for axis in curve_axes(results):
        if figure := curve_figure(results, axis):
            yield Picture(
                "curves", f"curve-{_slug(axis)}", f"{measured} against {results.axes[axis]}; {READS}.", figure
            )


def similarities(results: Results) -> Iterator[Picture]:
    """How alike the experts of each row are."""
    for row, figure in similarity_figures(results).items():
        name = results.labels()[row]
        caption = f"Mean cosine similarity between the features of the experts of {name}, printed in the cells."
        yield Picture("experts", f"expert-similarity-{_slug(row)}", caption, figure)


def accuracies(results: Results) -> Iterator[Picture]:
    """What each expert can do alone."""
    for (row, point), figure in accuracy_figures(results).items():
        caption = ", ".join(filter(None, [f"What each expert of {results.labels()[row]} can do alone", point]))
        yield Picture("experts", f"expert-accuracy-{_slug(f'{row} {point}')}", f"{caption}; {READS}.", figure)


def categories(results: Results) -> Iterator[Picture]:
    """Class by class, where experts differ."""
    for (row, point, protocol), figure in category_figures(results, results.class_names).items():
        caption = f"Accuracy by class on {protocol}, where the experts of {_named(results, row, point)} differ most."
        yield Picture("experts", f"expert-classes-{_slug(f'{row} {point} {protocol}')}", caption, figure)


def maps(results: Results) -> Iterator[Picture]:
    """What experts look at in a few videos."""
    for (row, point, clip), figure in map_figures(results.maps).items():
        caption = f"What the temporal feature of {_named(results, row, point)} is like in each frame, video {clip}."
        yield Picture("experts", f"expert-maps-{_slug(f'{row} {point} {clip}')}", caption, figure)


def distances(results: Results) -> Iterator[Picture]:
    """Experts in weight space."""
    for (row, point), figure in distance_figures(results.distances).items():
        caption = f"How far the experts of {_named(results, row, point)} lie from each other in weight space."
        yield Picture("experts", f"expert-weights-{_slug(f'{row} {point}')}", caption, figure)


def routings(results: Results) -> Iterator[Picture]:
    """How often each expert was drawn."""
    for (row, point), figure in routing_figures(results.routing).items():
        caption = f"How often each expert of {_named(results, row, point)} was drawn in training."
        yield Picture("experts", f"expert-routing-{_slug(f'{row} {point}')}", caption, figure)


def _named(results: Results, row: str, point: str) -> str:
    return ", ".join(filter(None, [results.labels()[row], point]))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text).strip("-")

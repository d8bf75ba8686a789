"""The report of a suite: all figures and tables that apply, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import re
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports import beside, findings, style, tables
from reports.categories import category_figures, category_table
from reports.comparisons import comparisons
from reports.curves import curve_axes, curve_figure, curve_measures
from reports.experts import accuracy_figures, similarity_figures
from reports.maps import map_figures
from reports.protocols import protocol_table
from reports.results import Results, value_text
from reports.routing import routing_figures
from reports.shown import Picture
from reports.tradeoff import tradeoff_figure
from reports.weights import distance_figures, distance_table

PAGE = "report.html"
PIXELS_PER_INCH = 118  # of a figure's width on the page
READS = "its numbers are in the table of this page"
# Sections that the template does not lay out itself: name in a Picture -> heading. They follow the experts.
SECTIONS: dict[str, str] = {}


def write_report(results: Results, out: Path) -> Path:
    """Writes figures (PNG, PDF), tables (CSV, MD, TEX) and the page into `out`; returns the page's path.

    Everything is made in a folder beside `out` first and moved in file by file, the page last: a report that fails
    leaves the former one as it was. Files of other names stay untouched.
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as name:
        folder = Path(name)
        images = [_image(picture, folder) for picture in _pictures(results)]
        rendered = list(_write_tables(results, folder))
        published = _write_published(results, folder)
        (folder / PAGE).write_text(_page(results, images, rendered, published), encoding="utf-8")
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == PAGE, path.name)):
            path.replace(out / path.name)
    return out / PAGE


def _pictures(results: Results) -> Iterator[Picture]:
    return (picture for figures in FIGURES for picture in figures(results))


def _trade_offs(results: Results) -> Iterator[Picture]:
    for name, measure in results.trade_offs.items():
        if figure := tradeoff_figure(results, name):
            x, y = map(results.words, measure.needs)
            caption = f"{_sentence(f'{x}, against {y}')}, with lines of equal {results.words(name)}; {READS}."
            stem = "tradeoff" if name == "trade_off" else f"tradeoff-{_slug(measure.title)}"
            yield Picture("tradeoff", stem, caption, figure)


def _curves(results: Results) -> Iterator[Picture]:
    measured = _sentence("; ".join(map(results.words, curve_measures(results))))
    for axis in curve_axes(results):
        if figure := curve_figure(results, axis):
            yield Picture(
                "curves", f"curve-{_slug(axis)}", f"{measured} against {results.axes[axis]}; {READS}.", figure
            )


def _similarities(results: Results) -> Iterator[Picture]:
    for row, figure in similarity_figures(results).items():
        name = results.labels()[row]
        caption = f"Mean cosine similarity between the features of the experts of {name}, printed in the cells."
        yield Picture("experts", f"expert-similarity-{_slug(row)}", caption, figure)


def _accuracies(results: Results) -> Iterator[Picture]:
    for (row, point), figure in accuracy_figures(results).items():
        caption = ", ".join(filter(None, [f"What each expert of {results.labels()[row]} can do alone", point]))
        yield Picture("experts", f"expert-accuracy-{_slug(f'{row} {point}')}", f"{caption}; {READS}.", figure)


def _categories(results: Results) -> Iterator[Picture]:
    for (row, point, protocol), figure in category_figures(results, results.class_names).items():
        caption = f"Accuracy by class on {protocol}, where the experts of {_named(results, row, point)} differ most."
        yield Picture("experts", f"expert-classes-{_slug(f'{row} {point} {protocol}')}", caption, figure)


def _maps(results: Results) -> Iterator[Picture]:
    for (row, point, clip), figure in map_figures(results.maps).items():
        caption = f"What the temporal feature of {_named(results, row, point)} is like in each frame, video {clip}."
        yield Picture("experts", f"expert-maps-{_slug(f'{row} {point} {clip}')}", caption, figure)


def _distances(results: Results) -> Iterator[Picture]:
    for (row, point), figure in distance_figures(results.distances).items():
        caption = f"How far the experts of {_named(results, row, point)} lie from each other in weight space."
        yield Picture("experts", f"expert-weights-{_slug(f'{row} {point}')}", caption, figure)


def _routings(results: Results) -> Iterator[Picture]:
    for (row, point), figure in routing_figures(results.routing).items():
        caption = f"How often each expert of {_named(results, row, point)} was drawn in training."
        yield Picture("experts", f"expert-routing-{_slug(f'{row} {point}')}", caption, figure)


def _named(results: Results, row: str, point: str) -> str:
    return ", ".join(filter(None, [results.labels()[row], point]))


# Every kind of figure, in the order of the page within its section.
FIGURES: tuple[Callable[[Results], Iterator[Picture]], ...] = (
    *(_trade_offs, _curves, _similarities, _accuracies),
    *(_categories, _maps, _distances, _routings),
)


def _image(picture: Picture, folder: Path) -> dict[str, object]:
    """What the page shows of a picture, after writing its files."""
    png, pdf = style.save(picture.figure, folder / picture.name)
    width = round(picture.figure.get_figwidth() * PIXELS_PER_INCH)
    data = b64encode(png.read_bytes()).decode()
    return {"picture": picture, "files": (png.name, pdf.name), "width": width, "data": data}


def _write_tables(results: Results, folder: Path) -> Iterator[tuple[tables.Table, list[str]]]:
    """Writes and yields the table of rows and, where there are any, of expert choices, with their files' names."""
    kinds = {"table": False} | ({"experts": True} if (results.table["expert"] != "").any() else {})
    for name, experts in kinds.items():
        table = tables.harmonic_mean_table(results, experts=experts)
        texts = {
            **{f"{name}.csv": tables.csv(results, experts=experts)},
            **{f"{name}.md": tables.markdown(table), f"{name}.tex": tables.latex(table)},
        }
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
        yield table, list(texts)
    results.table.to_csv(folder / "results.csv", index=False, lineterminator="\n")
    classes, weights = category_table(results, results.class_names), distance_table(results.distances)
    for name, own in {"expert-classes": classes, "expert-weights": weights}.items():
        if len(own):
            own.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")


def _write_published(results: Results, folder: Path) -> tuple[beside.Beside, list[str]] | None:
    """Writes the table of published numbers, if the suite selects any; the table and its files' names."""
    if (table := beside.beside(results)) is None:
        return None
    texts = {
        "published.csv": beside.csv(results),
        "published.md": beside.markdown(table),
        "published.tex": beside.latex(table),
    }
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    return table, list(texts)


def _page(
    results: Results,
    images: list[dict[str, object]],
    rendered: list[tuple[tables.Table, list[str]]],
    published: tuple[beside.Beside, list[str]] | None,
) -> str:
    templates = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["value_text"] = value_text
    return environment.get_template("report.html.j2").render(
        results=results,
        findings=findings.findings(results),
        images=images,
        tables=rendered,
        sections=SECTIONS,
        published=published,
        published_heads=beside.HEADS,
        comparisons=comparisons(results),
        missing=findings.missing(results),
        undecodable=findings.undecodable(results),
        protocols=protocol_table(results),
        provenance={"suite": results.suite, **results.provenance},
        lines=results.table.astype(dict.fromkeys(("top1", "top5", "mean_class"), float)).to_dict("records"),
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text).strip("-")

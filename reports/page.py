"""The report of a suite: all figures and tables that apply, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import hashlib
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.core.words import counted, now
from reports import findings, snapshot, style
from reports.accuracies import accuracy_tables
from reports.alarms import alarms
from reports.beside import published_tables
from reports.classes import category_figures, category_table, class_figures, class_tables
from reports.compare import regression_tables, sentences
from reports.comparisons import comparison_tables
from reports.cost_figures import cost_figures
from reports.costs import cost_tables
from reports.curves import curve_figures
from reports.experts import (
    accuracy_figures,
    distance_figures,
    distance_table,
    map_figures,
    routing_figures,
    share_figures,
    similarity_figures,
)
from reports.findings import failure_tables
from reports.origins import Origins, protocol_tables, shared_fields
from reports.results import Results
from reports.style import Picture
from reports.table import Table
from reports.tradeoff import tradeoff_figures

PAGE = "report.html"
PIXELS_PER_INCH = 118  # of a figure's width on the page
TEMPLATES = Path(__file__).parent / "templates"

# The sections of the page in their order; one without content is left out.
SECTIONS = {
    "tradeoff": "Trade-off",
    "table": "Accuracies",
    "curves": "Along the axes",
    "experts": "Experts",
    "costs": "Costs",
    "significance": "Significance",
    "classes": "Class by class",
    "published": "Published beside measured",
    "missing": "Failures and missing results",
    "protocols": "Protocols",
    "provenance": "Provenance",
}
# Every kind of figure and of table, in the order of the page within its section.
FIGURES: tuple[Callable[[Results], Iterator[Picture]], ...] = (
    *(tradeoff_figures, curve_figures, similarity_figures, accuracy_figures, category_figures, map_figures),
    *(distance_figures, routing_figures, share_figures, cost_figures, class_figures),
)
TABLES: tuple[Callable[[Results], Iterator[Table]], ...] = (
    *(accuracy_tables, cost_tables, regression_tables, comparison_tables, class_tables),
    *(published_tables, failure_tables, protocol_tables),
)


class Image(NamedTuple):
    """A picture with the names of its files, its width on the page in pixels, and its PNG in base 64."""

    picture: Picture
    files: tuple[str, str]
    width: int
    data: str


def write_report(results: Results, out: Path) -> Path:
    """Write figures (PNG, PDF), tables (CSV, MD, TEX), snapshot and page into `out`; return the page's path.

    Everything is made in a folder beside `out` first and moved in file by file, the page last: a report that fails
    leaves the former one as it was. Files of other names stay untouched.
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as name:
        folder, origins = Path(name), Origins(results, out)
        shown = [table for tables in TABLES for table in tables(results)]
        pictures = [picture for figures in FIGURES for picture in figures(results)]
        for picture in pictures:
            style.cut_labels(picture.figure, results.labels.values())
        images = [_image(picture, folder) for picture in pictures]
        _check_sections([*(image.picture for image in images), *shown])
        for file, text in _files(results, shown).items():
            (folder / file).write_text(text, encoding="utf-8")
        (folder / PAGE).write_text(_page(results, images, shown, origins), encoding="utf-8")
        snapshot.save(results, out)
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == PAGE, path.name)):
            path.replace(out / path.name)
    return out / PAGE


def _check_sections(shown: Sequence[Picture | Table]) -> None:
    for own in shown:
        if own.section not in SECTIONS:
            raise ValueError(f"'{own.name}' is for the section '{own.section}', there are {', '.join(SECTIONS)}")


def _files(results: Results, shown: list[Table]) -> dict[str, str]:
    """The text files beside the page: name -> content."""
    frames = {"expert-classes": category_table(results), "expert-weights": distance_table(results.distances)}
    texts = {
        f"{name}.csv": frame.to_csv(index=False, lineterminator="\n") for name, frame in frames.items() if len(frame)
    }
    return {**texts, **{file: text for table in shown for file, text in table.files.items()}}


def _image(picture: Picture, folder: Path) -> Image:
    """Write the files of a picture, and give what the page shows of it."""
    png, pdf = style.save(picture.figure, folder / picture.name)
    width = round(picture.figure.get_figwidth() * PIXELS_PER_INCH)
    return Image(picture, (png.name, pdf.name), width, b64encode(png.read_bytes()).decode())


def _page(results: Results, images: list[Image], shown: list[Table], origins: Origins) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    placed = {image.picture.section for image in images} | {table.section for table in shown}
    inline = {kind: (TEMPLATES / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")}
    return environment.get_template("report.html.j2").render(
        results=results,
        about=_about(results, origins.folder.name),
        overrides=results.provenance.get("overrides", ()),
        alarms=[alarm.partition(": ") for alarm in alarms(results)],
        counted=counted,
        findings=[*sentences(results), *findings.findings(results)],
        sections={name: title for name, title in SECTIONS.items() if name in placed | {"missing", "provenance"}},
        images=images,
        tables=shown,
        missing=findings.missing(results),
        undecodable=findings.undecodable(results),
        shared=shared_fields(results),
        provenance={"suite": results.suite, **snapshot.provenance(results)},
        origins=origins,
        inline={kind: Markup(text) for kind, text in inline.items()},
        hashes={kind: _hash(text) for kind, text in inline.items()},
    )


def _about(results: Results, folder: str) -> str:
    """The line below the title: which report this is, and from when."""
    written, revision = results.provenance.get("written") or now(), snapshot.revision(results.provenance)
    return ", ".join(filter(None, [folder, f"written {written}", revision and f"revision {revision}"]))


def _hash(text: str) -> str:
    """The hash by which the page's content security policy allows its style or script."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

"""The report of a suite: all figures and tables that apply, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image as Pixels

from bench.core.files import write_atomically
from bench.core.words import counted, now
from bench.published.references import references
from reports import findings, snapshot, style
from reports.accuracies import accuracy_tables
from reports.alarms import alarms
from reports.beside import published_tables
from reports.charts import Chart, chart
from reports.classes import category_figures, category_table, class_figures, class_tables
from reports.compare import regression_tables, sentences
from reports.comparisons import comparison_tables
from reports.confusion import class_accuracy_tables, confusion_figures, confusion_tables
from reports.cost_figures import cost_figures
from reports.costs import cost_tables
from reports.curves import curve_figures
from reports.disagreements import disagreement_tables
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
from reports.ranks import rank_tables
from reports.results import Results
from reports.style import Picture
from reports.table import Table
from reports.tradeoff import tradeoff_figures
from reports.tuning import tuning_tables

FILES = ".files.json"  # names of the files of a report
PAGE = "report.html"
PIXELS_PER_INCH = 118  # of a figure's width on the page
COLOURS = 128  # of an embedded figure, whose file has them all: a third of the size
TEMPLATES = Path(__file__).parent / "templates"

# The sections of the page in their order; one without content is left out.
SECTIONS = {
    "tradeoff": "Trade-off",
    "table": "Accuracies",
    "tuning": "Tuning",
    "curves": "Along the axes",
    "experts": "Experts",
    "costs": "Costs",
    "significance": "Significance",
    "ranks": "Ranks",
    "classes": "Class by class",
    "videos": "Videos that rows disagree on",
    "published": "Published beside measured",
    "missing": "Failures and missing results",
    "protocols": "Protocols",
    "provenance": "Provenance",
}
OPENING = {"tradeoff", "table"}  # what is shown at once; the other sections are folded
# What the legend says of the terms that the page uses; the first use of an abbreviation has it as well.
TERMS = {
    "±": "one standard deviation over seeds, or over splits or draws in rows of one seed",
    "95 % intervals": "small print below a number: where the true value lies, over other videos and other seeds",
    "underlined": "the best mean of its column",
    "bold": "not significantly below the best: such a row may well be the best",
    "†": "measured otherwise than its column says, or while something disturbed the machine; a note says what",
    "‡": "published only, or measured with other devices or versions; a note says what",
    "missing": "no result yet, which leaves the harmonic means of its row blank",
    "–": "the row has no such protocol, or there is no such number",
    "closed-set": "measured on other videos of the classes of training",
    "zero-shot": "measured on classes that were not trained",
    "HM_ZS": "harmonic mean of the zero-shot accuracies",
    "Trade-off": "harmonic mean of closed-set accuracy and HM_ZS",
    "HM": "harmonic mean of base and novel accuracy",
    "n": "number of seeds behind a mean",
    "s.d.": "standard deviation",
    "p": "chance of such a difference if both were equally good; significant below 0.05",
    "Holm": "correction of p for many tests, of which some come out small by chance",
    "points": "percent of accuracy: from 50 % to 52 % are two points",
    "Pareto front": "rows that no other one beats in both accuracy and cost",
    "GFLOPs": "a thousand million floating-point operations, 2 per multiply-add",
    "TFM": "temporal feature modulation (MoTE)",
    "WMR": "weight merging regularization (MoTE)",
}
MARKS = ("†", "‡", "*")  # at the beginning of notes on numbers that are not as good as the others
SENTENCE = re.compile(r".*?[.](?=\s+[^a-z\s])", re.DOTALL)
ABBREVIATIONS = re.compile(r"\b(HM_ZS|HM|GFLOPs|TFM|WMR)\b|\bs\.d\.")
# Every kind of figure and of table, in the order of the page within its section.
FIGURES: tuple[Callable[[Results], Iterator[Picture]], ...] = (
    *(tradeoff_figures, curve_figures, similarity_figures, accuracy_figures, category_figures, map_figures),
    *(distance_figures, routing_figures, share_figures, cost_figures, confusion_figures, class_figures),
)
TABLES: tuple[Callable[[Results], Iterator[Table]], ...] = (
    *(accuracy_tables, tuning_tables, cost_tables, regression_tables, comparison_tables, rank_tables),
    *(class_accuracy_tables, confusion_tables, class_tables, disagreement_tables),
    *(published_tables, failure_tables, protocol_tables),
)


class Image(NamedTuple):
    """A picture with the names of its files, and what the page shows: a chart, or a PNG of a `width` in pixels."""

    picture: Picture
    files: tuple[str, str]
    width: int
    data: str
    chart: Chart | None


def _cautioned(table: Table, results: Results) -> Table:
    """A table of numbers that were chosen by themselves says so."""
    chosen = results.tuning if table.section in ("accuracies", "significance", "ranks") else None
    return replace(table, warnings=(*table.warnings, chosen.caution)) if chosen and chosen.caution else table


def write_report(results: Results, out: Path) -> Path:
    """Write figures (PNG, PDF), tables (CSV, MD, TEX), snapshot and page into `out`; return the page's path.

    Everything is made in a folder beside `out` first and moved in file by file, the page last: a report that fails
    leaves the former one as it was. What the former one alone wrote is removed; files of other names stay untouched.
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as name:
        folder, origins = Path(name), Origins(results)
        shown = [_cautioned(table, results) for tables in TABLES for table in tables(results)]
        pictures = [picture for figures in FIGURES for picture in figures(results)]
        for picture in pictures:
            style.cut_labels(picture.figure, results.labels.values())
        images = [_image(picture, folder, results) for picture in pictures]
        _check_sections([*(image.picture for image in images), *shown])
        for file, text in _files(results, shown).items():
            (folder / file).write_text(text, encoding="utf-8")
        (folder / PAGE).write_text(_page(results, images, shown, origins, out.name), encoding="utf-8")
        snapshot.save(results, out)
        names = sorted((path.name for path in folder.iterdir()), key=lambda name: (name == PAGE, name))
        for name in names:
            (folder / name).replace(out / name)
        names += [snapshot.TABLE, snapshot.REST]
        for name in written(out) - {*names}:
            (out / name).unlink(missing_ok=True)
        write_atomically(out / FILES, json.dumps(names).encode())
    return out / PAGE


def written(out: Path) -> set[str]:
    """Names of the files that the last report wrote into a folder."""
    with suppress(OSError, ValueError):
        return {str(name) for name in json.loads((out / FILES).read_bytes()) if Path(str(name)).name == name}
    return set()


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
    return {
        "references.bib": _references(results),
        **texts,
        **{file: text for table in shown for file, text in table.files.items()},
    }


def _references(results: Results) -> str:
    """BibTeX entries of the methods and of the test data."""
    table = results.table
    return "".join(f"{entry}\n\n" for entry in references(table["method"].unique(), table["dataset"].unique()).values())


def _image(picture: Picture, folder: Path, results: Results) -> Image:
    """Write the files of a picture, and give what the page shows of it."""
    png, pdf = style.save(picture.figure, folder / picture.name)
    files, width = (png.name, pdf.name), round(picture.figure.get_figwidth() * PIXELS_PER_INCH)
    if picture.measures:
        return Image(picture, files, width, "", chart(picture.figure, picture.measures, results))
    small = BytesIO()
    with Pixels.open(png) as pixels:
        few = pixels.convert("RGB").quantize(COLOURS, Pixels.Quantize.MAXCOVERAGE)  # median cut merges rows' colours
        few.save(small, "PNG", optimize=True)
    return Image(picture, files, width, b64encode(small.getvalue()).decode(), None)


def _page(results: Results, images: list[Image], shown: list[Table], origins: Origins, name: str) -> str:
    said = [findings.headline(results), *sentences(results), *findings.findings(results)]
    placed = {image.picture.section for image in images} | {table.section for table in shown}
    sections = {name: title for name, title in SECTIONS.items() if name in placed | {"missing", "provenance"}}
    missing, undecodable = findings.missing(results), findings.undecodable(results)
    lacking = bool(missing or undecodable or "missing" in placed)
    return render(
        "report.html.j2",
        results.title,
        results=results,
        about=_about(results, name),
        overrides=results.provenance.get("overrides", ()),
        alarms=[alarm.partition(": ") for alarm in alarms(results)],
        counted=counted,
        headline=said[0],
        findings=said[1:],
        sections=sections,
        open=_open(results, sections, lacking),
        held={name: _held(name, images, shown, lacking) for name in sections},
        terms=_terms([*said, *(f"{table.said} {table.texts['Markdown']}" for table in shown)]),
        images=images,
        tables=shown,
        missing=missing,
        undecodable=undecodable,
        shared=shared_fields(results),
        provenance={"suite": results.suite, **snapshot.provenance(results)},
        origins=origins,
        references=_references(results),
    )


def render(template: str, title: str, **values: object) -> str:
    """A page that needs nothing beside it: a template with these values, the style and the script."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["explained"] = _explainer()
    inline = {kind: (TEMPLATES / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")}
    return environment.get_template(template).render(
        title=title,
        told=partial(_told, title=title),
        inline={kind: Markup(text) for kind, text in inline.items()},
        hashes={kind: _hash(text) for kind, text in inline.items()},
        **values,
    )


def _open(results: Results, sections: Collection[str], lacking: bool) -> set[str]:
    """The sections that are not folded: those that answer the suite's question, and whatever is amiss."""
    own = OPENING if "tradeoff" in sections else {*OPENING, "curves"}
    return own | ({"missing"} if lacking else set()) | ({"significance"} if results.sides else set())


def _held(name: str, images: Sequence[Image], shown: Sequence[Table], lacking: bool) -> str:
    """What a folded section holds, e.g. "2 tables, 1 figure, with reservations"."""
    own = [table for table in shown if table.section == name]
    figures = sum(image.picture.section == name for image in images)
    counts = [counted(count, what) for count, what in ((len(own), "table"), (figures, "figure")) if count]
    marked = any(table.warnings or any(note[:1] in MARKS for note in table.notes) for table in own)
    calm = ["none"] if name == "missing" and not lacking else []
    return ", ".join([*counts, *calm, *(["with reservations"] if marked else [])])


def _told(table: Table, title: str) -> tuple[str, str]:
    """The first sentence of a caption without the suite's title, and the others, which say how to read the table."""
    caption = table.caption.removeprefix(f"{title}: ")
    first = SENTENCE.match(caption)
    lead = first[0] if first else caption
    return style.sentence(lead), caption[len(lead) :].strip()


def _terms(texts: Sequence[str]) -> dict[str, str]:
    """The terms of the legend that stand in some texts, in whole words."""
    said = " ".join(texts).replace("\\", "")
    found = {term for term in TERMS if re.search(rf"(?<!\w){re.escape(term)}(?!\w)", said, re.IGNORECASE)}
    return {term: meaning for term, meaning in TERMS.items() if term in found}


def _explainer() -> Callable[[str], Markup]:
    """A filter that marks up the first use of each abbreviation on a page with its meaning."""
    seen = set[str]()

    def explained(text: str) -> Markup:
        def first(found: re.Match[str]) -> str:
            term = found[0]
            if term in seen:
                return term
            seen.add(term)
            return str(Markup('<abbr title="{}">{}</abbr>').format(TERMS[term], term))

        return Markup(ABBREVIATIONS.sub(first, str(escape(text))))

    return explained


def _about(results: Results, folder: str) -> str:
    """The line below the title: which report this is, and from when its newest record."""
    newest, revision = results.provenance.get("written") or now(), snapshot.revision(results.provenance)
    return ", ".join(filter(None, [folder, f"newest record {newest}", revision and f"revision {revision}"]))


def _hash(text: str) -> str:
    """The hash by which the page's content security policy allows its style or script."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

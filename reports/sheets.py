"""Tables as the page shows them: grids and tables of accuracies in one shape, with their files' texts to copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from reports import shown, tables
from reports.origins import Origins
from reports.results import Results, grouped
from reports.shown import Grid
from reports.tables import DAGGER, Table

MISSING = (
    "“missing”: no result yet, which leaves its harmonic means blank; “–”: the row has no such protocol. "
    "A number leads to the results that it is made of."
)
KINDS = {"LaTeX": "tex", "Markdown": "md", "CSV": "csv"}  # what a table is copied as -> how its file's name ends


class Head(NamedTuple):
    """The head of a column; `below` it stands smaller, `title` is its tooltip."""

    text: str
    number: bool
    below: tuple[str, ...] = ()
    title: str = ""


class Entry(NamedTuple):
    """A cell; `top` is the best of its column, `bold` ties with it; `link`: where on the page its number comes from."""

    text: str
    bold: bool = False
    missing: bool = False
    top: bool = False
    title: str = ""
    link: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table of the page. `texts`: the contents of its files, by the names of `KINDS`."""

    section: str
    name: str
    caption: str
    heads: tuple[Head, ...]
    rows: Sequence[Sequence[Entry]]
    notes: tuple[str, ...]
    texts: Mapping[str, str]

    @property
    def files(self) -> dict[str, str]:
        """File name -> content."""
        return {f"{self.name}.{KINDS[kind]}": text for kind, text in self.texts.items()}


def of_grid(grid: Grid, origins: Origins) -> Sheet:
    """A grid, its cells linked to their records."""
    heads = tuple(Head(text, number) for text, number in grid.heads.items())
    rows = [
        [
            Entry(
                text,
                (index, place) in grid.bold,
                heads[place].number and text.startswith("missing"),
                link=origins.of_record(grid.links[index, place]) if (index, place) in grid.links else "",
            )
            for place, text in enumerate(row)
        ]
        for index, row in enumerate(grid.rows)
    ]
    texts = {"LaTeX": shown.latex(grid), "Markdown": shown.markdown(grid), "CSV": shown.comma_separated(grid)}
    return Sheet(grid.section, grid.name, grid.caption, heads, rows, grid.notes, texts)


def of_table(results: Results, origins: Origins, *, experts: bool = False) -> Sheet:
    """The table of rows or, with `experts`, of expert choices; a protocol's cells are linked to their results."""
    table = tables.harmonic_mean_table(results, experts=experts)
    name, csv = "experts" if experts else "table", tables.csv(results, experts=experts)
    texts = {"LaTeX": tables.latex(table), "Markdown": tables.markdown(table), "CSV": csv}
    notes = tuple(f"{DAGGER} {note}" for note in table.notes)
    rows = _rows(table, _places(results, experts), origins)
    return Sheet(name, name, f"{table.caption} {MISSING}", tuple(_heads(table)), rows, notes, texts)


def _heads(table: Table) -> list[Head]:
    names = [Head(name, number=False) for name in table.names[:-1]] + [Head(table.names[-1], number=True)]
    measures = zip(table.measures.values(), table.conditions, table.hashes, strict=True)
    return names + [
        Head(title, True, tuple(filter(None, below)), f"protocol {own}, see Protocols" if own else "")
        for title, below, own in measures
    ]


def _places(results: Results, experts: bool) -> list[tuple[str, str, str]]:
    """Row, point and expert of every line of the table, which has them facet by facet."""
    groups = grouped(results.summary(experts=experts), results.facet_axes(None))
    return [place for group in groups for place in group[["row", "point", "expert"]].itertuples(index=False, name=None)]


def _rows(table: Table, places: list[tuple[str, str, str]], origins: Origins) -> list[list[Entry]]:
    rows = []
    for line, place in zip(table.lines, places, strict=True):
        links = [origins.of_cell(*place, measure) for measure in table.measures]
        cells = zip(line.cells, links, strict=True)
        names = [Entry(name) for name in line.names]
        rows.append(
            names + [Entry(own.text(), own.best, own.lacking, own.top, own.interval_text, link) for own, link in cells]
        )
    return rows

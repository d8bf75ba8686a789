"""The origins of a page's numbers: how each column is measured, the results behind a cell, the record of a result.

All links stay in the page, so that the file alone can be sent to somebody.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from reports.facts import Fact
from reports.results import PLACE, Results, value_text
from reports.table import Origin, Table, cells, columns

CELL = [*PLACE, "protocol"]
PERCENT = ("top1", "top5", "mean_class")
CHANGES = {"starts from": "use", "with the changes": "changes"}  # row -> what of a protocol is in it


class ResultLine(NamedTuple):
    """A result in print. `cell`: the number of its cell in the table of accuracies; `first`: the first of the cell."""

    cell: int
    first: bool
    names: tuple[str, ...]
    numbers: tuple[str, ...]
    identity: str


class Origins:
    """The results of a page, cell by cell, and links to them."""

    def __init__(self, results: Results) -> None:
        self.results = results
        grouped = results.table.groupby(CELL, sort=False)
        self.table = results.table.assign(cell=grouped.ngroup()).sort_values("cell", kind="stable")
        first = self.table.drop_duplicates("cell")
        self.cells = dict(zip(first[CELL].itertuples(index=False, name=None), first["cell"], strict=True))

    def link(self, origin: Origin) -> str:
        """The anchor of the results of a cell or an evaluation, else of a record; "" where none is known."""
        number = self._cell_of.get(origin) if isinstance(origin, str) else self.cells.get(origin)
        if number is None:
            return f"#record-{origin}" if origin in self._kinds else ""
        return f"#cell-{number}"

    def heads(self) -> tuple[list[str], list[str]]:
        """The heads of names and of numbers."""
        names = ["Method", *self.results.axes.values(), "Expert", "Protocol", "Part"]
        return names, ["Seed", "Top-1", "Top-5", "Class mean", "Videos"]

    def lines(self) -> Iterator[ResultLine]:
        """Every result, those of a cell below each other."""
        columns = ["label", *self.results.axes, "expert", "protocol", "part"]
        seen = self.table["cell"].duplicated()
        for line, again in zip(self.table.to_dict("records"), seen, strict=True):
            names, identity = tuple(value_text(line[column]) for column in columns), line["identity"]
            mark = "†" if line["deviation"] else ""
            percent = (_measured(line, column, f"{{:.1f}}{mark}") for column in PERCENT)
            numbers = (str(line["seed"]), *percent, _measured(line, "videos", "{:.0f}"))
            yield ResultLine(line["cell"], not again, names, numbers, identity)

    def others(self) -> list[tuple[str, str]]:
        """Kind and identity of every record behind the page that is not an evaluation."""
        return [(kind, identity) for identity, kind in sorted(self._kinds.items())]

    @cached_property
    def _cell_of(self) -> dict[str, int]:
        measured = self.table[self.table["identity"] != ""].drop_duplicates("identity")
        return dict(zip(measured["identity"], measured["cell"], strict=True))

    @cached_property
    def _kinds(self) -> dict[str, str]:
        """Identity -> kind, of the records that are not evaluations."""
        results = self.results
        kinds: dict[str, tuple[Fact, ...]] = {
            "probe": (*results.probes, *results.shares),
            "maps": results.maps,
            "weights": results.distances,
            "profile": results.costs,
            "train": (*results.routing, *results.trainings),
        }
        return {own.subject.identity: kind for kind, found in kinds.items() for own in found}


def _measured(line: dict[Hashable, Any], column: str, form: str) -> str:
    """In print; "–" is a number that a record does not have, "missing" one without a record."""
    if not line["identity"]:
        return "missing"
    return "–" if pd.isna(line[column]) else form.format(float(line[column]))


# --- protocols --------------------------------------------------------------------------------------------------------


def protocol_tables(results: Results) -> Iterator[Table]:
    """Fields as rows, the suite's protocols as columns, notes on their data below."""
    shared = shared_fields(results)
    rows = [cells("hash", *(results.protocols[name]["hash"] for name in results.roles))]
    for field, row in _fields(results).items():
        if field not in shared:
            rows.append(cells(field, *(value or "–" for value in row)))
    which = "the fields that differ" if shared else "all fields"
    axes = " or ".join(results.axes[axis] for axis in results.protocol_axes)
    first = f" Fields that {axes} changes are shown as at its first value." if axes else ""
    caption = f"How each column is measured: {which}. “–”: none.{first}"
    heads = columns(dict.fromkeys(("Field", *results.roles), False))
    yield Table("protocols", "protocols", caption, heads, tuple(rows), tuple(_notes(results)))


def shared_fields(results: Results) -> dict[str, str]:
    """The fields that are alike under all protocols; none if there is only one."""
    if len(results.roles) == 1:
        return {}
    return {field: row[0] for field, row in _fields(results).items() if field not in CHANGES and len(set(row)) == 1}


def _fields(results: Results) -> dict[str, list[str]]:
    """Every field's value under each protocol, in the order of the columns."""
    protocols = [results.protocols[name] for name in results.roles]
    changes = {name: [protocol[key] for protocol in protocols] for name, key in CHANGES.items()}
    fields = dict.fromkeys(field for protocol in protocols for field in protocol["fields"])
    values = {field: [_text(protocol["fields"].get(field)) for protocol in protocols] for field in fields}
    return {name: row for name, row in changes.items() if any(row)} | values


def _notes(results: Results) -> list[str]:
    """Notes on the data, e.g. "UCF, HMDB: the list has 6,766 videos"."""
    notes: dict[str, list[str]] = {}
    for name in results.roles:
        for note in dict.fromkeys(results.protocols[name]["notes"]):
            notes.setdefault(note, []).append(name)
    return [f"{', '.join(names)}: {note}" for note, names in notes.items()]


def _text(value: object) -> str:
    """A field in print; a part is named by its changes, e.g. "test1, test2, test3"."""
    if isinstance(value, dict):
        return "/".join(filter(None, map(_text, value.values())))
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return value_text(value)

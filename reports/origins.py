"""The origins of a page's numbers: the results behind a cell, and the record behind a result."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from reports.facts import Fact
from reports.results import PLACE, Results, value_text
from reports.table import Origin

CELL = [*PLACE, "protocol"]
PERCENT = ("top1", "top5", "mean_class")


class ResultLine(NamedTuple):
    """A result in print. `cell`: the number of its cell in the table of accuracies; `first`: the first of the cell."""

    cell: int
    first: bool
    names: tuple[str, ...]
    numbers: tuple[str, ...]
    identity: str
    link: str


class Origins:
    """The results of a page that lies in `folder`, cell by cell, and links to them."""

    def __init__(self, results: Results, folder: Path) -> None:
        self.results = results
        cells = results.table.groupby(CELL, sort=False)
        self.table = results.table.assign(cell=cells.ngroup()).sort_values("cell", kind="stable")
        first = self.table.drop_duplicates("cell")
        self.cells = dict(zip(first[CELL].itertuples(index=False, name=None), first["cell"], strict=True))
        store = results.provenance.get("store")
        self.records = os.path.relpath(Path(str(store)).resolve() / "records", folder) if store else ""

    def link(self, origin: Origin) -> str:
        """The anchor of the results of a cell or an evaluation, else the file of a record; "" where none is known."""
        number = self._cell_of.get(origin) if isinstance(origin, str) else self.cells.get(origin)
        if number is None:
            return self._file(self._kinds.get(origin, ""), origin) if isinstance(origin, str) else ""
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
            yield ResultLine(line["cell"], not again, names, numbers, identity, self._file("evaluate", identity))

    def others(self) -> list[tuple[str, str, str]]:
        """Kind, identity and file of every record behind the page that is not an evaluation."""
        return [(kind, identity, self._file(kind, identity)) for identity, kind in sorted(self._kinds.items())]

    def _file(self, kind: str, identity: str) -> str:
        return f"{self.records}/{kind}/{identity}/record.json" if self.records and kind and identity else ""

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

"""Numbers of papers and repositories (reports/published/results.csv), and the selectors by which suites name them.

A suite's selectors choose lines of the file by its columns; bench/published/pairing.py finds what they belong beside.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench.core.errors import UserError, unknown

FILE = Path(__file__).parents[2] / "reports" / "published" / "results.csv"
COMPARED = ("top1", "hm", "tradeoff")  # metrics that a report has columns for
COSTS = ("gpu_days",)  # metrics that stand in the table of trainings
BESIDES = ("value", "std", "arxiv", "notes")  # what two lines for the same number may differ in


class Number(NamedTuple):
    """One published number, as printed: the columns of results.csv (reports/published/README.md)."""

    method: str
    variant: str
    backbone: str
    frames: str
    views: str
    dataset: str
    split: str
    protocol: str
    metric: str
    shots: str
    value: str
    std: str
    source: str
    arxiv: str
    table: str
    notes: str

    @property
    def second_hand(self) -> bool:
        """Tells whether the number comes from a listing or notes instead of its source: shown, never compared."""
        return "second-hand" in self.notes

    @property
    def text(self) -> str:
        """E.g. "88.7 ± 0.6", "58.1 (2nd hand)"."""
        return self.value + (f" ± {self.std}" if self.std else "") + (" (2nd hand)" if self.second_hand else "")


@cache
def load(file: Path = FILE) -> tuple[Number, ...]:
    """All lines of a file of published numbers. Raises UserError with file and line."""
    with file.open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream)
        if (head := next(reader, [])) != list(Number._fields):
            raise UserError(f"the columns are {', '.join(head)}", where=f"{file}:1", allowed=Number._fields)
        numbers = [_number(cells, f"{file}:{reader.line_num}") for cells in reader]
    seen: dict[Number, int] = {}
    for line, number in enumerate(numbers, start=2):
        first = seen.setdefault(number._replace(**dict.fromkeys(BESIDES, "")), line)
        if first != line:
            raise UserError(f"the same number as in line {first}", where=f"{file}:{line}")
    return tuple(numbers)


def lookup(where: Mapping[str, str | int], *, place: str = "", file: Path = FILE) -> tuple[Number, ...]:
    """The numbers that agree with every column in `where`, in the order of the file.

    A value is compared as printed; a table is also found without what follows its number in brackets. Raises UserError
    at `place` for an unknown column, and for a value that nothing has together with those before it.
    """
    found = load(file)
    for column, value in where.items():
        if column not in Number._fields:
            raise unknown("column of published numbers", column, Number._fields, where=place)
        before, wanted = found, str(value)
        found = tuple(number for number in before if _agrees(getattr(number, column), column, wanted))
        if not found:
            near = unknown(column, wanted, {getattr(number, column) or '""' for number in before})
            what = f"no published number{_among(where, column)} has {column} '{wanted}'"
            raise UserError(what, where=place, allowed=near.allowed, hint=near.hint)
    return found


def one_value(numbers: Sequence[Number], cell: str, place: str = "") -> Number:
    """The number, if all are one value; raises UserError that names the columns which tell them apart."""
    if len({(number.value, number.std) for number in numbers}) == 1:
        return numbers[0]
    columns = {name: list(dict.fromkeys(getattr(n, name) for n in numbers)) for name in Number._fields}
    apart = [name for name, values in columns.items() if name not in BESIDES and len(values) > 1]
    values = ", ".join(number.text for number in numbers)
    raise UserError(
        f"{len(numbers)} published numbers for {cell}: {values}",
        where=place,
        hint=f"tell them apart by {' or '.join(apart)}: {', '.join(map(repr, columns[apart[0]]))}",
    )


def _number(cells: list[str], place: str) -> Number:
    if len(cells) != len(Number._fields):
        raise UserError(f"{len(cells)} cells instead of {len(Number._fields)}", where=place)
    number = Number(*cells)
    for name, text in (("value", number.value), ("std", number.std or "0")) if number.metric in COMPARED else ():
        try:
            float(text)
        except ValueError:
            raise UserError(f"{name} '{text}' is not a number", where=place) from None
    return number


def _agrees(printed: str, column: str, wanted: str) -> bool:
    return printed == wanted or (column == "table" and printed.startswith(f"{wanted} ("))


def _among(where: Mapping[str, str | int], column: str) -> str:
    """The columns before one, e.g. " with method MoTE, table Table 2b"."""
    before = list(where)[: list(where).index(column)]
    return f" with {', '.join(f'{name} {where[name]}' for name in before)}" if before else ""

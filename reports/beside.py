"""Published beside measured: the numbers that a suite selects, and their difference where both are measured alike."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from bench.published.numbers import COMPARED
from bench.published.pairing import OTHER_DATA, Pair
from reports import tables
from reports.results import Results
from reports.shown import Grid
from reports.tables import Cell

Row = tuple[str, ...]

HEADS = {  # -> whether numbers are below
    **{"Method": False, "Column": False, "Measured": True, "Published": True, "Δ": True, "Same protocol": False},
    **{"Not stated": False, "Published for": False, "Source": False},
}
WORDS = {"hm": "harmonic mean", "tradeoff": "trade-off"}
CAPTION = (
    "Δ: measured − published, in points, where the measurement is complete and differs in no field that the source "
    "states. “Not stated”: fields that the source leaves open, which count neither way; prompts, fusion, resizing, "
    "spelling of class names and decoder are open everywhere. “2nd hand”: read in a listing or in notes, not in the "
    "source itself; not compared. “Other data”: the paper's data are not those of any column."
)


def beside_grids(results: Results) -> Iterator[Grid]:
    """The table of a suite that selects published numbers; lines cite the sources' caveats by number."""
    notes: dict[str, int] = {}
    rows: list[Row] = []
    values, links = [], {}
    for pair, line in _measured(results):
        measured = _cell(pair, line, results)
        marks = sorted(notes.setdefault(note, len(notes) + 1) for note in _caveats(pair))
        if pair.measure in results.roles and (identity := _identity(pair, results)):
            links[len(rows), list(HEADS).index("Measured")] = identity
        rows.append(_row(pair, line, measured, results, marks))
        values.append(_values(pair, measured))
    if rows:
        caption = f"{results.title}: published beside measured, in percent. {CAPTION}"
        numbered = tuple(f"[{mark}] {note}" for note, mark in notes.items())
        yield Grid("published", "published", caption, HEADS, tuple(rows), numbered, links=links, values=tuple(values))


def _row(pair: Pair, line: pd.Series | None, measured: Cell | None, results: Results, marks: list[int]) -> Row:
    number = pair.number
    return (
        _name(pair, line, results),
        results.measures[pair.measure].title if pair.measure else "–",
        measured.text() or "missing" if measured else "–",
        number.text,
        _difference(pair, measured),
        _same(pair),
        ", ".join(pair.unstated),
        _described(pair),
        f"{number.source}, {number.table.partition(' (')[0]}" + (f" {marks}" if marks else ""),
    )


def _values(pair: Pair, measured: Cell | None) -> dict[str, object]:
    """The numbers of a line, unrounded, with every column of results.csv."""
    facts = {"mean": measured.mean, "std": measured.std, "n": measured.n} if measured else {}
    return {
        "row": pair.row,
        "point": pair.point,
        "measure": pair.measure,
        **{f"measured_{name}": facts.get(name) for name in ("mean", "std", "n")},
        "same_protocol": _same(pair),
        "not_stated": "; ".join(pair.unstated),
        **{f"published_{name}": text for name, text in pair.number._asdict().items()},
    }


def _identity(pair: Pair, results: Results) -> str:
    """A record that a measured number comes from, "" while there is none."""
    table = results.table
    own = (table["row"] == pair.row) & (table["point"] == pair.point) & (table["protocol"] == pair.measure)
    return next(iter(table.loc[own & (table["expert"] == "") & (table["identity"] != ""), "identity"]), "")


def _measured(results: Results) -> list[tuple[Pair, pd.Series | None]]:
    """Every pair with the line of `Results.summary` that it is about; costs stand elsewhere."""
    lines = {(line["row"], line["point"]): line for _, line in results.summary().iterrows()}
    pairs = [pair for pair in results.published if pair.number.metric in COMPARED]
    return [(pair, lines.get((pair.row, pair.point)) if pair.measure else None) for pair in pairs]


def _cell(pair: Pair, line: pd.Series | None, results: Results) -> Cell | None:
    return None if line is None else tables.cell(line, pair.measure, results)


def _name(pair: Pair, line: pd.Series | None, results: Results) -> str:
    if line is not None:
        return results.name(line, list(results.axes))
    return ", ".join(filter(None, [results.labels()[pair.row], pair.point]))


def _difference(pair: Pair, measured: Cell | None) -> str:
    if measured is None or not measured.complete or not pair.comparable:
        return ""
    return f"{round(measured.mean - float(pair.number.value), tables.DIGITS) + 0.0:+.{tables.DIGITS}f}".replace(
        "-", "−"
    )


def _same(pair: Pair) -> str:
    """E.g. "yes", "as far as stated", "views: 1x1 here, 4x3 published", "other data", "not compared"."""
    if pair.differs:
        return "; ".join(pair.differs)
    if not pair.comparable:
        return "not compared"
    return "as far as stated" if pair.unstated else "yes"


def _described(pair: Pair) -> str:
    """What was published; on which data, where the column does not say it."""
    number = pair.number
    method = f"{number.method} ({number.variant})" if number.variant else number.method
    shots = f"{number.shots} shots" if number.shots else ""
    if pair.measure and OTHER_DATA not in pair.differs:
        return ", ".join(filter(None, [method, number.backbone, shots]))
    half = number.split if number.protocol == "base-to-novel" else ""
    what = [WORDS["tradeoff"]] if number.metric == "tradeoff" else [number.protocol, half, WORDS.get(number.metric, "")]
    return ", ".join(filter(None, [method, number.backbone, number.dataset, *what, shots]))


def _caveats(pair: Pair) -> list[str]:
    """The notes of the file, a sentence each."""
    return [
        note.replace("reproduced_by_MoTE=", "reproduced by MoTE: ") for note in pair.number.notes.split("; ") if note
    ]

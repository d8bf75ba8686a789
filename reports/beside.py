"""Published beside measured: the numbers that a suite selects, and their difference where both are measured alike."""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan

import pandas as pd

from bench.published.numbers import COMPARED
from bench.published.pairing import OTHER_DATA, Pair
from reports.accuracies import ALONE, Score, score
from reports.comparisons import signed
from reports.results import Results
from reports.table import Table, TableCell, TableRow, cells, columns, frame

HEADS = {  # -> whether numbers are below
    **{"Method": False, "Column": False, "Measured": True, "Published": True, "Δ": True, "Verdict": False},
    **{"Same protocol": False, "Not stated": False, "Published for": False, "Source": False},
}
ROUNDING = 1e-9  # of differences between numbers in print
WORDS = {"hm": "harmonic mean", "tradeoff": "trade-off"}
CAPTION = (
    "Δ: measured − published, in points, where the measurement is complete and differs in no field that the source "
    "states. Verdict: “reproduced” where Δ is at most {tolerance:g} points, or the standard deviations of both numbers "
    "together; “differs” beyond that; “cannot be compared” for the reason under “Same protocol”. “Not stated”: fields "
    "that the source leaves open, which count neither way; prompts, fusion, resizing, spelling of class names and "
    "decoder are open everywhere. “2nd hand”: read in a listing or in notes, not in the source itself; not compared. "
    "“Other data”: the paper's data are not those of any column."
)


def published_tables(results: Results) -> Iterator[Table]:
    """The table of a suite that selects published numbers; lines cite the sources' caveats by number."""
    notes: dict[str, int] = {}
    rows, values = [], []
    for pair, line in measured_pairs(results):
        measured = None if line is None else score(line, pair.measure, results)
        marks = sorted(notes.setdefault(note, len(notes) + 1) for note in _caveats(pair))
        rows.append(_row(pair, line, measured, results, marks))
        values.append({**_values(pair, measured), "verdict": verdict(pair, measured, results)})
    if rows:
        said = CAPTION.format(tolerance=results.settings.tolerance)
        caption = f"{results.title}: published beside measured, in percent. {said}"
        numbered = tuple(f"[{mark}] {note}" for note, mark in notes.items())
        yield Table("published", "published", caption, columns(HEADS), tuple(rows), numbered, frame(values))


def _row(pair: Pair, line: pd.Series | None, measured: Score | None, results: Results, marks: list[int]) -> TableRow:
    number = pair.number
    text = measured.text or "missing" if measured else "–"
    origin = _identity(pair, results) if pair.row and pair.measure in results.roles else ""
    return (
        *cells(_name(pair, line, results), results.measures[pair.measure].title if pair.measure else "–"),
        TableCell(text, missing=text.startswith("missing"), origin=origin),
        *cells(
            number.text,
            _difference(pair, measured),
            verdict(pair, measured, results),
            _same(pair),
            ", ".join(pair.unstated),
            _described(pair),
            f"{number.source}, {number.table.partition(' (')[0]}" + (f" {marks}" if marks else ""),
        ),
    )


def _values(pair: Pair, measured: Score | None) -> dict[str, object]:
    """The numbers of a line, unrounded, with every column of the file of published numbers."""
    return {
        **{"row": pair.row or pair.label, "point": pair.point, "measure": pair.measure},
        **{f"measured_{name}": getattr(measured, name, None) for name in ("mean", "std", "n")},
        "same_protocol": _same(pair),
        "not_stated": "; ".join(pair.unstated),
        **{f"published_{name}": text for name, text in pair.number._asdict().items()},
    }


def _identity(pair: Pair, results: Results) -> str:
    """A record that a measured number comes from, "" while there is none."""
    lines = results.lines(experts=False)
    own = (lines["row"] == pair.row) & (lines["point"] == pair.point) & (lines["protocol"] == pair.measure)
    return next(filter(None, lines.loc[own, "identity"]), "")


def measured_pairs(results: Results) -> Iterator[tuple[Pair, pd.Series | None]]:
    """Every pair with the line of `Results.summary` that it is about; costs stand elsewhere."""
    lines = {(line["row"], line["point"]): line for _, line in results.summary().iterrows()}
    for pair in results.published:
        if pair.number.metric in COMPARED:
            yield pair, lines.get((pair.row, pair.point)) if pair.measure and pair.row else None


def _name(pair: Pair, line: pd.Series | None, results: Results) -> str:
    if line is not None:
        return results.name(line)
    return ", ".join(filter(None, [f"{pair.label} {ALONE}" if pair.label else results.labels[pair.row], pair.point]))


def _difference(pair: Pair, measured: Score | None) -> str:
    if measured is None or not measured.complete or not pair.comparable:
        return ""
    return signed(measured.mean - float(pair.number.value))


def verdict(pair: Pair, measured: Score | None, results: Results) -> str:
    """Whether a measurement reproduces a published number; empty while it is not there, or where nobody measures it."""
    if measured is None or pair.label:
        return ""
    if not pair.comparable:
        return "cannot be compared"
    if not measured.complete:
        return ""
    spread = sum(float(own) for own in (measured.std, pair.number.std or 0) if not isnan(float(own)))
    within = abs(measured.mean - float(pair.number.value)) <= max(results.settings.tolerance, spread) + ROUNDING
    return "reproduced" if within else "differs"


def _same(pair: Pair) -> str:
    """E.g. "yes", "as far as stated", "views: 1x1 here, 4x3 published", "other data", "not compared"."""
    if pair.differs:
        return "; ".join(pair.differs)
    if pair.label:
        return "published only"
    if not pair.comparable:
        return "not compared"
    return "as far as stated" if pair.unstated else "yes"


def _described(pair: Pair) -> str:
    """Method and backbone of a published number, and its data where the column does not name them."""
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
    return list(filter(None, pair.number.notes.replace("reproduced_by_MoTE=", "reproduced by MoTE: ").split("; ")))

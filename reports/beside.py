"""Published beside measured: the numbers that a suite selects, and their difference where both are measured alike."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from reports import tables
from reports.pairing import OTHER_DATA, Pair
from reports.results import Results
from reports.tables import Cell

HEADS = {  # -> whether numbers are below
    **{"Method": False, "Column": False, "Measured": True, "Published": True, "Δ": True, "Same protocol": False},
    **{"Not stated": False, "Published for": False, "Source": False},
}
WORDS = {"hm": "harmonic mean", "tradeoff": "trade-off"}
SIGNS = {"Δ": r"$\Delta$", "±": r"$\pm$", "−": "$-$", "–": "--", "†": r"$^\dagger$"}
CAPTION = (
    "Δ: measured − published, in points, where the measurement is complete and differs in no field that the source "
    "states. “Not stated”: fields that the source leaves open, which count neither way; prompts, fusion, resizing, "
    "spelling of class names and decoder are open everywhere. “2nd hand”: read in a listing or in notes, not in the "
    "source itself; not compared. “Other data”: the paper's data are not those of any column."
)


@dataclass(frozen=True)
class Beside:
    """What every rendering shows: texts under `HEADS`, a method named once for the lines that follow each other.

    `notes`: the sources' caveats, which the lines cite by number.
    """

    caption: str
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def beside(results: Results) -> Beside | None:
    """The table of a suite that selects published numbers, else None."""
    if not results.published:
        return None
    notes: dict[str, int] = {}
    lines, above = [], ""
    for pair, line in _measured(results):
        number, measured, name = pair.number, _cell(pair, line, results), _name(pair, line, results)
        marks = sorted(notes.setdefault(note, len(notes) + 1) for note in _caveats(pair))
        lines.append(
            (
                "" if name == above else name,
                results.measures[pair.measure].title if pair.measure else "–",
                measured.text() or "missing" if measured else "–",
                number.text,
                _difference(pair, measured),
                _same(pair),
                ", ".join(pair.unstated),
                _described(pair),
                f"{number.source}, {number.table.partition(' (')[0]}" + (f" {marks}" if marks else ""),
            )
        )
        above = name
    return Beside(f"{results.title}: published beside measured, in percent. {CAPTION}", tuple(lines), tuple(notes))


def markdown(table: Beside) -> str:
    """The table in GitHub's Markdown, caption first, notes below."""
    rows = [[tables.escape(text, tables.MARKDOWN) for text in row] for row in (HEADS, *table.lines)]
    notes = [f"\n{tables.escape(text, tables.MARKDOWN)}" for text in _numbered(table)]
    caption = tables.escape(table.caption, tables.MARKDOWN)
    return "\n".join([caption, "", *tables.pipes(rows, list(HEADS.values())), *notes, ""])


def latex(table: Beside) -> str:
    """A booktabs `tabular` with the caption as a comment, notes below; needs \\usepackage{booktabs}."""
    signs = {**tables.LATEX, **SIGNS}
    rows = [[tables.escape(text, signs) for text in row] for row in (HEADS, *table.lines)]
    notes = [rf"\par{{\footnotesize {tables.escape(text, signs)}\par}}" for text in _numbered(table)]
    body = tables.booktabs(rows, 1, list(HEADS.values()))
    return "\n".join([f"% {table.caption}", *body, *notes, ""])


def csv(results: Results) -> str:
    """The numbers behind the table, unrounded, with every column of results.csv."""
    lines = []
    for pair, line in _measured(results):
        measured = _cell(pair, line, results)
        facts = {"mean": measured.mean, "std": measured.std, "n": measured.n} if measured else {}
        lines.append(
            {
                "row": pair.row,
                "point": pair.point,
                "measure": pair.measure,
                **{f"measured_{name}": facts.get(name) for name in ("mean", "std", "n")},
                "same_protocol": _same(pair),
                "not_stated": "; ".join(pair.unstated),
                **{f"published_{name}": text for name, text in pair.number._asdict().items()},
            }
        )
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def _measured(results: Results) -> list[tuple[Pair, pd.Series | None]]:
    """Every pair with the line of `Results.summary` that it is about."""
    lines = {(line["row"], line["point"]): line for _, line in results.summary().iterrows()}
    return [(pair, lines.get((pair.row, pair.point)) if pair.measure else None) for pair in results.published]


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


def _numbered(table: Beside) -> list[str]:
    return [f"[{mark}] {note}" for mark, note in enumerate(table.notes, start=1)]

"""The harmonic-mean table (MoTE, NeurIPS 2024, Table 4): top-1 in percent, mean ± sample s.d. over seeds, with n."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pandas as pd

from bench.statistics import Spread
from reports.results import DERIVED, Results, value_text

DIGITS = 1
LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
}
MARKDOWN = {**{character: f"\\{character}" for character in "\\|*_`[]#"}, "&": "&amp;", "<": "&lt;", ">": "&gt;"}


@dataclass(frozen=True)
class Cell:
    """One number: `n` of `planned` seeds are in `mean` and `std`; planned 0 means that the row has no such protocol."""

    mean: float
    std: float
    n: int
    planned: int
    best: bool = False
    derived: bool = False  # a harmonic mean: blank where an input is missing, which is said in the input's cell

    @property
    def complete(self) -> bool:
        return 0 < self.planned == self.n

    def text(self, plus_minus: str = " ± ", absent: str = "–") -> str:
        """E.g. "74.2 ± 0.3", "74.2 ± 0.3 (2 of 3)", "missing" (blank if derived), `absent` where none was planned."""
        if not self.planned:
            return absent
        if not self.n:
            return "" if self.derived else "missing"
        std = "" if math.isnan(self.std) else f"{plus_minus}{self.std:.{DIGITS}f}"
        part = "" if self.complete else f" ({self.n} of {self.planned})"
        return f"{self.mean:.{DIGITS}f}{std}{part}"


@dataclass(frozen=True)
class Line:
    """`names`: the row's label, its value on each axis, its expert if any and its seeds; then a cell per measure."""

    names: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """What every rendering shows: `names` heads the text, `measures` the cells; `conditions`: role and n of each."""

    names: tuple[str, ...]
    measures: tuple[str, ...]
    conditions: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    caption: str


def harmonic_mean_table(results: Results, *, experts: bool = False) -> Table:
    """Rows × (closed-set, each zero-shot target, HM_ZS, trade-off); with `experts`, expert choices instead of rows."""
    summary = results.summary(experts=experts)
    facets = results.facet_axes(None)
    groups = [group for _, group in summary.groupby(facets, sort=False, dropna=False)] if facets else [summary]
    planned = set(results.table[["row", "point", "expert", "protocol"]].itertuples(index=False, name=None))
    lines = [_mark_best([_line(line, results, planned, experts) for _, line in g.iterrows()]) for g in groups]
    return Table(
        ("Method", *results.axes.values(), *(["Expert"] if experts else []), "Seeds"),
        tuple(results.measures().values()),
        tuple(_conditions(results, measure) for measure in results.measures()),
        tuple(line for group in lines for line in group),
        _caption(results, facets),
    )


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, caption first; text is escaped, so a label can't become markup."""
    heads = zip(table.measures, table.conditions, strict=True)
    measures = [f"{title} ({', '.join(condition)})" if any(condition) else title for title, condition in heads]
    rows = [[_escape(text, MARKDOWN) for text in [*table.names, *measures]]]
    rows.append(["---"] * (len(table.names) - 1) + ["---:"] * (1 + len(measures)))
    for line in table.lines:
        numbers = [f"**{cell.text()}**" if cell.best else cell.text() for cell in line.cells]
        rows.append([*(_escape(text, MARKDOWN) for text in line.names), *numbers])
    return "\n".join([_escape(table.caption, MARKDOWN), "", *(f"| {' | '.join(row)} |" for row in rows), ""])


def latex(table: Table) -> str:
    """A booktabs `tabular` with the caption as a comment; needs \\usepackage{booktabs}."""
    rows = [[*table.names, *table.measures]]
    rows += [[*[""] * len(table.names), *conditions] for conditions in zip(*table.conditions, strict=True)]
    rows = [[_escape(text, LATEX) for text in row] for row in rows]
    for line in table.lines:
        numbers = [cell.text(r" $\pm$ ", "--") for cell in line.cells]
        bold = [rf"\textbf{{{text}}}" if c.best else text for text, c in zip(numbers, line.cells, strict=True)]
        rows.append([*(_escape(text, LATEX) for text in line.names), *bold])
    body = [" & ".join(row) + r" \\" for row in rows]
    columns = "l" * (len(table.names) - 1) + "r" * (1 + len(table.measures))
    top = [f"% {' '.join(table.caption.split())}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    return "\n".join([*top, *body[:3], r"\midrule", *body[3:], r"\bottomrule", r"\end{tabular}", ""])


def csv(results: Results, *, experts: bool = False) -> str:
    """The numbers behind the table, unrounded: `Results.summary` as CSV."""
    return results.summary(experts=experts).to_csv(index=False, lineterminator="\n")


def cell(line: pd.Series, measure: str, *, planned: bool = True) -> Cell:
    """The number that a line of `Results.summary` has for `measure`."""
    mean, std, n = (line[f"{measure}_{part}"] for part in Spread._fields)
    return Cell(mean, std, int(n), int(line["seeds"]) * planned, derived=measure in DERIVED)


def _line(line: pd.Series, results: Results, planned: set[tuple[str, ...]], experts: bool) -> Line:
    def has(protocol: str) -> bool:
        return (line["row"], line["point"], line["expert"], protocol) in planned

    unseen = results.protocols("zero-shot")
    needs = {name: [name] for name in results.measures()} | {
        "hm_zs": unseen,
        "trade_off": [*results.protocols("closed-set")[:1], *unseen],
    }
    cells = [cell(line, measure, planned=all(map(has, protocols))) for measure, protocols in needs.items()]
    names = [line["label"], *(value_text(line[axis]) for axis in results.axes), *([line["expert"]] if experts else [])]
    return Line((*map(str, names), str(line["seeds"])), tuple(cells))


def _mark_best(lines: list[Line]) -> list[Line]:
    """Marks each column's best rounded mean among complete cells; a column of one has no best."""
    best: list[float | None] = []
    for column in zip(*(line.cells for line in lines), strict=True):
        means = [round(cell.mean, DIGITS) for cell in column if cell.complete]
        best.append(max(means) if len(means) > 1 else None)
    return [
        replace(line, cells=tuple(
            replace(cell, best=cell.complete and round(cell.mean, DIGITS) == top)
            for cell, top in zip(line.cells, best, strict=True)
        ))
        for line in lines
    ]  # fmt: skip


def _conditions(results: Results, measure: str) -> tuple[str, str]:
    """Role and number of videos of a protocol's column, e.g. ("zero-shot", "320 videos"); a span where rows differ."""
    lines = results.table[results.table["protocol"] == measure]
    counts = lines["videos"].dropna().astype(int)
    span = "–".join(str(count) for count in sorted({counts.min(), counts.max()})) if len(counts) else ""
    return " / ".join(lines["role"].unique()), f"{span} videos" if span else ""


def _caption(results: Results, facets: list[str]) -> str:
    within = f" within each {' and '.join(results.axes[axis] for axis in facets)}" if facets else ""
    return (
        f"{results.title}: top-1 accuracy in percent, mean ± 1 s.d. over the seeds. HM_ZS: harmonic mean of the "
        "zero-shot columns; trade-off: harmonic mean of closed-set and HM_ZS, both per seed. "
        f"Bold: best complete mean per column{within}, ties after rounding included."
    )


def _escape(text: str, characters: dict[str, str]) -> str:
    return "".join(characters.get(character, character) for character in text)

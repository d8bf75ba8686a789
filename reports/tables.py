"""The table of accuracies and harmonic means (MoTE, NeurIPS 2024, Table 4): top-1 in percent, mean ± s.d., with n."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import pandas as pd

from bench.measure.statistics import DRAWS, ENOUGH
from bench.suite.measures import Measure
from reports.bootstrap import Bootstrap, Place, bootstrap
from reports.markup import LATEX, MARKDOWN, booktabs, escape, pipes
from reports.results import Results, grouped, is_draw, value_text

Facts = pd.Series | dict[Hashable, Any]  # a line of `Results.summary`
DIGITS = 1
DAGGER = "†"
LEVEL = 0.05  # of significance
# Seeds -> the least percent that plain percentile intervals over seeds and videos covered (`python -m tools.coverage`).
PLAIN_COVERAGE = {2: 77, 3: 85, 5: 90}
SHARED = {2: ", both per seed", 3: ", all per seed"}


@dataclass(frozen=True)
class Cell:
    """One number: `n` of `planned` seeds are in `mean` and `std`; planned 0 means that the row has no such protocol.

    `std` is that over seeds, or over the parts of a protocol where one seed is planned.
    """

    mean: float
    std: float
    n: int
    planned: int
    best: bool = False  # of its column, or not significantly below the best
    top: bool = False  # the best mean itself
    derived: bool = False  # a harmonic mean: blank where an input is missing, which is said in the input's cell
    deviates: bool = False  # measured otherwise than the column says, or made of such a number
    parts: int = 1  # of the protocol, for each seed
    parts_missing: int = 0  # over all seeds
    interval_text: str = ""  # e.g. "95 % interval 73.1–75.4 over 512 videos and 3 seeds"

    @property
    def complete(self) -> bool:
        return 0 < self.planned == self.n

    @property
    def lacking(self) -> bool:
        """Whether a result is missing, rather than left out for what its inputs are."""
        return self.n < self.planned and not (self.derived and self.deviates)

    def text(self, plus_minus: str = " ± ", absent: str = "–", dagger: str = DAGGER) -> str:
        """E.g. "74.2 ± 0.3", "74.2 ± 0.3 (2 of 3)" seeds, "74.2†", "2 of 3 parts", "missing" (blank if derived).

        `absent` where none was planned.
        """
        if not self.planned:
            return absent
        mark = dagger if self.deviates else ""
        if not self.n:
            present = self.planned * self.parts - self.parts_missing
            lacking = f"{present} of {self.planned * self.parts} parts" if self.parts_missing and present else "missing"
            return mark if self.derived else lacking + mark
        std = "" if math.isnan(self.std) else f"{plus_minus}{self.std:.{DIGITS}f}"
        part = "" if self.complete else f" ({self.n} of {self.planned})"
        return f"{self.mean:.{DIGITS}f}{std}{part}{mark}"


@dataclass(frozen=True)
class Line:
    """`names`: the row's label, its value on each axis, its expert if any and its seeds; then a cell per measure."""

    names: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """What every rendering shows.

    `names` heads the text, `measures` the cells, by the keys of `Results.measures`; those that no line has are left
    out. Each measure has `conditions`, which say its role, n and what ± is, and the `hash` of its protocol ("" for a
    harmonic mean). `notes`: the differing fields of the marked cells.
    """

    names: tuple[str, ...]
    measures: dict[str, str]
    conditions: tuple[tuple[str, ...], ...]
    hashes: tuple[str, ...]
    lines: tuple[Line, ...]
    caption: str
    notes: tuple[str, ...]


def harmonic_mean_table(results: Results, *, experts: bool = False) -> Table:
    """Rows × (every protocol, then harmonic means); with `experts`, expert choices instead of rows."""
    summary = results.summary(experts=experts)
    facets = results.facet_axes(None)
    measures = {name: own for name, own in results.measures.items() if summary[f"{name}_planned"].any()}
    resampled, tests = bootstrap(results, experts), set[int]()
    lines = []
    for group in grouped(summary, facets):
        records = group.to_dict("records")
        own = {_place(line): _line(line, results, measures, experts, resampled) for line in records}
        lines.append(_mark_best(own, measures, resampled, tests))
    notes = _notes(results, summary)
    return Table(
        ("Method", *results.axes.values(), *(["Expert"] if experts else []), "Seeds"),
        {name: measure.title for name, measure in measures.items()},
        _conditions(results, measures, summary),
        tuple(_hash(results, name) for name in measures),
        tuple(line for group in lines for line in group),
        " ".join([_caption(results, measures, facets, bool(notes), tests), *_warnings(results, resampled)]),
        notes,
    )


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, caption first; text is escaped, so a label can't become markup."""
    heads = zip(table.measures.values(), table.conditions, strict=True)
    measures = [f"{title} ({', '.join(filter(None, parts))})" if any(parts) else title for title, parts in heads]
    rows = [[escape(text, MARKDOWN) for text in [*table.names, *measures]]]
    for line in table.lines:
        marks = [
            ("**<ins>", "</ins>**") if cell.top else ("**", "**") if cell.best else ("", "") for cell in line.cells
        ]
        numbers = [f"{start}{cell.text()}{end}" for (start, end), cell in zip(marks, line.cells, strict=True)]
        rows.append([*(escape(text, MARKDOWN) for text in line.names), *numbers])
    below = [f"\n{escape(text, MARKDOWN)}" for text in (*(f"{DAGGER} {note}" for note in table.notes), *_hashes(table))]
    return "\n".join([escape(table.caption, MARKDOWN), "", *pipes(rows, _numeric(table)), *below, ""])


def latex(table: Table) -> str:
    """A booktabs `tabular` with the caption as a comment, notes below; needs \\usepackage{booktabs}."""
    rows = [[*table.names, *table.measures.values()]]
    rows += [[*[""] * len(table.names), *conditions] for conditions in zip(*table.conditions, strict=True)]
    rows = [[escape(text, LATEX) for text in row] for row in rows]
    head = len(rows)
    for line in table.lines:
        numbers = [cell.text(r" $\pm$ ", "--", r"$^\dagger$") for cell in line.cells]
        bold = [rf"\textbf{{{text}}}" if c.best else text for text, c in zip(numbers, line.cells, strict=True)]
        lined = [rf"\underline{{{text}}}" if c.top else text for text, c in zip(bold, line.cells, strict=True)]
        rows.append([*(escape(text, LATEX) for text in line.names), *lined])
    comments = [f"% {' '.join(text.split())}" for text in (table.caption, *_hashes(table))]
    notes = [rf"\par{{\footnotesize $^\dagger$ {escape(note, LATEX)}\par}}" for note in table.notes]
    return "\n".join([*comments, *booktabs(rows, head, _numeric(table)), *notes, ""])


def csv(results: Results, *, experts: bool = False) -> str:
    """The numbers behind the table, unrounded: `Results.summary`, and `_low`, `_high` of 95 % intervals, as CSV."""
    summary, intervals = results.summary(experts=experts), bootstrap(results, experts).intervals
    for measure, bounds in intervals.items():
        place = list(summary.columns).index(f"{measure}_n") + 1
        for name, values in zip(("high", "low"), reversed(bounds), strict=True):
            summary.insert(place, f"{measure}_{name}", values)
    return summary.to_csv(index=False, lineterminator="\n")


def cell(line: Facts, measure: str, results: Results) -> Cell:
    """The number that a line of `Results.summary` has for `measure`."""
    protocol = measure in results.roles
    mean, std, n, deviation = (line[f"{measure}_{fact}"] for fact in ("mean", "std", "n", "deviation"))
    planned = int(line["seeds"]) if line[f"{measure}_planned"] else 0
    own = Cell(mean, std, int(n), planned, derived=not protocol, deviates=bool(deviation))
    if not protocol:
        return own
    parts, parts_std, missing = (line[f"{measure}_{fact}"] for fact in ("parts", "parts_std", "parts_missing"))
    return replace(own, std=parts_std if line["seeds"] == 1 else std, parts=int(parts), parts_missing=int(missing))


def _place(line: Facts) -> Place:
    return line["row"], line["point"], line["expert"]


def _line(line: Facts, results: Results, measures: Iterable[str], experts: bool, resampled: Bootstrap) -> Line:
    names = [line["label"], *(value_text(line[axis]) for axis in results.axes), *([line["expert"]] if experts else [])]
    cells = []
    for measure in measures:
        interval = resampled.interval(_place(line), measure)
        cells.append(replace(cell(line, measure, results), interval_text=interval.text if interval else ""))
    return Line((*map(str, names), str(line["seeds"])), tuple(cells))


def _mark_best(lines: dict[Place, Line], measures: Iterable[str], resampled: Bootstrap, tests: set[int]) -> list[Line]:
    """Marks each column's best among complete cells that are as the column says, if there are two, and what ties.

    A tie is not significantly below the best, or equal to it after rounding. Adds the columns' numbers of tests.
    """
    columns = []
    for measure, column in zip(measures, zip(*(line.cells for line in lines.values()), strict=True), strict=True):
        competing = {place: cell for place, cell in zip(lines, column, strict=True) if _competes(cell)}
        gaps = resampled.gaps(measure, list(competing)) if len(competing) > 1 else {}
        top = max((round(competing[place].mean, DIGITS) for place in gaps), default=None)
        tests |= {len(gaps) - 1} if gaps else set()
        columns.append([
            replace(cell, top=place in gaps and (shown := round(cell.mean, DIGITS)) == top,
                    best=place in gaps and (shown == top or gaps[place].p >= LEVEL))
            for place, cell in zip(lines, column, strict=True)
        ])  # fmt: skip
    return [replace(line, cells=cells) for line, cells in zip(lines.values(), zip(*columns, strict=True), strict=True)]


def _competes(cell: Cell) -> bool:
    return cell.complete and not cell.deviates


def _conditions(results: Results, measures: Iterable[str], summary: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """Role, number of videos and parts, and what ± is, of every measure; without kinds that no measure has."""
    derived = ("", "", "", "")
    lines = dict(iter(results.table.groupby("protocol", sort=False)))
    own = [_conditions_of(lines[name], name, summary) if name in lines else derived for name in measures]
    kinds = [kind for kind in zip(*own, strict=True) if any(kind)]
    return tuple(zip(*kinds, strict=True))


def _conditions_of(lines: pd.DataFrame, protocol: str, summary: pd.DataFrame) -> tuple[str, str, str, str]:
    """E.g. ("zero-shot", "3 splits of 3696–3783 videos", "± over 3 splits", "population s.d.")."""
    parts = f"{summary[f'{protocol}_parts'].max():.0f} {'draws' if is_draw(lines['part']).any() else 'splits'}"
    several = summary[f"{protocol}_parts"] > 1
    videos = f"{_span(lines['videos'])} videos" if lines["videos"].notna().any() else ""
    single = several & (summary["seeds"] == 1)
    where = "" if (summary["seeds"] == 1).all() else "1 seed: "
    return (
        " / ".join(lines["role"].unique()),
        f"{parts} of {videos}" if several.any() and videos else videos,
        f"{where}± over {parts}" if single.any() else "",
        "population s.d." if single.any() else "",
    )


def _span(counts: pd.Series) -> str:
    present = counts.dropna().astype(int)
    return "–".join(str(count) for count in sorted({present.min(), present.max()}))


def _warnings(results: Results, resampled: Bootstrap) -> Iterator[str]:
    """What the intervals are worth: from how few seeds some are, and which rows have a single run."""
    yield "95 % intervals are in the CSV file and under the pointer."
    seeds = {int(count) for own in resampled.columns.values() for count in own.seeds_G}
    if few := sorted(count for count in seeds if 1 < count < ENOUGH):
        span = f"{few[0]}–{few[-1]}" if len(few) > 1 else f"{few[0]}"
        plain = max(count for count in PLAIN_COVERAGE if count <= few[0])
        yield (
            f"Caution, n = {span} seeds: these intervals take seeds to scatter like a Gaussian; a plain percentile "
            f"bootstrap of so few covers as little as {PLAIN_COVERAGE[plain]} %, not 95 % (docs/statistics.md)."
        )
    alone = [place[0] for place in resampled.places if any(resampled.alone(place, name) for name in resampled.columns)]
    if alone:
        labels = {row: label for row, label in results.labels().items() if row in alone}
        names = "every row" if labels == results.labels() else ", ".join(labels.values())
        yield f"One run: {names}; intervals and tests are over videos alone there, another seed may differ by more."
    if resampled.draws < DRAWS:
        yield f"{resampled.draws} resamples, because the suite has very many results."


def _caption(
    results: Results, measures: Mapping[str, Measure], facets: list[str], deviating: bool, tests: set[int]
) -> str:
    closed = results.of_role("closed-set")
    means = {
        "HM_ZS": "HM_ZS: harmonic mean of the zero-shot columns",
        "Trade-off": f"trade-off: harmonic mean of {closed[0] if len(closed) > 1 else 'closed-set'} and HM_ZS",
        "HM": "HM: harmonic mean of base and novel",
    }
    titles = dict.fromkeys(measure.title.partition(" ")[0] for measure in measures.values() if measure.needs)
    derived = "; ".join(means[title] for title in titles)
    within = f" within each {' and '.join(results.axes[axis] for axis in facets)}" if facets else ""
    sentences = [
        f"{results.title}: top-1 accuracy in percent, mean ± 1 s.d. over the seeds.",
        "A protocol of several splits or draws is their mean; in rows of one seed, ± is the population s.d. over them.",
        f"{derived}{SHARED.get(len(titles), ', per seed')}.",
        f"Bold: the best complete mean per column{within}, underlined, and all that are not significantly below it "
        f"(5 %, t test over videos and seeds, Holm over the column's {_span(pd.Series(sorted(tests)))} tests).",
        f"{DAGGER}: measured otherwise than the column says, as listed below; not compared, and in no harmonic mean.",
    ]
    said = [True, (results.table["part"] != "").any(), bool(derived), bool(tests), deviating]
    return " ".join(compress(sentences, said))


def _notes(results: Results, summary: pd.DataFrame) -> tuple[str, ...]:
    """What differs in the marked cells, e.g. "MoTE, layers 4 (UCF, HMDB): views.clips 1 instead of 3"."""
    found: dict[tuple[str, str, str], dict[str, None]] = {}  # label, protocols, text -> points, in order
    for _, line in summary.iterrows():
        texts = [line[f"{protocol}_deviation"] for protocol in results.roles]
        for text in filter(None, dict.fromkeys(texts)):
            protocols = ", ".join(protocol for protocol, own in zip(results.roles, texts, strict=True) if own == text)
            points = found.setdefault((line["label"], protocols, text), {})
            points[results.axis_text(line, list(results.axes))] = None
    return tuple(
        f"{', '.join(filter(None, [label, '; '.join(points)]))} ({protocols}): {text}"
        for (label, protocols, text), points in found.items()
    )


def _hash(results: Results, measure: str) -> str:
    """None where the protocol depends on the point, because a column has several then."""
    return results.protocols[measure]["hash"] if measure in results.roles and not results.protocol_axes else ""


def _hashes(table: Table) -> list[str]:
    """The sentence that names the columns' protocols, if they can be named."""
    named = [f"{title} {own}" for title, own in zip(table.measures.values(), table.hashes, strict=True) if own]
    return [f"Protocols: {', '.join(named)}."] if named else []


def _numeric(table: Table) -> list[bool]:
    """Of every column: the number of seeds and the measures are numbers."""
    return [False] * (len(table.names) - 1) + [True] * (1 + len(table.measures))

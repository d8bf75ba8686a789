"""The table of accuracies and harmonic means (MoTE, NeurIPS 2024, Table 4): top-1 in percent, mean ± s.d., with n."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import pandas as pd

from bench.measure.statistics import DRAWS, ENOUGH
from bench.published.pairing import OTHER_DATA
from bench.suite.measures import Measure
from reports.bootstrap import Bootstrap, bootstrap
from reports.results import Place, Results, grouped, is_draw, place_of, value_text
from reports.table import Column, Table, TableCell, cells

SummaryLine = pd.Series | dict[Hashable, Any]  # of `Results.summary`
DIGITS = 1
DAGGER = "†"
ALONE = "‡"  # behind the name of what is published only
LEVEL = 0.05  # of significance
# Seeds -> the least percent that plain percentile intervals over seeds and videos covered (`python -m tools.coverage`).
PLAIN_COVERAGE = {2: 77, 3: 86, 5: 90}
SHARED = {2: ", both per seed", 3: ", all per seed"}


@dataclass(frozen=True)
class Score:
    """A number of the table: `n` of `planned` seeds are in `mean` and `std`; 0 planned: the row lacks the protocol.

    `std` is over seeds, or over the parts of a protocol where one seed is planned.
    """

    mean: float
    std: float
    n: int
    planned: int
    derived: bool = False  # a harmonic mean: blank where an input is missing, because the input's cell says so
    deviates: bool = False  # measured otherwise than the column says, or made of such a number
    parts: int = 1  # of the protocol, for each seed
    parts_missing: int = 0  # over all seeds

    @property
    def complete(self) -> bool:
        return 0 < self.planned == self.n

    @property
    def competes(self) -> bool:
        """True if the score may be the best of its column."""
        return self.complete and not self.deviates

    @property
    def lacking(self) -> bool:
        """True if a result is missing; a mean that is left out because of its inputs is not."""
        return self.n < self.planned and not (self.derived and self.deviates)

    @property
    def text(self) -> str:
        """E.g. "74.2 ± 0.3", "74.2 ± 0.3 (2 of 3)" seeds, "74.2†", "2 of 3 parts", "missing" (blank if derived).

        "–" where none was planned.
        """
        if not self.planned:
            return "–"
        mark = DAGGER if self.deviates else ""
        if not self.n:
            present = self.planned * self.parts - self.parts_missing
            lacking = f"{present} of {self.planned * self.parts} parts" if self.parts_missing and present else "missing"
            return mark if self.derived else lacking + mark
        std = "" if math.isnan(self.std) else f" ± {self.std:.{DIGITS}f}"
        part = "" if self.complete else f" ({self.n} of {self.planned})"
        return f"{self.mean:.{DIGITS}f}{std}{part}{mark}"


def accuracy_tables(results: Results) -> Iterator[Table]:
    """The table of rows, and of expert choices if there are any."""
    yield accuracy_table(results)
    if (results.table["expert"] != "").any():
        yield accuracy_table(results, experts=True)


def accuracy_table(results: Results, *, experts: bool = False) -> Table:
    """Rows × (every protocol, then harmonic means); with `experts`, expert choices instead of rows."""
    summary, facets = results.summary(experts=experts), results.facet_axes(None)
    measures = {name: own for name, own in results.measures.items() if summary[f"{name}_planned"].any()}
    resampled, tests = bootstrap(results, experts), set[int]()
    names = {"label": "Method", **results.axes, **({"expert": "Expert"} if experts else {}), "seeds": "Seeds"}
    rows = []
    for group in grouped(summary, facets):
        lines = group.to_dict("records")
        scores = [_column(results, measure, lines, resampled, tests) for measure in measures]
        for line, *numbers in zip(lines, *scores, strict=True):
            rows.append((*cells(*(value_text(line[name]) for name in names)), *numbers))
    alone = [] if experts else [*_alone(results, names, measures)]
    hashes = {name: _hash(results, name) for name in measures}
    heads = [Column(head, number=name == "seeds") for name, head in names.items()]
    for (name, measure), below in zip(measures.items(), _conditions(results, measures, summary), strict=True):
        told = hashes[name] and f"protocol {hashes[name]}, see Protocols"
        heads.append(
            Column(measure.title, True, below, told, deciding=bool(measure.needs) and name in results.headlines)
        )
    notes, named = (
        _notes(results, summary),
        ", ".join(f"{measures[name].title} {own}" for name, own in hashes.items() if own),
    )
    apart = results.measured_with(resampled.places)
    name = "experts" if experts else "table"
    return Table(
        name,
        name,
        _caption(results, measures, facets, bool(notes), tests),
        tuple(heads),
        (*rows, *alone),
        (
            *(f"{DAGGER} {note}" for note in notes),
            *(
                [f"{ALONE} Published only: not measured here, in no test, mean or figure; {DAGGER}: in another way."]
                if alone
                else []
            ),
            *([f"Rows were not all measured alike. {apart}."] if apart else []),
        ),
        _values(summary, resampled),
        f"Protocols: {named}." if named else "",
        tuple(_warnings(results, resampled)),
    )


def _alone(results: Results, names: Iterable[str], measures: Iterable[str]) -> Iterator[tuple[TableCell, ...]]:
    """Lines of methods that nobody can run again: each published number once, where it differs least from a column."""
    placed = [pair for pair in results.published if pair.label and pair.measure and OTHER_DATA not in pair.differs]
    lines: dict[tuple[str, str], dict[str, str]] = {(pair.label, pair.point): {} for pair in placed}
    seen = set()
    for pair in sorted(placed, key=lambda own: len(own.differs)):
        if (own := (pair.label, pair.point, pair.number)) not in seen:
            lines[pair.label, pair.point].setdefault(pair.measure, pair.number.text + DAGGER * bool(pair.differs))
            seen.add(own)
    for (label, at), numbers in lines.items():
        texts = {"label": f"{label} {ALONE}", **dict(axis.split(" ", 1) for axis in at.split(", ") if " " in axis)}
        yield cells(*(texts.get(name, "–") for name in names), *(numbers.get(measure, "–") for measure in measures))


def score(line: SummaryLine, measure: str, results: Results) -> Score:
    """The number that a line of `Results.summary` has for `measure`."""
    protocol = measure in results.roles
    mean, std, n, deviation = (line[f"{measure}_{fact}"] for fact in ("mean", "std", "n", "deviation"))
    planned = int(line["seeds"]) if line[f"{measure}_planned"] else 0
    own = Score(mean, std, int(n), planned, derived=not protocol, deviates=bool(deviation))
    if not protocol:
        return own
    parts, parts_std, missing = (line[f"{measure}_{fact}"] for fact in ("parts", "parts_std", "parts_missing"))
    return replace(own, std=parts_std if line["seeds"] == 1 else std, parts=int(parts), parts_missing=int(missing))


def _column(
    results: Results, measure: str, lines: list[dict[Hashable, Any]], resampled: Bootstrap, tests: set[int]
) -> list[TableCell]:
    """The cells of one measure, with the best of them marked, and what ties with it, if two or more compete and differ.

    A tie is not significantly below the best, or equal to it after rounding. Adds the number of tests to `tests`.
    """
    scores = {place_of(line): score(line, measure, results) for line in lines}
    competing = [place for place, own in scores.items() if own.competes]
    differ = len({round(scores[place].mean, DIGITS) for place in competing}) > 1
    gaps = resampled.gaps(measure, competing) if differ else {}
    best = max((round(scores[place].mean, DIGITS) for place in gaps), default=None)
    tests |= {len(gaps) - 1} if gaps else set()

    def cell(place: Place, own: Score) -> TableCell:
        top = place in gaps and round(own.mean, DIGITS) == best
        bold = top or (place in gaps and gaps[place].p >= LEVEL)
        interval = resampled.interval(place, measure)
        told = (interval.text, f"{interval.low:.1f}–{interval.high:.1f}") if interval and own.n else ("", "")
        return TableCell(own.text, bold, top, own.lacking, told[0], (*place, measure), told[1])

    return [cell(place, own) for place, own in scores.items()]


def _values(summary: pd.DataFrame, resampled: Bootstrap) -> pd.DataFrame:
    """The numbers behind the table, unrounded: the summary, and `_low`, `_high` of 95 % intervals."""
    values = summary.copy()
    for measure, bounds in resampled.intervals.items():
        place = list(values.columns).index(f"{measure}_n") + 1
        for name, own in zip(("high", "low"), reversed(bounds), strict=True):
            values.insert(place, f"{measure}_{name}", own)
    return values


def _conditions(results: Results, measures: Iterable[str], summary: pd.DataFrame) -> list[tuple[str, ...]]:
    """Role, number of videos and parts, and meaning of ± of every measure; kinds that no measure has are left out."""
    lines = dict(iter(results.table.groupby("protocol", sort=False)))
    own = [_conditions_of(lines[name], name, summary) if name in lines else 4 * ("",) for name in measures]
    return list(zip(*(kind for kind in zip(*own, strict=True) if any(kind)), strict=True))


def _conditions_of(lines: pd.DataFrame, protocol: str, summary: pd.DataFrame) -> tuple[str, ...]:
    """E.g. ("zero-shot", "3 splits of 3696–3783 videos", "± over 3 splits", "population s.d.")."""
    parts = f"{summary[f'{protocol}_parts'].max():.0f} {'draws' if is_draw(lines['part']).any() else 'splits'}"
    several, single = summary[f"{protocol}_parts"] > 1, summary["seeds"] == 1
    videos = f"{_span(lines['videos'])} videos" if lines["videos"].notna().any() else ""
    roles, counted = " / ".join(lines["role"].unique()), f"{parts} of {videos}" if several.any() and videos else videos
    if not (several & single).any():
        return roles, counted, "", ""
    return roles, counted, f"{'' if single.all() else '1 seed: '}± over {parts}", "population s.d."


def _span(counts: Iterable[float]) -> str:
    present = sorted({int(count) for count in counts if count == count})
    return "–".join(map(str, dict.fromkeys(present[:1] + present[-1:])))


def _warnings(results: Results, resampled: Bootstrap) -> Iterator[str]:
    """Warnings about the intervals: groups of videos, few seeds, rows of a single run, few resamples."""
    counted = {name: resampled.counted(name) for name in results.roles}
    if grouped := [f"{own.text} ({name})" for name, own in counted.items() if own.groups < own.videos]:
        yield f"Intervals and tests take the videos of a group, such as one film, together: {', '.join(grouped)}."
    if drawn := [f"{own.classes} ({name})" for name, own in counted.items() if own.classes > 1]:
        yield f"Intervals and tests draw classes anew as well; draws of classes: {', '.join(drawn)}."
    if unknown := [name for name, own in counted.items() if own.videos and results.ungrouped(name)]:
        yield (
            f"No groups of videos are declared for {', '.join(unknown)}: each video counts as independent of the "
            "others, so intervals are too narrow if several come from one source (docs/statistics.md)."
        )
    seeds = {int(count) for own in resampled.columns.values() for count in own.seeds_G}
    if few := sorted(count for count in seeds if 1 < count < ENOUGH):
        plain = max(count for count in PLAIN_COVERAGE if count <= few[0])
        yield (
            f"Caution, n = {_span(few)} seeds: these intervals take seeds to scatter like a Gaussian; a plain "
            f"percentile bootstrap of so few covers as little as {PLAIN_COVERAGE[plain]} %, not 95 % "
            "(docs/statistics.md)."
        )
    alone = [place[0] for place in resampled.places if any(resampled.alone(place, name) for name in resampled.columns)]
    if alone:
        labels = {row: label for row, label in results.labels.items() if row in alone}
        names = "every row" if labels == results.labels else ", ".join(labels.values())
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
        f"(5 %, t test over videos and seeds, Holm over the column's {_span(tests)} tests).",
        f"{DAGGER}: measured otherwise than the column says, as listed below; not compared, and in no harmonic mean.",
        "95 % intervals are in the CSV file, and on the page below the numbers.",
    ]
    said = [True, (results.table["part"] != "").any(), bool(derived), bool(tests), deviating, True]
    return " ".join(compress(sentences, said))


def _notes(results: Results, summary: pd.DataFrame) -> tuple[str, ...]:
    """Notes on the marked cells, e.g. "MoTE, layers 4 (UCF, HMDB): views.clips 1 instead of 3"."""
    found: dict[tuple[str, str, str], dict[str, None]] = {}  # label, protocols, text -> points, in order
    for _, line in summary.iterrows():
        texts = [line[f"{protocol}_deviation"] for protocol in results.roles]
        for text in filter(None, dict.fromkeys(texts)):
            protocols = ", ".join(protocol for protocol, own in zip(results.roles, texts, strict=True) if own == text)
            points = found.setdefault((line["label"], protocols, text), {})
            points[results.axis_text(line)] = None
    return tuple(
        f"{', '.join(filter(None, [label, '; '.join(points)]))} ({protocols}): {text}"
        for (label, protocols, text), points in found.items()
    )


def _hash(results: Results, measure: str) -> str:
    """The hash of a column's protocol; empty if the protocol depends on the point, since there are several then."""
    return results.protocols[measure]["hash"] if measure in results.roles and not results.protocol_axes else ""

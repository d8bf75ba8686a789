"""Paired tests between rows: on the same videos, and over videos and seeds (docs/statistics.md). N videos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from bench.core.errors import unknown
from bench.measure.power import Variances, smallest
from bench.measure.statistics import FLAT, Estimates, Floats, Groups, difference_tests, holm, mcnemar, sign_flip_test
from reports.accuracies import score
from reports.bootstrap import Answered, Bootstrap, Counted, Gap, answers, bootstrap
from reports.results import PLACE, Place, Results, grouped, place_of
from reports.table import Table, TableCell, TableRow, cells, columns, frame

LEVEL = 0.05
PERMUTATIONS, FEW_PERMUTATIONS, MANY_TESTS = 20_000, 2_000, 200
MOST = 30  # pairs of points that are compared where the suite names no pairs
NAN = float("nan")
HEADS = {
    **{"Row": False, "minus": False, "Measure": False, "Difference": True, "95 % interval": True, "p": True},
    **{"Tests": True, "Videos": True, "Seeds": True, "Power": False},
}


class Pairing(NamedTuple):
    """Two lines of `Results.summary` that are compared; the difference is `a` minus `b`."""

    a: pd.Series
    b: pd.Series


@dataclass(frozen=True)
class Comparison:
    """Row `a` minus row `b` on one measure, titled `protocol`; role "" for a harmonic mean of several protocols.

    `difference` in points with its 95 % interval from `low` to `high` over videos and seeds. `p`: over videos, given
    the seeds, nan for a derived measure. `p_seeds`: over videos and seeds, or over videos alone if a side is one run of
    several possible ones (`alone`). `corrected`: the latter after Holm's correction for so many `tests`, the p that is
    shown. `groups` of the `videos`, as many where each is one of its own. All nan where a side has no result yet.
    `finds`: the smallest true difference that the test finds with a power of 80 %, at the level that the first of so
    many tests has; `verdict`: what there is too little of where the difference is smaller and not significant.
    `skipped` says why the two cannot be compared, if they cannot; `apart` with what they were measured, if it differs.
    """

    a: str
    b: str
    lines: Pairing = field(compare=False)
    measure: str
    protocol: str
    role: str
    seeds: tuple[int, int]
    skipped: str = ""
    difference: float = NAN
    p: float = NAN
    videos: int = 0
    groups: int = 0
    low: float = NAN
    high: float = NAN
    p_seeds: float = NAN
    corrected: float = NAN
    tests: int = 0
    alone: bool = False
    finds: float = NAN
    verdict: str = ""
    apart: str = ""


@lru_cache(maxsize=2)
def pairings(results: Results) -> tuple[Pairing, ...]:
    """The pairs that the suite names, at every two points that agree on the axes that both rows have.

    A suite that names none has every row beside the reference, or without one beside the best of the first headline
    measure, up to `MOST` pairs of points. Raises UserError for an unknown row.
    """
    summary = results.summary(alike=True)
    points: dict[str, list[pd.Series]] = {row: [] for row in results.labels}
    for _, line in summary.iterrows():
        points[line["row"]].append(line)
    named = results.settings.compare or tuple((row, _base(results, summary)) for row in points)
    for row in (row for pair in named for row in pair if row not in points):
        raise unknown("row", row, points, where=f"{results.suite}: reports.compare")
    found = tuple(
        Pairing(a, b)
        for row_a, row_b in named
        if row_a != row_b
        for a, b in product(points[row_a], points[row_b])
        if results.comparable(a, b)
    )
    return found if results.settings.compare else found[:MOST]


def _base(results: Results, summary: pd.DataFrame) -> str:
    if results.settings.reference:
        return results.settings.reference
    means = summary[f"{results.headlines[0]}_mean"]
    return str(summary["row"].iloc[int(means.fillna(-1).argmax())])


def comparisons(results: Results) -> list[Comparison]:
    """Tests of every measure that both rows of a pair have, for all `pairings`.

    Each video's correctness is averaged over seeds for `p`, which speaks of these videos and seeds. Splits of one
    protocol are one test, in which a video counts as often as in their mean. A side that is measured otherwise than
    its column is skipped. Raises UserError for an unknown row and ValueError if the two sides were measured on
    different videos.
    """
    pairs, estimates = pairings(results), bootstrap(results, False)
    places = [(place_of(a), place_of(b)) for a, b in pairs]
    first_P, second_P = np.reshape([estimates.places[place] for both in places for place in both], (-1, 2)).T
    tests = {name: difference_tests(own, first_P, second_P) for name, own in estimates.columns.items()}
    permutations = PERMUTATIONS if len(pairs) * len(results.roles) <= MANY_TESTS else FEW_PERMUTATIONS
    videos = _Videos(results, {place for both in places for place in both})
    found = []
    for number, (pair, (a, b)) in enumerate(zip(pairs, places, strict=True)):
        for measure, needed in results.measures.items():
            if not all(videos.comparable(a, b, protocol) for protocol in needed.inputs):
                continue
            own = _untested(results, pair, measure, estimates)
            if all(own.seeds) and not own.skipped:
                alone = any(estimates.alone(place, measure) for place in (a, b))
                difference, low, high, p_seeds = (float(column[number]) for column in tests[measure])
                p, (groups, count, _) = (
                    videos.tested(own, a, b, permutations) if own.role else (NAN, estimates.counted(measure))
                )
                own = replace(
                    own, difference=difference, low=low, high=high, p=p, videos=count, groups=groups, p_seeds=p_seeds,
                    alone=alone, apart=results.measured_with((a, b)),
                )  # fmt: skip
            found.append(own)
    return [_judged(own, estimates) for own in _corrected(results, found)]


def _judged(own: Comparison, estimates: Bootstrap) -> Comparison:
    """The comparison with what its test finds, and whether more seeds or more videos could tell the rows apart."""
    if not own.videos or own.alone:
        return own
    level, known = LEVEL / own.tests, estimates.columns[own.measure]
    variances = _variances(known, *(estimates.places[place_of(line)] for line in own.lines))
    finds = smallest(variances, known.groups, own.seeds, level)
    if finds <= FLAT:  # nothing varies
        return own
    if own.corrected < LEVEL or finds <= abs(own.difference):
        return replace(own, finds=finds)
    with_many = smallest(variances, known.groups, (np.inf, np.inf), level)
    lacking = "seeds" if with_many <= abs(own.difference) else "videos"
    return replace(own, finds=finds, verdict=f"not enough {lacking} to tell")


def lacking(results: Results, measure: str, lines: Pairing, gap: Gap) -> str:
    """The verdict on two lines that were tested, as in the table: what there is not enough of to tell them apart."""
    estimates, places = bootstrap(results, False), [place_of(line) for line in lines]
    groups, videos, _ = estimates.counted(measure)
    own = replace(
        _untested(results, lines, measure, estimates), difference=gap.points, corrected=gap.p, tests=gap.tests,
        groups=groups, videos=videos, alone=any(estimates.alone(place, measure) for place in places),
    )  # fmt: skip
    return _judged(own, estimates).verdict


def _variances(known: Estimates, a: int, b: int) -> Variances:
    """What varies in the difference of two rows, as it was measured."""
    draws_B = known.draws_GB[a] - known.draws_GB[b]
    seeds, both = (
        [float(own_G[row] * known.seeds_G[row]) for row in (a, b)]
        for own_G in (known.excess_G, known.within_G * known.groups)
    )
    noise = known.within_G[a] + known.within_G[b]
    videos = known.groups * max(0.0, float(draws_B.var(ddof=1, dtype=np.float64) - noise))
    return Variances(videos, (seeds[0], seeds[1]), (both[0], both[1]))


def _corrected(results: Results, found: list[Comparison]) -> list[Comparison]:
    """The comparisons with one corrected p for each pair and measure, wherever the page shows it.

    That of the column where the best is a side, else after Holm's correction for all others of the table.
    """
    columns = column_tests(results)
    gaps = [columns.get((own.measure, frozenset(map(place_of, own.lines)))) if own.videos else None for own in found]
    others = holm([NAN if gap else own.p_seeds for own, gap in zip(found, gaps, strict=True)])
    tests = int((~np.isnan(others)).sum())
    return [
        replace(own, corrected=gap.p, tests=gap.tests) if gap else replace(own, corrected=float(p), tests=tests)
        for own, gap, p in zip(found, gaps, others, strict=True)
    ]


@lru_cache(maxsize=2)
def column_tests(results: Results) -> dict[tuple[str, frozenset[Place]], Gap]:
    """Measure and pair -> the test of the best of a column, or of a panel of figures, against another that competes."""
    summary, alike, resampled = results.summary(), results.summary(alike=True), bootstrap(results, False)
    groups = [lines.to_dict("records") for lines in grouped(summary, results.facet_axes(None))]
    found = dict[tuple[str, frozenset[Place]], Gap]()
    for measure in results.measures:
        columns = [[place_of(own) for own in lines if score(own, measure, results).competes] for lines in groups]
        columns += [complete_places(panel, measure) for panel in results.facets(alike, None).values()]
        for competing in (own for own in columns if len(own) > 1):
            gaps = resampled.gaps(measure, competing)
            best = next(iter(gaps))
            for place, gap in gaps.items():
                found.setdefault((measure, frozenset((best, place))), gap)
    return found


def complete_places(lines: pd.DataFrame, measure: str) -> list[Place]:
    """The rows of some lines of `Results.summary` that have a measure in all of their seeds."""
    return [place_of(line) for _, line in lines[lines[f"{measure}_n"] == lines["seeds"]].iterrows()]


def comparison_tables(results: Results) -> Iterator[Table]:
    """The table of all `comparisons`, significant ones in bold; nothing where there are none."""
    if found := comparisons(results):
        skipped = dict.fromkeys(f"not compared†: {own.skipped}" for own in found if own.skipped)
        yield Table(
            "significance",
            "significance",
            _caption(results, found),
            columns(HEADS),
            tuple(_row(own) for own in found),
            (*skipped, *_notes(results, found)),
            frame(_values(own) for own in found),
        )


class _Videos:
    """Each video's correctness as a mean over seeds, and the names of videos, of the rows that are compared."""

    def __init__(self, results: Results, compared: set[Place]) -> None:
        self.results, table = results, results.table
        self.lines = table[[key in compared for key in zip(*(table[name] for name in PLACE), strict=True)]]
        self.datasets = self.lines.groupby([*PLACE, "protocol"])["dataset"].agg(frozenset).to_dict()
        parts = self.lines[self.lines["identity"] != ""].drop_duplicates(["row", "protocol", "dataset", "part"])
        self.parts = parts.groupby(["row", "protocol", "dataset"])["identity"].agg(dict.fromkeys).to_dict()
        self.listed = cache(self._listed)

    def comparable(self, a: Place, b: Place, protocol: str) -> bool:
        """True if both have a protocol, on the same data."""
        return (*a, protocol) in self.datasets and self.datasets[*a, protocol] == self.datasets.get((*b, protocol))

    def tested(self, own: Comparison, a: Place, b: Place, permutations: int) -> tuple[float, Counted]:
        """p over the videos of a protocol, or their groups, and their number."""
        (a_N, group_N), (b_N, _) = (self.correct[own.measure][place] for place in (a, b))
        if len(a_N) != len(b_N) or self._names(a, own.measure) != self._names(b, own.measure):
            raise ValueError(
                f"{own.a} and {own.b} were measured on different videos of {own.measure}, or in another order"
            )
        exact = own.seeds == (1, 1) and group_N is None and bool(np.isin([a_N, b_N], (0, 1)).all())
        p = mcnemar(a_N - b_N) if exact else sign_flip_test(a_N - b_N, permutations, group_N=group_N)
        return p, Counted(len(a_N) if group_N is None else int(group_N.max()) + 1, len(a_N))

    @cached_property
    def correct(self) -> dict[str, dict[Place, tuple[Floats, Groups | None]]]:
        """Protocol -> place -> the mean over seeds of each video's share of the accuracy, [N], and its group."""
        found: dict[str, dict[Place, tuple[Floats, Groups | None]]] = {}
        for protocol, lines in self.lines.groupby("protocol", sort=False):
            seeds: dict[Place, list[Answered]] = {}
            for (row, point, expert, _), answered in answers(self.results, lines).items():
                seeds.setdefault((row, point, expert), []).append(answered)
            for place, own in seeds.items():
                if len({len(share_N) for share_N, _ in own}) > 1:
                    raise ValueError(f"the seeds of row '{place[0]}' were measured on different videos of {protocol}")
            found[str(protocol)] = {
                place: (np.mean([share_N for share_N, _ in own], axis=0, dtype=float), own[0].group_N)
                for place, own in seeds.items()
            }
        return found

    def _names(self, place: Place, protocol: str) -> list[list[str]]:
        """The names of a row's videos in their order; all points of a row on one dataset have the same."""
        return [self.listed(place[0], protocol, dataset) for dataset in sorted(self.datasets[*place, protocol])]

    def _listed(self, row: str, protocol: str, dataset: str) -> list[str]:
        records = self.parts[row, protocol, dataset]
        return [video for identity in records for video in self.results.predictions(identity)["video"]]


def _untested(results: Results, pair: Pairing, measure: str, estimates: Bootstrap) -> Comparison:
    names = [results.name(side) for side in pair]
    deviations = zip(names, (side[f"{measure}_deviation"] for side in pair), strict=True)
    what = "{} has {}" if measure in results.roles else "{} has {} measured otherwise than the column says"
    skipped = "; ".join(what.format(name, deviation) for name, deviation in deviations if deviation)
    seeds_a, seeds_b = (int(estimates.columns[measure].seeds_G[estimates.places[place_of(side)]]) for side in pair)
    title, role = results.measures[measure].title, results.roles.get(measure, "")
    return Comparison(names[0], names[1], pair, measure, title, role, (seeds_a, seeds_b), skipped)


def _row(own: Comparison) -> TableRow:
    seeds = " / ".join(map(str, own.seeds)) + (" *" if own.alone else "")
    names = (own.a, own.b, own.protocol)
    if not own.videos:
        return cells(*names, "not compared†" if own.skipped else "missing", *["–"] * 4, seeds, "–")
    difference = signed(own.difference) + ("‡" if own.apart else "")
    videos = f"{own.videos} ({own.groups})" if own.groups < own.videos else str(own.videos)
    power = "–" if np.isnan(own.finds) else "; ".join(filter(None, [f"finds {_finds(own.finds)}", own.verdict]))
    numbers = (p_text(own.corrected), str(own.tests), videos, seeds, power)
    texts = (*names, difference, interval_text(own.low, own.high), *numbers)
    return tuple(
        TableCell(text, bold=head == "p" and own.corrected < LEVEL) for head, text in zip(HEADS, texts, strict=True)
    )


def _values(own: Comparison) -> dict[str, object]:
    names = ("a", "b", "protocol", "role", "difference", "low", "high", "p", "p_seeds", "corrected", "tests", "videos")
    values: dict[str, object] = {name: getattr(own, name) for name in names}
    about = {
        "groups": own.groups,
        "alone": own.alone,
        "finds": own.finds,
        "verdict": own.verdict,
        "skipped": own.skipped,
        "apart": own.apart,
    }
    return {**values, "seeds_a": own.seeds[0], "seeds_b": own.seeds[1], **about}


def _finds(points: float) -> str:
    return "over 100" if np.isinf(points) else f"{points:.1f}"


def interval_text(low: float, high: float) -> str:
    return f"{signed(low)} to {signed(high)}"


def signed(points: float) -> str:
    """E.g. "+1.2", "−0.3"."""
    return f"{round(points, 1) + 0.0:+.1f}".replace("-", "−")


def p_text(p: float) -> str:
    """E.g. "0.031", "< 0.0001", "–" for no test."""
    if np.isnan(p):
        return "–"
    return f"{p:.2g}" if p >= 0.1 else f"{p:.3f}" if p >= 0.001 else f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def _caption(results: Results, found: list[Comparison]) -> str:
    groups = "; in brackets, their groups" if any(own.groups < own.videos for own in found) else ""
    few = f", {FEW_PERMUTATIONS:,} permutations" if sum(bool(own.role) for own in found) > MANY_TESTS else ""
    return (
        f"{results.title}: differences in points, with 95 % intervals. p: Welch's t test whose variance is that of "
        "resampled videos plus that of the seeds, for harmonic means computed anew in each resample, after Holm's "
        "correction for as many tests as stand beside it: those of the best of the column against every other row, if "
        f"the best is a side, else all others of this table; bold below {LEVEL:g}. Intervals are not corrected: one "
        "that leaves out 0 can stand beside a p that is not bold. Where every video and seed has the same difference, "
        f"the interval is Tango's. Videos: of the smallest protocol behind it{groups}. Seeds: of each side. "
        "Power: the smallest true difference that the test finds 4 times in 5, by the variances that were measured; "
        "what there is not enough of, where the difference is smaller and p is not bold. "
        f"The CSV file also has p before correction (p_seeds), and over videos given the seeds (p{few})."
    )


def _notes(results: Results, found: list[Comparison]) -> Iterator[str]:
    if any(own.alone for own in found):
        yield "* A side is one run of several possible ones: interval and p hold for that run, not for other seeds."
    for text in dict.fromkeys(own.apart for own in found if own.apart):
        yield f"‡ The sides were not measured alike. {text}."
    if not results.settings.compare:
        yield f"The suite names no pairs (report.compare): shown are at most {MOST} against the reference or the best."

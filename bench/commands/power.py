"""What a suite can tell: the smallest true differences that its seeds and videos find, as a plan says them.

Variances come from the records of the suite's own rows, else of the same method on the same dataset, else they are
assumed (docs/statistics.md, "Power"). Legend: N groups of videos, S seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, islice, product
from math import inf, isinf, sqrt
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from bench.core.errors import UserError
from bench.core.words import counted
from bench.data.datasets import group_names
from bench.data.selection import Selection, select
from bench.graph.build import Cell, Graph, grouping
from bench.measure.power import Floats, Variances, measured, needed_seeds, smallest
from bench.store.records import Store
from bench.suite.measures import headlines, measures
from bench.suite.trial import Suite
from bench.suite.tuning import TUNED

# Priors, assumed where no record tells: about the medians of main-table in the embedded world. S.d. in points, over
# seeds, of the difference of two rows on a video, which stands for a group as well, and of what a seed does to a video.
SEEDS_SD, VIDEOS_SD, BOTH_SD = 1.0, 40.0, 15.0
ASKED = 1.0  # points for which a plan tells the number of seeds
MOST_PAIRS = 30  # of any two rows, where the suite names neither pairs nor a reference
MOST_RECORDS = 300  # that are read of the suite's own, and as many of others
Point = tuple[tuple[str, Any], ...]
Place = tuple[str, Point]


class Size(NamedTuple):
    """The videos of a protocol, and the groups that they come in; `unread` where lists are not there to tell groups."""

    videos: int
    groups: int
    unread: bool = False


@dataclass
class _Protocol:
    """The cells of the first part of a protocol, by row and point, and the lists of all of its parts."""

    dataset: str
    part: str
    lists: dict[str, Selection] = field(default_factory=dict)
    cells: dict[str, dict[Point, list[Cell]]] = field(default_factory=dict)


class _Pair(NamedTuple):
    """What is known of two rows under a protocol: the records that tell it, of whom, and the smallest difference."""

    names: str
    variances: Variances
    records: frozenset[str]
    source: str
    least: float
    seeds: int | None  # for ASKED points
    limit: float  # of so many seeds as one likes


OWN, ALIKE, PRIOR = "this suite", "the same methods and datasets", ""


def power_lines(suite: Suite, graph: Graph, store: Store) -> Iterator[str]:
    """The smallest differences under each protocol behind the measures that summarize the suite; what they rest on."""
    seeds, compared = len(suite.file.seeds), _compared(suite)
    records, found, alone = _Records(store, graph), dict[str, list[_Pair]](), list[str]()
    for name, protocol in _protocols(suite, graph).items():
        size = _size(graph, protocol.lists.values())
        own = [known for a, b in compared if (known := _pair(records, protocol, a, b, size))]
        if own:
            found[f"{name} ({_sized(size)}, {counted(seeds, 'seed')})"] = own
        if size.groups == 1 < size.videos:
            alone.append(f"{name}: its {size.videos:,} videos are one group, which tells nothing of others")
    yield from (f"power: {text}" for text in alone)
    if not found:
        return
    test = "Welch's test over videos and seeds (5 %, two-sided, before Holm's correction)"
    yield f"power: true differences, in points, that {test} finds 4 times in 5; docs/statistics.md"
    if seeds == 1:
        yield "  with one seed nothing can be said about methods, only about these runs"
    for protocol_text, own in found.items():
        yield f"  {protocol_text}: {_told(own, seeds == 1)}"
        if suite.file.report.compare and len(own) > 1 and seeds > 1:
            yield f"    {', '.join(f'{pair.names} {_number(pair.least)}' for pair in own)}"
    for text in _bases([pair for own in found.values() for pair in own]):
        yield f"  {text}"


def _compared(suite: Suite) -> list[tuple[str, str]]:
    """Pairs of rows as the report compares them; of any two rows where the suite names none, at most `MOST_PAIRS`."""
    report, rows = suite.file.report, [*suite.file.rows]
    if report.compare:
        return [*report.compare]
    if report.reference:
        return [(row, report.reference) for row in rows if row != report.reference]
    return [*islice(combinations(rows, 2), MOST_PAIRS)] or [(rows[0], rows[0])]


def _protocols(suite: Suite, graph: Graph) -> dict[str, _Protocol]:
    columns = {name: own for name, own in suite.columns.items() if name in suite.shown}
    every = measures(
        {name: own.role for name, own in columns.items()}, {name: own.dataset for name, own in columns.items()}
    )
    wanted = dict.fromkeys(protocol for measure in headlines(every) for protocol in every[measure].inputs)
    found: dict[str, _Protocol] = {}
    for cell in graph.cells:
        if cell.expert or cell.protocol not in wanted or cell.protocol in cell.trial.deviations:
            continue  # what is measured otherwise than its column, no report compares
        own = found.setdefault(cell.protocol, _Protocol(cell.dataset, cell.part))
        own.lists.setdefault(cell.part, Selection(*cell.stage.context["selection"]))
        if cell.part == own.part:
            own.cells.setdefault(cell.trial.row, {}).setdefault(cell.trial.point, []).append(cell)
    return {name: found[name] for name in wanted if name in found}


def _size(graph: Graph, lists: Iterable[Selection]) -> Size:
    """Of the union of lists; of a list that is not there, as many videos as known copies have, each on its own."""
    videos, known, unread = dict[str, str](), 0, False
    for own in lists:
        data = graph.datasets[own.dataset]
        try:
            names = [entry.name for entry in select(data, own)]
            videos |= zip(names, group_names(data.grouping(), names), strict=True)
        except UserError:
            known, unread = max(known, data.count(own.split)), unread or bool(data.groups)
    return Size(len(videos) or known, len(set(videos.values())) or known, unread)


def _points(first: dict[Point, list[Cell]], second: dict[Point, list[Cell]]) -> tuple[Point, Point] | None:
    """The first points of two rows that agree on their common axes; of one row, its first two."""
    if first is second:
        return (next(iter(first)), next(islice(first, 1, None))) if len(first) > 1 else None
    alike = (
        (a, b)
        for a, b in product(first, second)
        if all(axis == TUNED or dict(b).get(axis, value) == value for axis, value in a)
    )
    return next(alike, None)


def _pair(records: _Records, protocol: _Protocol, a: str, b: str, size: Size) -> _Pair | None:
    """What is known of two rows; None where one lacks the protocol, or nobody knows how many videos it has."""
    rows = protocol.cells.get(a), protocol.cells.get(b)
    if not (rows[0] and rows[1] and size.groups > 1 and (points := _points(rows[0], rows[1]))):
        return None
    sides = [row[point] for row, point in zip(rows, points, strict=True) if row]
    variances, used, source = records.variances(protocol.dataset, sides, size)
    seeds = (len(sides[0]), len(sides[1]))
    needed = needed_seeds(ASKED, variances, size.groups)
    return _Pair(
        f"{a} and {b}" if a != b else f"two points of {a}",
        variances,
        used,
        source,
        smallest(variances, size.groups, seeds),
        needed,
        smallest(variances, size.groups, (inf, inf)),
    )


class _Records:
    """What finished evaluations tell of variances."""

    def __init__(self, store: Store, graph: Graph) -> None:
        self.store, self.grouping = store, grouping(graph)
        self.known, self.read = store.known("evaluate"), dict[str, Floats | None]()

    def variances(self, dataset: str, sides: Sequence[list[Cell]], size: Size) -> tuple[Variances, frozenset[str], str]:
        """Variances of two rows, the records that tell them, and of what these are."""
        found = [[cell.stage.identity for cell in side if cell.stage.identity in self.known] for side in sides]
        # A row that several seeds are planned of, or that has a training, is not known from one of them.
        whole = all(len(own) >= (2 if _varies(side) else 1) for own, side in zip(found, sides, strict=True))
        if whole and (own := self._own(dataset, found)):
            return own, frozenset(identity for side in found for identity in side), OWN
        used, seeds, both = set[str](), list[float](), list[float]()
        for side in sides:
            spread, others = self.alike.get((side[0].trial.method, dataset), (0.0, set[str]()))
            used |= others if _varies(side) else set()
            both.append(BOTH_SD**2 if _varies(side) else 0.0)
            told = max(0.0, spread - BOTH_SD**2 / size.groups) if others else SEEDS_SD**2
            seeds.append(told if _varies(side) else 0.0)
        assumed = Variances(VIDEOS_SD**2, (seeds[0], seeds[1]), (both[0], both[1]))
        return assumed, frozenset(used), ALIKE if used else PRIOR

    def _own(self, dataset: str, sides: Sequence[list[str]]) -> Variances | None:
        rows = [[self._groups(dataset, identity) for identity in side] for side in sides]
        known = [[own for own in row if own is not None] for row in rows]
        alike = len({len(own) for row in known for own in row}) == 1
        if not alike or list(map(len, known)) != list(map(len, sides)):
            return None
        return measured(np.array(known[0]), np.array(known[1]))

    def _groups(self, dataset: str, identity: str) -> Floats | None:
        """What each group adds to an accuracy in points, [N]; None if it cannot be read, or too many were."""
        from bench.store.answers import PREDICTIONS

        if identity not in self.read:
            within = len(self.read) < MOST_RECORDS and self.store.find("evaluate", identity, [PREDICTIONS])
            file = self.store.folder("evaluate", identity) / PREDICTIONS
            self.read[identity] = self._added(dataset, file) if within else None
        return self.read[identity]

    def _added(self, dataset: str, file: Path) -> Floats:
        from pyarrow.parquet import read_table

        table = read_table(file, columns=["video", "correct"])
        correct_N = np.array([np.nan if own is None else own for own in table["correct"].to_pylist()], dtype=float)
        names = group_names(self.grouping.get(dataset, ""), table["video"].to_pylist())
        _, group_N = np.unique(np.array(names)[measured_N := ~np.isnan(correct_N)], return_inverse=True)
        added_N = np.bincount(group_N, correct_N[measured_N] - correct_N[measured_N].mean())
        # The mean over groups is the accuracy; a group of many videos counts for more (a ratio's linear part).
        return np.asarray(100 * (correct_N[measured_N].mean() + added_N * len(added_N) / measured_N.sum()), dtype=float)

    @cached_property
    def alike(self) -> dict[tuple[str, str], tuple[float, set[str]]]:
        """Method and dataset -> variance over seeds in points squared, pooled over all else, and the records."""
        runs: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
        for identity in sorted(self.known)[:MOST_RECORDS]:
            record = self.store.find("evaluate", identity)
            if not record or "train" not in record["inputs"] or record["result"]["top1"] is None:
                continue
            training = self.store.find(*record["inputs"]["train"])
            if not training or "seed" not in training["spec"]:
                continue
            same = {name: own for name, own in training["spec"].items() if name not in ("seed", "content")}
            key = json.dumps([same, record["spec"], record["context"].get("selection")], sort_keys=True)
            of = runs.setdefault((record["spec"]["method"], record["context"].get("dataset", "")), {})
            of.setdefault(key, {})[identity] = float(record["result"]["top1"])
        return {key: pooled for key, own in runs.items() if (pooled := _pooled(own.values()))[1]}


def _varies(side: list[Cell]) -> bool:
    """True if another seed could give another result."""
    trial = side[0].trial
    return trial.config.trains and not trial.recipe.imported


def _pooled(runs: Iterable[dict[str, float]]) -> tuple[float, set[str]]:
    several = [own for own in runs if len(own) > 1]
    squares = sum(float(np.var([*own.values()])) * len(own) for own in several)
    return squares / max(sum(len(own) - 1 for own in several), 1), {name for own in several for name in own}


# --- words ------------------------------------------------------------------------------------------------------------


def _sized(size: Size) -> str:
    groups = f" in {size.groups:,} groups" if size.groups < size.videos else ""
    unread = ", taken as independent: the lists that tell their groups are not here" if size.unread else ""
    return f"{size.videos:,} videos{groups}{unread}"


def _told(pairs: list[_Pair], one_seed: bool) -> str:
    """E.g. "1.2–3.4 points over 3 pairs, most for mote and clip; 1 point takes 8–40 seeds"."""
    worst = max(pairs, key=lambda own: own.least)
    several = f" over {len(pairs)} pairs, most for {worst.names}" if len(pairs) > 1 else f" for {worst.names}"
    found = "" if one_seed else f"{_span(own.least for own in pairs)} points{several}; "
    helped, limited = ([own for own in pairs if (own.seeds is None) == none] for none in (False, True))
    takes = [f"{ASKED:g} point takes {_span((own.seeds or inf for own in helped), 0)} seeds"] if helped else []
    if limited:
        whose = f" for {counted(len(limited), 'pair')}" if helped else ""
        allow = _span(own.limit for own in limited)
        takes.append(f"no number of seeds finds {ASKED:g} point{whose}: the videos alone allow {allow} points")
    return found + ", ".join(takes)


def _bases(pairs: list[_Pair]) -> Iterator[str]:
    """What the variances are, and where they come from."""
    for source in (OWN, ALIKE, PRIOR):
        own = [pair for pair in pairs if pair.source == source]
        if not own:
            continue
        records = counted(len({record for pair in own for record in pair.records}), "record")
        sides = [side for pair in own for side in zip(pair.variances.seeds, pair.variances.both, strict=True)]
        varying = [side for side in sides if any(side)] or [(0.0, 0.0)]
        seeds, both = (_deviations(column) for column in zip(*varying, strict=True))
        videos = _deviations(pair.variances.videos for pair in own)
        known = {OWN: f"from {records} of {source}", ALIKE: f"the first from {records} of {source}, else priors"}
        yield (
            f"{known.get(source, 'priors')}: s.d. over seeds {seeds}; of a difference on a video or group {videos}; "
            f"of what a seed does to one {both}"
        )


def _deviations(variances: Iterable[float]) -> str:
    """E.g. "0.3–2.1, median 0.9"."""
    own = [sqrt(variance) for variance in variances]
    return _span(own) + (f", median {_number(median(own))}" if len({round(each, 1) for each in own}) > 2 else "")


def _span(numbers: Iterable[float], digits: int = 1) -> str:
    own = sorted(numbers)
    return "–".join(dict.fromkeys(_number(each, digits) for each in (own[0], own[-1])))


def _number(points: float, digits: int = 1) -> str:
    return "over 100" if isinf(points) else f"{points:.{digits}f}".removesuffix(".0")

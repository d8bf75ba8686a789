"""Resampled videos for every number of the tables: intervals and tests for accuracies, harmonic means, trade-offs.

Videos of one group, such as clips of one film, are resampled together (docs/statistics.md).
Legend: N videos, T trials, G rows (row × point × expert), B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.core import words
from bench.core.seeds import seed_for
from bench.measure.statistics import (
    DRAWS,
    FLAT,
    Estimates,
    Floats,
    Groups,
    Singles,
    bootstrap_means,
    changes_by_draws,
    difference_tests,
    estimate,
    holm,
    nested_intervals,
)
from reports.results import PLACE, TRIAL, Place, Results, is_draw
from reports.selection import Tuning

FEW_DRAWS, MANY = 500, 4000  # resamples for more than so many numbers of trials
TrialKey = tuple[str, str, str, int]  # a place and a seed


class Answered(NamedTuple):
    """Each video's contribution to a trial's accuracy, and its group; no groups where each video is one of its own."""

    share_N: Singles
    group_N: Groups | None


class Counted(NamedTuple):
    """The groups, videos and draws of classes of a protocol; the fewest groups come first."""

    groups: int
    videos: int
    classes: int = 1

    @property
    def text(self) -> str:
        """E.g. "3783 videos in 707 groups", "13320 videos, 10 draws of classes"."""
        groups = f" in {words.counted(self.groups, 'group')}" if self.groups < self.videos else ""
        return f"{self.videos} videos{groups}" + (f", {self.classes} draws of classes" if self.classes > 1 else "")


class Interval(NamedTuple):
    """A 95 % interval in percent, and what varies in it: "512 videos and 3 seeds"."""

    low: float
    high: float
    over: str

    @property
    def text(self) -> str:
        return f"95 % interval {self.low:.1f}–{self.high:.1f} over {self.over}"


class Gap(NamedTuple):
    """A row's distance from the best in points, its 95 % interval, and p corrected (Holm) for so many `tests`."""

    points: float
    low: float
    high: float
    p: float
    tests: int


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """The estimates of every measure, of the rows at `places`; accuracies in percent.

    `fixed` are rows that a suite of several seeds runs once, because they involve no chance.
    """

    draws: int
    places: dict[Place, int]
    fixed: frozenset[Place]
    columns: dict[str, Estimates]
    counts: dict[str, Counted]
    intervals: dict[str, tuple[Floats, Floats]]

    def interval(self, place: Place, measure: str) -> Interval | None:
        """The interval of a number over videos and seeds; None where there is no number."""
        own, row = self.columns[measure], self.places[place]
        if not own.seeds_G[row]:
            return None
        low, high = (float(bounds[row]) for bounds in self.intervals[measure])
        seeds = f" and {own.seeds_G[row]} seeds" if own.seeds_G[row] > 1 else ", this seed only"
        varying = ", nothing else varies" if place in self.fixed else seeds
        return Interval(low, high, f"{self.counted(measure).text}{varying}")

    def counted(self, measure: str) -> Counted:
        """The videos of a protocol, or of the smallest behind a harmonic mean, and their groups."""
        return self.counts[measure]

    def gaps(self, measure: str, competing: Sequence[Place]) -> dict[Place, Gap]:
        """The distances of the `competing` rows from the best of them, which comes first with no gap."""
        own = self.columns[measure]
        rows = np.array([self.places[place] for place in competing])
        best = int(own.mean_G[rows].argmax())
        others = [place for number, place in enumerate(competing) if number != best]
        tests = difference_tests(own, np.full(len(others), rows[best]), np.delete(rows, best))
        columns = (column.tolist() for column in (tests.difference, tests.low, tests.high, holm(tests.p)))
        gaps = map(Gap, *columns, [len(others)] * len(others))
        return {competing[best]: Gap(0.0, 0.0, 0.0, 1.0, len(others)), **dict(zip(others, gaps, strict=True))}

    def alone(self, place: Place, measure: str) -> bool:
        """True if a row has a single run although another seed could give another result."""
        return bool(self.columns[measure].seeds_G[self.places[place]] == 1) and place not in self.fixed


@lru_cache(maxsize=4)  # rows and expert choices of two reports
def bootstrap(results: Results, experts: bool) -> Bootstrap:
    """Resample the videos behind all rows, or behind all expert choices.

    Videos of different protocols are resampled independently. Every trial's harmonic means are computed anew in each
    resample, from its own accuracies there, so that effects of one training on several protocols stay together.
    """
    trials = results.scores(experts=experts)
    draws = FEW_DRAWS if len(trials) * len(results.measures) > MANY else DRAWS
    keys = list(trials[PLACE].itertuples(index=False, name=None))
    places = {place: row for row, place in enumerate(dict.fromkeys(keys))}
    row_T = np.array([places[key] for key in keys], dtype=int)
    resampled = _resampled(results, trials, draws, experts)
    columns, intervals = dict[str, Estimates](), dict[str, tuple[Floats, Floats]]()
    for measure, needed in results.measures.items():
        draws_TB, (groups, videos, _) = resampled[measure]
        own = columns[measure] = estimate(trials[measure].to_numpy(float), draws_TB, row_T, len(places), videos, groups)
        found = nested_intervals(own, seed_for("bootstrap seeds", measure))
        if needed.needs:  # where nothing varies, that of the sides' intervals
            flat_G = (np.ptp(own.draws_GB, axis=1) < FLAT) & (own.excess_G == 0)
            sides = [_harmonic_means([intervals[need][bound] for need in needed.needs]) for bound in (0, 1)]
            found = np.where(flat_G, sides[0], found[0]), np.where(flat_G, sides[1], found[1])
        intervals[measure] = found
    planned = np.bincount(row_T, minlength=len(places))
    fixed = frozenset(place for place, row in places.items() if planned[row] == 1 < planned.max())
    counts = {measure: counted for measure, (_, counted) in resampled.items()}
    return Bootstrap(draws, places, fixed, columns, counts, intervals)


def answers(results: Results, lines: pd.DataFrame) -> dict[TrialKey, Answered]:
    """Each video's contribution to a trial's accuracy, by `TRIAL`, scaled so that the mean is the accuracy.

    `lines` are those of one protocol; trials that lack a part are left out. A video of several splits is one unit: its
    answers are not independent. Videos that no draw of classes has are left out. Evaluations of a list have its order,
    so the names of videos are only read to join splits and for their groups, once for all trials.
    """
    parts: dict[TrialKey, dict[str, tuple[str, str]]] = {}  # -> identity of each part, equal for draws of classes
    columns = (lines[name] for name in (*TRIAL, "dataset", "part", "identity"))
    for row, point, expert, seed, dataset, part, identity in zip(*columns, strict=True):
        parts.setdefault((row, point, expert, seed), {})[identity] = dataset, part
    lists: dict[tuple[tuple[str, str, int], ...], _List] = {}
    found = {}
    for key, own in parts.items():
        if "" in own:
            continue
        correct = [results.correct(identity) for identity in own]
        kinds = tuple((*part, len(part_N)) for part, part_N in zip(own.values(), correct, strict=True))
        if kinds not in lists:
            lists[kinds] = _listed(results, own)
        places, count, group_N = lists[kinds]
        if len(own) == 1:
            measured_N = ~np.isnan(correct[0])
            found[key] = Answered(correct[0][measured_N], _numbered(group_N, measured_N))
            continue
        share_N = np.zeros(count, np.float32)
        for split, split_N in zip(places, correct, strict=True):
            share_N[split] += split_N / len(split)
        share_N *= count / len(own)
        found[key] = Answered(share_N, _numbered(group_N))
    return found


class _List(NamedTuple):
    """The videos of the parts of a trial: the places of each part's in their union, their number, their groups."""

    places: list[NDArray[np.intp]]
    videos: int
    group_N: NDArray[np.object_] | None  # names


def _listed(results: Results, parts: dict[str, tuple[str, str]]) -> _List:
    """Nothing is read of a single part whose groups are not declared."""
    declared = any(results.groups.get(dataset) for dataset, _ in parts.values())
    if len(parts) == 1 and not declared:
        return _List([], 0, None)
    names = [results.predictions(identity)["video"] for identity in parts]
    codes, videos = pd.factorize(pd.concat(names))
    places = np.split(codes, np.cumsum([len(own) for own in names])[:-1])
    if not declared:
        return _List(places, len(videos), None)
    group_N = np.empty(len(videos), object)
    for split, (dataset, _), own in zip(places, parts.values(), names, strict=True):
        group_N[split] = results.group_names(dataset, own)
    return _List(places, len(videos), group_N)


def _numbered(
    group_N: NDArray[np.object_] | None, measured_N: NDArray[np.bool_] | slice = slice(None)
) -> Groups | None:
    """Numbers of the groups of the measured videos; None where each of these is a group of its own."""
    if group_N is None:
        return None
    codes, groups = pd.factorize(group_N[measured_N])
    return codes if len(groups) < len(codes) else None


def _resampled(results: Results, trials: pd.DataFrame, draws: int, experts: bool) -> dict[str, tuple[Singles, Counted]]:
    """Every measure of every trial on resampled videos, [T,B] in percent, and the number of videos behind it."""
    lines = results.lines(experts)
    trial = {key: place for place, key in enumerate(trials[TRIAL].itertuples(index=False, name=None))}
    tuned = results.tuning and _Tuned(results.tuning, draws, experts)
    found: dict[str, tuple[Singles, Counted]] = {}
    for name, measure in results.measures.items():
        if measure.needs:
            sides = [found[need] for need in measure.needs]
            found[name] = _harmonic_means([draws_TB for draws_TB, _ in sides]), min(counted for _, counted in sides)
        elif tuned:
            found[name] = tuned.resampled(name, trials)
        else:
            found[name] = _changes(results, lines[lines["protocol"] == name], name, trial, draws)
            found[name][0][:] += trials[name].to_numpy(np.float32)[:, None]
    return found


class _Tuned:
    """Resampled numbers of chosen points, from those of all points."""

    def __init__(self, tuning: Tuning, draws: int, experts: bool) -> None:
        self.tuning, self.scores = tuning, tuning.full.scores(experts=experts)
        judges = _resampled(tuning.full, tuning.full.scores(), draws, False)
        self.found = _resampled(tuning.full, self.scores, draws, True) if experts else judges
        self.judges = {name: own_TB for name, (own_TB, _) in judges.items()}

    def resampled(self, protocol: str, trials: pd.DataFrame) -> tuple[Singles, Counted]:
        full_TB, counted = self.found[protocol]
        return self.tuning.draws(protocol, trials, self.judges, full_TB, self.scores), counted


def _changes(
    results: Results, lines: pd.DataFrame, protocol: str, trial: dict[TrialKey, int], draws: int
) -> tuple[Singles, Counted]:
    """Changes of one protocol's accuracies in each resample, which rows on the same data and videos share."""
    dataset, drawn = lines.set_index(TRIAL)["dataset"].to_dict(), _draws_of_classes(lines)
    lists: dict[tuple[str, int, int], dict[TrialKey, Answered]] = {}
    for key, answered in answers(results, lines).items():
        videos = len(answered.share_N)
        shared = key in drawn and drawn[key]["videos"].sum() > videos  # parts without a video in common are lists
        lists.setdefault((dataset[key], videos, len(drawn[key]) if shared else 1), {})[key] = answered
    draws_TB, counted = np.full((len(trial), draws), np.nan, np.float32), list[Counted]()
    for (data, videos, classes), own in lists.items():
        correct_tN = np.stack([answered.share_N for answered in own.values()])
        group_N = next(iter(own.values())).group_N
        means_tB = bootstrap_means(correct_tN, draws, seed_for("bootstrap", protocol, data, videos), group_N)
        changes_tB = 100 * (means_tB - correct_tN.mean(axis=1, keepdims=True, dtype=np.float64))
        if classes > 1:
            numbers_tD = np.stack([drawn[key]["top1"].to_numpy(float) for key in own])
            changes_tB += changes_by_draws(numbers_tD, draws, seed_for("bootstrap classes", protocol, data))
        draws_TB[[trial[key] for key in own]] = changes_tB
        counted.append(Counted(videos if group_N is None else int(group_N.max()) + 1, videos, classes))
    return draws_TB, min(counted, default=Counted(0, 0))


def _draws_of_classes(lines: pd.DataFrame) -> dict[TrialKey, pd.DataFrame]:
    """The lines of trials whose number is a mean over draws of classes; test lists of the same classes are none."""
    found: dict[TrialKey, pd.DataFrame] = {}
    for _, own in lines[lines.duplicated(TRIAL, keep=False)].groupby(TRIAL, sort=False):
        if is_draw(own["part"]).all() or own["dataset"].nunique() > 1:
            row, point, expert, seed = own[TRIAL].iloc[0]
            found[row, point, expert, seed] = own
    return found


def _harmonic_means(sides: Sequence[NDArray[np.floating]]) -> Singles:
    """`bench.measure.metrics.harmonic_mean` of arrays; a side without any right answer makes it 0."""
    with np.errstate(divide="ignore"):
        inverse = sum(1 / np.clip(side, 0, None) for side in sides)
    return np.asarray(len(sides) / inverse, np.float32)

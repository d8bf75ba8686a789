"""The choice among the points of tuned axes, from the results of all points (docs/tuning.md).

Legend: T trials, P points, S seeds, B resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.core.words import counted
from bench.measure.selection import chosen, resampled
from bench.measure.statistics import Floats, Singles
from bench.suite.measures import VALIDATION
from bench.suite.tuning import TUNED, Rule
from reports.facts import Known
from reports.results import Results, is_set

MEANT = {
    "source-validation": "the best under {}",
    "leave-one-target-out": "for a target the best on the other targets, else the best on all targets",
    "oracle": "the best on the column itself, which nobody can know beforehand",
}
REST = "_rest"  # column: a point without its value on the tuned axis
NUMBERS = ["top1", "top5", "mean_class", "videos", "undecodable"]


class Tried(NamedTuple):
    """The points of a row that are one but for the tuned axis, with their settings there, and their seeds."""

    row: str
    rest: str
    points: tuple[str, ...]
    settings: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Tuning:
    """How the numbers of a suite with tuned axes were chosen. `full`: the results of all points, and validation."""

    full: Results
    name: str  # of the rule
    rule: Rule

    @cached_property
    def sentence(self) -> str:
        """How the points were chosen."""
        counts = sorted({len(own.points) for own in self.tried} - {1}, reverse=True)
        settings = " or ".join(counted(count, "setting") for count in counts)
        how = MEANT.get(self.name, "as the rule says").format(self.validation)
        return f"Of {settings} of each tuned row, {self.name} chose: {how}. {self.caution}".strip()

    @cached_property
    def caution(self) -> str:
        """What numbers that were chosen by themselves have to be told with; empty for others."""
        return "Settings were chosen by the very numbers that are shown, which flatters." if self.rule.flatters else ""

    @cached_property
    def validation(self) -> str:
        """The protocol that chooses; empty if there is none."""
        return next(iter(self.full.of_role(VALIDATION)), "")

    @cached_property
    def columns(self) -> dict[str, str]:
        """The role of every protocol that is measured by the chosen points."""
        return {name: role for name, role in self.full.roles.items() if role != VALIDATION}

    @cached_property
    def tried(self) -> list[Tried]:
        """What each row tries; a single point where it tunes nothing."""
        lines = self.full.lines(experts=False)
        found = []
        for (row, rest), own in lines.groupby(["row", REST], sort=False):
            points = own.drop_duplicates("point")
            settings = tuple(str(value) if is_set(value) else "" for value in points[TUNED])
            found.append(Tried(str(row), str(rest), tuple(points["point"]), settings, tuple(own["seed"].unique())))
        return found

    def judged(self, column: str, numbers: Mapping[str, NDArray[np.floating]]) -> NDArray[np.floating]:
        """What is chosen by for a column: the mean over its judges of their numbers."""
        judges = self.rule.judges(column, self.validation, self.columns)
        judged: NDArray[np.floating] = np.mean([numbers[name] for name in judges], axis=0)
        return judged

    @cached_property
    def numbers_T(self) -> dict[str, Floats]:
        """The accuracies of each protocol, of the trials in `full.scores()`."""
        scores = self.full.scores()
        return {name: scores[name].to_numpy(float) for name in self.full.roles}

    @cached_property
    def places(self) -> dict[str, dict[tuple[str, str, int], int]]:
        return _places(self.full.scores())

    def judged_PS(self, column: str, own: Tried) -> Floats | None:
        """What the points of a row are chosen by; None where a result of a point is missing."""
        trials = _indices(own, self.places[""])
        judged = np.asarray(self.judged(column, self.numbers_T)[trials], float)
        missing = len(own.points) > 1 and np.isnan([judged, self.numbers_T[column][trials]]).any()
        return None if missing else judged

    def choices(self, column: str, own: Tried) -> NDArray[np.intp] | None:
        """The point at which each seed of a row is measured, [S]; None where a result of a point is missing."""
        judged_PS = self.judged_PS(column, own)
        return None if judged_PS is None else chosen(judged_PS, across=not self.rule.flatters)

    def best(self, column: str, own: Tried) -> int | None:
        """The point that all seeds together choose; None where a result of a point is missing."""
        judged_PS = self.judged_PS(column, own)
        return None if judged_PS is None else int(chosen(judged_PS, across=False)[0])

    def draws(
        self, column: str, trials: pd.DataFrame, judges: Mapping[str, Singles], full_TB: Singles, full: pd.DataFrame
    ) -> Singles:
        """A column's numbers [T,B] of the chosen points, which are chosen anew in each resample.

        `judges` are resampled numbers of `full.scores()`; `full_TB` and `full` those of the column and their trials,
        which may be expert choices: these are measured at the points of their row.
        """
        judged_TB, measured_T = self.judged(column, judges), full[column].to_numpy(float)
        places = {(*key, expert): place for expert, own in _places(trials).items() for key, place in own.items()}
        found = np.full((len(trials), full_TB.shape[1]), np.nan, np.float32)
        for own in self.tried:
            if (picked_S := self.choices(column, own)) is None:
                continue
            again_SB = chosen(judged_TB[_indices(own, self.places[""])], across=not self.rule.flatters)
            for expert, known in _places(full).items():
                if (own.row, own.points[0], own.seeds[0]) in known:
                    of = _indices(own, known)
                    numbers = [places[own.row, own.rest, seed, expert] for seed in own.seeds]
                    found[numbers] = resampled(measured_T[of], full_TB[of], picked_S, again_SB)
        return found


def _indices(own: Tried, places: Mapping[tuple[str, str, int], int]) -> NDArray[np.intp]:
    """Places [P,S] of a row's trials."""
    return np.array([[places[own.row, point, seed] for seed in own.seeds] for point in own.points])


def _places(scores: pd.DataFrame) -> dict[str, dict[tuple[str, str, int], int]]:
    """Expert -> row, point and seed -> place."""
    found: dict[str, dict[tuple[str, str, int], int]] = {}
    keys = zip(*(scores[name] for name in ("row", "point", "expert", "seed")), strict=True)
    for place, (row, point, expert, seed) in enumerate(keys):
        found.setdefault(expert, {})[row, point, seed] = place
    return found


def selected(full: Results, name: str, rule: Rule) -> Results:
    """The results at the chosen points, without the tuned axis and the protocol that chooses.

    Each seed is measured at the point that the other seeds choose. A row of which a result to choose by is missing is
    missing as a whole.
    """
    tuning = Tuning(full, name, rule)
    table = full.table[full.table["protocol"].isin(tuning.columns)]
    wanted: dict[tuple[str, str, int, str], bool] = {}  # row, point, seed, protocol -> whether it is known
    for own in tuning.tried:
        for column in tuning.columns:
            chosen_S = tuning.choices(column, own)
            for number, seed in enumerate(own.seeds):
                point = own.points[0 if chosen_S is None else chosen_S[number]]
                wanted[own.row, point, seed, column] = chosen_S is not None
    keys = [*zip(*(table[name] for name in ("row", "point", "seed", "protocol")), strict=True)]
    known = np.array([wanted.get(key, False) for key in keys], bool)
    table = table.assign(point=table[REST], setting=table[TUNED]).drop(columns=[TUNED, REST])
    table.loc[~known, NUMBERS], table.loc[~known, "identity"] = np.nan, ""
    table = table[[key in wanted for key in keys]]
    order = [own.row for own in tuning.tried]
    table = table.assign(_order=table["row"].map(order.index)).sort_values(["_order", "seed"], kind="stable")
    first, at = next(iter(tuning.columns)), dict[tuple[str, str], str]()
    for own in tuning.tried:
        at[own.row, own.points[tuning.best(first, own) or 0]] = own.rest
    return replace(
        full,
        provenance={**full.provenance, "settings": tuning.sentence},
        table=table.drop(columns="_order").reset_index(drop=True),
        axes={axis: title for axis, title in full.axes.items() if axis != TUNED},
        protocols={protocol: own for protocol, own in full.protocols.items() if protocol in tuning.columns},
        published=tuple(
            replace(own, point=at.get((own.row, own.point), own.point))
            for own in full.published
            if not own.row or (own.row, own.point) in at
        ),
        probes=_at(full.probes, at),
        maps=_at(full.maps, at),
        distances=_at(full.distances, at),
        routing=_at(full.routing, at),
        costs=_at(full.costs, at),
        shares=_at(full.shares, at),
        tuning=tuning,
    )


def _at(facts: Iterable[Known], chosen: Mapping[tuple[str, str], str]) -> tuple[Known, ...]:
    """The facts of the points that all seeds together choose for the first column."""
    return tuple(
        replace(own, subject=replace(own.subject, point=chosen[own.setting])) for own in facts if own.setting in chosen
    )

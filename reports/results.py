"""What a report reads: the tidy table of a suite, its predictions and probes. Nothing here knows the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.measure.metrics import harmonic_mean
from bench.measure.statistics import spread
from bench.published.pairing import Pair
from bench.suite.measures import ROLES, Measure, measures, of_role, trade_offs
from reports.costs import Cost, Training
from reports.failures import Failure
from reports.maps import Maps
from reports.routing import Routing
from reports.shares import Shares
from reports.weights import Distances

TRIAL = ["row", "point", "expert", "seed"]
COLUMNS = {
    *("row", "label", "method", "point", "seed", "expert", "role", "protocol", "dataset", "part", "deviation"),
    *("top1", "top5", "mean_class", "videos", "undecodable", "identity"),
}
NOT_PLANNED = {"parts": 0, "parts_std": float("nan"), "parts_missing": 0, "deviation": ""}


@dataclass(frozen=True)
class ReportSettings:
    """`join`: axis that the trade-off plot joins; `reference`: row id; `compare`: row pairs for paired tests."""

    join: str | None = None
    reference: str | None = None
    compare: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Probe:
    """Cosine similarity [E+1,E+1] between the features of E experts and their merge, averaged over `videos`."""

    row: str
    label: str
    point: str
    seed: int
    protocol: str
    feature: str
    names: tuple[str, ...]
    similarity: NDArray[np.float64]
    videos: int
    identity: str


@dataclass(frozen=True, eq=False)  # a table has no truth value; what is made of one is kept by identity
class Results:
    """The results of one suite.

    `table` has one line per trial × protocol × part (× expert choice) with the columns `COLUMNS` and one per axis;
    accuracies are percent, nan where no record exists yet. `expert` is empty for the row itself. `part` names what a
    protocol takes the mean of ("test2", "draw 7"), empty if it has one part. `deviation` says how a cell is measured
    otherwise than its column, empty where it is not: such a cell is shown, but compared and combined with nothing.
    `axes` maps an axis to its display name; each value of one of the `protocol_axes` has its own protocols.
    `predictions(identity)` gives `video`, `label`, `prediction`, `correct` of one evaluation; draws of classes share
    one, in which `correct` is a video's mean over its draws, nan without any. `protocols` maps a protocol to its
    `hash`, the named protocol that it starts from (`use`), its `changes` to that one, its `fields` and `notes`.
    `published` are numbers of papers beside the measures that they belong to.
    Raises ValueError on missing columns or a trial that has two results for one part.
    """

    suite: str
    title: str
    description: str
    table: pd.DataFrame
    predictions: Callable[[str], pd.DataFrame]
    probes: tuple[Probe, ...]
    settings: ReportSettings
    provenance: dict[str, object]
    axes: dict[str, str]
    protocol_axes: tuple[str, ...]
    protocols: dict[str, dict[str, Any]]
    published: tuple[Pair, ...] = ()
    maps: tuple[Maps, ...] = ()
    distances: tuple[Distances, ...] = ()
    routing: tuple[Routing, ...] = ()
    costs: tuple[Cost, ...] = ()
    trainings: tuple[Training, ...] = ()
    shares: tuple[Shares, ...] = ()
    failures: tuple[Failure, ...] = ()
    class_names: Callable[[str], Sequence[str]] = lambda identity: ()  # candidates of an evaluation, by its identity
    answers: Callable[[str], NDArray[np.float32]] | None = None  # a quicker way to `correct` than all of `predictions`

    def __post_init__(self) -> None:
        if absent := sorted((COLUMNS | set(self.axes)) - set(self.table.columns)):
            raise ValueError(f"results of suite '{self.suite}' lack the columns {', '.join(absent)}")
        if (twice := self.table.duplicated([*TRIAL, "protocol", "part"])).any():
            cell = self.table.loc[twice, [*TRIAL, "protocol", "part"]].iloc[0].to_dict()
            raise ValueError(f"results of suite '{self.suite}' have two lines for {cell}")

    @cached_property
    def roles(self) -> dict[str, str]:
        """The role of every protocol, in the order of the roles, then of the suite."""
        role: dict[str, str] = dict(
            self.table[["protocol", "role"]].drop_duplicates("protocol").itertuples(index=False)
        )
        return {name: role[name] for name in sorted(role, key=lambda name: ROLES.index(role[name]))}

    def of_role(self, role: str) -> tuple[str, ...]:
        """Short names of the protocols of one of the `ROLES`, in the suite's order."""
        return of_role(self.roles, role)

    @cached_property
    def datasets(self) -> dict[str, str]:
        """The dataset of every protocol, at the first point of an axis that changes it."""
        return dict(self.table[["protocol", "dataset"]].drop_duplicates("protocol").itertuples(index=False))

    @cached_property
    def measures(self) -> dict[str, Measure]:
        """Every column of `scores` that holds a percentage, in the order of the table."""
        return measures(self.roles, self.datasets)

    @cached_property
    def trade_offs(self) -> dict[str, Measure]:
        """The measures that weigh two sides."""
        return trade_offs(self.roles, self.datasets)

    @cached_property
    def headlines(self) -> list[str]:
        """The measures that sum the suite up: harmonic means that no other one needs, else top-1 as measured."""
        needed = {need for measure in self.measures.values() for need in measure.needs}
        return [key for key, own in self.measures.items() if own.needs and key not in needed] or list(self.measures)

    def words(self, measure: str) -> str:
        """A measure in running text, e.g. "closed-set top-1, K400" or "trade-off"."""
        if measure in self.roles:
            return f"{self.roles[measure]} top-1, {measure}"
        return self.measures[measure].title.replace("Trade", "trade")

    def labels(self) -> dict[str, str]:
        """Display name of every row id, in the suite's order."""
        return dict(self._labels)

    @cached_property
    def _labels(self) -> dict[str, str]:
        return dict(self.table[["row", "label"]].drop_duplicates("row").itertuples(index=False))

    def correct(self, identity: str) -> NDArray[np.float32]:
        """Correctness [N] in [0,1] of each video of one evaluation, as `predictions` has them; nan if not measured.

        It is read once and kept, four bytes a video; not to be changed.
        """
        if identity not in self._correct:
            if self.answers is not None:
                self._correct[identity] = self.answers(identity)
            else:
                self._correct[identity] = self.predictions(identity)["correct"].to_numpy(np.float32, na_value=np.nan)
        return self._correct[identity]

    def scores(self, *, experts: bool = False, alike: bool = False) -> pd.DataFrame:
        """One line per trial with every measure in percent: nan where a part or an input is missing.

        Harmonic means leave out what deviates from its column: they are nan there. With `alike` the deviating
        accuracies are nan too; with `experts`, one line per expert choice.
        """
        return self._once(("scores", experts, alike), lambda: self._scores(experts, alike))

    def _scores(self, experts: bool, alike: bool) -> pd.DataFrame:
        lines = self.table[(self.table["expert"] != "") == experts]
        names = ["row", "label", "method", "point", *self.axes, "expert", "seed"]
        trials = lines.drop_duplicates(TRIAL)[names].reset_index(drop=True)
        cells, measured = self._cells(experts), list(self.roles)
        usable = cells["top1"].where(cells["deviation"] == "").unstack("protocol").reindex(columns=measured)
        scores = trials.join(usable, on=TRIAL)
        for key, measure in self.measures.items():
            if measure.needs:
                scores[key] = [harmonic_mean(values) for values in scores[[*measure.needs]].to_numpy(float)]
        if not alike:
            everything = cells["top1"].unstack("protocol").reindex(columns=measured)
            scores[measured] = trials.join(everything, on=TRIAL)[measured]
        return scores

    def summary(self, *, experts: bool = False, alike: bool = False) -> pd.DataFrame:
        """One line per row × point (× expert), over the planned `seeds`, of `scores` with the same options.

        For each measure `_mean`, `_std` (ddof 1), `_n` over seeds, `_planned` (whether the row has it) and
        `_deviation`: how it is measured otherwise than its column, or for a harmonic mean which inputs are. For each
        protocol also the number of `_parts`, their `_parts_std` (ddof 0; the mean over seeds), and `_parts_missing`,
        over all seeds.
        """
        return self._once(("summary", experts, alike), lambda: self._summary(experts, alike))

    def _summary(self, experts: bool, alike: bool) -> pd.DataFrame:
        how = {"parts": "max", "parts_std": "mean", "parts_missing": "sum", "deviation": "first"}
        cells = self._cells(experts).groupby([*TRIAL[:3], "protocol"], sort=False).agg(how).to_dict("index")
        scores, lines = self.scores(experts=experts, alike=alike), []
        names = [name for name in scores.columns if name != "seed" and name not in self.measures]
        number = scores.groupby(TRIAL[:3], sort=False).ngroup().to_numpy()
        by_place = np.argsort(number, kind="stable")
        values = scores[[*self.measures]].to_numpy(float)[by_place]
        seeds_of = np.split(values, np.flatnonzero(np.diff(number[by_place])) + 1)
        for line, seeds in zip(scores.drop_duplicates(TRIAL[:3])[names].to_dict("records"), seeds_of, strict=True):
            key = tuple(line[name] for name in TRIAL[:3])
            own: dict[str, Any] = {name: cells.get((*key, name), NOT_PLANNED) for name in self.roles}
            line["seeds"] = len(seeds)
            for (name, measure), column in zip(self.measures.items(), seeds.T, strict=True):
                deviating = ", ".join(protocol for protocol in measure.inputs if own[protocol]["deviation"])
                facts = spread(column)._asdict() | own.get(name, {"deviation": deviating})
                facts["planned"] = all(own[protocol]["parts"] for protocol in measure.inputs)
                line |= {f"{name}_{fact}": value for fact, value in facts.items()}
            lines.append(line)
        return pd.DataFrame(lines)

    def evaluations(self) -> pd.DataFrame:
        """The lines of `table`, but one for all draws of classes that an evaluation re-scores."""
        again = self.table.duplicated([*TRIAL, "protocol", "identity"]) & (self.table["identity"] != "")
        return self.table[~again]

    def is_numeric(self, axis: str) -> bool:
        """Whether all values of `axis` are numbers, so that a curve can be drawn along it."""
        return all(map(_is_number, self.values(axis)))

    def values(self, axis: str) -> list[object]:
        """The values of `axis` in the suite's order; rows that do not go through it have none."""
        return [value for value in self.table[axis].unique() if is_set(value)]

    def facet_axes(self, along: str | None) -> list[str]:
        """The axes that split a picture: protocol axes, and those of text that more than one row goes through.

        `along` does not split its own picture. A text axis of a single row names its points instead, because panels
        of one point compare nothing.
        """
        text = [a for a in self.axes if a != along and not self.is_numeric(a) and self._rows_through(a) > 1]
        return [axis for axis in self.axes if axis in text or axis in self.protocol_axes]

    def facets(self, lines: pd.DataFrame, along: str | None) -> dict[str, pd.DataFrame]:
        """`lines` of each panel under the panel's title; those of rows without any text axis are in every panel.

        Every panel and every line has one value of each protocol axis.
        """
        axes, panels = self.facet_axes(along), {}
        text = [axis for axis in axes if axis not in self.protocol_axes]
        for alike in grouped(lines, list(self.protocol_axes)):
            everywhere = alike[[not any(is_set(line[axis]) for axis in text) for _, line in alike.iterrows()]].index
            for group in grouped(alike.drop(everywhere), text) or [alike]:
                inside = alike.index.isin(group.index.union(everywhere))
                panels[self.axis_text(group.iloc[0], axes)] = alike[inside]
        return panels

    def axis_text(self, line: pd.Series, axes: list[str]) -> str:
        """The values that `line` has on `axes`, e.g. "world narrow, layers 4"."""
        return ", ".join(f"{self.axes[axis]} {value_text(line[axis])}" for axis in axes if is_set(line[axis]))

    def name(self, line: pd.Series, axes: list[str]) -> str:
        """The label of `line` with its values on `axes`, e.g. "MoTE, layers 4"."""
        return ", ".join(filter(None, [str(line["label"]), self.axis_text(line, axes)]))

    def comparable(self, a: pd.Series, b: pd.Series) -> bool:
        """Whether two lines agree on every axis that both of them have, so that only their rows differ."""
        return all(a[axis] == b[axis] for axis in self.axes if is_set(a[axis]) and is_set(b[axis]))

    @cached_property
    def _frames(self) -> dict[tuple[object, ...], pd.DataFrame]:
        return {}

    @cached_property
    def _correct(self) -> dict[str, NDArray[np.float32]]:
        return {}

    def _once(self, key: tuple[object, ...], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """What every figure and table asks for is made once; a copy, so that none of them changes another's."""
        if key not in self._frames:
            self._frames[key] = make()
        return self._frames[key].copy()

    def _cells(self, experts: bool) -> pd.DataFrame:
        """Per trial × protocol: `top1`, the mean of its parts (nan where one is missing), and what they are."""
        lines = self.table[(self.table["expert"] != "") == experts]
        groups = lines.groupby([*TRIAL, "protocol"], sort=False)
        parts, present = groups.size(), groups["top1"].count()
        return pd.DataFrame(
            {
                "top1": groups["top1"].mean().where(present == parts),
                "parts": parts,
                "parts_std": groups["top1"].std(ddof=0).where((present == parts) & (parts > 1)),
                "parts_missing": parts - present,
                "deviation": groups["deviation"].first(),
            }
        )

    def _rows_through(self, axis: str) -> int:
        return int(self.table.loc[[is_set(value) for value in self.table[axis]], "row"].nunique())


def grouped(lines: pd.DataFrame, axes: list[str]) -> list[pd.DataFrame]:
    """`lines` split by their values on `axes`, gaps included; none of no lines."""
    if lines.empty or not axes:
        return [lines] if len(lines) else []
    return [group for _, group in lines.groupby(axes, sort=False, dropna=False)]


def is_draw(parts: pd.Series) -> pd.Series:
    """Whether parts are draws of classes, which one evaluation re-scores, rather than splits."""
    return parts.str.startswith("draw ")


def is_set(value: object) -> bool:
    """Whether an axis value is one: a row that does not go through the axis has nan, None or an empty text."""
    return bool(pd.notna(value)) and value != ""  # type: ignore[call-overload]


def value_text(value: object) -> str:
    """An axis value in print; a column with gaps has made floats of whole numbers."""
    if not is_set(value):
        return ""
    return f"{value:g}" if _is_number(value) else str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)

"""The results of a suite: its tidy table of accuracies, its predictions, and facts about its rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import blake2b
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.datasets import group_names
from bench.launch.usage import Usage
from bench.measure.metrics import harmonic_mean
from bench.measure.statistics import spread
from bench.published.pairing import Pair
from bench.suite.measures import COLUMNS, ROLES, Measure, headlines, measures, of_role, trade_offs
from reports.facts import Cost, Distances, Estimate, FailedStage, Maps, Probe, Routing, Shares, TrainingCost

if TYPE_CHECKING:
    from reports.selection import Tuning

Place = tuple[str, str, str]  # row, point, expert
PLACE = ["row", "point", "expert"]
TRIAL = [*PLACE, "seed"]
NOT_PLANNED = {"parts": 0, "parts_std": float("nan"), "parts_missing": 0, "deviation": ""}


@dataclass(frozen=True)
class ReportSettings:
    """`join`: axis that the trade-off plot joins; `reference`: row id; `compare`: row pairs for paired tests;
    `tolerance`: points within which a published number is reproduced."""

    join: str | None = None
    reference: str | None = None
    compare: tuple[tuple[str, str], ...] = ()
    tolerance: float = 0.5


class Answers(NamedTuple):
    """What an evaluation answered, without the answers themselves."""

    correct_N: NDArray[np.float32]  # in [0,1], nan if not measured
    digest: bytes  # of the predicted classes and of what is correct
    wrong: int  # videos

    @classmethod
    def of(cls, label_N: NDArray[Any], predicted_N: NDArray[Any], correct_N: NDArray[Any]) -> Answers:
        """From columns of predictions."""
        correct_N = correct_N.astype(np.float32)
        digest = blake2b(predicted_N.tobytes() + correct_N.tobytes(), digest_size=16).digest()
        return cls(correct_N, digest, int((predicted_N != label_N).sum()))


@dataclass(frozen=True, eq=False)  # a table has no truth value; what is made of one is kept by identity
class Results:
    """The results of one suite.

    `table` has one line per trial × protocol × part (× expert choice) with the columns `COLUMNS` and one per axis;
    accuracies are percent, nan where no record exists yet. `expert` is empty for the row itself. `part` names a split
    or draw ("test2", "draw 7") of a protocol that is a mean of several; else it is empty. `deviation` says how a cell
    is measured otherwise than its column: such a cell is shown, but not compared or combined. Where known, `_weights`
    is one text for results of the same method and trained weights, and `environment` tells devices and versions.
    `axes` maps an axis to its display name; each value of one of the `protocol_axes` has its own protocols.
    `predictions(identity)` gives `video`, `label`, `prediction`, `correct` of one evaluation; draws of classes share
    one, in which `correct` is a video's mean over its draws, nan without any. `protocols` maps a protocol to its
    `hash`, the named protocol that it starts from (`use`), its `changes` to that one, its `fields` and `notes`.
    `groups`: what tells the group of a video, by dataset: a pattern with one bracket, or the group of each name.
    `published` are numbers of papers beside the measures that they belong to. `sides` has the label of every row of a
    comparison without its side, and is empty for a single suite.
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
    own_ways: frozenset[str] = frozenset()  # rows measured in the way of their own papers: their means are kept, marked
    maps: tuple[Maps, ...] = ()
    distances: tuple[Distances, ...] = ()
    routing: tuple[Routing, ...] = ()
    costs: tuple[Cost, ...] = ()
    trainings: tuple[TrainingCost, ...] = ()
    shares: tuple[Shares, ...] = ()
    failures: tuple[FailedStage, ...] = ()
    estimates: tuple[Estimate, ...] = ()
    usage: tuple[Usage, ...] = ()  # of the suite's last launch on Slurm
    sides: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    class_names: Callable[[str], Sequence[str]] = lambda identity: ()  # candidates of an evaluation, by its identity
    stills: Callable[[str, Sequence[str]], Mapping[str, bytes]] = lambda identity, videos: {}  # JPEG of videos by name
    answers: Callable[[str], Answers] | None = None  # a quicker way to them than by way of all of `predictions`
    cosines: Callable[[str], bytes] | None = None  # of all views and classes of an evaluation
    tuning: Tuning | None = None  # how points of tuned axes were chosen, which the table is made of
    unsound: tuple[str, ...] = ()  # about records that were left out, because they hold no numbers

    def __post_init__(self) -> None:
        if absent := sorted((COLUMNS | set(self.axes)) - set(self.table.columns)):
            raise ValueError(f"results of suite '{self.suite}' lack the columns {', '.join(absent)}")
        if (twice := self.table.duplicated([*TRIAL, "protocol", "part"])).any():
            cell = self.table.loc[twice, [*TRIAL, "protocol", "part"]].iloc[0].to_dict()
            raise ValueError(f"results of suite '{self.suite}' have two lines for {cell}")

    @cached_property
    def roles(self) -> dict[str, str]:
        """The role of every protocol, in the order of the roles, then of the suite."""
        role = self.table[["protocol", "role"]].drop_duplicates("protocol").itertuples(index=False, name=None)
        return dict(sorted(role, key=lambda own: ROLES.index(own[1])))

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
        """The harmonic means of two sides: closed-set and HM_ZS, base and novel."""
        return trade_offs(self.roles, self.datasets)

    @cached_property
    def headlines(self) -> list[str]:
        """The measures that summarize the suite: harmonic means that no other one needs, else all top-1 accuracies."""
        return headlines(self.measures)

    def words(self, measure: str) -> str:
        """A measure in running text, e.g. "closed-set top-1, K400" or "trade-off"."""
        if measure in self.roles:
            return f"{self.roles[measure]} top-1, {measure}"
        return self.measures[measure].title.replace("Trade", "trade")

    @cached_property
    def labels(self) -> dict[str, str]:
        """Display name of every row id, in the suite's order."""
        return dict(self.table[["row", "label"]].drop_duplicates("row").itertuples(index=False))

    def correct(self, identity: str) -> NDArray[np.float32]:
        """Correctness [N] in [0,1] of each video of one evaluation, as `predictions` has them; nan if not measured.

        It is not to be changed.
        """
        return self.answered(identity).correct_N

    def answered(self, identity: str) -> Answers:
        """The answers of one evaluation, read once and kept: four bytes a video."""
        if identity not in self._answers:
            self._answers[identity] = (self.answers or self._predicted)(identity)
        return self._answers[identity]

    def group_names(self, dataset: str, videos: Iterable[str]) -> list[str]:
        """The group of each video; one that none is declared for is a group of its own."""
        return group_names(self.groups.get(dataset, ""), videos)

    def ungrouped(self, protocol: str) -> bool:
        """True if nothing tells the groups of a protocol's videos."""
        own = self.table.loc[self.table["protocol"] == protocol, "dataset"].unique()
        return not all(map(self.groups.get, own))

    def lines(self, experts: bool) -> pd.DataFrame:
        """The lines of `table` of the rows themselves, or of the expert choices."""
        return self.table[(self.table["expert"] != "") == experts]

    def scores(self, *, experts: bool = False, alike: bool = False) -> pd.DataFrame:
        """One line per trial with every measure in percent: nan where a part or an input is missing.

        Harmonic means leave out what deviates from its column: they are nan there, except for rows measured in ways of
        their own. With `alike` the deviating
        accuracies are nan too; with `experts`, one line per expert choice.
        """
        return _scores(self, experts, alike)

    def summary(self, *, experts: bool = False, alike: bool = False) -> pd.DataFrame:
        """One line per row × point (× expert), over the planned `seeds`, of `scores` with the same options.

        For each measure `_mean`, `_std` (ddof 1), `_n` over seeds, `_planned` (whether the row has it) and
        `_deviation`: how it is measured otherwise than its column, or for a harmonic mean which inputs are. For each
        protocol also the number of `_parts`, their `_parts_std` (ddof 0; the mean over seeds), and `_parts_missing`,
        over all seeds.
        """
        return _summary(self, experts, alike)

    def evaluations(self) -> pd.DataFrame:
        """The lines of `table`, where all draws of classes that an evaluation re-scores are a single line."""
        again = self.table.duplicated([*TRIAL, "protocol", "identity"]) & (self.table["identity"] != "")
        return self.table[~again]

    def is_numeric(self, axis: str) -> bool:
        """True if all values of `axis` are numbers, so that a curve can be drawn along it."""
        return all(map(_is_number, self.values(axis)))

    def values(self, axis: str) -> list[object]:
        """The values of `axis` in the suite's order; rows that do not go through it have none."""
        return [value for value in self.table[axis].unique() if is_set(value)]

    def facet_axes(self, along: str | None) -> list[str]:
        """The axes that split a figure into panels: protocol axes, and text axes of more than one row.

        `along` does not split its own figure. A text axis of a single row names its points instead, because panels
        of one point compare nothing.
        """
        rows = {axis: self.table.loc[self.table[axis].map(is_set), "row"].nunique() for axis in self.axes}
        text = [a for a in self.axes if a != along and not self.is_numeric(a) and rows[a] > 1]
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

    def axis_text(self, line: pd.Series, axes: Sequence[str] | None = None) -> str:
        """The values that `line` has on `axes` (None: on all), e.g. "world narrow, layers 4"."""
        axes = list(self.axes) if axes is None else axes
        return ", ".join(f"{self.axes[axis]} {value_text(line[axis])}" for axis in axes if is_set(line[axis]))

    def name(self, line: pd.Series, axes: Sequence[str] | None = None) -> str:
        """The label of `line` with its values on `axes` (None: on all), e.g. "MoTE, layers 4"."""
        return ", ".join(filter(None, [str(line["label"]), self.axis_text(line, axes)]))

    def comparable(self, a: pd.Series, b: pd.Series) -> bool:
        """True if two lines agree on every axis that both of them have, so that only their rows differ."""
        return all(a[axis] == b[axis] for axis in self.axes if is_set(a[axis]) and is_set(b[axis]))

    def measured_with(self, places: Iterable[Place]) -> str:
        """Devices and versions that rows were measured with, if they differ, e.g. "CLIP: cpu; MoTE: NVIDIA H200"."""
        rows: dict[str, dict[str, None]] = {}
        for place in places:
            if environment := self._environments.get(place):
                rows.setdefault(environment, {})[self.labels[place[0]]] = None
        return "; ".join(f"{', '.join(own)}: {which}" for which, own in rows.items()) if len(rows) > 1 else ""

    @cached_property
    def _environments(self) -> dict[Place, str]:
        known = self.table[self.table["identity"] != ""]
        if "environment" not in known:
            return {}
        groups = known.groupby(PLACE, sort=False)["environment"]
        return {place: " and ".join(filter(None, map(str, own.unique()))) for place, own in groups}  # type: ignore[misc]

    @cached_property
    def _answers(self) -> dict[str, Answers]:
        return {}

    def _predicted(self, identity: str) -> Answers:
        table = self.predictions(identity)
        correct_N = table["correct"].to_numpy(np.float32, na_value=np.nan)
        return Answers.of(table["label"].to_numpy(), table["prediction"].to_numpy(), correct_N)


@lru_cache(maxsize=8)  # of two reports
def _scores(results: Results, experts: bool, alike: bool) -> pd.DataFrame:
    names = ["row", "label", "method", "point", *results.axes, "expert", "seed"]
    trials = results.lines(experts).drop_duplicates(TRIAL)[names].reset_index(drop=True)
    cells, measured = _cells(results, experts), list(results.roles)
    kept = cells["deviation"] == ""
    if not alike:
        kept |= cells.index.get_level_values("row").isin(results.own_ways)
    usable = cells["top1"].where(kept).unstack("protocol").reindex(columns=measured)
    scores = trials.join(usable, on=TRIAL)
    for key, measure in results.measures.items():
        if measure.needs:
            scores[key] = [harmonic_mean(values) for values in scores[[*measure.needs]].to_numpy(float)]
    if not alike:
        everything = cells["top1"].unstack("protocol").reindex(columns=measured)
        scores[measured] = trials.join(everything, on=TRIAL)[measured]
    return scores


@lru_cache(maxsize=8)
def _summary(results: Results, experts: bool, alike: bool) -> pd.DataFrame:
    how = {"parts": "max", "parts_std": "mean", "parts_missing": "sum", "deviation": "first"}
    cells = _cells(results, experts).groupby([*PLACE, "protocol"], sort=False).agg(how).to_dict("index")
    scores, lines = results.scores(experts=experts, alike=alike), []
    names = [name for name in scores.columns if name != "seed" and name not in results.measures]
    number = scores.groupby(PLACE, sort=False).ngroup().to_numpy()
    by_place = np.argsort(number, kind="stable")
    values = scores[[*results.measures]].to_numpy(float)[by_place]
    seeds_of = np.split(values, np.flatnonzero(np.diff(number[by_place])) + 1)
    for line, seeds in zip(scores.drop_duplicates(PLACE)[names].to_dict("records"), seeds_of, strict=True):
        own: dict[str, Any] = {name: cells.get((*place_of(line), name), NOT_PLANNED) for name in results.roles}
        line["seeds"] = len(seeds)
        for (name, measure), column in zip(results.measures.items(), seeds.T, strict=True):
            deviating = ", ".join(protocol for protocol in measure.inputs if own[protocol]["deviation"])
            facts = spread(column)._asdict() | own.get(name, {"deviation": deviating})
            facts["planned"] = all(own[protocol]["parts"] for protocol in measure.inputs)
            line |= {f"{name}_{fact}": value for fact, value in facts.items()}
        lines.append(line)
    return pd.DataFrame(lines)


def _cells(results: Results, experts: bool) -> pd.DataFrame:
    """Per trial × protocol: `top1`, the mean of its parts (nan where one is missing), and facts about the parts."""
    groups = results.lines(experts).groupby([*TRIAL, "protocol"], sort=False)
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


def place_of(line: pd.Series | Mapping[Hashable, Any]) -> Place:
    """The row, point and expert of a line of the summary."""
    return line["row"], line["point"], line["expert"]


def grouped(lines: pd.DataFrame, axes: list[str]) -> list[pd.DataFrame]:
    """`lines` split by their values on `axes`, gaps included; none of no lines."""
    if lines.empty or not axes:
        return [lines] if len(lines) else []
    return [group for _, group in lines.groupby(axes, sort=False, dropna=False)]


def is_draw(parts: pd.Series) -> pd.Series:
    """True for parts that are draws of classes, which one evaluation re-scores; False for splits."""
    return parts.str.startswith("draw ")


def is_set(value: object) -> bool:
    """True if an axis value is set: a row that does not go through the axis has nan, None or an empty text."""
    return bool(pd.notna(value)) and value != ""  # type: ignore[call-overload]


def value_text(value: object) -> str:
    """An axis value in print; whole numbers stay whole, although a column with gaps stores them as floats."""
    if not is_set(value):
        return ""
    return f"{value:g}" if _is_number(value) else str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)

"""What a report reads: the tidy table of a suite, its predictions and probes. Nothing here knows the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.metrics import harmonic_mean, trade_off
from bench.statistics import spread

TRIAL = ["row", "point", "expert", "seed"]
DERIVED = {"hm_zs": "HM_ZS", "trade_off": "Trade-off"}
COLUMNS = {
    *("row", "label", "method", "point", "seed", "expert", "role", "protocol", "dataset"),
    *("top1", "top5", "mean_class", "videos", "undecodable", "identity"),
}


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


@dataclass(frozen=True)
class Results:
    """The results of one suite.

    `table` has one line per trial × protocol (× expert choice) with the columns `COLUMNS` and one per axis; accuracies
    are percent, nan where no record exists yet. `expert` is empty for the row itself. `axes` maps an axis to its
    display name. `predictions(identity)` gives `video`, `label`, `prediction`, `correct` of one evaluation.
    Raises ValueError on missing columns or a trial that has two results for one protocol.
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

    def __post_init__(self) -> None:
        if absent := sorted((COLUMNS | set(self.axes)) - set(self.table.columns)):
            raise ValueError(f"results of suite '{self.suite}' lack the columns {', '.join(absent)}")
        if (twice := self.table.duplicated([*TRIAL, "protocol"])).any():
            cell = self.table.loc[twice, [*TRIAL, "protocol"]].iloc[0].to_dict()
            raise ValueError(f"results of suite '{self.suite}' have two lines for {cell}")

    def protocols(self, role: str) -> list[str]:
        """Short names of the protocols of `role` ("closed-set" or "zero-shot"), in the suite's order."""
        return list(self.table.loc[self.table["role"] == role, "protocol"].unique())

    def measures(self) -> dict[str, str]:
        """Every column of `scores` that holds a percentage, with its title, in the order of the table."""
        measured = self.protocols("closed-set") + self.protocols("zero-shot")
        return {**{name: name for name in measured}, **DERIVED}

    def labels(self) -> dict[str, str]:
        """Display name of every row id, in the suite's order."""
        return dict(self.table[["row", "label"]].drop_duplicates("row").itertuples(index=False))

    def scores(self, *, experts: bool = False) -> pd.DataFrame:
        """One line per trial: top-1 per protocol, `hm_zs`, `trade_off`, all percent, nan where an input is missing.

        `hm_zs` is the harmonic mean over all zero-shot protocols of the suite, `trade_off` the harmonic mean of it
        and the first closed-set protocol (MoTE, NeurIPS 2024, Table 4). With `experts`, one line per expert choice.
        """
        lines = self.table[(self.table["expert"] != "") == experts]
        names = ["row", "label", "method", "point", *self.axes, "expert", "seed"]
        trials = lines.drop_duplicates(TRIAL)[names].reset_index(drop=True)
        closed, unseen = self.protocols("closed-set"), self.protocols("zero-shot")
        top1 = lines.pivot(index=TRIAL, columns="protocol", values="top1").reindex(columns=closed + unseen)
        scores = trials.join(top1, on=TRIAL)
        scores["hm_zs"] = [harmonic_mean(values) for values in scores[unseen].to_numpy(float)]
        first_closed = scores[closed[0]] if closed else [None] * len(scores)
        scores["trade_off"] = [trade_off(*pair) for pair in zip(first_closed, scores["hm_zs"], strict=True)]
        return scores

    def summary(self, *, experts: bool = False) -> pd.DataFrame:
        """One line per row × point (× expert): `<measure>_mean`, `_std` (ddof 1), `_n` and the planned `seeds`."""
        scores = self.scores(experts=experts)
        lines = []
        for _, seeds in scores.groupby(TRIAL[:3], sort=False):
            line = seeds.iloc[0].drop(["seed", *self.measures()]).to_dict() | {"seeds": len(seeds)}
            for measure in self.measures():
                line |= {f"{measure}_{name}": value for name, value in spread(seeds[measure])._asdict().items()}
            lines.append(line)
        return pd.DataFrame(lines)

    def is_numeric(self, axis: str) -> bool:
        """Whether all values of `axis` are numbers, so that a curve can be drawn along it."""
        return all(map(_is_number, self.values(axis)))

    def values(self, axis: str) -> list[object]:
        """The values of `axis` in the suite's order; rows that do not go through it have none."""
        return [value for value in self.table[axis].unique() if is_set(value)]

    def facet_axes(self, along: str | None) -> list[str]:
        """The axes that split a picture: of text, other than `along`, and gone through by more than one row.

        A text axis of a single row names its points instead, because panels of one point compare nothing.
        """
        return [a for a in self.axes if a != along and not self.is_numeric(a) and self._rows_through(a) > 1]

    def facets(self, lines: pd.DataFrame, along: str | None) -> dict[str, pd.DataFrame]:
        """`lines` of each panel under the panel's title; lines of rows that lack a facet axis are in every panel."""
        axes = self.facet_axes(along)
        everywhere = lines[[not any(is_set(line[a]) for a in axes) for _, line in lines.iterrows()]]
        split = lines.drop(everywhere.index)
        if split.empty:
            return {"": lines}
        groups = split.groupby(axes, sort=False, dropna=False)
        return {self.axis_text(group.iloc[0], axes): pd.concat([group, everywhere]).sort_index() for _, group in groups}

    def axis_text(self, line: pd.Series, axes: list[str]) -> str:
        """The values that `line` has on `axes`, e.g. "world narrow, layers 4"."""
        return ", ".join(f"{self.axes[axis]} {value_text(line[axis])}" for axis in axes if is_set(line[axis]))

    def name(self, line: pd.Series, axes: list[str]) -> str:
        """The label of `line` with its values on `axes`, e.g. "MoTE, layers 4"."""
        return ", ".join(filter(None, [str(line["label"]), self.axis_text(line, axes)]))

    def comparable(self, a: pd.Series, b: pd.Series) -> bool:
        """Whether two lines agree on every axis that both of them have, so that only their rows differ."""
        return all(a[axis] == b[axis] for axis in self.axes if is_set(a[axis]) and is_set(b[axis]))

    def _rows_through(self, axis: str) -> int:
        return int(self.table.loc[[is_set(value) for value in self.table[axis]], "row"].nunique())


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

"""Comparing two suites, or two revisions of one: merging them into one whose page tests their rows; regressions.

A is the former one, B the new one. Ids and labels of rows start with their side; `Results.sides` has labels without it.
Regressions are accuracies that fell significantly, and times that grew by more than a tenth. Times are compared where
both sides were measured on devices of the same name, with as many of them or as many threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import nan
from statistics import mean

import pandas as pd

from bench.core.words import portable
from reports.comparisons import LEVEL, comparisons, p_text, signed
from reports.costs import digits
from reports.facts import Fact, Known, TrainingCost, by_setting
from reports.results import ReportSettings, Results
from reports.snapshot import provenance
from reports.table import Table, cells, columns, frame

SIDES = ("A", "B")
SLOWER = 1.1  # times as long
SHOWN = 6  # regressions that are named on top
HEADS = {"Method": False, "What": False, "A": True, "B": True, "Change": True, "Remark": False}
CAPTION = (
    "What became worse from A to B, and what could not be compared: accuracies whose fall is significant (p < 0.05, "
    "corrected for the number of tests), latencies, throughputs and training times that are more than 10 % worse."
)


def merge(a: Results, b: Results, names: tuple[str, str]) -> Results:
    """Merge both into one; every row that both have is a pair of `settings.compare`, B first.

    Two columns are one if their protocols have the same hash and were measured on the same videos. Otherwise they are
    kept apart, as "closed-set (A)" and "closed-set (B)". What is drawn of experts is left out.
    """
    names = tuple(map(portable, names))
    apart = [name for name in a.roles if name in b.roles and not _alike(a, b, name)]
    sides = [_side(results, side, apart) for side, results in zip(SIDES, (a, b), strict=True)]
    tables = {row: own for side in sides for row, own in side.table.groupby("row", sort=False)}
    both = [row for row in a.labels if row in b.labels]
    order = [_named(side, row) for row in {**a.labels, **b.labels} for side in SIDES]
    known, (first, second) = frozenset(a.table["identity"]), sides

    def origin(identity: str) -> Results:
        return a if identity in known else b

    store = a.provenance.get("store") if a.provenance.get("store") == b.provenance.get("store") else None
    return Results(
        suite=" against ".join(names),
        title=" against ".join(names),
        description=" ".join(_description(a, b, names, apart)),
        table=pd.concat([tables[row] for row in order if row in tables], ignore_index=True),
        predictions=lambda identity: origin(identity).predictions(identity),
        answers=lambda identity: origin(identity).answered(identity),
        class_names=lambda identity: origin(identity).class_names(identity),
        groups={**b.groups, **a.groups} | {name: how for name, how in b.groups.items() if how},
        probes=(),
        settings=ReportSettings(
            join=a.settings.join if a.settings.join == b.settings.join else None,
            reference=a.settings.reference and _named("A", a.settings.reference),
            compare=tuple((_named("B", row), _named("A", row)) for row in both),
        ),
        provenance={
            **({"store": store} if store else {}),
            **{side: {"suite": own.suite, **provenance(own)} for side, own in zip(SIDES, (a, b), strict=True)},
        },
        axes={**a.axes, **b.axes},
        protocol_axes=tuple(dict.fromkeys([*a.protocol_axes, *b.protocol_axes])),
        protocols={**first.protocols, **second.protocols},
        costs=(*first.costs, *second.costs),
        trainings=(*first.trainings, *second.trainings),
        failures=(*first.failures, *second.failures),
        sides={**first.sides, **second.sides},
    )


def _side(results: Results, side: str, apart: Sequence[str]) -> Results:
    """One side, with its rows and the columns in `apart` renamed."""
    columns = {name: f"{name} ({side})" if name in apart else name for name in results.protocols}

    def named(text: str) -> str:
        return _named(side, text)

    def renamed(fact: Known) -> Known:
        subject = fact.subject
        return replace(fact, subject=replace(subject, row=named(subject.row), label=named(subject.label)))

    table = results.table.assign(
        row=results.table["row"].map(named),
        label=results.table["label"].map(named),
        protocol=results.table["protocol"].map(columns),
    )
    return replace(
        results,
        table=table,
        protocols={columns[name]: protocol for name, protocol in results.protocols.items()},
        costs=tuple(map(renamed, results.costs)),
        trainings=tuple(replace(renamed(own), sharing=tuple(map(named, own.sharing))) for own in results.trainings),
        failures=tuple(replace(own, title=named(own.title)) for own in results.failures),
        sides={named(row): label for row, label in results.labels.items()},
    )


def _named(side: str, text: str) -> str:
    return f"{side}: {text}"


def _alike(a: Results, b: Results, protocol: str) -> bool:
    """True if a column means the same on both sides; an axis over protocols must be one of both."""
    hashes = [results.protocols[protocol]["hash"] for results in (a, b)]
    if hashes[0] != hashes[1] or a.protocol_axes != b.protocol_axes:
        return False
    measured = [dict(_videos(results, protocol)) for results in (a, b)]
    return all(measured[0][part] == measured[1][part] for part in measured[0].keys() & measured[1].keys())


def _videos(results: Results, protocol: str) -> Iterator[tuple[str, frozenset[str]]]:
    """The videos of each part of a column, as one of its evaluations names them."""
    lines = results.table[(results.table["protocol"] == protocol) & (results.table["identity"] != "")]
    for part, identity in lines.drop_duplicates("part")[["part", "identity"]].itertuples(index=False):
        yield part, frozenset(results.predictions(identity)["video"])


def _description(a: Results, b: Results, names: tuple[str, str], apart: Sequence[str]) -> Iterator[str]:
    yield f"A is {names[0]}, B is {names[1]}; differences are B − A."
    yield from (f"{side}: {how}" for side, own in (("A", a), ("B", b)) if (how := own.provenance.get("settings")))
    for side, own, other in (("A", a, b), ("B", b, a)):
        if alone := [label for row, label in own.labels.items() if row not in other.labels]:
            yield f"Only {side} has {', '.join(alone)}."
    if apart:
        yield f"Measured under other protocols or on other videos, so not compared: {', '.join(apart)}."


# --- regressions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A quantity on both sides, in `unit`; `worse` says whether it regressed, `skipped` why it is not compared."""

    row: str
    what: str
    a: float = nan
    b: float = nan
    unit: str = ""
    worse: bool = False
    remark: str = ""
    skipped: str = ""

    def texts(self) -> tuple[str, ...]:
        """A line of the table."""
        if self.skipped:
            return (self.row, self.what, "–", "–", "–", f"not compared: {self.skipped}")
        if self.unit == "%":
            sides, change = [f"{side:.1f} %" for side in (self.a, self.b)], f"{signed(self.b - self.a)} points"
        else:
            sides = [f"{digits(side)} {self.unit}" for side in (self.a, self.b)]
            change = f"{signed(100 * (self.b / self.a - 1))} %"
        return (self.row, self.what, *sides, change, self.remark)


@lru_cache(maxsize=1)
def changes(results: Results) -> tuple[Change, ...]:
    """Everything that both sides of a comparison have; nothing of a single suite."""
    if not results.sides:
        return ()
    return (*_accuracies(results), *_latencies(results), *_trainings(results))


def regression_tables(results: Results) -> Iterator[Table]:
    """The table of everything that became worse or could not be compared."""
    shown = [change for change in changes(results) if change.worse or change.skipped]
    if shown:
        values = frame(
            {"method": own.row, "what": own.what, "a": own.a, "b": own.b, "unit": own.unit, "worse": own.worse}
            | {"remark": own.remark or own.skipped}
            for own in shown
        )
        rows = tuple(cells(*change.texts()) for change in shown)
        yield Table("significance", "regressions", CAPTION, columns(HEADS), rows, values=values)


def sentences(results: Results) -> list[str]:
    """The sentences that open the page of a comparison; none for a single suite."""
    found = changes(results)
    if not found:
        return []
    worse, skipped = [own for own in found if own.worse], [own for own in found if own.skipped]
    compared = len(found) - len(skipped)
    told = [f"Regressions from A to B: {len(worse) or 'none'} of {compared} numbers that both sides have."]
    told += [
        f"Worse: {own.row}, {own.what}: {' → '.join(own.texts()[2:4])} ({own.texts()[4]})." for own in worse[:SHOWN]
    ]
    if len(worse) > SHOWN:
        told.append(f"And {len(worse) - SHOWN} more: the table of regressions has all.")
    for why in dict.fromkeys(own.skipped for own in skipped):
        told.append(f"{sum(own.skipped == why for own in skipped)} not compared: {why}.")
    return told


def _accuracies(results: Results) -> Iterator[Change]:
    """Tests of B's rows against A's over videos and seeds, in which a point of an axis meets itself."""
    for test in comparisons(results):
        new, old = test.lines
        row = ", ".join(filter(None, [results.sides[new["row"]], results.axis_text(new)]))
        words, why = results.words(test.measure), test.skipped or ("" if test.videos else "results are missing")
        if why:
            yield Change(row, words, skipped=why)
            continue
        a, b = (float(line[f"{test.measure}_mean"]) for line in (old, new))
        worse = test.difference < 0 and test.corrected < LEVEL
        yield Change(row, words, a, b, "%", worse, f"p = {p_text(test.corrected)}")


def _latencies(results: Results) -> Iterator[Change]:
    """Median latency and throughput of every part, precision and batch size that both were measured with."""
    found, former = {cost.setting: cost for cost in results.costs}, dict(results.settings.compare)
    for (row, point), b in found.items():
        if not (a := found.get((former.get(row, ""), point))):
            continue
        name = _name(results, b)
        if why := _other(*(f"{own.machine['device']}, {own.machine['threads']} threads" for own in (a, b))):
            yield Change(name, "latency and throughput", skipped=why)
            continue
        before, after = (
            {f"{own['part']}, {own['precision']}, batch {own['batch']}": own for own in cost.result["latency"]}
            for cost in (a, b)
        )
        for what in (what for what in after if what in before):
            if why := before[what].get("disturbed") or after[what].get("disturbed"):
                yield Change(name, f"latency and throughput of {what}", skipped=f"a disturbed measurement ({why})")
                continue
            old, new = 1e3 * before[what]["p50"], 1e3 * after[what]["p50"]
            yield Change(name, f"latency of {what}", old, new, "ms", new > SLOWER * old)
            old, new = before[what]["throughput"], after[what]["throughput"]
            yield Change(name, f"throughput of {what}", old, new, "videos/s", new * SLOWER < old)


def _trainings(results: Results) -> Iterator[Change]:
    """Means over the seeds that both sides have trained; a row of A may share another row's training."""
    former, before = dict(results.settings.compare), dict[tuple[str, str, int], TrainingCost]()
    for own in results.trainings:
        before |= {(row, own.subject.point, own.subject.seed): own for row in (own.subject.row, *own.sharing)}
    for seeds in by_setting(own for own in results.trainings if own.subject.row in former):
        keys = {(former[own.subject.row], own.subject.point, own.subject.seed): own for own in seeds}
        b = [own for key, own in keys.items() if key in before]
        a = [before[key] for key in keys if key in before]
        if not b:
            continue
        name = _name(results, b[0])
        machines = (sorted({f"{own.devices} × {own.device}" for own in side}) for side in (a, b))
        if why := _other(*map(" and ".join, machines)):
            yield Change(name, "training", skipped=why)
            continue
        old, new = (mean(own.seconds for own in side) for side in (a, b))
        remark = f"mean of {len(b)} seeds" if len(b) > 1 else ""
        yield Change(name, "training", old, new, "s", new > SLOWER * old, remark)


def _name(results: Results, fact: Fact) -> str:
    """A subject's name without its side."""
    return ", ".join(filter(None, [results.sides[fact.subject.row], fact.subject.point]))


def _other(a: str, b: str) -> str:
    """The reason why measurements on two machines are not compared; empty if they are."""
    return "" if a == b else f"other device ({a} in A, {b} in B)"

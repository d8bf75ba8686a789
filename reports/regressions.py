"""Regressions from A to B: accuracies that fell significantly, and times that grew by more than a tenth.

Times are compared where both sides were measured on devices of the same name, with as many of them or as many threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import nan
from statistics import mean

from reports.comparisons import LEVEL, comparisons, p_text, signed
from reports.costs import digits
from reports.facts import Fact, TrainingCost, by_setting
from reports.results import Results
from reports.table import Table, cells, columns, frame

SLOWER = 1.1  # times as long
SHOWN = 6  # regressions that are named on top
HEADS = {"Method": False, "What": False, "A": True, "B": True, "Change": True, "Remark": False}
CAPTION = (
    "What became worse from A to B, and what could not be compared: accuracies whose fall is significant (p < 0.05, "
    "corrected for the number of tests), latencies, throughputs and training times that are more than 10 % worse."
)


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

"""What became worse from A to B: accuracies that fell significantly, and what takes more than a tenth more time.

Times are compared where both sides were measured on devices of the same name, with as many of them or as many threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from statistics import mean
from typing import Any

from reports.compare import pairs
from reports.comparisons import LEVEL, comparisons, p_text, signed
from reports.costs import Cost, Training, digits
from reports.results import Results
from reports.shown import Grid

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
    a: float
    b: float
    unit: str
    worse: bool
    remark: str = ""
    skipped: str = ""

    def texts(self) -> tuple[str, ...]:
        """A line of the grid."""
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
    """Everything that both sides of merged results have; nothing of other results."""
    if not pairs(results):
        return ()
    return (*_accuracies(results), *_latencies(results), *_trainings(results))


def regression_grids(results: Results) -> Iterator[Grid]:
    """What became worse, and what could not be compared."""
    shown = [change for change in changes(results) if change.worse or change.skipped]
    if shown:
        values = tuple(
            {"method": own.row, "what": own.what, "a": own.a, "b": own.b, "unit": own.unit, "worse": own.worse}
            | {"remark": own.remark or own.skipped}
            for own in shown
        )
        rows = tuple(change.texts() for change in shown)
        yield Grid("significance", "regressions", CAPTION, HEADS, rows, values=values)


def sentences(results: Results) -> list[str]:
    """What a reader of the page has to know first; none for results that are no comparison."""
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
    means = {results.name(line, list(results.axes)): line for _, line in results.summary(alike=True).iterrows()}
    keys = {measure.title: key for key, measure in results.measures.items()}
    for test in comparisons(results):
        row, what = test.a.removeprefix("B: "), results.words(keys[test.protocol])
        if test.skipped or not test.videos:
            yield _skipped(row, what, test.skipped or "results are missing")
            continue
        a, b = (float(means[side][f"{keys[test.protocol]}_mean"]) for side in (test.b, test.a))
        worse = test.difference < 0 and test.corrected < LEVEL
        yield Change(row, what, a, b, "%", worse, f"p = {p_text(test.corrected)}")


def _latencies(results: Results) -> Iterator[Change]:
    found = {(cost.row, cost.point): cost for cost in results.costs}
    for row, (point, b) in ((key[0], (key[1], cost)) for key, cost in found.items() if key[0].startswith("B: ")):
        if a := found.get((f"A: {row[3:]}", point)):
            name, why = (
                _name(b),
                _other(*(f"{own.machine['device']}, {own.machine['threads']} threads" for own in (a, b))),
            )
            yield from [_skipped(name, "latency and throughput", why)] if why else _measured(name, a, b)


def _measured(name: str, a: Cost, b: Cost) -> Iterator[Change]:
    """Median latency and throughput of every part, precision and batch size that both were measured with."""
    before = {_setting(entry): entry for entry in a.result["latency"]}
    for entry in b.result["latency"]:
        if former := before.get(_setting(entry)):
            what, old, new = _setting(entry), 1e3 * former["p50"], 1e3 * entry["p50"]
            yield Change(name, f"latency of {what}", old, new, "ms", new > SLOWER * old)
            old, new = former["throughput"], entry["throughput"]
            yield Change(name, f"throughput of {what}", old, new, "videos/s", new * SLOWER < old)


def _setting(entry: dict[str, Any]) -> str:
    return f"{entry['part']}, {entry['precision']}, batch {entry['batch']}"


def _trainings(results: Results) -> Iterator[Change]:
    """Means over the seeds that both sides have trained."""
    sides: dict[str, dict[tuple[str, str], dict[int, Training]]] = {"A": {}, "B": {}}
    for own in results.trainings:
        for row in (own.row, *own.sharing) if own.row.startswith("A: ") else (own.row,):
            sides[row[0]].setdefault((row[3:], own.point), {})[own.seed] = own
    for key, new in sides["B"].items():
        old = sides["A"].get(key, {})
        if seeds := [seed for seed in new if seed in old]:
            yield _trained([old[seed] for seed in seeds], [new[seed] for seed in seeds])


def _trained(a: list[Training], b: list[Training]) -> Change:
    name, machines = _name(b[0]), [sorted({f"{own.devices} × {own.device}" for own in side}) for side in (a, b)]
    if why := _other(*(" and ".join(side) for side in machines)):
        return _skipped(name, "training", why)
    old, new = (mean(own.seconds for own in side) for side in (a, b))
    return Change(name, "training", old, new, "s", new > SLOWER * old, f"mean of {len(b)} seeds" if len(b) > 1 else "")


def _name(own: Cost | Training) -> str:
    return ", ".join(filter(None, [own.label[3:], own.point]))


def _other(a: str, b: str) -> str:
    """Why measurements on two machines are not compared; empty if they are."""
    return "" if a == b else f"other device ({a} in A, {b} in B)"


def _skipped(row: str, what: str, why: str) -> Change:
    return Change(row, what, float("nan"), float("nan"), "", worse=False, skipped=why)

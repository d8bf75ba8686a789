"""Two suites, or two revisions of one, as one: what a page shows of both, with their rows tested against each other.

A is what is compared with, B what is new. Rows are told apart by "A: " and "B: ", in ids and labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from reports.results import ReportSettings, Results

SIDES = ("A", "B")


def merge(a: Results, b: Results, names: tuple[str, str]) -> Results:
    """Both in one; every row that both have is a pair of `settings.compare`, B first.

    Two columns are one if their protocols have the same hash and were measured on the same videos. Otherwise they are
    kept apart, as "closed-set (A)" and "closed-set (B)". What is drawn of experts is left out.
    """
    apart = [name for name in a.roles if name in b.roles and not _alike(a, b, name)]
    sides = [_side(results, side, apart) for side, results in zip(SIDES, (a, b), strict=True)]
    tables = {row: own for side in sides for row, own in side.table.groupby("row", sort=False)}
    both = [row for row in a.labels() if row in b.labels()]
    order = [f"{side}: {row}" for row in {**a.labels(), **b.labels()} for side in SIDES]
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
        answers=lambda identity: origin(identity).correct(identity),
        class_names=lambda identity: origin(identity).class_names(identity),
        probes=(),
        settings=ReportSettings(
            join=a.settings.join if a.settings.join == b.settings.join else None,
            reference=a.settings.reference and f"A: {a.settings.reference}",
            compare=tuple((f"B: {row}", f"A: {row}") for row in both),
        ),
        provenance={
            **({"store": store} if store else {}),
            **{side: {"suite": own.suite, **own.provenance} for side, own in zip(SIDES, (a, b), strict=True)},
        },
        axes={**a.axes, **b.axes},
        protocol_axes=tuple(dict.fromkeys([*a.protocol_axes, *b.protocol_axes])),
        protocols={**first.protocols, **second.protocols},
        costs=(*first.costs, *second.costs),
        trainings=(*first.trainings, *second.trainings),
        failures=(*first.failures, *second.failures),
    )


def pairs(results: Results) -> list[str]:
    """The rows that merged results have of both sides, without the letters; none of other results."""
    return [b[3:] for b, a in results.settings.compare if (b[:3], a) == ("B: ", f"A: {b[3:]}")]


def _side(results: Results, side: str, apart: Sequence[str]) -> Results:
    """One of the two, its rows and what is kept apart renamed."""
    columns = {name: f"{name} ({side})" if name in apart else name for name in results.protocols}
    named = partial("{}: {}".format, side)
    table = results.table.assign(
        row=results.table["row"].map(named),
        label=results.table["label"].map(named),
        protocol=results.table["protocol"].map(columns),
    )
    return replace(
        results,
        table=table,
        protocols={columns[name]: protocol for name, protocol in results.protocols.items()},
        costs=tuple(replace(cost, row=named(cost.row), label=named(cost.label)) for cost in results.costs),
        trainings=tuple(
            replace(own, row=named(own.row), label=named(own.label), sharing=tuple(map(named, own.sharing)))
            for own in results.trainings
        ),
        failures=tuple(replace(own, title=named(own.title)) for own in results.failures),
    )


def _alike(a: Results, b: Results, protocol: str) -> bool:
    """Whether a column means the same on both sides; that of an axis over protocols, only if both have the axis."""
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
    for side, own, other in (("A", a, b), ("B", b, a)):
        if alone := [label for row, label in own.labels().items() if row not in other.labels()]:
            yield f"Only {side} has {', '.join(alone)}."
    if apart:
        yield f"Measured under other protocols or on other videos, so not compared: {', '.join(apart)}."

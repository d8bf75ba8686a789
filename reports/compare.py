"""Merging two suites, or two revisions of one, into one, whose page tests the rows of both against each other.

A is the former one, B the new one. Ids and labels of rows start with their side; `Results.sides` has labels without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import pandas as pd

from reports.facts import Fact
from reports.results import ReportSettings, Results

SIDES = ("A", "B")
Known = TypeVar("Known", bound=Fact)


def merge(a: Results, b: Results, names: tuple[str, str]) -> Results:
    """Merge both into one; every row that both have is a pair of `settings.compare`, B first.

    Two columns are one if their protocols have the same hash and were measured on the same videos. Otherwise they are
    kept apart, as "closed-set (A)" and "closed-set (B)". What is drawn of experts is left out.
    """
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
        answers=lambda identity: origin(identity).correct(identity),
        class_names=lambda identity: origin(identity).class_names(identity),
        probes=(),
        settings=ReportSettings(
            join=a.settings.join if a.settings.join == b.settings.join else None,
            reference=a.settings.reference and _named("A", a.settings.reference),
            compare=tuple((_named("B", row), _named("A", row)) for row in both),
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
    for side, own, other in (("A", a, b), ("B", b, a)):
        if alone := [label for row, label in own.labels.items() if row not in other.labels]:
            yield f"Only {side} has {', '.join(alone)}."
    if apart:
        yield f"Measured under other protocols or on other videos, so not compared: {', '.join(apart)}."

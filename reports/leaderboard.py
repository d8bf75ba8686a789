"""One table over many suites: a row for each method and configuration, a column for each protocol.

What is measured in different ways is never in one column: a protocol is its hash, and the content of the videos too. A
row is all that decides the weights and their use except the seed: method, settings, recipe, data, inference choices.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.care.archive import Archive
from bench.core.errors import UserError
from bench.core.files import write_atomically
from bench.core.identity import digest
from bench.core.words import counted, portable, when
from bench.launch.launches import suite_of
from bench.measure.statistics import spread
from bench.store.answers import PREDICTIONS
from bench.store.records import RecordData, Store
from reports.page import render
from reports.snapshot import load, snapshots
from reports.table import Column, Table, TableCell, cells, columns

PAGE = "leaderboard.html"
READ = {"texts": (), "encode": (), "train": (), "evaluate": (PREDICTIONS,)}  # kinds of records, and the files verified
NONE = "–"
SEEDED = ("seed", "content", "validation")  # of a training: the seed, and what it may draw

log = logging.getLogger("bench.reports")

Source = Store | Archive
Key = tuple[str, str]
Settings = dict[str, Any]


class Line(NamedTuple):
    """One evaluation: its row and column, accuracies in percent, and where they come from."""

    method: str
    settings: Settings  # all that decides the numbers except the seed and the protocol, flat
    protocol: Settings
    column: tuple[str, str]  # hash of the protocol, hash of the videos' content
    seed: int | None
    top1: float
    identity: str
    suite: str
    date: str
    revision: str
    source: str = ""
    chosen: str = ""  # how its setting was chosen among several, as the report of a suite with tuned axes says

    @property
    def row(self) -> tuple[str, str]:
        return self.method, digest(self.settings)

    @property
    def provenance(self) -> str:
        chosen = f", {self.chosen}" if self.chosen else ""
        return f"{self.identity} of {self.suite}, {self.date}, revision {self.revision}{chosen}"


def write_leaderboard(sources: Iterable[Source], out: Path) -> Path:
    """Write the page, and its tables as CSV, Markdown and LaTeX, into `out`. Returns the page's path.

    Raises UserError if there is no evaluation.
    """
    lines = {line.identity: line for source in reversed([*sources]) for line in _lines(source)}  # the first one counts
    if not lines:
        raise UserError("there is no evaluation in any of them", hint="name stores with records, or archives")
    found = sorted(lines.values(), key=lambda line: (line.row, line.column, line.seed or 0, line.identity))
    tables = [_table(found), _cells(found)]
    suites = sorted({line.suite for line in found})
    lead = f"Top-1 accuracy in percent, of {counted(len(found), 'evaluation')} of the suites {', '.join(suites)}."
    lead += " Settings that a suite tried are rows like any other: to read off the best is to choose on the test data."
    lead += "".join(f" “*”: {how}" for how in sorted({line.chosen for line in found if line.chosen}))
    out.mkdir(parents=True, exist_ok=True)
    for table in tables:
        for name, text in table.files.items():
            write_atomically(out / name, text.encode())
    write_atomically(out / PAGE, render("leaderboard.html.j2", "Leaderboard", lead=lead, tables=tables).encode())
    return out / PAGE


# --- reading ----------------------------------------------------------------------------------------------------------


def _lines(source: Source) -> Iterator[Line]:
    """The evaluations of a store or an archive. Raises UserError for one that lacks what a line says.

    Damaged records of a store are passed over with a warning, and those of versions that did not tell their protocol.
    """
    records, name = _records(source), source.root.name if isinstance(source, Store) else source.path.name
    chosen = _chosen(source) if isinstance(source, Store) else {}  # an archive holds no reports
    for (kind, identity), record in records.items():
        try:
            if kind == "evaluate" and "protocol" in record["context"] and record["result"]["top1"] is not None:
                suite = source.listed.suite if isinstance(source, Archive) else NONE
                yield _line(identity, record, records, suite)._replace(source=name, chosen=chosen.get(identity, ""))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"is not as evaluations are: {type(error).__name__}: {error}"
            raise UserError(what, where=f"{name}: records/evaluate/{identity}") from error


def _line(identity: str, record: RecordData, records: Mapping[Key, RecordData], suite: str) -> Line:
    spec, origin, protocol = record["spec"], record["provenance"], record["context"]["protocol"]
    trained = records.get(tuple(record["inputs"].get("train", ())), {})
    features = records.get(tuple(record["inputs"]["features"]), {})
    training = {key: own for key, own in _training(trained, records).items() if spec.get(key) != own}
    used = {key: spec[key] for key in ("config", "inference", "backbone", "weights")}
    hashed = {key: own for key, own in protocol.items() if key != "descriptions" or own}  # as `Protocol.settings`
    return Line(
        spec["method"],
        dict(_flat({**used, "training": training})),
        protocol,
        (digest(hashed)[:8], features.get("spec", {}).get("content", "")[:8]),
        trained.get("spec", {}).get("seed"),
        record["result"]["top1"],
        identity,
        suite_of(Path(origin.get("launch") or "")) or suite,
        when(origin["started"] + origin["seconds"])[:10],
        (origin.get("revision") or NONE)[:7] + ("-dirty" if origin.get("dirty") else ""),
    )


def _chosen(store: Store) -> dict[str, str]:
    """Evaluation -> how its setting was chosen, as the reports of suites with tuned axes say that measured it."""
    found = defaultdict[str, set[str]](set)
    for name, folder in snapshots(store.root / "reports"):
        try:
            results = load(folder, store.root)
        except UserError as error:
            log.warning("report %s: %s", name, error)
            continue
        if how := results.provenance.get("settings"):
            for identity in results.table.loc[results.table["setting"].fillna("") != "", "identity"]:
                found[identity].add(f"{results.suite}: {how}")
    return {identity: " ".join(sorted(own)) for identity, own in found.items()}


def _records(source: Source) -> dict[Key, RecordData]:
    if isinstance(source, Archive):
        return {key: source.record(*key) for key in source.keys if key[0] in READ}
    keys = ((kind, identity) for kind in READ for identity in sorted(source.known(kind)))
    return {key: record for key in keys if (record := source.find(*key, READ[key[0]]))}


def _training(record: Mapping[str, Any], records: Mapping[Key, RecordData]) -> Settings:
    """What decides a training except its seed; of videos drawn by the seed, how they are drawn."""
    if not record:
        return {}
    inputs = {name: records.get(tuple(key), {}) for name, key in record["inputs"].items()}
    return {
        **{name: own for name, own in record["spec"].items() if name not in SEEDED},
        "data": record["context"].get("selection", [])[:4],
        "prompts": inputs.get("source_texts", {}).get("spec", {}).get("prompts", ""),
        "init_from": _training(inputs.get("init_from", {}), records),
    }


def _flat(value: object, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else name)
    else:
        yield path, value


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(lines: Sequence[Line]) -> Table:
    """Rows by method and configuration, columns by role, dataset and protocol; means over seeds."""
    placed = defaultdict[tuple[tuple[str, str], tuple[str, str]], list[Line]](list)
    for line in lines:
        placed[line.row, line.column].append(line)
    names, protocols = _configurations(lines), {line.column: line.protocol for line in lines}
    order = sorted(protocols, key=lambda own: (protocols[own]["role"], protocols[own]["dataset"], own))
    means = {place: float(np.mean([line.top1 for line in own])) for place, own in placed.items()}
    best = {own: max(mean for (_, column), mean in means.items() if column == own) for own in order}
    heads = [Column("Method"), Column("Configuration"), *(_head(own, protocols) for own in order)]
    rows, values = [], []
    for row, name in sorted(names.items(), key=lambda item: (item[0][0], item[1])):
        body = [
            _cell(placed[row, own], means[row, own] == best[own]) if placed.get((row, own)) else None for own in order
        ]
        rows.append((*cells(row[0], name), *(own or TableCell(NONE) for own in body)))
        numbers = {" ".join((_text(protocols[own]), *own)): means.get((row, own)) for own in order}
        values.append({"method": row[0], "configuration": name, **numbers})
    caption = (
        "A column is one way to measure: the hash of its protocol, and that of its videos. “±”: standard deviation "
        "over seeds; “*”: at a setting that was chosen among several, by the rule that the records name. A "
        "configuration names what differs between the rows of a method; “–”: not measured in this way."
    )
    return Table("Methods", "leaderboard", caption, tuple(heads), tuple(rows), values=pd.DataFrame(values))


def _configurations(lines: Iterable[Line]) -> dict[tuple[str, str], str]:
    """The settings of each row in which rows of its method differ."""
    rows = {line.row: line.settings for line in lines}
    found = dict[Key, str]()
    for method in {method for method, _ in rows}:
        found |= _differences({row: own for row, own in rows.items() if row[0] == method})
    return {row: text or NONE for row, text in found.items()}


def _differences(settings: Mapping[Key, Settings]) -> dict[Key, str]:
    """The settings of each that not all share, in print."""
    texts = {key: {name: json.dumps(value) for name, value in own.items()} for key, own in settings.items()}
    names = dict.fromkeys(name for own in texts.values() for name in own)
    different = [name for name in names if len({own.get(name) for own in texts.values()}) > 1]
    shown = {name: name.removeprefix("config.").removeprefix("training.") for name in different}
    return {
        key: portable(", ".join(f"{shown[name]} {own[name]}" for name in different if name in own))
        for key, own in texts.items()
    }


def _head(column: Key, protocols: Mapping[Key, Settings]) -> Column:
    """The head of a column, and what tells it from those on the same list in the same role."""
    text, flat = _text(protocols[column]), {key: dict(_flat(own)) for key, own in protocols.items()}
    alike = {key: own for key, own in flat.items() if _text(protocols[key]) == text}
    below = (column[0], f"videos {column[1]}" if column[1] else "", _differences(alike)[column])
    return Column(text, True, below, ", ".join(f"{name} {own}" for name, own in flat[column].items()))


def _text(protocol: Settings) -> str:
    return f"{protocol['dataset']} {protocol['split']}, {protocol['role']}"


def _cell(own: Sequence[Line], best: bool) -> TableCell:
    mean, std, n = spread([line.top1 for line in own])
    text = f"{mean:.1f}{f' ± {std:.1f}' if n > 1 else ''}{'*' if any(line.chosen for line in own) else ''}"
    return TableCell(text, best, best, title="; ".join(line.provenance for line in own))


def _cells(lines: Sequence[Line]) -> Table:
    """The provenance of every number."""
    heads = dict.fromkeys(("Method", "Configuration", "Protocol", "Videos", "Measured on"), False)
    heads |= {"Seed": True, "Top-1": True} | dict.fromkeys(
        ("Record", "Suite", "Date", "Revision", "Source", "Setting"), False
    )
    names = _configurations(lines)
    rows = tuple(
        cells(
            *(line.method, names[line.row], *line.column, _text(line.protocol)),
            *(NONE if line.seed is None else str(line.seed), f"{line.top1:.2f}"),
            *(line.identity, line.suite, line.date, line.revision, line.source, line.chosen or NONE),
        )
        for line in lines
    )
    return Table("Records", "leaderboard-records", "Every number and its record.", columns(heads), rows)

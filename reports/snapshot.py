"""Snapshots of reports: files beside the page with which other reports can be compared, also of other revisions.

    results.csv       the table of results
    results.json      all else of `Results` that a comparison needs; what is drawn of experts is left out
    revisions/<first 7 digits of the revision>[-dirty]/   the same two files of the last report of each revision

Predictions stay in the store that the results came from.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray
from safetensors.numpy import load_file

from bench.core.errors import UserError, unknown
from bench.core.files import write_atomically
from bench.core.words import typed
from bench.store.answers import PREDICTIONS
from bench.store.records import RecordData, Store
from reports.facts import Cost, Fact, FailedStage, Known, Subject, TrainingCost
from reports.results import COLUMNS, Answers, ReportSettings, Results

TABLE, REST = "results.csv", "results.json"
SCHEMA = 1
AGAIN = "`report` writes it again"
REVISIONS = "revisions"
DIGITS, DIRTY = 7, "-dirty"  # of a revision, in a folder's name
PLAIN = ("suite", "title", "description", "axes", "protocol_axes", "protocols", "provenance")  # fields of JSON values
NUMBERS = {"seed", "top1", "top5", "mean_class", "videos", "undecodable"}

log = logging.getLogger("bench.reports")


def save(results: Results, folder: Path) -> None:
    """Write the snapshot into a report's folder, and a copy for the revision, if the provenance has one."""
    rest: dict[str, Any] = {"schema": SCHEMA, **{name: getattr(results, name) for name in PLAIN}}
    rest |= {
        "provenance": provenance(results),
        "groups": dict(results.groups),
        "settings": asdict(results.settings),
        "costs": [_flat(cost) for cost in results.costs],
        "trainings": [_flat(training) for training in results.trainings],
        "failures": [asdict(failure) for failure in results.failures],
    }
    table, named = results.table.to_csv(index=False, lineterminator="\n"), revision(results.provenance)
    for place in [folder, *([folder / REVISIONS / named] if named else [])]:
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(place / TABLE, table.encode())
        text = json.dumps({**rest, "store": store_from(results, place) or None}, indent=1, ensure_ascii=False)
        write_atomically(place / REST, f"{text}\n".encode())


def provenance(results: Results) -> dict[str, object]:
    """The provenance as it is shown, without the place of the store."""
    return {name: own for name, own in results.provenance.items() if name != "store"}


def store_from(results: Results, folder: Path) -> str:
    """The way from a report's folder to its store, "../.." if it lies in there; "" if none is known."""
    store = results.provenance.get("store")
    return os.path.relpath(Path(str(store)).resolve(), folder.resolve()) if store else ""


def load(folder: Path, store: Path | None = None) -> Results:
    """The results of a snapshot, with predictions from `store`, or else from the store of the report.

    Raises UserError if there is no snapshot in the folder, or one of another version.
    """
    if not is_snapshot(folder):
        raise UserError("there is no snapshot of a report", where=str(folder))
    try:
        rest = json.loads((folder / REST).read_bytes())
        if rest["schema"] != SCHEMA:
            what = f"version {rest['schema']} of the format, not {SCHEMA}"
            raise UserError(what, where=str(folder / REST), hint=AGAIN)
        return _results(rest, folder, store)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError("holds no snapshot, so it is damaged", where=str(folder), hint=AGAIN) from error


def _results(rest: dict[str, Any], folder: Path, store: Path | None) -> Results:
    settings = rest["settings"]
    pairs = tuple((a, b) for a, b in settings["compare"])
    place = str(store or (rest["store"] and (folder / rest["store"]).resolve()) or "")
    evaluations = Evaluations(Store(Path(place)))
    own = {"protocol_axes": tuple(rest["protocol_axes"]), "provenance": {**rest["provenance"], "store": place}}
    return Results(
        **{name: rest[name] for name in PLAIN} | own,
        table=_table(folder / TABLE),
        predictions=evaluations.predictions,
        answers=evaluations.answers,
        class_names=evaluations.class_names,
        groups=rest.get("groups", {}),
        probes=(),
        settings=ReportSettings(**{**settings, "compare": pairs}),
        costs=tuple(_fact(Cost, cost) for cost in rest["costs"]),
        trainings=tuple(_fact(TrainingCost, {**own, "sharing": tuple(own["sharing"])}) for own in rest["trainings"]),
        failures=tuple(FailedStage(**failure) for failure in rest["failures"]),
    )


def _flat(fact: Fact) -> dict[str, Any]:
    """A fact as JSON values, with those of its subject among them."""
    own = asdict(fact)
    return {**own.pop("subject"), **own}


def _fact(kind: type[Known], saved: dict[str, Any]) -> Known:
    subject = {field.name: saved[field.name] for field in fields(Subject) if field.name in saved}
    return kind(Subject(**subject), **{name: value for name, value in saved.items() if name not in subject})


def find(name: str, store: Path) -> Results:
    """The results of a suite's last report, of SUITE@REVISION, or of the report in a folder.

    Raises UserError with what there is.
    """
    if is_snapshot(Path(name)):
        return load(Path(name))
    known = dict(snapshots(store / "reports"))
    suite, at, wanted = name.partition("@")
    short = f"{suite}@{wanted[:DIGITS]}" if at and not wanted.endswith(DIRTY) else name
    chosen = [short] if short in known else [other for other in known if at and other.startswith(short)]
    if len(chosen) != 1:
        error = unknown("report", name, known, where=str(store / "reports"))
        made = "" if at else f"`{typed('report', suite, '--store', store)}` writes that of a suite"
        raise UserError(
            error.what, where=error.where, allowed=error.allowed, hint=" ".join(filter(None, (error.hint, made)))
        )
    return load(known[chosen[0]], store)


def snapshots(reports: Path) -> Iterator[tuple[str, Path]]:
    """Every report of a store, as a suite's last one and as that of a revision."""
    for file in sorted(reports.glob(f"*/{REST}")):
        yield file.parent.name, file.parent
        for copy in sorted((file.parent / REVISIONS).glob(f"*/{REST}")):
            yield f"{file.parent.name}@{copy.parent.name}", copy.parent


def is_snapshot(folder: Path) -> bool:
    return (folder / TABLE).is_file() and (folder / REST).is_file()


def revision(provenance: dict[str, Any]) -> str:
    """The name of a report's revision: "1cdf40b", "1cdf40b-dirty"; empty outside of a checkout."""
    known = provenance.get("revision")
    return f"{known[:DIGITS]}{DIRTY if provenance.get('dirty') else ''}" if known else ""


def _table(file: Path) -> pd.DataFrame:
    """The table; gaps of axes and numbers are nan, those of texts empty."""
    axes = set(pd.read_csv(file, nrows=0).columns) - COLUMNS
    return pd.read_csv(
        file,
        dtype=dict.fromkeys(sorted(COLUMNS - NUMBERS), str),
        keep_default_na=False,
        na_values={name: [""] for name in axes | NUMBERS},
    )


class Evaluations:
    """The store's answers of evaluations to their videos, and names of their candidate classes, by identity.

    Their files are verified when they are first read.
    """

    def __init__(self, store: Store) -> None:
        self.store, self.record = store, cache(self._record)
        self._names = cache(lambda *texts: store.read(*texts)["context"]["class_names"])

    def _record(self, identity: str) -> RecordData | None:
        """The record of an evaluation; None if there is none, or a damaged one, which a warning names."""
        return self.store.find("evaluate", identity, [PREDICTIONS])

    def predictions(self, identity: str) -> pd.DataFrame:
        found: pd.DataFrame = self._columns(identity).to_pandas(use_threads=False)
        return found

    def answers(self, identity: str) -> Answers:
        """What the predictions say, without a table of them."""
        columns = self._columns(identity, ["label", "prediction", "correct"])
        return Answers.of(*(column.to_numpy() for column in columns.itercolumns()))

    def _columns(self, identity: str, names: list[str] | None = None) -> pa.Table:
        with pa.OSFile(str(self._file(identity))) as source:  # parquet's own way to a path costs more than a column
            return parquet.ParquetFile(source, pre_buffer=False).read(columns=names, use_threads=False)

    def cosines(self, identity: str) -> bytes:
        """The cosines of all views and classes; nothing if the record has none."""
        return self._scores(identity).get("cosines", np.empty(0)).tobytes()

    def finite(self, identity: str) -> bool:
        """True if the scores of all decoded videos are numbers."""
        scores = self._scores(identity)
        decoded_N = self.predictions(identity)["failure"].isna().to_numpy() if scores else ()
        return all(bool(np.isfinite(scores[name][decoded_N]).all()) for name in ("cosines", "norms") if name in scores)

    def _scores(self, identity: str) -> dict[str, NDArray[np.float32]]:
        file = self.store.folder("evaluate", identity) / "scores.safetensors"
        return load_file(file) if file.is_file() else {}

    def class_names(self, identity: str) -> Sequence[str]:
        record = self.record(identity) or self.store.read("evaluate", identity)
        names: Sequence[str] = self._names(*record["inputs"]["texts"])
        return names

    def _path(self, identity: str) -> Path:
        return self.store.folder("evaluate", identity) / PREDICTIONS

    def _file(self, identity: str) -> Path:
        if self.record(identity) is None:
            hint = "--store names the store of the results"
            raise UserError("the predictions of a result are not there", where=str(self._path(identity)), hint=hint)
        return self._path(identity)

"""Results as tidy frames for analysis in Python: results, predictions, costs, latencies, trainings.

Accuracies are percent, seconds and bytes are plain, FLOPs count 2 per multiply-add. `identity` names a record and joins
frames; it is empty where a result has no record yet.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from bench.core.files import cache_dir, write_atomically
from bench.core.identity import digest
from bench.graph.build import Graph
from bench.launch.code import fingerprint
from bench.store.answers import PREDICTIONS
from bench.store.records import Store
from bench.suite.base import suite_text
from bench.suite.trial import Suite
from reports.costs import cost_values
from reports.facts import Fact
from reports.results import Results

OF_RESULT = ["identity", "row", "point", "seed", "expert", "protocol"]  # what predictions repeat of their result
SUBJECT = ["row", "label", "point", "identity"]
PREDICTED = ["video", "class", "predicted", "correct", "failure"]
COSTS = [*SUBJECT, "backbone", "frames", "views", "classes", "device"]
LATENCIES = [*SUBJECT, "part", "precision", "batch", "p50", "p95", "throughput", "memory", "device"]
TRAININGS = [*SUBJECT, "seed", "seconds", "devices", "device", "memory"]


def result_frame(results: Results) -> pd.DataFrame:
    """A line for each trial x protocol x part (x expert), with a column for each axis."""
    shown = results.table.drop(columns=[name for name in results.table if str(name).startswith("_")])
    return shown.astype(dict.fromkeys(("top1", "top5", "mean_class"), float))


def kept_result_frame(
    file: Path, suite: Suite, graph: Graph, store: Store, collect: Callable[[], Results]
) -> pd.DataFrame:
    """The results of a planned suite from the cache folder, or else from `collect`, whose frame is then kept there.

    What was kept holds as long as the suite's file, the code, the identities of all stages, and size, time and inode of
    each record and its predictions are the same. A frame with damaged records, or that changes when it is written, is
    not kept.
    """
    stats = {stage.key: _stat(f"{store.root}/records/{stage.kind}/{stage.identity}") for stage in graph.stages.values()}
    state = repr([*stats.items()]).encode()
    code = fingerprint().encode()
    key = hashlib.sha256(b"\n".join([suite_text(file), repr(suite.overrides).encode(), code, state])).hexdigest()
    which = digest([str(file.resolve()), suite.overrides, str(store.root.resolve())])
    kept = cache_dir() / "results" / f"{which}.parquet"
    with suppress(OSError, pa.ArrowException):
        table = parquet.read_table(kept)
        if (table.schema.metadata or {}).get(b"key") == key.encode():
            return pd.DataFrame(table.to_pandas())
    found = result_frame(collect())
    there = {identity for (kind, identity), own in stats.items() if kind == "evaluate" and own}
    if there <= set(found["identity"]):
        with suppress(OSError, pa.ArrowException):
            table = pa.Table.from_pandas(found)
            table = table.replace_schema_metadata({**table.schema.metadata, b"key": key.encode()})
            if table.to_pandas().equals(found):
                kept.parent.mkdir(parents=True, exist_ok=True)
                sink = pa.BufferOutputStream()
                parquet.write_table(table, sink)
                write_atomically(kept, sink.getvalue().to_pybytes(), durable=False)
    return found


def _stat(folder: str) -> list[tuple[int, int, int]]:
    """Size, time and inode of a record and of its predictions; nothing of those that are not there."""
    found = []
    for name in ("record.json", PREDICTIONS):
        with suppress(OSError):
            own = os.stat(f"{folder}/{name}")
            found.append((own.st_size, own.st_mtime_ns, own.st_ino))
    return found


def prediction_frame(results: Results) -> pd.DataFrame:
    """A line for each video of each evaluation, under the first result that the evaluation is behind.

    `class` and `predicted` are names; `correct` is 0 or 1, or a mean over draws of classes; `failure` says why a video
    could not be decoded.
    """
    done = results.table[results.table["identity"] != ""].drop_duplicates("identity")
    parts = [_predictions(results, line) for line in done[OF_RESULT].to_dict("records")]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*OF_RESULT, *PREDICTED])


def _predictions(results: Results, about: dict[Any, Any]) -> pd.DataFrame:
    names, found = results.class_names(about["identity"]), results.predictions(about["identity"])
    named = found.assign(
        **{"class": [names[label] for label in found["label"]]},
        predicted=[names[label] for label in found["prediction"]],
        correct=found["correct"].astype(float),
        **about,
    )
    return named[[*OF_RESULT, *PREDICTED]]


def cost_frame(results: Results) -> pd.DataFrame:
    """A line for each row and point that was profiled: parameters, FLOPs as counted and in closed form."""
    return _frame(
        (
            {**_subject(cost), **cost_values(cost.result), "device": cost.result["machine"]["device"]}
            for cost in results.costs
        ),
        COSTS,
    )


def latency_frame(results: Results) -> pd.DataFrame:
    """A line for each measurement of a profile: seconds p50 and p95 of a batch, videos a second, bytes of memory."""
    measured = ((cost, own) for cost in results.costs for own in cost.result["latency"])
    return _frame(
        ({**_subject(cost), **own, "device": cost.result["machine"]["device"]} for cost, own in measured), LATENCIES
    )


def training_frame(results: Results) -> pd.DataFrame:
    """A line for each finished training: seconds from its start to its end, devices, bytes at the peak."""

    def lines() -> Iterator[dict[str, Any]]:
        for own in results.trainings:
            yield {**_subject(own), "seed": own.subject.seed, **{name: asdict(own)[name] for name in TRAININGS[-4:]}}

    return _frame(lines(), TRAININGS)


def _subject(fact: Fact) -> dict[str, Any]:
    return {name: getattr(fact.subject, name) for name in SUBJECT}


def _frame(lines: Iterable[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """Lines as a frame, which has its first columns without any line too."""
    found = pd.DataFrame([*lines])
    return (
        found[[*columns, *(name for name in found if name not in columns)]]
        if len(found)
        else pd.DataFrame(columns=columns)
    )

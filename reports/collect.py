"""From the store to a report's results: the tidy table of a suite, a line per trial, protocol, part and experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from bench.graph.build import Cell, Graph, ProbeCell
from bench.published.pairing import pairs
from bench.store.records import Store
from bench.suite.resolve import changes_protocols
from bench.suite.trial import Suite
from reports.collect_costs import collect_costs, collect_trainings
from reports.collect_experts import collect_distances, collect_maps, collect_routing
from reports.failures import Failure
from reports.results import Probe, ReportSettings, Results
from reports.shares import Shares
from reports.snapshot import Evaluations

MEASURES = ("top1", "top5", "mean_class", "videos", "undecodable")


def collect(suite: Suite, graph: Graph, store: Store, provenance: dict[str, object]) -> Results:
    """The results of a suite as far as its records stand; what is missing has NaN and an empty identity."""
    stages = [cell.stage for cell in graph.cells] + [probe.stage for probe in graph.probes]
    known = {kind: store.known(kind) for kind in ("evaluate", "probe")}
    records = {stage.identity: store.read(*stage.key) for stage in stages if stage.identity in known[stage.kind]}
    report, evaluations = suite.file.report, Evaluations(store)
    protocol_axes = tuple(
        path.rpartition(".")[2] for path, axis in suite.file.axes.items() if changes_protocols(path, axis)
    )
    join = None if report.join in protocol_axes else report.join  # each of its values has its own panel
    settings = ReportSettings(join=join, reference=report.reference, compare=tuple(report.compare))
    deviations = {key: trial.deviations for key, trial in {id(cell.trial): cell.trial for cell in graph.cells}.items()}
    lines = [line for cell in graph.cells for line in _lines(cell, suite, records, deviations[id(cell.trial)])]
    probed = [probe for probe in graph.probes if probe.stage.identity in records]
    return Results(
        suite=suite.name,
        title=_title(suite),
        description=suite.file.description,
        table=pd.DataFrame(lines),
        predictions=evaluations.predictions,
        probes=tuple(_probe(probe, store, records[probe.stage.identity]) for probe in probed),
        settings=settings,
        axes={name: name.replace("_", " ") for name in suite.axes},
        protocol_axes=protocol_axes,
        protocols=graph.protocols,
        maps=tuple(collect_maps(graph.maps, store)),
        distances=tuple(collect_distances(graph.weights, store)),
        routing=tuple(collect_routing(((cell.trial, cell.stage) for cell in graph.trainings), store)),
        costs=tuple(collect_costs(graph.profiles, store)),
        trainings=tuple(collect_trainings(graph.cells, store)),
        shares=tuple(share for probe in probed for share in _shares(probe, records[probe.stage.identity])),
        failures=tuple(_failures(graph, store)),
        answers=evaluations.correct,
        class_names=lambda identity: graph.stages[identity].inputs["texts"].context["class_names"],
        published=pairs(suite),
        provenance={**provenance, "store": str(store.root), "records": _origins(records)},
    )


def _title(suite: Suite) -> str:
    """With the world's data in the places of those that the columns are named after."""
    if not suite.file.world:
        return suite.file.title
    stands = ", ".join(f"{name} is {protocol.dataset}" for name, protocol in suite.columns.items())
    return f"{suite.file.title}, in world {suite.file.world} ({stands})"


def _lines(
    cell: Cell, suite: Suite, records: dict[str, dict[str, Any]], deviations: dict[str, str]
) -> Iterator[dict[str, object]]:
    """The line of a cell, or a line for each draw of classes that its evaluation re-scored."""
    trial, record = cell.trial, records.get(cell.stage.identity)
    result: dict[str, Any] = record["result"] if record else dict.fromkeys(MEASURES, float("nan"))
    draws = {f"draw {draw}": numbers for draw, numbers in enumerate(result.get("draws", []))}
    axes = dict.fromkeys(suite.axes) | dict(trial.point)
    for part, numbers in (draws or {cell.part: result}).items():
        yield {
            "row": trial.row,
            "label": trial.label,
            "method": trial.method,
            **axes,
            "point": ", ".join(f"{name} {value}" for name, value in trial.point),
            "seed": trial.seed,
            "expert": cell.expert,
            "role": cell.role,
            "protocol": cell.protocol,
            "dataset": cell.dataset,
            "part": part,
            "deviation": deviations.get(cell.protocol, ""),
            **{name: {**result, **numbers}[name] for name in MEASURES},
            "identity": cell.stage.identity if record else "",
        }


def _failures(graph: Graph, store: Store) -> Iterator[Failure]:
    """The stages of the graph of which an attempt failed, in its order."""
    attempts: dict[str, int] = {}
    reasons: dict[str, list[str]] = {}
    for event in store.events():
        if event["event"] == "start":
            attempts[event["identity"]] = attempts.get(event["identity"], 0) + 1
        elif event["event"] in ("failure", "death"):
            reasons.setdefault(event["identity"], []).append(str(event.get("reason") or "its process died"))
    for stage in graph.stages.values():
        if found := reasons.get(stage.identity):
            last = found[-1].strip().splitlines()[-1]
            tried = max(attempts.get(stage.identity, 0), len(found))
            yield Failure(stage.title, tried, len(found), last, store.done(*stage.key))


def _probe(probe: ProbeCell, store: Store, record: dict[str, Any]) -> Probe:
    similarity = load_file(store.folder(*probe.stage.key) / "similarity.safetensors")["similarity"]
    return Probe(
        *_names(probe),
        probe.stage.spec["feature"],
        tuple(record["result"]["names"]),
        similarity,
        record["result"]["videos"],
        probe.stage.identity,
    )


def _shares(probe: ProbeCell, record: dict[str, Any]) -> Iterator[Shares]:
    """What a probe says about its experts' shares of the answer; nothing if the method does not tell them."""
    if shares := record["result"].get("shares"):
        mean, std = np.array(shares["mean"]), np.array(shares["std"])
        yield Shares(*_names(probe), mean, std, record["result"]["videos"], probe.stage.identity)


def _names(probe: ProbeCell) -> tuple[str, str, str, int, str]:
    trial = probe.trial
    point = ", ".join(f"{name} {value}" for name, value in trial.point)
    return trial.row, trial.label, point, trial.seed, probe.protocol


def _origins(records: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """What the records' provenance says, each distinct value once."""
    found: dict[str, set[str]] = {}
    for record in records.values():
        origin = record["provenance"]
        for name in ("revision", "dirty", "command", "host", "device", "threads", "python"):
            found.setdefault(name, set()).add(str(origin.get(name)))
        for package, version in origin["versions"].items():
            found.setdefault(f"{package} version", set()).add(version)
    return {name: sorted(values) for name, values in found.items()}

"""Collecting a report's results from the store: the tidy table of a suite, and facts about its rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from bench.core.errors import UserError
from bench.core.words import now, portable, when
from bench.graph.build import Cell, Graph, ProbeCell, claims, grouping
from bench.graph.price import devices, work_seconds
from bench.graph.stage import Stage
from bench.launch.launches import MERGED, estimates, launches
from bench.launch.usage import Usage, usage
from bench.published.pairing import pairs
from bench.store.answers import PREDICTIONS
from bench.store.records import KINDS, REDO, Store
from bench.suite.measures import VALIDATION
from bench.suite.resolve import changes_protocols
from bench.suite.trial import Suite, Trial
from bench.suite.tuning import TUNED, rule
from reports.facts import (
    Cost,
    Distances,
    Estimate,
    FailedStage,
    MappedClip,
    Maps,
    Probe,
    Routing,
    Shares,
    Subject,
    TrainingCost,
)
from reports.results import ReportSettings, Results
from reports.selection import REST, selected
from reports.snapshot import Evaluations
from reports.stills import stills

SIMILARITY = "similarity"
MEASURES = ("top1", "top5", "mean_class", "videos", "undecodable")
VERSIONS = {"torch": "torch", "open_clip_torch": "open_clip"}  # of packages that numbers depend on, and their names
ORIGINS = ("revision", "dirty", "command", "launch", "host", "device", "threads", "python")  # of records
FILES = {"evaluate": [PREDICTIONS], "probe": [f"{SIMILARITY}.safetensors"]}  # which a report reads of all records
Record = dict[str, Any]


def collect(suite: Suite, graph: Graph, store: Store, provenance: dict[str, object]) -> Results:
    """The results of a suite as far as its records stand; a missing one has NaN and an empty identity."""
    report, evaluations = suite.file.report, Evaluations(store)
    known = {kind: store.known(kind) for kind in ("evaluate", "probe")}
    evaluated = {cell.stage.identity for cell in graph.cells} & known["evaluate"]
    probes = {probe.stage.identity for probe in graph.probes} & known["probe"]
    read = {identity: evaluations.record(identity) for identity in evaluated}
    read |= {identity: store.find("probe", identity, FILES["probe"]) for identity in probes}
    records = {identity: record for identity, record in read.items() if record}
    unsound = dict(_unsound((cell.stage for cell in graph.cells), records, evaluations))
    records = {identity: record for identity, record in records.items() if identity not in unsound}
    protocol_axes = tuple(
        path.rpartition(".")[2] for path, axis in suite.file.axes.items() if changes_protocols(path, axis)
    )
    join = None if report.join in protocol_axes else report.join  # each of its values has its own panel
    deviations = {key: trial.deviations for key, trial in {id(cell.trial): cell.trial for cell in graph.cells}.items()}
    origins = _Environments(store, records)
    lines = [
        {**line, "environment": origins.of(cell.stage) if line["identity"] else ""}
        for cell in graph.cells
        for line in _lines(cell, suite, records, deviations[id(cell.trial)])
    ]
    probed = [probe for probe in graph.probes if probe.stage.identity in records]
    found = Results(
        suite=suite.name,
        title=_title(suite),
        description=suite.file.description,
        table=pd.DataFrame(lines),
        predictions=evaluations.predictions,
        probes=tuple(_probe(probe, store, records[probe.stage.identity]["result"]) for probe in probed),
        settings=ReportSettings(join, report.reference, tuple(report.compare), report.tolerance),
        axes={name: name.replace("_", " ") for name in suite.axes},
        protocol_axes=protocol_axes,
        protocols=portable(graph.protocols),
        maps=tuple(collect_maps(graph.maps, store)),
        distances=tuple(collect_distances(graph.weights, store)),
        routing=tuple(collect_routing(graph.trainings, store)),
        costs=tuple(collect_costs(graph.profiles, store)),
        trainings=tuple(collect_trainings(graph.cells, store)),
        shares=tuple(own for probe in probed for own in _shares(probe, records[probe.stage.identity]["result"])),
        failures=tuple(_failures(graph, store, records)),
        estimates=tuple(collect_estimates(suite.name, graph, store)),
        usage=tuple(collect_usage(suite.name, store)),
        answers=evaluations.answers,
        cosines=evaluations.cosines,
        unsound=tuple(unsound.values()),
        class_names=lambda identity: graph.stages[identity].inputs["texts"].context["class_names"],
        stills=lambda identity, videos: stills(graph.stages[identity], videos),
        groups=grouping(graph),
        published=pairs(suite),
        own_ways=frozenset(name for name, row in suite.file.rows.items() if isinstance(row.protocols, dict)),
        provenance={
            **portable(provenance),
            **({"features": claimed} if (claimed := portable(claims(graph))) else {}),
            **{"store": str(store.root), "written": _newest(graph, records, store), "records": _origins(records)},
        },
    )
    chosen = suite.file.select
    return selected(found, chosen.rule, rule(chosen.rule)) if chosen else found


def _newest(graph: Graph, records: Mapping[str, Record], store: Store) -> str:
    """When the newest record behind the page was finished, so that the same records give the same page; now if none."""
    others = {cell.stage.key for cells in (graph.maps, graph.weights, graph.profiles) for cell in cells}
    found = [*records.values(), *filter(None, (store.find(*key) for key in sorted(others)))]
    ends = [own["started"] + own["seconds"] for own in (each["provenance"] for each in found) if "started" in own]
    return when(max(ends)) if ends else now()


def _title(suite: Suite) -> str:
    """The suite's title; in a world, with the dataset that each column stands for."""
    if not suite.file.world:
        return suite.file.title
    stands = ", ".join(f"{name} is {protocol.dataset}" for name, protocol in suite.columns.items())
    return f"{suite.file.title}, in world {suite.file.world} ({stands})"


def _lines(
    cell: Cell, suite: Suite, records: dict[str, Record], deviations: dict[str, str]
) -> Iterator[dict[str, object]]:
    """The line of a cell, or a line for each draw of classes that its evaluation re-scored."""
    trial, record = cell.trial, records.get(cell.stage.identity)
    result: dict[str, Any] = record["result"] if record else dict.fromkeys(MEASURES, float("nan"))
    draws = {f"draw {draw}": numbers for draw, numbers in enumerate(result.get("draws", []))}
    axes, select = dict.fromkeys(suite.axes) | dict(trial.point), suite.file.select
    rest = {REST: _text(own for own in trial.point if own[0] != TUNED)} if select else {}
    for part, numbers in (draws or {cell.part: result}).items():
        yield {
            "row": trial.row,
            "label": trial.label,
            "method": trial.method,
            **axes,
            "point": _text(trial.point),
            "seed": trial.seed,
            "expert": cell.expert,
            "role": VALIDATION if select and cell.protocol == select.protocol else cell.role,
            "protocol": cell.protocol,
            "dataset": cell.dataset,
            "part": part,
            "deviation": portable(deviations.get(cell.protocol, "")),
            "_weights": _weights(cell),
            **rest,
            **{name: {**result, **numbers}[name] for name in MEASURES},
            "identity": cell.stage.identity if record else "",
        }


def _weights(cell: Cell) -> str:
    """The same text for cells with the same method and weights; nothing of a tuned tower is left at `clip_alpha` 0."""
    spec, train = getattr(cell.stage, "spec", {}), cell.stage.inputs.get("train")
    trained = train and getattr(spec.get("inference"), "clip_alpha", 1) != 0
    weights = [str(spec.get(name, "")) for name in ("backbone", "weights")]
    return " ".join([cell.trial.method, *weights, train.identity if train and trained else ""])


def _unsound(
    stages: Iterable[Stage], records: dict[str, Record], evaluations: Evaluations
) -> Iterator[tuple[str, str]]:
    """Evaluations that hold no numbers, and what to do: NaN or inf in accuracies, or in cosines behind poor ones."""
    for stage in stages:
        if stage.kind != "evaluate" or stage.identity not in records:
            continue
        result = records[stage.identity]["result"]
        named = [(name, own[name]) for own in (result, *result.get("draws", ())) for name in MEASURES[:3]]
        what = next((f"{name} is {own}" for name, own in named if own is not None and not np.isfinite(own)), "")
        poor = result["top1"] is not None and result["top1"] <= 300 / result.get("classes", np.inf)
        if not what and poor and not evaluations.finite(stage.identity):
            what = "cosines are not finite"
        if what:
            record = f"records/evaluate/{stage.identity}"
            yield stage.identity, f"not a number: {stage.title}: {what} in {record}, which is left out. {REDO}."


class _Environments:
    """Devices and versions behind records: their own, and those of all of their inputs."""

    def __init__(self, store: Store, records: Mapping[str, Record]) -> None:
        self.store, self.records, self.found = store, records, dict[str, dict[str, set[str]]]()

    def of(self, stage: Stage) -> str:
        """E.g. "cpu (AVX512) and NVIDIA H200, torch 2.9.0, open_clip 3.2.0"."""
        return ", ".join(f"{name} {' and '.join(sorted(own))}".strip() for name, own in self._of(stage).items() if own)

    def _of(self, stage: Stage) -> dict[str, set[str]]:
        if stage.identity not in self.found:
            origin = self._origin(stage)
            versions = {name: {origin.get("versions", {}).get(package, "")} for package, name in VERSIONS.items()}
            own = {"": {origin.get("device") or ""}, **versions}
            for other in map(self._of, stage.inputs.values()):
                own = {name: values | other[name] for name, values in own.items()}
            self.found[stage.identity] = {name: values - {""} for name, values in own.items()}
        return self.found[stage.identity]

    def _origin(self, stage: Stage) -> dict[str, Any]:
        """The provenance of a record; nothing of one that is not there."""
        if stage.identity in self.records:
            return dict(self.records[stage.identity]["provenance"])
        try:
            file = self.store.folder(*stage.key) / "record.json"
            return dict(json.loads(file.read_bytes()).get("provenance", {}))
        except (AttributeError, OSError, ValueError):
            return {}


def _failures(graph: Graph, store: Store, sound: Container[str]) -> Iterator[FailedStage]:
    """The stages that failed in at least one attempt or whose record is damaged, in the order of the graph."""
    attempts, reasons = Counter[str](), dict[str, list[str]]()
    for event in store.events():
        if event["event"] == "start":
            attempts[event.get("identity", "")] += 1
        elif event["event"] in ("failure", "death"):
            reasons.setdefault(event.get("identity", ""), []).append(str(event.get("reason") or "its process died"))
    known = {kind: store.known(kind) for kind in KINDS}
    for stage in graph.stages.values():
        found = reasons.get(stage.identity, [])
        unknown = stage.identity not in sound and stage.identity in known[stage.kind]
        damage = _damage(stage, store) if unknown else ""
        if found or damage:
            last = portable(damage or found[-1].strip().splitlines()[-1])
            tried = max(attempts[stage.identity], len(found))
            yield FailedStage(stage.title, tried, len(found), last, not damage and store.done(*stage.key))


def _damage(stage: Stage, store: Store) -> str:
    """What is wrong with the record of a stage, and where in the store; empty for a sound one."""
    try:
        store.read(*stage.key, FILES.get(stage.kind, ()))
    except FileNotFoundError:
        return ""
    except UserError as error:
        place = error.where.removeprefix(f"{store.root}/")
        return f"its record cannot be used: {place}: {error.what}"
    return ""


def _origins(records: dict[str, Record]) -> dict[str, list[str]]:
    """The provenance of the records, each distinct value once."""
    found: dict[str, set[str]] = {}
    for origin in (record["provenance"] for record in records.values()):
        versions = {f"{package} version": version for package, version in origin["versions"].items()}
        for name, value in ({name: str(origin.get(name)) for name in ORIGINS} | versions).items():
            found.setdefault(name, set()).add(portable(value))
    return {name: sorted(values) for name, values in found.items()}


# --- facts besides accuracies ----------------------------------------------------------------------------------------


@dataclass
class _Shared:
    """A finished stage, with the cells of the trials that share it."""

    stage: Stage
    cells: list[Cell | ProbeCell] = field(default_factory=list)

    @property
    def trials(self) -> list[Trial]:
        return list({id(cell.trial): cell.trial for cell in self.cells}.values())

    @property
    def subject(self) -> Subject:
        """The first trial, at the axis values that all trials agree on."""
        first, *others = self.trials
        shared = [own for own in first.point if all(own in trial.point for trial in others)]
        return Subject(first.row, first.label, _text(shared), self.stage.identity, first.seed)


def collect_costs(cells: Iterable[ProbeCell], store: Store) -> Iterator[Cost]:
    """A cost for each row and point of which a profile is done; it does not depend on the seed."""
    found: dict[tuple[str, str], ProbeCell] = {}
    for cell in cells:
        if store.done(*cell.stage.key):
            found.setdefault((cell.trial.row, _text(cell.trial.point)), cell)
    for cell in found.values():
        result = _result(cell.stage, store)
        yield Cost(_subject(cell), result, result["machine"])


def collect_trainings(cells: Iterable[Cell | ProbeCell], store: Store) -> Iterator[TrainingCost]:
    """Each finished training behind the cells once, whatever shares it; imported checkpoints were not trained here."""
    for own in _finished(cells, store, "train"):
        if "imported" not in own.stage.spec:
            record, subject = store.read(*own.stage.key), own.subject
            yield TrainingCost(
                subject,
                seconds=record["result"].get("seconds", record["cost"]["seconds"]),
                devices=record["context"]["execution"]["processes"],
                device=record["provenance"]["device"],
                sharing=tuple(dict.fromkeys(trial.row for trial in own.trials if trial.row != subject.row)),
                memory=record["cost"].get("memory"),
            )


def collect_estimates(suite: str, graph: Graph, store: Store) -> Iterator[Estimate]:
    """Prices beside the truth for each kind, of finished stages that a launch of the suite has priced."""
    priced, found = estimates(store, suite), dict[str, list[tuple[float, float]]]()
    for stage in graph.stages.values():
        if stage.identity in priced and (record := store.find(*stage.key)):
            count, measured = devices(stage.context), work_seconds(record["cost"])
            found.setdefault(stage.kind, []).append((count * priced[stage.identity], count * measured))
    for kind in filter(found.get, KINDS):
        yield Estimate(kind, len(found[kind]), *map(sum, zip(*found[kind], strict=True)))


def collect_usage(suite: str, store: Store) -> list[Usage]:
    """What the suite's last launch on Slurm asked for and used; nothing without one."""
    asked = (own for own in launches(store, MERGED) if (own.about["suite"], own.about["on"]) == (suite, "slurm"))
    last = next(asked, None)
    return usage(last, store.events()) if last else []


def collect_maps(cells: Iterable[ProbeCell], store: Store) -> Iterator[Maps]:
    """The maps of every finished stage of the kind `maps`."""
    for own in _finished(cells, store, "maps", "maps.safetensors"):
        result, tensors = _result(own.stage, store), _tensors(own.stage, store, "maps")
        classes: Sequence[str] = own.stage.inputs["texts"].context["class_names"]
        shown = [classes[label] for label in result["labels"]]
        predicted = [tuple(classes[label] for label in labels) for labels in result["predictions"]]
        clips = zip(result["videos"], shown, predicted, tensors["pixels"], tensors["cosines"], strict=True)
        feature, names = own.stage.spec["feature"], tuple(result["names"])
        yield Maps(own.subject, own.cells[0].protocol, feature, names, tuple(MappedClip(*clip) for clip in clips))


def collect_distances(cells: Iterable[ProbeCell], store: Store) -> Iterator[Distances]:
    """The distances of every finished stage of the kind `weights`."""
    for own in _finished(cells, store, "weights", "weights.safetensors"):
        result, tensors = _result(own.stage, store), _tensors(own.stage, store, "weights")
        groups, parameters = tuple(result["groups"]), tuple(result["parameters"])
        yield Distances(own.subject, groups, parameters, tensors["distance"], tensors["cosine"])


def collect_routing(cells: Iterable[ProbeCell], store: Store) -> Iterator[Routing]:
    """The counts of draws of every finished training of trials with experts."""
    for own in _finished(cells, store, "train"):
        odds = tuple(own.trials[0].config.routing_odds)
        for pool, counts_LE in sorted(_tensors(own.stage, store, "counts").items()):
            if pool.startswith("routing") and counts_LE.sum(axis=1).all():
                yield Routing(own.subject, pool, counts_LE, odds)


def _probe(probe: ProbeCell, store: Store, result: dict[str, Any]) -> Probe:
    similarity = _tensors(probe.stage, store, SIMILARITY)[SIMILARITY]
    feature, names = probe.stage.spec["feature"], tuple(result["names"])
    return Probe(_subject(probe), probe.protocol, feature, names, similarity, result["videos"])


def _shares(probe: ProbeCell, result: dict[str, Any]) -> Iterator[Shares]:
    """The experts' shares of the answer; nothing if the method does not tell them."""
    if shares := result.get("shares"):
        yield Shares(
            _subject(probe), probe.protocol, np.array(shares["mean"]), np.array(shares["std"]), result["videos"]
        )


def _finished(cells: Iterable[Cell | ProbeCell], store: Store, kind: str, *files: str) -> Iterator[_Shared]:
    """Each finished stage of a kind once, in the order of the suite: a cell's stage, or that among its inputs.

    A stage counts as unfinished if one of these files of its record is damaged.
    """
    found: dict[str, _Shared] = {}
    for cell in cells:
        stage = cell.stage if cell.stage.kind == kind else cell.stage.inputs.get(kind)
        if stage is not None:
            found.setdefault(stage.identity, _Shared(stage)).cells.append(cell)
    yield from (own for own in found.values() if store.find(*own.stage.key, files))


def _subject(cell: ProbeCell) -> Subject:
    trial = cell.trial
    return Subject(trial.row, trial.label, _text(trial.point), cell.stage.identity, trial.seed)


def _text(point: Iterable[tuple[str, object]]) -> str:
    return ", ".join(f"{name} {value}" for name, value in point)


def _result(stage: Stage, store: Store) -> dict[str, Any]:
    result: dict[str, Any] = store.read(*stage.key)["result"]
    return result


def _tensors(stage: Stage, store: Store, name: str) -> dict[str, np.ndarray]:
    """The arrays of a record's file; none if it has no such file."""
    file = f"{name}.safetensors"
    if file not in store.read(*stage.key)["bytes"] or not store.find(*stage.key, [file]):
        return {}
    return load_file(store.folder(*stage.key) / file)

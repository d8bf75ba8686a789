"""Results of shipped suites as they are planned at toy scale, with numbers of no experiment and nothing carried out.

Rows, points, seeds, columns, experts and profiles are the suite's own; classes have the names of Kinetics-400, whose
longest are as long as names come.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from bench.core.errors import UserError
from bench.core.files import ASSETS
from bench.core.seeds import seed_for
from bench.graph.build import Cell, Graph, build_graph, grouping
from bench.published.pairing import pairs
from bench.suite.resolve import SUITES, changes_protocols, load_suite
from bench.suite.trial import Suite, Trial
from bench.suite.tuning import rule
from reports.collect import _lines, _Shared, _subject
from reports.facts import Cost, Distances, MappedClip, Maps, Probe, Routing, Shares, TrainingCost
from reports.results import ReportSettings, Results
from reports.selection import selected
from tests.reports import costly

NAMES = sorted(path.stem for path in SUITES.glob("*.yaml"))
VIDEOS, CLASSES = 400, 40
SIDE, PATCHES = 32, 7
LEVELS = {"closed-set": 78.0, "zero-shot": 58.0, "base": 80.0, "novel": 64.0}
CLIP = {"closed-set": -22.0, "zero-shot": -6.0, "base": -12.0, "novel": -3.0}  # of a reference that is not trained


def planned(name: str) -> Results:
    """The results of a shipped suite, in the embedded world, with all records there."""
    suite = _suite(name)
    graph = build_graph(suite)
    records = {cell.stage.identity: {"result": _accuracy(cell)} for cell in graph.cells}
    lines = [line for cell in graph.cells for line in _lines(cell, suite, records, cell.trial.deviations)]
    axes = tuple(path.rpartition(".")[2] for path, axis in suite.file.axes.items() if changes_protocols(path, axis))
    report, chosen = suite.file.report, suite.file.select
    found = Results(
        suite=suite.name,
        title=suite.file.title,
        description=suite.file.description,
        table=pd.DataFrame(lines),
        predictions=_Predictions({cell.stage.identity: records[cell.stage.identity]["result"] for cell in graph.cells}),
        settings=ReportSettings(
            None if report.join in axes else report.join, report.reference, tuple(report.compare), report.tolerance
        ),
        provenance={"written": "2026-01-01"},
        axes={axis: axis.replace("_", " ") for axis in suite.axes},
        protocol_axes=axes,
        protocols=graph.protocols,
        class_names=lambda identity: _classes(),
        groups=grouping(graph),
        published=pairs(suite),
        own_ways=frozenset(row for row, own in suite.file.rows.items() if isinstance(own.protocols, dict)),
        costs=tuple(_costs(graph)),
        trainings=tuple(_trainings(graph)),
        probes=tuple(_probes(graph)),
        shares=tuple(_shares(graph)),
        distances=tuple(_distances(graph)),
        routing=tuple(_routing(graph)),
        maps=tuple(_maps(graph)),
    )
    return selected(found, chosen.rule, rule(chosen.rule)) if chosen else found


def _suite(name: str) -> Suite:
    try:
        return load_suite(SUITES / f"{name}.yaml", ("world=glyphs",))
    except UserError:  # it is of that world
        return load_suite(SUITES / f"{name}.yaml")


def _drawn(*names: object) -> np.random.Generator:
    return np.random.default_rng(seed_for("planned", *map(str, names)))


def _accuracy(cell: Cell) -> dict[str, Any]:
    """An accuracy that rows, points, columns, choices of experts and seeds have their parts in."""
    trial, role = cell.trial, cell.role
    level = LEVELS.get(role, 70.0) + _drawn("column", cell.protocol).normal(0, 8)
    own = _drawn("row", trial.row, role).normal(0, 3) + (0 if trial.config.trains else CLIP.get(role, -10.0))
    at = sum(_drawn("value", trial.row, *pair, role).normal(0, 2) for pair in trial.point if pair[0] != "clip_alpha")
    alpha = dict(trial.point).get("clip_alpha", 1.0)
    own, at = alpha * own + (1 - alpha) * CLIP.get(role, 0.0) + 20 * alpha * (1 - alpha), alpha * at
    choice = _drawn("choice", trial.row, cell.expert, role).normal(-3, 2) if cell.expert not in ("", "merged") else 0
    top1 = float(
        np.clip(level + own + at + choice + _drawn(trial.title, cell.protocol, cell.part).normal(0, 0.6), 1, 99)
    )
    return {"top1": top1, "top5": (top1 + 100) / 2, "mean_class": top1, "videos": VIDEOS, "undecodable": 0}


class _Predictions:
    """Answers to a list of videos, right as often as the accuracy of their evaluation says."""

    def __init__(self, results: dict[str, dict[str, Any]]) -> None:
        self.results = results

    def __call__(self, identity: str) -> pd.DataFrame:
        label_N = np.arange(VIDEOS) % CLASSES
        hard_N = _drawn("videos").normal(0, 0.15, VIDEOS)
        chance_N = self.results[identity]["top1"] / 100 + hard_N + _drawn(identity).normal(0, 0.1, CLASSES)[label_N]
        correct_N = _drawn(identity, "videos").random(VIDEOS) < chance_N
        videos = [f"v{number:03d}" for number in range(VIDEOS)]
        answer_N = np.where(correct_N, label_N, (label_N + 1) % CLASSES)
        return pd.DataFrame({"video": videos, "label": label_N, "prediction": answer_N, "correct": correct_N})


@cache
def _classes() -> list[str]:
    """The longest names of Kinetics-400, and others."""
    names = pd.read_csv(ASSETS / "classes/kinetics-400.csv")["name"].sort_values(key=lambda own: -own.str.len())
    return [*names[: CLASSES // 2], *names[-CLASSES // 2 :]]


# --- facts besides accuracies ----------------------------------------------------------------------------------------


def _costs(graph: Graph) -> Iterator[Cost]:
    """Towers of two sizes, heads that cost little beside them, and rows that train nothing, parts or all of it."""
    for cell in graph.profiles:
        trial, own = cell.trial, _drawn("cost", cell.stage.identity)
        tower = 650 if "L" in str(dict(trial.point).get("model", "")) else 140
        trainable = own.choice([0.3, 7, 86, 110]) * own.uniform(0.8, 1.2) if trial.config.trains else 0.0
        prices = {"gflops": tower * own.uniform(1, 1.15), "ms": tower * own.uniform(1.5, 2), "trainable": trainable}
        result = costly.profile(**prices, experts=trial.config.experts if _choices(trial) else 0)
        yield Cost(_subject(cell), result, result["machine"])


def _trainings(graph: Graph) -> Iterator[TrainingCost]:
    found = dict[str, _Shared]()
    for cell in graph.cells:
        if train := cell.stage.inputs.get("train"):
            found.setdefault(train.identity, _Shared(train)).cells.append(cell)
    for identity, own in found.items():
        yield TrainingCost(own.subject, 3600 * _drawn(identity).uniform(1, 9), 1, "NVIDIA H200")


def _choices(trial: Trial) -> list[str]:
    return [*trial.config.expert_choices(trial.inference)]


def _probes(graph: Graph) -> Iterator[Probe]:
    for probe in graph.probes:
        names = _choices(probe.trial)
        similarity = 0.6 + 0.3 * _drawn("probe", probe.trial.title).random((len(names), len(names)))
        similarity = (similarity + similarity.T) / 2
        np.fill_diagonal(similarity, 1)
        feature = probe.stage.spec["feature"]
        yield Probe(_subject(probe), probe.protocol, feature, tuple(names), similarity, VIDEOS)


def _shares(graph: Graph) -> Iterator[Shares]:
    """Merged experts have equal shares of every answer; of attention, each video has its own."""
    for probe in graph.probes:
        experts, merged = probe.trial.config.experts, "merged" in _choices(probe.trial)
        if experts > 1:
            mean = np.ones(experts) if merged else _drawn("share", probe.trial.title).uniform(0.5, 2, experts)
            spread = np.full(experts, 0.0 if merged else 0.05)
            yield Shares(_subject(probe), probe.protocol, mean / mean.sum(), spread, VIDEOS)


def _distances(graph: Graph) -> Iterator[Distances]:
    for cell in graph.weights:
        experts, groups = cell.trial.config.experts, ("all layers", *(f"layer {i}" for i in range(_layers(cell.trial))))
        distance = _drawn("weights", cell.trial.title).uniform(0.4, 1.4, (len(groups), experts, experts))
        distance = (distance + distance.transpose(0, 2, 1)) / 2 * (1 - np.eye(experts))
        yield Distances(_subject(cell), groups, (1_000_000,) * len(groups), distance, 1 - distance**2 / 2)


def _routing(graph: Graph) -> Iterator[Routing]:
    for cell in graph.trainings:
        if odds := cell.trial.config.routing_odds:
            counts = _drawn("draws", cell.trial.title).multinomial(
                2000, np.array(odds) / sum(odds), _layers(cell.trial)
            )
            yield Routing(_subject(cell), "routing", counts, tuple(odds))


def _layers(trial: Trial) -> int:
    return int(getattr(trial.config, "layers", 3))


def _maps(graph: Graph) -> Iterator[Maps]:
    for cell in graph.maps:
        names, frames, own = _choices(cell.trial), 8, _drawn("maps", cell.trial.title)
        clips = [
            MappedClip(
                f"v{number:03d}", _classes()[number], tuple(_classes()[: len(names)]),
                own.integers(0, 256, (frames, 3, SIDE, SIDE), dtype=np.uint8),
                own.uniform(-0.2, 0.4, (len(names), frames, PATCHES, PATCHES)).astype(np.float32),
            )
            for number in range(2)
        ]  # fmt: skip
        yield Maps(_subject(cell), cell.protocol, "t", tuple(names), tuple(clips))

"""A suite as a graph: every piece of work once, however many trials need it.

    texts     class texts of one vocabulary under one template set
    encode    frame features of a list of videos; shared by all trials with the same tower
    train     one method under one recipe with one seed
    evaluate  scores of one model with one set of inference choices under one protocol
    probe     similarity of the features of a model's experts
    maps      places that a model's experts look at in a few videos
    weights   distances of a model's experts in weight space
    profile   costs of a method: parameters, FLOPs, seconds, memory; whatever data and seed

Rows that differ only in inference share a training; trials with a frozen tower share its encodings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.core.identity import digest
from bench.data.datasets import Dataset
from bench.graph.kinds import (
    NAMES_TOLD,
    MapsStage,
    ProbeStage,
    Stages,
    WeightsStage,
    caches_features,
    evaluation,
    learnt,
    profile_stage,
    train_stage,
)
from bench.graph.specs import Hashing
from bench.graph.stage import Context, Stage
from bench.models.backbones import backbone
from bench.suite.protocol import Protocol
from bench.suite.trial import Suite, Trial
from methods.settings import Inference


class Cell(NamedTuple):
    """One number of the tables: a trial under (a part of) a protocol, as a whole or with one choice of experts."""

    trial: Trial
    protocol: str
    part: str
    role: str
    dataset: str
    expert: str
    stage: Stage


@dataclass(frozen=True)
class ProbeCell:
    """A stage that looks at a trial besides accuracies."""

    trial: Trial
    protocol: str
    stage: Stage


@dataclass
class Graph:
    """The stages of a suite, inputs first, and the parts of its reports."""

    stages: dict[str, Stage] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    probes: list[ProbeCell] = field(default_factory=list)
    maps: list[ProbeCell] = field(default_factory=list)
    weights: list[ProbeCell] = field(default_factory=list)
    profiles: list[ProbeCell] = field(default_factory=list)
    trainings: list[ProbeCell] = field(default_factory=list)  # of the rows whose experts are compared
    datasets: dict[str, Dataset] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # dataset, or file of a recipe -> why it is not usable
    faulty: set[str] = field(default_factory=set)  # of these, datasets that are there, but not all of their videos
    protocols: dict[str, Context] = field(default_factory=dict)  # column of the tables -> how it is measured
    notes: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # (dataset, split or the like) -> oddities
    uncached: dict[str, set[str]] = field(default_factory=dict)  # why features are not kept -> trainings


def build_graph(suite: Suite, hashing: Hashing = lambda name, done, total: None) -> Graph:
    """Build the graph of a suite. Stages whose data are missing stay in it, marked as missing.

    `hashing` receives the progress of hashing videos whose content is not known yet.
    """
    stages = Stages(suite, hashing)
    graph = Graph(
        stages.planned, datasets=stages.datasets, missing=stages.absent, faulty=stages.faulty, notes=stages.notes
    )
    for trial in suite.trials:
        known = len(stages.order)
        _add(graph, stages, trial)
        for stage in stages.order[known:]:
            stage.row = trial.row
    for name, protocol in suite.columns.items():
        graph.protocols[name] = _column(stages, name, protocol)
    return graph


def claims(graph: Graph) -> list[str]:
    """What is said of the features that were not computed here, of trainings and of tests."""
    used = [name for name in graph.notes if name[0] in graph.datasets]
    return [f"{name}/{split}: {claim}" for name, split in used for claim in graph.datasets[name].claims(split)]


def grouping(graph: Graph) -> dict[str, str | dict[str, str]]:
    """What tells the group of a video, by dataset; a protocol over several datasets goes by the name of one."""
    found: dict[str, str | dict[str, str]] = {}
    for name, part in dict.fromkeys((cell.dataset, cell.part) for cell in graph.cells):
        own = graph.datasets.get(part.partition("/")[0]) or graph.datasets[name]
        before, how = found.get(name, {}), own.grouping()
        found[name] = {**before, **how} if isinstance(before, dict) and isinstance(how, dict) else before or how
    return found


def _add(graph: Graph, stages: Stages, trial: Trial) -> None:
    """Add the stages behind a trial's numbers and behind everything else that its suite reports of it."""
    report = stages.suite.file.report
    _add_cells(graph, stages, trial, "", trial.inference)
    if (train := train_stage(stages, trial)) and not trial.recipe.imported:
        for why in _uncached(trial):
            graph.uncached.setdefault(why, set()).add(train.identity)
    if trial.row in report.experts:
        _add_experts(graph, stages, trial, train)
    if report.profiles(trial.row) and trial.seed == stages.suite.file.seeds[0]:
        graph.profiles.append(_profile(stages, trial))


def _add_cells(graph: Graph, stages: Stages, trial: Trial, expert: str, inference: Inference) -> None:
    for name, protocol in trial.protocols:
        for part, own in stages.once("parts", protocol, protocol.parts).items():
            stage = stages.add(evaluation(stages, trial, f"{name} {part}".strip(), own, expert, inference))
            graph.cells.append(Cell(trial, name, part, protocol.role, protocol.dataset, expert, stage))


def _add_experts(graph: Graph, stages: Stages, trial: Trial, train: Stage | None) -> None:
    report, choices = stages.suite.file.report, tuple(trial.config.expert_choices(trial.inference).items())
    for expert, inference in choices:
        _add_cells(graph, stages, trial, expert, inference)
    unseen = [name for name, protocol in trial.protocols if protocol.role == "zero-shot"]
    if choices and unseen:
        name = report.experts_protocol or unseen[-1]
        first = next(iter(dict(trial.protocols)[name].parts().values()))
        graph.probes.append(ProbeCell(trial, name, stages.of(ProbeStage(trial, first, choices, report.feature))))
        if report.maps and trial.seed == stages.suite.file.seeds[0]:  # only one is drawn
            graph.maps.append(ProbeCell(trial, name, stages.of(MapsStage(trial, first, choices, report.maps))))
    if choices and train:
        graph.trainings.append(ProbeCell(trial, "", train))
        if trial.config.experts > 1:
            graph.weights.append(ProbeCell(trial, "", stages.of(WeightsStage(trial, train))))


def _profile(stages: Stages, trial: Trial) -> ProbeCell:
    """A profile on the views of the first closed-set protocol, or of the first at all."""
    profile, recipe, source = stages.suite.file.report.profile, trial.recipe, learnt(trial.recipe, trial.seed)
    assert profile is not None
    name, protocol = next((each for each in trial.protocols if each[1].role == "closed-set"), trial.protocols[0])
    names = stages.class_names(source, recipe.labels)
    shown = {
        "frames": profile.frames or protocol.views.frames,
        "views": profile.views or protocol.views.count,
        "classes": len(names),
    }
    training = {
        "frames": recipe.views.frames,
        "cached": caches_features(trial.config, recipe),
        "checkpointing": recipe.checkpointing,
        "texts": max(map(len, stages.prompts(recipe.templates, recipe.descriptions, source, recipe.labels)[0])),
        "batch": recipe.batch,
    }
    settings = trial.method, trial.config, trial.inference, backbone(recipe.backbone), shown, training
    title = f"profile {trial.row_at(dict(trial.point))}"
    stage = profile_stage(*settings, profile.measurement, title)
    stage.missing = stages.missing(source)  # the number of classes is the data's
    return ProbeCell(trial, name, stages.add(stage))


def _uncached(trial: Trial) -> Iterable[str]:
    """The reason why a trial's training encodes its clips in every epoch, if it does."""
    if trial.config.shares_encodings and not trial.recipe.views.copies:
        yield "recipe.views.copies is 0"
    elif not trial.config.shares_encodings:
        yield "the tower is tuned" if "visual" in trial.config.tuned else "the method encodes frames itself"


def _column(stages: Stages, name: str, protocol: Protocol) -> Context:
    """Description of a column for reports: its fields, their hash, and differences from the protocol that it names."""
    lists = [(part.dataset, part.split) for part in protocol.parts().values()]
    own = stages.suite.templates.get(protocol.templates, ())
    return {
        "hash": digest(protocol.settings)[:8],
        "use": stages.suite.file.protocols[name].get("use", ""),
        "changes": stages.suite.changes(name, protocol),
        "fields": protocol.fields(),
        "notes": [
            *(note for name in lists for note in stages.notes.get(name, [])),
            *(note for name, _ in lists if protocol.descriptions for note in stages.notes.get((name, NAMES_TOLD), [])),
            *([f"{protocol.templates}: {' | '.join(own)}"] if isinstance(own, tuple) and len(own) > 1 else []),
        ],
    }

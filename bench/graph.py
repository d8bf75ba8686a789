"""A suite as a graph: every piece of work once, however many trials need it.

    texts     class texts of one vocabulary under one template set
    encode    frame features of a list of videos; shared by all trials with the same tower
    train     one method under one recipe with one seed
    evaluate  scores of one model with one set of inference choices under one protocol
    probe     similarity of a model's experts

Rows that differ only in inference share a training; trials with a frozen tower share its encodings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from bench.backbones import backbone, weights_identity
from bench.data.datasets import Dataset, dataset
from bench.identity import digest, source_fingerprint
from bench.prompts import prompts
from bench.protocol import Protocol
from bench.recipe import Recipe
from bench.suite import Suite, Trial
from methods.registry import method
from methods.settings import Inference

KINDS = ("texts", "encode", "train", "evaluate", "probe")
PROBE_VIDEOS = 100  # unseen videos behind a similarity heatmap (MoTE Fig. 7)

Part = dict[str, Any]


@dataclass(eq=False)
class Stage:
    """A unit of work. `spec` and `inputs` make its identity; `context` says where data lie and does not."""

    kind: str
    spec: Part
    inputs: dict[str, Stage]
    modules: tuple[str, ...]
    context: Part
    title: str
    flops: float
    missing: str | None = None  # why its data are not usable, if they are not
    identity: str = field(default="", init=False)

    @cached_property
    def key(self) -> tuple[str, str]:
        return self.kind, self.identity


@dataclass(frozen=True)
class Cell:
    """One number of the tables: a trial under a protocol, as a whole or with one choice of experts."""

    trial: Trial
    protocol: str
    role: str
    dataset: str
    expert: str
    stage: Stage


@dataclass(frozen=True)
class ProbeCell:
    """One similarity matrix."""

    trial: Trial
    protocol: str
    stage: Stage


@dataclass
class Graph:
    """The stages of a suite, inputs before what needs them, and what its reports are made of."""

    stages: dict[str, Stage] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    probes: list[ProbeCell] = field(default_factory=list)
    datasets: dict[str, Dataset] = field(default_factory=dict)


def build_graph(suite: Suite) -> Graph:
    """The graph of a suite. Data that are not there leave their stages marked, not out."""
    return _Builder(suite).build()


class _Builder:
    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.graph = Graph()
        self.declared = {name: declared.model_dump(mode="json") for name, declared in suite.datasets.items()}
        self.memo: dict[tuple[object, ...], Any] = {}
        self.hashes: dict[int, str] = {}  # of parts, by their id; the parts live in the memo

    def build(self) -> Graph:
        for trial in self.suite.trials:
            for name, protocol in trial.protocols:
                self._cell(trial, name, protocol, "", trial.inference)
            if trial.row in self.suite.file.report.experts:
                self._experts(trial)
        return self.graph

    # --- what reports are made of ------------------------------------------------------------------------------

    def _cell(self, trial: Trial, name: str, protocol: Protocol, expert: str, inference: Inference) -> None:
        stage = self._evaluate(trial, name, protocol, expert, inference)
        self.graph.cells.append(Cell(trial, name, protocol.role, protocol.dataset, expert, stage))

    def _experts(self, trial: Trial) -> None:
        choices = trial.config.expert_choices(trial.inference)
        for expert, inference in choices.items():
            for name, protocol in trial.protocols:
                self._cell(trial, name, protocol, expert, inference)
        unseen = [name for name, protocol in trial.protocols if protocol.role == "zero-shot"]
        if choices and unseen:
            name = self.suite.file.report.experts_protocol or unseen[-1]
            self.graph.probes.append(ProbeCell(trial, name, self._probe(trial, dict(trial.protocols)[name], choices)))

    # --- stages -------------------------------------------------------------------------------------------------

    def _texts(self, recipe: Recipe, data: str, templates: str) -> Stage:
        memo = ("texts", recipe.backbone, recipe.pretrained, data, templates)
        if memo not in self.memo:
            names = self._dataset(data).class_names()
            texts = prompts(templates, names)
            shape = backbone(recipe.backbone)
            self.memo[memo] = self._stage(
                "texts",
                {**self._weights(recipe), "prompts": digest(texts)},
                {},
                ("bench.stages.texts",),
                {"pretrained": recipe.pretrained, "templates": templates, "class_names": names},
                f"texts {data} ({len(names)} classes)",
                float(len(names) * len(texts[0]) * shape.text_flops()),
            )
        return self.memo[memo]  # type: ignore[no-any-return]

    def _encode(self, trial: Trial, data: str, split: str, views: BaseModel, train: Stage | None) -> Stage:
        recipe, alpha = trial.recipe, trial.inference.clip_alpha if train else 1.0
        memo = ("encode", recipe.backbone, recipe.pretrained, data, split, views, train and train.identity, alpha)
        if memo not in self.memo:
            shape, frames = backbone(recipe.backbone), views.frames * (getattr(views, "copies", 0) or views.count)  # type: ignore[attr-defined]
            spec = {**self._weights(recipe), **self._data(data, split), "views": self._dump(views)}
            modules: tuple[str, ...] = ("bench.stages.encode",)
            if train:
                spec |= {"method": trial.method, "config": self._dump(trial.config), "alpha": alpha}
                modules += method(trial.method).modules
            self.memo[memo] = self._stage(
                "encode",
                spec,
                {"train": train} if train else {},
                modules,
                {"pretrained": recipe.pretrained, **self._place(data, split)},
                f"encode {data}/{split}" + (f" with {self._name(trial)}" if train else ""),
                float(self._videos(data, split) * frames * shape.tower_flops()),
                self._missing(data),
            )
        return self.memo[memo]  # type: ignore[no-any-return]

    def _train(self, trial: Trial) -> Stage | None:
        config, recipe = trial.config, trial.recipe
        if not config.trains:
            return None
        memo = ("train", trial.method, id(config), id(recipe), trial.seed)
        if memo not in self.memo:
            cached = config.shares_encodings and recipe.views.copies > 0
            inputs = {"source_texts": self._texts(recipe, recipe.source, recipe.templates)}
            if cached:
                inputs["features"] = self._encode(trial, recipe.source, recipe.split, recipe.views, None)
            spec = {
                **self._weights(recipe),
                **self._data(recipe.source, recipe.split),
                "method": trial.method,
                "config": self._dump(config),
                "recipe": self._recipe(recipe),
                "seed": trial.seed,
            }
            self.memo[memo] = self._stage(
                "train",
                spec,
                inputs,
                ("bench.stages.train", *method(trial.method).modules),
                {"pretrained": recipe.pretrained, **self._place(recipe.source, recipe.split)},
                f"train {self._trained_name(trial)}",
                self._train_flops(trial, cached),
                self._missing(recipe.source),
            )
        return self.memo[memo]  # type: ignore[no-any-return]

    def _model(self, trial: Trial, protocol: Protocol) -> dict[str, Stage]:
        """The inputs of whatever uses a trial's model on a protocol's videos."""
        train, recipe = self._train(trial), trial.recipe
        # alpha = 0 leaves nothing of the tuned tower, so the features are plain CLIP's, unless modules sit inside it.
        plain = trial.config.shares_encodings or (not trial.config.tower_inside and not trial.inference.clip_alpha)
        tower = None if plain else train
        inputs = {
            "features": self._encode(trial, protocol.dataset, protocol.split, protocol.views, tower),
            "source_texts": self._texts(recipe, recipe.source, recipe.templates),
        }
        return {**inputs, "train": train} if train else inputs

    def _evaluate(self, trial: Trial, name: str, protocol: Protocol, expert: str, inference: Inference) -> Stage:
        measured = self._protocol(protocol)
        spec = {
            **self._weights(trial.recipe),
            "method": trial.method,
            "config": self._dump(trial.config),
            "inference": self._inference(trial, inference),
            "protocol": measured,
        }
        texts = self._texts(trial.recipe, protocol.dataset, protocol.templates)
        inputs = {**self._model(trial, protocol), "texts": texts}
        return self._stage(
            "evaluate",
            spec,
            inputs,
            ("bench.stages.evaluate", *method(trial.method).modules),
            {"pretrained": trial.recipe.pretrained, **self._place(protocol.dataset, protocol.split)},
            f"evaluate {self._name(trial)}{f', {expert},' if expert else ''} on {name}",
            self._head_flops(trial, protocol),
            self._missing(protocol.dataset),
        )

    def _probe(self, trial: Trial, protocol: Protocol, choices: dict[str, Inference]) -> Stage:
        spec = {
            **self._weights(trial.recipe),
            "method": trial.method,
            "config": self._dump(trial.config),
            "choices": [[name, self._inference(trial, choice)] for name, choice in choices.items()],
            "videos": PROBE_VIDEOS,
            "feature": "t",
        }
        return self._stage(
            "probe",
            spec,
            {**self._model(trial, protocol), "texts": self._texts(trial.recipe, protocol.dataset, protocol.templates)},
            ("bench.stages.probe", *method(trial.method).modules),
            {"pretrained": trial.recipe.pretrained},
            f"probe {self._name(trial)}",
            self._head_flops(trial, protocol),
            self._missing(protocol.dataset),
        )

    def _stage(
        self,
        kind: str,
        spec: Part,
        inputs: dict[str, Stage],
        modules: tuple[str, ...],
        context: Part,
        title: str,
        flops: float,
        missing: str | None = None,
    ) -> Stage:
        missing = missing or next((stage.missing for stage in inputs.values() if stage.missing), None)
        stage = Stage(kind, spec, inputs, modules, context, title, flops, missing)
        stage.identity = self._identify(stage)
        return self.graph.stages.setdefault(stage.identity, stage)

    # --- parts of identities --------------------------------------------------------------------------------------

    def _identify(self, stage: Stage) -> str:
        """Hash of kind, settings, source and inputs. Parts that many stages share are hashed once."""
        parts = sorted((name, self.hashes.get(id(value)) or value) for name, value in stage.spec.items())
        inputs = sorted((name, other.identity) for name, other in stage.inputs.items())
        text = repr((stage.kind, parts, source_fingerprint(*stage.modules), inputs))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _dump(self, model: BaseModel) -> Part:
        return self._part(model, lambda: model.model_dump(mode="json"))

    def _recipe(self, recipe: Recipe) -> Part:
        """Without names that say where things are: data and weights enter by content."""
        return self._part(
            recipe, lambda: recipe.model_dump(mode="json", exclude={"source", "split", "backbone", "pretrained"})
        )

    def _protocol(self, protocol: Protocol) -> Part:
        return self._part(protocol, lambda: protocol.model_dump(mode="json", exclude={"dataset", "split"}))

    def _inference(self, trial: Trial, inference: Inference) -> Part:
        """A tower that is not tuned has nothing to interpolate, so rows that differ in alpha alone are one."""
        if trial.config.tower == "frozen":
            return self._part(inference, lambda: {**inference.model_dump(mode="json"), "clip_alpha": 1.0}, "frozen")
        return self._dump(inference)

    def _part(self, owner: object, make: Callable[[], Part], variant: str = "") -> Part:
        """A part of a spec, made and hashed once for an object that many stages share."""
        key = ("part", variant, id(owner))
        if key not in self.memo:
            part = make()
            self.memo[key] = (owner, part)  # the owner stays alive, so its id stays its own
            self.hashes[id(part)] = digest(part)
        return self.memo[key][1]  # type: ignore[no-any-return]

    def _weights(self, recipe: Recipe) -> Part:
        memo = ("weights", recipe.backbone, recipe.pretrained)
        if memo not in self.memo:
            self.memo[memo] = {
                "backbone": recipe.backbone,
                "weights": weights_identity(recipe.backbone, recipe.pretrained),
            }
        return self.memo[memo]  # type: ignore[no-any-return]

    def _dataset(self, name: str) -> Dataset:
        if name not in self.graph.datasets:
            self.graph.datasets[name] = dataset(name, self.suite.datasets)
        return self.graph.datasets[name]

    def _missing(self, name: str) -> str | None:
        if ("missing", name) not in self.memo:
            data = self._dataset(name)
            self.memo["missing", name] = None if data.buildable else data.missing()
        return self.memo["missing", name]  # type: ignore[no-any-return]

    def _data(self, name: str, split: str) -> Part:
        """Content of a list of videos; a placeholder that matches no record while the data are not there."""
        if ("data", name, split) not in self.memo:
            self.memo["data", name, split] = self._dataset(name).content(split)
        return {"content": self.memo["data", name, split]}

    def _place(self, name: str, split: str) -> Part:
        return {"dataset": name, "split": split, "declared": self.declared}

    def _videos(self, name: str, split: str) -> int:
        if ("videos", name, split) not in self.memo:
            self.memo["videos", name, split] = len(self._dataset(name).entries(split))
        return self.memo["videos", name, split]  # type: ignore[no-any-return]

    def _head_flops(self, trial: Trial, protocol: Protocol) -> float:
        views = protocol.views
        per_view = trial.config.head_flops(backbone(trial.recipe.backbone), views.frames)
        return float(per_view * views.count * self._videos(protocol.dataset, protocol.split))

    def _name(self, trial: Trial) -> str:
        if ("name", id(trial)) not in self.memo:
            self.memo["name", id(trial)] = _spell(trial, [axis for axis, _ in trial.point])
        return self.memo["name", id(trial)]  # type: ignore[no-any-return]

    def _trained_name(self, trial: Trial) -> str:
        """Without axes that only change inference or protocols: their points share the training."""
        later = ("inference.", "protocol.", "protocols.")
        return _spell(trial, [axis for axis, _ in trial.point if not self.suite.axes[axis].startswith(later)])

    def _train_flops(self, trial: Trial, cached: bool) -> float:
        """Forward and backward (three times the forward) of head and, where it runs, tower, over all epochs."""
        recipe, shape = trial.recipe, backbone(trial.recipe.backbone)
        per_video = trial.config.head_flops(shape, recipe.views.frames)
        if not cached:
            per_video += shape.tower_flops() * recipe.views.frames
        return 3.0 * per_video * self._videos(recipe.source, recipe.split) * recipe.epochs


def _spell(trial: Trial, axes: list[str]) -> str:
    point = [f"{name}={value}" for name, value in trial.point if name in axes]
    return " ".join([trial.row, *point, *([f"seed {trial.seed}"] if trial.config.trains else [])])

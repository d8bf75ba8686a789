"""A suite as a graph: every piece of work once, however many trials need it.

    texts     class texts of one vocabulary under one template set
    encode    frame features of a list of videos; shared by all trials with the same tower
    train     one method under one recipe with one seed
    evaluate  scores of one model with one set of inference choices under one protocol
    probe     similarity of the features of a model's experts
    maps      what a model's experts look at in a few videos
    weights   distances of a model's experts in weight space
    profile   what a method costs: parameters, FLOPs, seconds, memory; whatever data and seed

Rows that differ only in inference share a training; trials with a frozen tower share its encodings.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.checkpoints.imported import IMPORT_MODULES, identity_of, imported_spec
from bench.core.identity import digest
from bench.data.datasets import Dataset
from bench.data.descriptions import descriptions, irregular, missing
from bench.data.selection import Selection
from bench.data.subsets import merged_vocabulary
from bench.graph.profiles import profile_stage
from bench.graph.specs import Hashing, Parts
from bench.graph.stage import Frames, Part, Stage, identify
from bench.models.backbones import backbone
from bench.models.class_features import class_features, content
from bench.models.class_features import missing as missing_features
from bench.models.prompts import TEMPLATES, prompts
from bench.suite.protocol import Protocol
from bench.suite.recipe import EXECUTION, Recipe
from bench.suite.resolve import Suite, Trial
from bench.video.views import TestViews, TrainViews
from methods.registry import method
from methods.settings import Inference

PROBE_VIDEOS = 100  # unseen videos behind a similarity heatmap (MoTE Fig. 7)
SAMPLED = 0.1  # of the source, for models that look at it before they are trained (Text4Vis' file "lda_0.1")


@dataclass(frozen=True)
class Cell:
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
    """What is looked at in a trial besides accuracies."""

    trial: Trial
    protocol: str
    stage: Stage


@dataclass
class Graph:
    """The stages of a suite, inputs before what needs them, and what its reports are made of."""

    stages: dict[str, Stage] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    probes: list[ProbeCell] = field(default_factory=list)
    maps: list[ProbeCell] = field(default_factory=list)
    weights: list[ProbeCell] = field(default_factory=list)
    profiles: list[ProbeCell] = field(default_factory=list)
    trainings: list[ProbeCell] = field(default_factory=list)  # of the rows whose experts are compared
    datasets: dict[str, Dataset] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # dataset -> why its data are not usable
    protocols: dict[str, Part] = field(default_factory=dict)  # what the columns of the tables are measured under
    notes: dict[tuple[str, str], list[str]] = field(
        default_factory=dict
    )  # (dataset, split or what else of it) -> what is odd
    uncached: dict[str, set[str]] = field(default_factory=dict)  # why features are not kept -> trainings


def build_graph(suite: Suite, hashing: Hashing = lambda name, done, total: None) -> Graph:
    """The graph of a suite. Data that are not there leave their stages marked, not out.

    `hashing` is told how far the reading of videos is whose content is not known yet.
    """
    return _Builder(suite, hashing).build()


class _Builder(Parts):
    def __init__(self, suite: Suite, hashing: Hashing) -> None:
        super().__init__(suite, hashing)
        self.graph = Graph(datasets=self.datasets, missing=self.missing, notes=self.notes)
        self.row = ""

    def build(self) -> Graph:
        for trial in self.suite.trials:
            self.row = trial.row
            for name, protocol in trial.protocols:
                self._cells(trial, name, protocol, "", trial.inference)
            if trial.row in self.suite.file.report.experts:
                self._experts(trial)
            if self.suite.file.report.profiles(trial.row) and trial.seed == self.suite.file.seeds[0]:
                self.graph.profiles.append(self._profile(trial))
        for name, column in self.suite.columns.items():
            self.graph.protocols[name] = self._column(name, column)
        return self.graph

    # --- what reports are made of ------------------------------------------------------------------------------

    def _cells(self, trial: Trial, name: str, protocol: Protocol, expert: str, inference: Inference) -> None:
        for part, measured in self._parts(protocol).items():
            stage = self._evaluate(trial, f"{name} {part}".strip(), measured, expert, inference)
            self.graph.cells.append(Cell(trial, name, part, protocol.role, protocol.dataset, expert, stage))

    def _parts(self, protocol: Protocol) -> dict[str, Protocol]:
        return self._once(("parts", id(protocol)), protocol.parts)

    def _experts(self, trial: Trial) -> None:
        choices = trial.config.expert_choices(trial.inference)
        for expert, inference in choices.items():
            for name, protocol in trial.protocols:
                self._cells(trial, name, protocol, expert, inference)
        unseen = [name for name, protocol in trial.protocols if protocol.role == "zero-shot"]
        if choices and unseen:
            name = self.suite.file.report.experts_protocol or unseen[-1]
            first = next(iter(self._parts(dict(trial.protocols)[name]).values()))
            self.graph.probes.append(ProbeCell(trial, name, self._probe(trial, first, choices)))
            if self.suite.file.report.maps and trial.seed == self.suite.file.seeds[0]:  # only one is drawn
                self.graph.maps.append(ProbeCell(trial, name, self._maps(trial, first, choices)))
        train = self._train(trial)
        if choices and train:
            self.graph.trainings.append(ProbeCell(trial, "", train))
            if trial.config.experts > 1:
                self.graph.weights.append(ProbeCell(trial, "", self._distances(trial, train)))

    def _column(self, name: str, protocol: Protocol) -> Part:
        """What a report says about a column: every field, its hash, where it differs from the protocol it names."""
        lists = [(part.dataset, part.split) for part in protocol.parts().values()]
        return {
            "hash": digest(protocol.model_dump(mode="json"))[:8],
            "use": self.suite.file.protocols[name].get("use", ""),
            "changes": self.suite.changes(name, protocol),
            "fields": protocol.fields(),
            "notes": [note for name in lists for note in self.notes.get(name, [])],
        }

    # --- stages -------------------------------------------------------------------------------------------------

    def _texts(
        self, recipe: Recipe, templates: str, owner: Selection, labels: str, more: tuple[str, ...] = ()
    ) -> Stage:
        """Texts of the classes of a selection, and of the datasets `more` that are not among them."""
        weights = (recipe.backbone, recipe.pretrained, recipe.class_features)
        memo = ("texts", *weights, templates, owner.dataset, owner.classes, labels, more)
        if memo not in self.memo and recipe.class_features:
            self.memo[memo] = self._listed_features(recipe, owner, labels, more)
        if memo not in self.memo:
            names = self._vocabulary(owner, labels, more)
            texts = prompts(templates, names)
            shape = backbone(recipe.backbone)
            self.memo[memo] = self._stage(
                "texts",
                {**self._weights(recipe), "prompts": digest(texts)},
                {},
                ("bench.stages.texts",),
                {"pretrained": recipe.pretrained, "templates": templates, "class_names": names},
                f"texts {' + '.join((owner.dataset, *more))} ({len(names)} classes)",
                float(len(names) * len(texts[0]) * shape.text_flops()),
            )
        return self.memo[memo]  # type: ignore[no-any-return]

    def _listed_features(self, recipe: Recipe, owner: Selection, labels: str, more: tuple[str, ...]) -> Stage:
        """Class features from a file."""
        names = self._vocabulary(owner, labels, more)
        if reason := missing_features(recipe.class_features):
            self.missing[recipe.class_features] = reason
        reason = reason or self._missing(owner)
        width = backbone(recipe.backbone).embed_dim
        features = "" if reason else content(class_features(recipe.class_features, names, width))
        return self._stage(
            "texts",
            {"classes": features},
            {},
            ("bench.stages.texts",),
            {
                "pretrained": recipe.pretrained,
                "class_features": recipe.class_features,
                "class_names": names,
                "width": width,
            },
            f"class features {' + '.join((owner.dataset, *more))} ({len(names)} classes)",
            0.0,
            reason,
        )

    def _vocabulary(self, owner: Selection, labels: str, more: tuple[str, ...]) -> list[str]:
        """The class names of a selection, and of the datasets `more` that are not among them."""
        names = self._class_names(owner, labels)
        others = [name for other in more for name in self._spelled(other)]
        return list(merged_vocabulary(names, others)) if more else list(names)

    def _descriptions(self, trial: Trial, kind: str) -> Stage:
        """Sentences of a kind about the classes that a trial is trained on."""
        recipe, owner = trial.recipe, _learnt(trial)
        memo = (
            "descriptions",
            recipe.backbone,
            recipe.pretrained,
            recipe.descriptions,
            kind,
            owner.dataset,
            owner.classes,
        )
        if memo not in self.memo:
            names, every = self._class_names(owner, recipe.labels), self._spelled(owner.dataset, recipe.labels)
            reason = missing(recipe.descriptions, kind, owner.dataset)
            sentences = [["?"] for _ in names]
            if reason:
                self.missing[f"descriptions of {owner.dataset}"] = reason
            elif not self._missing(owner):
                told = dict(zip(every, descriptions(recipe.descriptions, kind, owner.dataset, every), strict=True))
                sentences = [told[name] for name in names]
                if odd := irregular(recipe.descriptions, kind, owner.dataset):
                    self.notes[owner.dataset, f"{kind} descriptions"] = [odd]
            count = sum(map(len, sentences))
            self.memo[memo] = self._stage(
                "texts",
                {**self._weights(recipe), "prompts": digest(sentences)},
                {},
                ("bench.stages.texts",),
                {"pretrained": recipe.pretrained, "sentences": sentences, "class_names": names},
                f"texts {kind} descriptions of {owner.dataset} ({len(names)} classes)",
                float(count * backbone(recipe.backbone).text_flops()),
                reason or self._missing(owner),
            )
        return self.memo[memo]  # type: ignore[no-any-return]

    def _encode(self, trial: Trial, selection: Selection, views: TestViews | TrainViews, train: Stage | None) -> Stage:
        recipe, alpha = trial.recipe, trial.inference.clip_alpha if train else 1.0
        memo = ("encode", recipe.backbone, recipe.pretrained, selection, views, train and train.identity, alpha)
        if memo not in self.memo:
            shown = views.frames * (views.copies if isinstance(views, TrainViews) else views.count)
            spec = {**self._weights(recipe), **self._data(selection), "views": self._dump(views)}
            modules: tuple[str, ...] = ("bench.stages.encode",)
            if train:
                spec |= {"method": trial.method, "config": self._dump(trial.config), "alpha": alpha}
                modules += method(trial.method).modules
            self.memo[memo] = self._stage(
                "encode",
                spec,
                {"train": train} if train else {},
                modules,
                {"pretrained": recipe.pretrained, **self._place(selection)},
                f"encode {selection}" + (f" with {self._name(trial)}" if train else ""),
                float(self._count(selection) * shown * backbone(recipe.backbone).tower_flops()),
                self._missing(selection),
                self._frames(selection, views, 1),
            )
        return self.memo[memo]  # type: ignore[no-any-return]

    def _train(self, trial: Trial) -> Stage | None:
        config, recipe = trial.config, trial.recipe
        if not config.trains:
            return None
        start = self._train(trial.start) if trial.start else None
        memo = ("train", trial.method, id(config), id(recipe), trial.seed, start and start.identity)
        if memo not in self.memo and recipe.imported:
            self.memo[memo] = self._imported(trial, recipe.imported)
        if memo not in self.memo:
            selection = _learnt(trial)
            cached = config.shares_encodings and recipe.views.copies > 0
            inputs = {"source_texts": self._source_texts(trial)}
            inputs |= {f"descriptions_{kind}": self._descriptions(trial, kind) for kind in config.description_sets}
            if config.looks_at_source:
                inputs["source_features"] = self._encode(trial, self._sample(trial), _still(recipe.views), None)
            if start:
                inputs["start"] = start
            if cached:
                inputs["features"] = self._encode(trial, selection, recipe.views, None)
            length = self._count(selection._replace(shots=None)) if recipe.shots and recipe.repeat else None
            spec = {
                **self._method(trial),
                **self._data(selection),
                "recipe": self._recipe(recipe),
                "length": length,
                "seed": trial.seed,
            }
            # One training in other parts is the same training, unless the method draws in each of them.
            if config.depends_on_processes and recipe.shards > 1:
                spec["shards"] = recipe.shards
            validation = selection._replace(split=recipe.validation, shots=None, draw=0) if recipe.validation else None
            if validation:
                spec["validation"] = self._data(validation)["content"]
            self.memo[memo] = self._stage(
                "train",
                spec,
                inputs,
                ("bench.stages.train", *method(trial.method).modules),
                {
                    "pretrained": recipe.pretrained,
                    **self._place(selection),
                    "length": length,
                    "validation": list(validation) if validation else None,
                    "execution": {name: getattr(recipe, name) for name in EXECUTION},
                },
                f"train {self._trained_name(trial)}",
                self._train_flops(trial, length or self._count(selection), cached),
                self._missing(selection) or (validation and self._missing(validation)),
                None if cached else self._frames(selection, recipe.views, recipe.epochs),
            )
            if not cached:
                inside = "modules sit inside the tower" if config.tower == "frozen" else "the tower is tuned"
                why = "recipe.views.copies is 0" if config.shares_encodings else inside
                self.graph.uncached.setdefault(why, set()).add(self.memo[memo].identity)
        return self.memo[memo]  # type: ignore[no-any-return]

    def _sample(self, trial: Trial) -> Selection:
        """About a tenth of the source's videos, equally many of each class, for models that look at them.

        At least two of each class, so that there is scatter within it, but none that is not learnt from.
        """
        recipe, whole = trial.recipe, _learnt(trial)._replace(shots=None, draw=0)
        each = self._count(whole) / len(self._class_names(whole, recipe.labels))
        limits = [max(2, round(SAMPLED * each))]
        if recipe.shots:
            limits.append(recipe.shots)
        if not self._missing(whole):
            limits.append(self._fewest(whole))
        return whole._replace(shots=min(limits), draw=_draw(trial))

    def _imported(self, trial: Trial, imported: str) -> Stage:
        """A training whose record was made of an official checkpoint."""
        spec = imported_spec(self._weights(trial.recipe), trial.method, self._dump(trial.config), imported)
        context = {"pretrained": trial.recipe.pretrained}
        stage = Stage("train", spec, {}, IMPORT_MODULES, context, f"imported {imported}", 0.0, row=self.row)
        stage.identity = identity_of(spec)
        return self.graph.stages.setdefault(stage.identity, stage)

    def _model(self, trial: Trial, protocol: Protocol) -> dict[str, Stage]:
        """The inputs of whatever uses a trial's model on a protocol's videos."""
        train = self._train(trial)
        # alpha = 0 leaves nothing of the tuned tower, so the features are plain CLIP's, unless modules sit inside it.
        plain = trial.config.shares_encodings or (not trial.config.tower_inside and not trial.inference.clip_alpha)
        inputs = {
            "features": self._encode(trial, _measured(protocol), protocol.views, None if plain else train),
            "source_texts": self._source_texts(trial),
        }
        return {**inputs, "train": train} if train else inputs

    def _source_texts(self, trial: Trial) -> Stage:
        return self._texts(trial.recipe, trial.recipe.templates, _learnt(trial), trial.recipe.labels)

    def _candidates(self, trial: Trial, protocol: Protocol) -> Stage:
        selection = _measured(protocol)
        return self._texts(trial.recipe, protocol.templates, selection, protocol.labels, protocol.vocabulary)

    def _evaluate(self, trial: Trial, name: str, protocol: Protocol, expert: str, inference: Inference) -> Stage:
        spec = {
            **self._method(trial),
            "inference": self._inference(trial, inference),
            "protocol": self._protocol(protocol),
        }
        return self._stage(
            "evaluate",
            spec,
            {**self._model(trial, protocol), "texts": self._candidates(trial, protocol)},
            ("bench.stages.evaluate", *method(trial.method).modules),
            {
                "pretrained": trial.recipe.pretrained,
                **self._place(_measured(protocol)),
                "protocol": self._part(protocol, lambda: protocol.model_dump(mode="json"), "whole"),
            },
            f"evaluate {self._name(trial)}{f', {expert},' if expert else ''} on {name}",
            self._head_flops(trial, protocol),
            self._missing(_measured(protocol)),
        )

    def _probe(self, trial: Trial, protocol: Protocol, choices: dict[str, Inference]) -> Stage:
        spec = {
            **self._method(trial),
            "choices": [[name, self._inference(trial, choice)] for name, choice in choices.items()],
            "videos": PROBE_VIDEOS,
            "view": protocol.views.crops // 2 * protocol.views.clips + protocol.views.clips // 2,
            "feature": self.suite.file.report.feature,
        }
        return self._stage(
            "probe",
            spec,
            {**self._model(trial, protocol), "texts": self._candidates(trial, protocol)},
            ("bench.stages.probe", *method(trial.method).modules),
            {"pretrained": trial.recipe.pretrained},
            f"probe {self._name(trial)}",
            self._head_flops(trial, protocol),
            self._missing(_measured(protocol)),
        )

    def _maps(self, trial: Trial, protocol: Protocol, choices: dict[str, Inference]) -> Stage:
        """On one view of a few videos: all experts together, the first and the last."""
        named = list(choices.items())
        selection, views = _measured(protocol), protocol.views.model_copy(update={"clips": 1, "crops": 1})
        train, frozen = self._train(trial), trial.config.shares_encodings
        spec = {
            **self._method(trial),
            **self._data(selection),
            "alpha": 1.0 if frozen else trial.inference.clip_alpha,
            "choices": [
                [name, self._inference(trial, choice)] for name, choice in dict([*named[:2], named[-1]]).items()
            ],
            "videos": self.suite.file.report.maps,
            "views": self._dump(views),
            "feature": "t_frames",
        }
        texts = self._source_texts(trial)
        return self._stage(
            "maps",
            spec,
            {"source_texts": texts, "texts": self._candidates(trial, protocol), **({"train": train} if train else {})},
            ("bench.stages.maps", *method(trial.method).modules),
            {"pretrained": trial.recipe.pretrained, **self._place(selection)},
            f"maps {self._name(trial)}",
            float(self.suite.file.report.maps * views.frames * backbone(trial.recipe.backbone).tower_flops()),
            self._missing(selection),
        )

    def _distances(self, trial: Trial, train: Stage) -> Stage:
        return self._stage(
            "weights",
            self._method(trial),
            {"train": train},
            ("bench.stages.weights", *method(trial.method).modules),
            {"pretrained": trial.recipe.pretrained},
            f"weights {self._trained_name(trial)}",
            0.0,
        )

    def _profile(self, trial: Trial) -> ProbeCell:
        """On the views of the first closed-set protocol, or of the first at all."""
        profile, recipe = self.suite.file.report.profile, trial.recipe
        assert profile is not None
        name, protocol = next((each for each in trial.protocols if each[1].role == "closed-set"), trial.protocols[0])
        shown = {
            "frames": profile.frames or protocol.views.frames,
            "views": profile.views or protocol.views.count,
            "classes": len(self._class_names(_learnt(trial), recipe.labels)),
        }
        training = {
            "frames": recipe.views.frames,
            "cached": trial.config.shares_encodings and recipe.views.copies > 0,
            "checkpointing": recipe.checkpointing,
            "texts": len(TEMPLATES[recipe.templates]),
            "batch": recipe.batch,
        }
        shape, title = backbone(recipe.backbone), f"profile {_row(trial, [axis for axis, _ in trial.point])}"
        stage = profile_stage(
            trial.method, trial.config, trial.inference, shape, shown, training, profile.measurement, title
        )
        stage.missing, stage.row = self._missing(_learnt(trial)), trial.row  # the number of classes is the data's
        return ProbeCell(trial, name, self.graph.stages.setdefault(stage.identity, stage))

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
        frames: Frames | None = None,
    ) -> Stage:
        missing = missing or next((stage.missing for stage in inputs.values() if stage.missing), None)
        stage = Stage(kind, spec, inputs, modules, context, title, flops, missing, frames, self.row)
        stage.identity = identify(stage, self.hashes)
        return self.graph.stages.setdefault(stage.identity, stage)

    def _head_flops(self, trial: Trial, protocol: Protocol) -> float:
        views = protocol.views
        per_view = trial.config.head_flops(backbone(trial.recipe.backbone), views.frames, trial.inference)
        return float(per_view * views.count * self._count(_measured(protocol)))

    def _name(self, trial: Trial) -> str:
        return self._once(("name", id(trial)), lambda: _spell(trial, [axis for axis, _ in trial.point]))

    def _trained_name(self, trial: Trial) -> str:
        """Without axes that only change inference or protocols: their points share the training."""
        later = ("inference.", "protocol.", "protocols.")
        return _spell(trial, [axis for axis, _ in trial.point if not self.suite.axes[axis].startswith(later)])

    def _train_flops(self, trial: Trial, videos: int, cached: bool) -> float:
        """Forward and backward (three times the forward) of head and, where it runs, tower, over all epochs."""
        recipe, shape = trial.recipe, backbone(trial.recipe.backbone)
        per_video = float(trial.config.head_flops(shape, recipe.views.frames))
        if not cached:
            per_video += shape.tower_flops() * recipe.views.frames + trial.config.inside_flops(
                shape, recipe.views.frames
            )
        if trial.config.texts_inside:
            per_video += shape.text_flops() * len(self._class_names(_learnt(trial), recipe.labels)) / recipe.batch
        return 3.0 * per_video * videos * recipe.epochs


def _learnt(trial: Trial) -> Selection:
    """The videos that a trial is trained on."""
    recipe = trial.recipe
    return Selection(recipe.source, recipe.split, recipe.classes, recipe.shots, _draw(trial) if recipe.shots else 0)


def _draw(trial: Trial) -> int:
    """The seed with which videos of the source are drawn."""
    return trial.seed if trial.recipe.draw == "trial" else trial.recipe.draw


def _still(views: TrainViews) -> TestViews:
    """One view without chance, of the pixels that training sees."""
    shared = {name: getattr(views, name) for name in ("frames", "resize", "size", "decoder", "normalise")}
    return TestViews(**shared)


def _measured(protocol: Protocol) -> Selection:
    return Selection(protocol.dataset, protocol.split, protocol.classes)


def _spell(trial: Trial, axes: list[str]) -> str:
    return " ".join([_row(trial, axes), *([f"seed {trial.seed}"] if trial.config.trains else [])])


def _row(trial: Trial, axes: list[str]) -> str:
    return " ".join([trial.row, *(f"{name}={value}" for name, value in trial.point if name in axes)])

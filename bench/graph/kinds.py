"""The kinds of stages as planned: settings, inputs, title and FLOPs of each, side by side. Torch-free.

Two of these values that are equal are the same stage. `bench/stages/KIND.py` carries a stage out.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, NamedTuple, Protocol

from bench.core.errors import UserError
from bench.core.identity import digest
from bench.data.descriptions import descriptions, irregular, renamed
from bench.data.descriptions import missing as missing_descriptions
from bench.data.selection import Selection
from bench.graph.specs import Hashing, Specs, clip_spec, shape_spec
from bench.graph.stage import Context, Spec, Stage, identity_of, inputs_text, work_text
from bench.models.backbones import Backbone, backbone
from bench.models.class_features import class_features, content
from bench.models.class_features import missing as missing_features
from bench.suite import protocol as suite_protocol
from bench.suite.file import Measurement
from bench.suite.recipe import Recipe
from bench.suite.stored import still
from bench.suite.trial import Suite, Trial
from bench.video.views import TestViews, TrainViews
from methods.registry import method
from methods.settings import Config, Inference

PROBE_VIDEOS = 100  # unseen videos behind a similarity heatmap (MoTE Fig. 7)
SAMPLED = 0.1  # of the source, for models that look at it before they are trained (Text4Vis' file "lda_0.1")
ANY_WEIGHTS = "random:0"  # of profiles: weights decide nothing about costs
ROUNDS = 4  # times that a profile carries a call out, at least
STEP = 3  # a training step over its forward pass
NUMBER = 4  # bytes
NAMES_TOLD = "names in descriptions"  # what is noted of a dataset

Measured = suite_protocol.Protocol


class Kind(Hashable, Protocol):
    """A stage before it is planned; hashable, equal to what is the same stage."""

    def plan(self, stages: Stages) -> Stage:
        """The stage, with its inputs planned before it."""


class Stages(Specs):
    """The stages of one suite, inputs before the stages that need them, each once."""

    def __init__(self, suite: Suite, hashing: Hashing) -> None:
        super().__init__(suite.datasets, hashing)
        self.suite = suite
        self.planned: dict[str, Stage] = {}  # by identity
        self.order: list[Stage] = []  # as planned

    def of(self, kind: Kind) -> Stage:
        """The stage of this kind, planned when it is first asked for."""
        return self.once("stage", kind, lambda: self.add(kind.plan(self)))

    def prompts(
        self, templates: str, source: str, owner: Selection, labels: str, more: tuple[str, ...] = ()
    ) -> tuple[list[list[str]], str | None]:
        """The prompts of a vocabulary, [C][P], and why the descriptions that they ask for are not there."""
        names, told = self.vocabulary(owner, labels, more), dict[str, dict[str, list[str]]]()
        for kind in self.suite.kinds(templates):
            for dataset, spelling in (*((other, "") for other in more[::-1]), (owner.dataset, labels)):
                if reason := missing_descriptions(source, kind, dataset):
                    self.absent[f"descriptions of {dataset}"] = reason
                    return [[name] for name in names], reason
                make = partial(self._told, source, kind, dataset, spelling)
                told.setdefault(kind, {}).update(self.once("told", (source, kind, dataset, spelling), make))
        return self.suite.prompts(templates, names, told), None

    def _told(self, source: str, kind: str, dataset: str, labels: str) -> dict[str, list[str]]:
        """Sentences of a kind about each class of a dataset."""
        names = self.all_class_names(dataset, labels)
        told = dict(zip(names, descriptions(source, kind, dataset, names), strict=True))
        notes = [irregular(source, kind, dataset)]
        if kind == "description" and (others := renamed(told)):
            pairs = ", ".join(f"'{other}' for '{name}'" for name, other in others.items())
            notes.append(f"the descriptions of {dataset} have other names of {len(others)} classes: {pairs}")
        self.notes[dataset, NAMES_TOLD] = [*self.notes.get((dataset, NAMES_TOLD), []), *filter(None, notes)]
        return told

    def add(self, stage: Stage) -> Stage:
        """The stage with this identity; it lacks what its inputs lack."""
        known = self.planned.setdefault(stage.identity, stage)
        if known is stage:
            for each in stage.inputs.values():
                stage.missing = stage.missing or each.missing
            stage.missing = stage.missing or self.absent.get(str(stage.context.get("pretrained")))
            self.order.append(stage)
        return known


# --- texts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextsStage:
    """Class features of a selection, and of the datasets `more`, under a template set; by class or `per_prompt`."""

    backbone: str
    pretrained: str
    templates: str
    owner: Selection
    labels: str
    more: tuple[str, ...] = ()
    descriptions: str = ""
    per_prompt: bool = False

    def plan(self, stages: Stages) -> Stage:
        names = stages.vocabulary(self.owner, self.labels, self.more)
        texts, reason = stages.prompts(self.templates, self.descriptions, self.owner, self.labels, self.more)
        described = bool(stages.suite.kinds(self.templates))
        own = {"sentences": texts} if described or self.templates in stages.suite.templates else {}
        source = f", described by {self.descriptions}" if described else ""
        form = {"form": "prompts"} if self.per_prompt else {}
        if self.per_prompt:
            _refuse_unequal(texts, names, self.templates)
        return Stage(
            "texts",
            {**stages.clip(self.backbone, self.pretrained), "prompts": digest(texts), **form},
            {},
            ("bench.stages.texts",),
            {"pretrained": self.pretrained, "templates": self.templates, "class_names": names, **own},
            f"texts {' + '.join((self.owner.dataset, *self.more))} ({len(names)} classes{source})",
            float(sum(map(len, texts)) * backbone(self.backbone).text_flops()),
            reason,
        )


def _refuse_unequal(texts: list[list[str]], names: Sequence[str], templates: str) -> None:
    """Raises UserError for a class that has not as many prompts as the first."""
    wrong = next((name for name, own in zip(names, texts, strict=True) if len(own) != len(texts[0])), None)
    if wrong is not None:
        what = f"class '{wrong}' has not as many prompts as '{names[0]}', which has {len(texts[0])}"
        raise UserError(what, where=templates, hint="a method that uses every prompt needs equally many of each class")


@dataclass(frozen=True)
class ListedTextsStage:
    """Class features from a file in the place of the text tower's."""

    backbone: str
    pretrained: str
    file: str
    owner: Selection
    labels: str
    more: tuple[str, ...] = ()

    def plan(self, stages: Stages) -> Stage:
        names, width = stages.vocabulary(self.owner, self.labels, self.more), backbone(self.backbone).embed_dim
        if reason := missing_features(self.file):
            stages.absent[self.file] = reason
        reason = reason or stages.missing(self.owner)
        return Stage(
            "texts",
            {"classes": "" if reason else content(class_features(self.file, names, width))},
            {},
            ("bench.stages.texts",),
            {"pretrained": self.pretrained, "class_features": self.file, "class_names": names, "width": width},
            f"class features {' + '.join((self.owner.dataset, *self.more))} ({len(names)} classes)",
            0.0,
            reason,
        )


@dataclass(frozen=True)
class SentencesStage:
    """Features of sentences of a kind, spatial or temporal, about the classes of a selection."""

    backbone: str
    pretrained: str
    source: str
    sort: str
    owner: Selection
    labels: str

    def plan(self, stages: Stages) -> Stage:
        names, dataset = stages.class_names(self.owner, self.labels), self.owner.dataset
        sentences = [["?"] for _ in names]
        if reason := missing_descriptions(self.source, self.sort, dataset):
            stages.absent[f"descriptions of {dataset}"] = reason
        elif not stages.missing(self.owner):
            every = stages.all_class_names(dataset, self.labels)
            told = dict(zip(every, descriptions(self.source, self.sort, dataset, every), strict=True))
            sentences = [told[name] for name in names]
            if odd := irregular(self.source, self.sort, dataset):
                stages.notes[dataset, f"{self.sort} descriptions"] = [odd]
        return Stage(
            "texts",
            {**stages.clip(self.backbone, self.pretrained), "prompts": digest(sentences)},
            {},
            ("bench.stages.texts",),
            {"pretrained": self.pretrained, "sentences": sentences, "class_names": list(names)},
            f"texts {self.sort} descriptions of {dataset} ({len(names)} classes)",
            float(sum(map(len, sentences)) * backbone(self.backbone).text_flops()),
            reason or stages.missing(self.owner),
        )


def _texts(
    config: Config, recipe: Recipe, asked: Recipe | Measured, owner: Selection, more: tuple[str, ...] = ()
) -> Kind:
    """Class features from the recipe's text tower under the prompts that are `asked` for, or from its file."""
    clip, labels = (recipe.backbone, recipe.pretrained), asked.labels
    if recipe.class_features:
        return ListedTextsStage(*clip, recipe.class_features, owner, labels, more)
    per_prompt = config.per_prompt and not config.texts_inside
    return TextsStage(*clip, asked.templates, owner, labels, more, asked.descriptions, per_prompt)


def _source_texts(config: Config, recipe: Recipe, seed: int) -> Kind:
    return _texts(config, recipe, recipe, learnt(recipe, seed))


# --- encode -----------------------------------------------------------------------------------------------------------


class Tower(NamedTuple):
    """A method's tower, of a training if there is one, interpolated with CLIP's by `alpha`."""

    train: Stage | None
    method: str
    config: Config
    alpha: float


@dataclass(frozen=True)
class EncodeStage:
    """Frame features of a list of videos, by plain CLIP or by a tuned tower."""

    backbone: str
    pretrained: str
    selection: Selection
    views: TestViews | TrainViews
    tower: Tower | None = None
    tower_name: str = field(default="", compare=False)
    precision: str = "fp32"
    compile: bool = False

    def plan(self, stages: Stages) -> Stage:
        spec: Spec = {
            **stages.clip(self.backbone, self.pretrained),
            **stages.content(self.selection),
            "views": self.views,
        }
        if stages.dataset(self.selection.dataset).features:
            return self._stored(stages, spec)
        if tower := self.tower:
            spec |= {"method": tower.method, "config": tower.config, "alpha": tower.alpha}
        if self.precision != "fp32":
            spec["precision"] = self.precision
        if self.compile:
            spec["compile"] = True
        shape = backbone(self.backbone)
        clips = stages.count(self.selection) * self.views.count
        encoded = (tower.config if tower else Config()).encoded(shape, self.views.frames)
        return Stage(
            "encode",
            spec,
            {"train": tower.train} if tower and tower.train else {},
            ("bench.stages.encode", *_decoder(self.views), *(method(tower.method).modules if tower else ())),
            {"pretrained": self.pretrained, **stages.place(self.selection)},
            f"encode {self.selection}" + (f" with {self.tower_name}" if tower else ""),
            float(clips * shape.view_flops(self.views.frames)),
            stages.unreadable(self.selection),
            stages.frames(self.selection, self.views, 1),
            disk=NUMBER * clips * sum(map(prod, encoded.values())),
        )

    def _stored(self, stages: Stages, spec: Spec) -> Stage:
        """Features that are taken over from files, in the place of decoding and of the tower."""
        shape = backbone(self.backbone)
        count = stages.count(self.selection) * self.views.count * shape.features(self.views.frames)
        return Stage(
            "encode",
            spec,
            {},
            ("bench.stages.stored_features",),
            {"pretrained": self.pretrained, **stages.place(self.selection)},
            f"take over features of {self.selection}",
            0.0,
            stages.unreadable(self.selection),
            disk=NUMBER * count * shape.embed_dim,
        )


def _how(recipe: Recipe) -> dict[str, Any]:
    """How videos are encoded under a recipe."""
    return {"precision": recipe.encoding, "compile": recipe.compile}


# --- train ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainStage:
    """One method under one recipe with one seed; `init_from` is the training whose weights it begins with."""

    method: str
    config: Config
    recipe: Recipe
    seed: int
    init_from: Stage | None
    trial: Trial  # the first that needs it, for the title

    def plan(self, stages: Stages) -> Stage:
        config, recipe, selection = self.config, self.recipe, learnt(self.recipe, self.seed)
        cached = caches_features(config, recipe)
        length = stages.count(selection._replace(shots=None)) if recipe.shots and recipe.repeat else None
        validation = selection._replace(split=recipe.validation, shots=None, draw=0) if recipe.validation else None
        spec: Spec = {
            **stages.clip(recipe.backbone, recipe.pretrained),
            **{"method": self.method, "config": config},
            **stages.content(selection),
            **{"recipe": recipe.training, "length": length, "seed": self.seed},
        }
        # One training in other parts is the same training, unless the method draws in each of them, or videos meet.
        if (config.depends_on_processes or recipe.mix) and recipe.shards > 1:
            spec["shards"] = recipe.shards
        if validation:
            spec |= {"validation": stages.content(validation)["content"], "inference": method(self.method).inference()}
        return Stage(
            "train",
            spec,
            self._inputs(stages, selection, cached),
            ("bench.stages.train", *_decoder(recipe.views), *method(self.method).modules),
            {
                "pretrained": recipe.pretrained,
                **stages.place(selection),
                "length": length,
                "validation": list(validation) if validation else None,
                "execution": recipe.execution.model_dump(),
            },
            f"train {trained_title(stages.suite, self.trial)}",
            self._flops(stages, length or stages.count(selection), cached),
            stages.unreadable(selection) or (validation and stages.unreadable(validation)),
            None if cached else stages.frames(selection, recipe.views, recipe.epochs),
            disk=NUMBER * self._parameters(stages, len(stages.class_names(selection, recipe.labels))),
        )

    def _inputs(self, stages: Stages, selection: Selection, cached: bool) -> dict[str, Stage]:
        recipe, clip = self.recipe, (self.recipe.backbone, self.recipe.pretrained)
        inputs: dict[str, Kind] = {"source_texts": _source_texts(self.config, recipe, self.seed)}
        for sort in self.config.description_sets:
            inputs[f"descriptions_{sort}"] = SentencesStage(*clip, recipe.descriptions, sort, selection, recipe.labels)
        if self.config.looks_at_source:
            inputs["source_features"] = EncodeStage(*clip, self._sample(stages), still(recipe.views), **_how(recipe))
        if cached:
            inputs["features"] = EncodeStage(*clip, selection, recipe.views, **_how(recipe))
        planned = {name: stages.of(kind) for name, kind in inputs.items()}
        return {**planned, "init_from": self.init_from} if self.init_from else planned

    def _sample(self, stages: Stages) -> Selection:
        """About a tenth of the source's videos, equally many of each class, for models that look at them.

        At least two of each class, so that there is scatter within it, but none that is not learnt from.
        """
        recipe, whole = self.recipe, learnt(self.recipe, self.seed)._replace(shots=None, draw=0)
        each = stages.count(whole) / len(stages.class_names(whole, recipe.labels))
        limits = [max(2, round(SAMPLED * each))]
        if recipe.shots:
            limits.append(recipe.shots)
        if not stages.missing(whole):
            limits.append(stages.fewest(whole))
        return whole._replace(shots=min(limits), draw=_draw(recipe, self.seed))

    def _parameters(self, stages: Stages, classes: int) -> int:
        """Trained ones: those of the method, and of the tuned parts of CLIP."""
        config, shape = self.config, backbone(self.recipe.backbone)
        tuned = sum(map(shape.parameters, config.tuned))
        key = config, self.recipe.backbone
        head = stages.once("parameters", key, lambda: config.head_parameters(shape).stored)
        return head + config.class_bound_parameters(shape, classes) + tuned

    def _flops(self, stages: Stages, videos: int, cached: bool) -> float:
        """Forward and backward of head and, where they run, towers, over all epochs.

        Trained weights take three times the forward pass, frozen ones below trained modules twice, others once. A head
        whose experts are drawn runs as often as these together: regularised MoTE's twice, routed and merged.
        """
        config, recipe, shape = self.config, self.recipe, backbone(self.recipe.backbone)
        frames, passes = recipe.views.frames, sum(config.expert_passes) if config.routing_odds else 1.0
        per_video = 3 * passes * _view_flops(stages, config, recipe.backbone, frames)
        if not cached:
            times = 3 if "visual" in config.tuned else 2 if config.tower_inside else 1
            per_video += (times + config.extra_passes) * shape.view_flops(frames) + 3 * config.inside_flops(
                shape, frames
            )
        if config.texts_inside:
            classes = len(stages.class_names(learnt(recipe, self.seed), recipe.labels))
            texts = 1 if config.texts_of_labels else classes / recipe.batch
            per_video += (3 if config.tuned & {"text", "tokens"} else 2) * config.text_flops(shape) * texts
        return per_video * videos * recipe.epochs


@dataclass(frozen=True)
class ImportedStage:
    """A training whose record is made from an official checkpoint, named by the hash of its file.

    What decides the tensors of the record is how state dicts are read. A method's source does not: an import outlives
    its changes, and a model that the tensors no longer fit refuses them.
    """

    method: str
    config: Config
    backbone: str
    pretrained: str
    digest: str

    def plan(self, stages: Stages | None = None) -> Stage:
        spec = {
            **clip_spec(self.backbone, self.pretrained),
            **{"method": self.method, "config": self.config, "imported": self.digest},
        }
        modules, context = ("bench.models.state_dicts",), {"pretrained": self.pretrained}
        return Stage("train", spec, {}, modules, context, f"imported {self.digest}", 0.0)


def train_stage(stages: Stages, trial: Trial) -> Stage | None:
    """The training of a trial; None if there is nothing to train."""
    return stages.once("training", trial, lambda: _train_stage(stages, trial))


def _train_stage(stages: Stages, trial: Trial) -> Stage | None:
    config, recipe = trial.config, trial.recipe
    if not config.trains:
        return None
    if recipe.imported:
        return stages.of(ImportedStage(trial.method, config, recipe.backbone, recipe.pretrained, recipe.imported))
    first = train_stage(stages, trial.init_from) if trial.init_from else None
    key = trial.method, config, recipe, trial.seed, first
    return stages.once("train", key, lambda: stages.add(TrainStage(*key, trial).plan(stages)))


def caches_features(config: Config, recipe: Recipe) -> bool:
    """Tells whether trainings read frame features that were encoded once."""
    return config.shares_encodings and recipe.views.copies > 0


def learnt(recipe: Recipe, seed: int) -> Selection:
    """Videos that a trial is trained on."""
    draw = _draw(recipe, seed) if recipe.shots else 0
    return Selection(recipe.source, recipe.split, recipe.classes, recipe.shots, draw)


def _draw(recipe: Recipe, seed: int) -> int:
    """The seed with which videos of the source are drawn."""
    return seed if recipe.draw == "trial" else recipe.draw


def _decoder(views: TestViews | TrainViews) -> tuple[str, ...]:
    """The module of a user's own decoder, `module:Class`."""
    module, own, _ = views.decoder.partition(":")
    return (module,) if own else ()


# --- what is done with a trained model --------------------------------------------------------------------------------


def evaluation(stages: Stages, trial: Trial, name: str, protocol: Measured, expert: str, inference: Inference) -> Stage:
    """Scores of one model with one set of inference choices under one part of a protocol."""
    inputs, given = _model_inputs(stages, trial, protocol)
    key = trial.row, trial.point, expert, protocol  # trials of a row at one point differ in nothing but the seed
    make = partial(_evaluated, stages, trial, protocol, inference, inputs["texts"])
    spec, modules, context, flops, missing, disk, work = stages.once("evaluated", key, make)
    title, identity = f"evaluate {trial.title}{expert and f', {expert},'} on {name}", identity_of(work, given)
    return Stage("evaluate", spec, inputs, modules, context, title, flops, missing, disk=disk, identity=identity)


def _evaluated(stages: Stages, trial: Trial, protocol: Measured, own: Inference, texts: Stage) -> tuple[Any, ...]:
    """What the evaluations of all seeds have in common; last, what identities hash of it."""
    config, selection, shape = trial.config, measured(protocol), backbone(trial.recipe.backbone)
    classes, views = len(texts.context["class_names"]), stages.count(selection) * protocol.views.count
    plain = config.plain_texts(own, protocol.seen)
    adapting = classes * config.text_flops(shape) if config.texts_inside and not plain else 0
    answers = views * classes * config.class_flops(shape, protocol.views.frames, 1)
    spec = _model_spec(stages, trial) | {"inference": effective(config, own), "protocol": protocol.scoring}
    spec |= {"plain_texts": True} if plain else {}
    modules = "bench.stages.evaluate", *method(trial.method).modules
    return (
        spec,
        modules,
        {"pretrained": trial.recipe.pretrained, **stages.place(selection), "protocol": protocol},
        float(_head_flops(stages, trial, protocol) + answers + adapting),
        stages.missing(selection),
        NUMBER * views * classes,
        work_text("evaluate", spec, modules),
    )


Choices = tuple[tuple[str, Inference], ...]  # (name, inference choices) of ways to use a model's experts


@dataclass(frozen=True)
class ProbeStage:
    """Similarity of the features of a model's experts on unseen videos."""

    trial: Trial
    protocol: Measured
    choices: Choices
    feature: str

    def plan(self, stages: Stages) -> Stage:
        trial, protocol, views = self.trial, self.protocol, self.protocol.views
        return Stage(
            "probe",
            {
                **_model_spec(stages, trial),
                "choices": _effective(trial.config, self.choices),
                "videos": PROBE_VIDEOS,
                "view": views.crops // 2 * views.clips + views.clips // 2,
                "feature": self.feature,
            },
            _model_inputs(stages, trial, protocol)[0],
            ("bench.stages.probe", *method(trial.method).modules),
            {"pretrained": trial.recipe.pretrained},
            f"probe {trial.title}",
            _head_flops(stages, trial, protocol),
            stages.missing(measured(protocol)),
        )


@dataclass(frozen=True)
class MapsStage:
    """Attention of a model's experts to places in a few videos: merged, the first and the last expert, on one view."""

    trial: Trial
    protocol: Measured
    choices: Choices
    videos: int

    def plan(self, stages: Stages) -> Stage:
        trial, selection, train = self.trial, measured(self.protocol), train_stage(stages, self.trial)
        views = self.protocol.views.model_copy(update={"clips": 1, "crops": 1})
        shown = tuple(dict([*self.choices[:2], self.choices[-1]]).items())
        inputs = {
            "source_texts": stages.of(_source_texts(trial.config, trial.recipe, trial.seed)),
            "texts": stages.of(_candidates(trial.config, trial.recipe, self.protocol)),
        }
        return Stage(
            "maps",
            {
                **_model_spec(stages, trial),
                **stages.content(selection),
                "alpha": effective(trial.config, trial.inference).clip_alpha,
                "choices": _effective(trial.config, shown),
                "videos": self.videos,
                "views": views,
                "feature": "t_frames",
            },
            {**inputs, "train": train} if train else inputs,
            ("bench.stages.maps", *_decoder(views), *method(trial.method).modules),
            {"pretrained": trial.recipe.pretrained, **stages.place(selection)},
            f"maps {trial.title}",
            float(self.videos * backbone(trial.recipe.backbone).view_flops(views.frames)),
            stages.unreadable(selection),
        )


@dataclass(frozen=True)
class WeightsStage:
    """Distances of a model's experts in weight space."""

    trial: Trial
    train: Stage

    def plan(self, stages: Stages) -> Stage:
        trial = self.trial
        return Stage(
            "weights",
            _model_spec(stages, trial),
            {"train": self.train},
            ("bench.stages.weights", *method(trial.method).modules),
            {"pretrained": trial.recipe.pretrained},
            f"weights {trained_title(stages.suite, trial)}",
            0.0,
        )


def measured(protocol: Measured) -> Selection:
    """The videos that a protocol measures on."""
    return Selection(protocol.dataset, protocol.split, protocol.classes)


def effective(config: Config, inference: Inference) -> Inference:
    """Inference choices with `clip_alpha` at 1 where it has no effect: a frozen CLIP is CLIP."""
    without = not config.interpolates and inference.clip_alpha != 1.0
    return inference.model_copy(update={"clip_alpha": 1.0}) if without else inference


def _effective(config: Config, choices: Choices) -> list[tuple[str, Inference]]:
    return [(name, effective(config, choice)) for name, choice in choices]


def _model_spec(stages: Stages, trial: Trial) -> Spec:
    clip = stages.clip(trial.recipe.backbone, trial.recipe.pretrained)
    return {**clip, "method": trial.method, "config": trial.config}


def _model_inputs(stages: Stages, trial: Trial, protocol: Measured) -> tuple[dict[str, Stage], str]:
    """The inputs of whatever uses a trial's model on a protocol's videos, and what identities hash of them."""
    train, tower, known = stages.once("model", trial, partial(_model, stages, trial))
    if (found := known.get(protocol)) is None:
        clip = trial.recipe.backbone, trial.recipe.pretrained
        inputs = {
            "features": stages.of(
                EncodeStage(*clip, measured(protocol), protocol.views, tower, trial.title, **_how(trial.recipe))
            ),
            "source_texts": stages.of(_source_texts(trial.config, trial.recipe, trial.seed)),
            "texts": stages.of(_candidates(trial.config, trial.recipe, protocol)),
            **({"train": train} if train else {}),
        }
        found = known[protocol] = inputs, inputs_text(inputs)
    return found


def _model(stages: Stages, trial: Trial) -> tuple[Stage | None, Tower | None, dict[Measured, Any]]:
    """The training of a trial, the tower that sees its test videos, and its inputs as far as they are planned."""
    config, train, alpha, tower = trial.config, train_stage(stages, trial), trial.inference.clip_alpha, None
    # alpha = 0 leaves nothing of the tuned tower, so the features are plain CLIP's, unless the method encodes itself.
    if config.encodes_itself or (train and "visual" in config.tuned and alpha):
        tower = Tower(train, trial.method, config, alpha)
    return train, tower, stages.once("inputs", (train, tower, trial.recipe, trial.seed, config.per_prompt), dict)


def _candidates(config: Config, recipe: Recipe, protocol: Measured) -> Kind:
    return _texts(config, recipe, protocol, measured(protocol), protocol.vocabulary)


def _head_flops(stages: Stages, trial: Trial, protocol: Measured) -> float:
    each = _view_flops(stages, trial.config, trial.recipe.backbone, protocol.views.frames, trial.inference)
    return float(each * protocol.views.count * stages.count(measured(protocol)))


def _view_flops(stages: Stages, config: Config, name: str, frames: int, inference: Inference | None = None) -> int:
    make = partial(config.head_flops, backbone(name), frames, inference)
    return stages.once("head", (config, name, frames, inference), make)


# --- profile ----------------------------------------------------------------------------------------------------------


def profile_stage(
    name: str,
    config: Config,
    inference: Inference,
    shape: Backbone,
    shown: Context,
    training: Context,
    measurement: Measurement,
    title: str,
) -> Stage:
    """The profile of a method. No data and no trained weights enter.

    `shown`: frames, views, classes of the answer to a video. `training`: frames of a clip, whether its features are
    `cached`, `checkpointing`; the `texts` of a class and the `batch` for a method that adapts texts, for one that uses
    every prompt the first alone.
    """
    without = {"batch": config.texts_inside, "texts": config.texts_inside or config.per_prompt}
    training = {key: value for key, value in training.items() if without.get(key, True)}
    spec = {
        **shape_spec(shape.name),
        "method": name,
        "config": config,
        "inference": inference.model_copy(update={"clip_alpha": 1.0}),  # weights are interpolated in advance
        **shown,
        "training": training,
        "measurement": measurement,
    }
    view = shape.view_flops(shown["frames"]) + config.inside_flops(shape, shown["frames"])
    calls = ROUNDS * (2 * shown["views"] + STEP * (config.trains and not training["cached"]))
    flops = float(view * calls * sum(measurement.batches) * len(measurement.precisions))
    modules = ("bench.stages.profile", *method(name).modules)
    return Stage("profile", spec, {}, modules, {"pretrained": ANY_WEIGHTS}, title, flops)


def trained_title(suite: Suite, trial: Trial) -> str:
    """A trial's title without axes that only change inference or protocols: their points share the training."""
    later = ("inference.", "protocol.", "protocols.")
    return trial.title_at([axis for axis, _ in trial.point if not suite.axes[axis].startswith(later)])

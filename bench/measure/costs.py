"""Costs of a method: parameters, FLOPs by counter and in closed form, seconds and memory on a device.

Costs do not depend on what was learnt: weights are random, and so are pixels and class features. FLOPs are 2 per
multiply-add, matrix products only. Seconds are those of calls on inputs that lie on the device: nothing is decoded.

Legend: B batch, V views of a video, M = B * V views, T frames, S side in pixels, D joint CLIP width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from bench.core.errors import StageError
from bench.measure import flops as counting
from bench.measure.disturbance import contradiction
from bench.models.backbones import Backbone, backbone
from bench.models.clip import load_clip
from bench.models.precision import autocast, scaler
from methods.contract import Encoded, Model, Predictor, build_model, mapped
from methods.registry import method
from methods.settings import Config, Inference

Figures = dict[str, Any]
Call = Callable[[], object]

BACKWARD = 3  # a training step takes about three times its forward pass


class MethodCosts:
    """One method under one config and one set of inference choices."""

    def __init__(self, spec: Mapping[str, Any], pretrained: str, device: str, threads: int) -> None:
        self.spec = spec
        self.method = method(spec["method"])
        self.config: Config = self.method.config.model_validate(spec["config"])
        self.inference: Inference = self.method.inference.model_validate(spec["inference"])
        self.choices = named_choices(self.config, self.inference)
        self.shape: Backbone = backbone(spec["backbone"])
        self.pretrained: str = pretrained
        self.frames, self.views, self.classes = (int(spec[name]) for name in ("frames", "views", "classes"))
        wanted = spec["measurement"]
        self.device: str = device if wanted["device"] == "auto" else wanted["device"]
        self.threads: int = wanted["threads"] or threads
        torch.set_num_threads(self.threads)
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise StageError(f"the device is '{self.device}', but torch sees no CUDA device here")

    def model(self, device: str, classes: int = 0, training: bool = False) -> Model:
        """The model with values, ready to run; by default bound to the classes of an answer."""
        clip, classes = load_clip(self.shape.name, self.pretrained), classes or self.classes
        model: Model = build_model(self.method.model, self.config, clip, 0, classes, training)
        described_CD = counting.units(self.classes, self.shape.embed_dim).to(device)
        model.descriptions = dict.fromkeys(self.config.description_sets, described_CD)
        counting.show_source(model, classes)
        return model.to(device).eval()

    @property
    def prompts(self) -> int:
        """Number of prompts of a class."""
        return int(self.spec["training"].get("texts", 1))

    def class_features(self, device: str) -> Tensor:
        """Class features [C, ...]."""
        return counting.units(self.classes, *self.config.class_shape(self.shape, self.prompts)).to(device)

    # --- by counter and in closed form --------------------------------------------------------------------------------

    def counted(self) -> Figures:
        """Results that need no clock."""
        model = counting.shapes(self.method, self.config, self.shape.name, self.classes)
        modules = self._tower(model) + self._head(model, self.inference)
        return {
            **{name: self.spec[name] for name in ("backbone", "frames", "views", "classes")},
            "parameters": self._parameters(model),
            "flops": {"view": _sums(modules), "video": _sums(modules, self.views), **self._other_flops(model)},
            "modules": modules,
            "experts": self._experts(model),
            "choices": [
                {
                    "name": name,
                    "parameters": self.config.head_parameters(self.shape, choice).active + self._bound,
                    "flops": _sums(self._head(model, choice)),
                    "latency": None,
                }
                for name, choice in self.choices.items()
            ],
        }

    @property
    def _bound(self) -> int:
        return self.config.class_bound_parameters(self.shape, self.classes)

    def _tower(self, model: Model) -> list[Figures]:
        """FLOPs of the tower, and of what the method adds to it."""
        closed = {counting.TOWER: self.shape.view_flops(self.frames)}
        if inside := self.config.inside_flops(self.shape, self.frames):
            closed[counting.INSIDE] = inside
        return _lines(counting.tower(model, self.frames), closed)

    def _head(self, model: Model, inference: Inference) -> list[Figures]:
        predictor = model.deploy(inference, self.class_features("cpu")).eval()
        closed = self.config.head_modules(self.shape, self.frames, inference)
        counts = counting.head(predictor, self.config, closed, self.shape, self.frames, self.classes, self.prompts)
        answers = self.classes * self.config.class_flops(self.shape, self.frames, self.prompts)
        return _lines(counts, {**closed, counting.CLASSES: answers})

    def _parameters(self, model: Model) -> Figures:
        visual, clip = _size(model.clip.visual.parameters()), _size(model.clip.parameters())
        head, own = self.config.head_parameters(self.shape, self.inference), model.expert_parameters()
        return {
            "total": _size(model.parameters()),
            "towers": {"visual": visual, "text": clip - visual},
            "head": head.stored,
            "bound": self._bound,
            "trainable": _size(parameter for parameter in model.parameters() if parameter.requires_grad),
            "active": visual + head.active + self._bound,
            "expert": _size(own[0].values()) if own else 0,
        }

    def _experts(self, model: Model) -> list[Figures]:
        own, passes = model.expert_parameters(), self.config.expert_passes
        flops = self.config.expert_flops(self.shape, self.spec["training"]["frames"])
        return [
            {"name": f"expert {i}", "parameters": _size(mine.values()), "training": round(BACKWARD * often * once)}
            for i, (mine, often, once) in enumerate(zip(own, passes, flops, strict=True))
        ]

    def _other_flops(self, model: Model) -> Figures:
        """FLOPs of a class text, and of a video in a training step with its share of the class texts."""
        training = self.spec["training"]
        once, own, texts = model, self.config.class_shape(self.shape, self.prompts), 0
        if self.config.teacher:
            model = counting.shapes(self.method, self.config, self.shape.name, self.classes, training=True)
        if self.config.texts_inside:
            once = self.model("cpu", classes=1, training=True)
            flops, own = counting.text_step(once, self.prompts)
            texts = flops if self.config.texts_of_labels else round(flops * self.classes / training["batch"])
        step = texts + counting.step(model, training["frames"], self.classes, training["cached"], own)
        model = once
        text = {"counted": counting.text(model), "closed": self.config.text_flops(self.shape)}
        return {"text": text, "training": {"counted": step}}


def named_choices(config: Config, inference: Inference) -> dict[str, Inference]:
    """The row's own inference, then the other ways to use the experts.

    The own one has the name of the way that it differs from in nothing by which ways differ; else it is "deployed".
    """
    ways = {**config.expert_choices(inference), **config.ensembles(inference)}
    dumps = [way.model_dump() for way in ways.values()]
    varied = [name for name in inference.model_dump() if len({repr(dump[name]) for dump in dumps}) > 1]
    alike = (name for name, way in ways.items() if all(getattr(way, key) == getattr(inference, key) for key in varied))
    own = next(alike, "deployed")
    return {own: inference, **{name: way for name, way in ways.items() if name != own}}


def _lines(counts: dict[str, int], closed: dict[str, int]) -> list[Figures]:
    names = dict.fromkeys([*counts, *closed])
    return [{"name": name, "counted": counts.get(name, 0), "closed": closed.get(name, 0)} for name in names]


def _sums(lines: list[Figures], times: int = 1) -> dict[str, int]:
    return {way: times * sum(line[way] for line in lines) for way in ("counted", "closed")}


def _size(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


# --- by clock ---------------------------------------------------------------------------------------------------------


Measure = Callable[[Call, int], Figures]  # (call, number of all calls) -> seconds and memory, as `Clock.measure`


def timed(subject: MethodCosts, measure: Measure) -> tuple[list[Figures], list[Figures]]:
    """Latencies of the choices' heads, then of all parts."""
    measurement, model = subject.spec["measurement"], subject.model(subject.device)
    classes_CD = subject.class_features(subject.device)
    predictors = [model.deploy(choice, classes_CD).eval() for choice in subject.choices.values()]
    cells = [(precision, batch) for precision in measurement["precisions"] for batch in measurement["batches"]]
    total = len(predictors) + (3 + subject.config.trains) * len(cells)
    one_view = Answer(subject, model, measurement["precisions"][0], 1)
    choices = [measure(one_view.head(predictor), total) for predictor in predictors]
    latency = []
    for precision, batch in cells:
        answer = Answer(subject, model, precision, batch * subject.views)
        calls = {"video": answer.video(predictors[0]), "tower": answer.tower(), "head": answer.head(predictors[0])}
        found = {part: measure(call, total) for part, call in calls.items()}
        if contradiction(found):
            found = {part: measure(call, total) for part, call in calls.items()}
        if reason := contradiction(found):
            found = {part: {"disturbed": reason, **each} for part, each in found.items()}
        if subject.config.trains:
            taught = subject.model(subject.device, training=True) if subject.config.teacher else model
            found["training step"] = measure(_training_step(subject, taught, precision, batch), total)
            taught.eval().zero_grad()
            taught.clip.set_grad_checkpointing(False)
        for part, each in found.items():
            throughput = batch / each["p50"]
            latency.append({"part": part, "precision": precision, "batch": batch, **each, "throughput": throughput})
    return choices, latency


class Answer:
    """The calls that answer a number of views at once."""

    def __init__(self, subject: MethodCosts, model: Model, precision: str, views: int) -> None:
        self.device, self.precision, self.model = subject.device, precision, model
        self.classes_CD = subject.class_features(subject.device)
        self.pixels_MT3SS = _pixels(subject, views, subject.frames)
        self.encoded = _features(subject, views, subject.frames)

    def video(self, predictor: Predictor) -> Call:
        return self._alone(lambda: predictor(self.model.encode(self.pixels_MT3SS), self.classes_CD))

    def tower(self) -> Call:
        return self._alone(lambda: self.model.encode(self.pixels_MT3SS))

    def head(self, predictor: Predictor) -> Call:
        return self._alone(lambda: predictor(self.encoded, self.classes_CD))

    def _alone(self, call: Call) -> Call:
        """The call without gradients, in the precision."""

        def answer() -> None:
            with torch.inference_mode(), autocast(self.device, self.precision):
                call()

        return answer


def _training_step(subject: MethodCosts, model: Model, precision: str, batch: int) -> Call:
    """Forward, backward and optimiser step as in a training, on so many videos of one view."""
    training, device = subject.spec["training"], subject.device
    make: Callable[..., Any] = _features if training["cached"] else _pixels
    frames_b = make(subject, batch, training["frames"])
    labels_B = (torch.arange(batch) % subject.classes).to(device)
    classes_CD, generator = subject.class_features(device), torch.Generator().manual_seed(0)
    prompts = [[f"a video of class {number}"] * training.get("texts", 0) for number in range(subject.classes)]
    # A rate of 0 takes as long as any and leaves the values as they are.
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
    scale = scaler(device, precision)
    model.train()
    model.clip.set_grad_checkpointing(training["checkpointing"])

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision), model.draws_from(generator):
            encoded = frames_b if training["cached"] else model.encode(frames_b)
            own = model.training_texts(prompts, labels_B, generator) if subject.config.texts_inside else classes_CD
            total = model.loss(encoded, labels_B, own, generator)["total"]
        scale.scale(total).backward()
        scale.step(optimizer)
        scale.update()

    return step


def _pixels(subject: MethodCosts, views: int, frames: int) -> Tensor:
    """Random pixels [M, T, 3, S, S], as if normalised."""
    side, generator = subject.shape.image_size, torch.Generator().manual_seed(0)
    return torch.randn(views, frames, 3, side, side, generator=generator).to(subject.device)


def _features(subject: MethodCosts, views: int, frames: int) -> Encoded:
    """Random encodings of M views."""
    encoded = counting.encodings(subject.config, subject.shape, views, frames)
    return mapped(lambda own_M: own_M.to(subject.device), encoded)

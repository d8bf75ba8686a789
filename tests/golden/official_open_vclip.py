"""Golden files of Open-VCLIP and FROSTER through product code: tower, step, optimiser and schedule, means, mixtures.

Legend: B batch, T frames, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from bench.models.backbones import backbone
from bench.models.clip import Clip
from bench.models.state_dicts import State, layers_in
from bench.stages.training.average import RunningMean
from bench.stages.training.optimiser import adamw, set_rates
from bench.stages.training.schedule import Schedule
from bench.suite.recipe import Average, Training
from methods.contract import Model, Terms, build_model
from methods.froster.config import Config as FrosterConfig
from methods.froster.model import Model as Froster
from methods.froster.model import unit
from methods.open_vclip.config import PRESETS, Config
from methods.open_vclip.model import Model as OpenVclip
from methods.settings import Inference
from tests.golden.official_mote import bare_clip


def small_clip(state: State, inputs: State, tokens: Mapping[str, Tensor]) -> Clip:
    """CLIP of the state's shapes, whose tokenizer knows the token ids [L] of certain texts."""
    width, patch = len(state["visual.conv1.weight"]), state["visual.conv1.weight"].shape[-1]
    places = state["visual.positional_embedding"]
    context, text_width = state["positional_embedding"].shape
    spec = replace(
        backbone("ViT-B-16-quickgelu"),
        image_size=isqrt(len(places) - 1) * patch,
        patch_size=patch,
        vision_width=width,
        vision_layers=layers_in(state, r"visual\.transformer\.resblocks\.(\d+)\."),
        vision_heads=int(inputs["vision_heads"]),
        embed_dim=state["visual.proj"].shape[1],
        text_width=text_width,
        text_layers=layers_in(state, r"transformer\.resblocks\.(\d+)\."),
        text_heads=int(inputs["text_heads"]),
        context_length=context,
        vocab_size=len(state["token_embedding.weight"]),
    )
    clip = bare_clip(spec)
    clip.load_state_dict(state)
    clip.tokenizer = lambda texts: torch.stack([tokens[text] for text in texts]).long()
    clip.float().eval()
    return clip


def texts(tokens_PCL: Tensor, name: str) -> tuple[list[list[str]], dict[str, Tensor]]:
    """Names of the texts of each class [C][P], and the token ids of each."""
    each = {f"{name} {p} {c}": own_L for p, own_CL in enumerate(tokens_PCL) for c, own_L in enumerate(own_CL)}
    return [[f"{name} {p} {c}" for p in range(len(tokens_PCL))] for c in range(tokens_PCL.shape[1])], each


def recipe(inputs: State, batch: int) -> tuple[Training, Schedule, int]:
    """The official recipe at the file's rates, its schedule, and the step at which the file begins."""
    base, floor, start, warmup, epochs, epoch, length = inputs["schedule"].tolist()
    own = {name: value for name, value in PRESETS["official"]["recipe"].items() if name in Training.model_fields}
    training = Training.model_validate(
        {
            **own,
            **{"batch": batch, "lr": base, "floor": floor / base, "warmup_start": start / base},
            **{"warmup_epochs": warmup, "epochs": epochs, "weight_decay": float(inputs["weight_decay"])},
            **{"clip_grad": float(inputs["max_norm"]), "views": {**own["views"], "size": 224}},
        }
    )
    return training, Schedule(training, int(length) * batch), int(epoch * length)


def stepped(model: Model, inputs: State, terms_of: Any, own_name: Any) -> Iterator[tuple[int, Terms, State]]:
    """Loss terms of each step of the file, and what the step makes of the model under the file's names.

    `terms_of(step)` runs the method's forward pass, `own_name` maps a parameter's name to the file's.
    """
    count = len([name for name in inputs if name.endswith(".pixels")])
    training, schedule, first = recipe(inputs, len(inputs["step0.labels"]))
    optimiser = adamw(model, training)
    for step in range(count):
        optimiser.zero_grad()
        set_rates(optimiser, lambda of_floor, step=step: schedule.factor(first + step, of_floor))  # type: ignore[misc]
        terms = terms_of(step)
        terms["total"].backward()
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        made = {f"grad.{own_name(name)}": p.grad.clone() for name, p in trained.items() if p.grad is not None}
        assert training.clip_grad is not None
        made["grad_norm"] = clip_grad_norm_(trained.values(), training.clip_grad)
        made["lr"] = torch.tensor(optimiser.param_groups[0]["lr"])
        optimiser.step()
        made |= {f"after.{own_name(name)}": p.detach().clone() for name, p in model.named_parameters()}
        yield step, terms, made


def averaged(inputs: State) -> State:
    """Mean of the numbered states of the file."""
    first, last = inputs["swa.first_last"].tolist()
    numbers = sorted({int(name.split(".")[1].removeprefix("epoch")) for name in inputs if name.startswith("swa.epoch")})
    states = {
        number: {name.partition(f"epoch{number}.")[2]: own for name, own in inputs.items() if f"epoch{number}." in name}
        for number in numbers
    }
    mean = RunningMean(Average(first=int(first), last=int(last)), states[numbers[0]])
    for number in numbers:
        mean.after_epoch(number, number == numbers[-1], states[number])
    return {f"swa.{name}": own for name, own in mean.state.items()}


# --- Open-VCLIP -------------------------------------------------------------------------------------------------------


def outputs(state: State, pretrained: State, inputs: State) -> State:
    """What the file holds under `out.`; `pretrained` has CLIP's tensors where they differ from `state`."""
    prompts, tokens = texts(inputs["tokens"], "text")
    clip = small_clip({**state, **pretrained}, inputs, tokens)
    computed = {"classes": _model(clip, state).embed_classes(prompts).detach(), **averaged(inputs)}
    classes = computed["classes"]
    pixels = inputs["step0.pixels"]
    windows: dict[str, dict[str, Any]] = {
        "eval.": {},
        "plain.": {"window": 1},
        "window5.": {"window": 5},
        "window7.": {"window": 7},
    }
    for name, choices in windows.items():
        computed |= _tested(_model(clip, state, **choices), pixels, classes, name)
    computed |= _tested(_model(clip, state), pixels[:, :1], classes, "one_frame.")
    for ratio in inputs["patch_ratios"].tolist():
        model = _model(clip, state)
        model.interpolate(clip, 1 - ratio)
        name = f"patch{round(100 * ratio):03}."
        computed |= _tested(model, pixels, classes, name)
        computed |= {f"{name}{own}": tensor for own, tensor in model.clip.state_dict().items()}
    model = _model(clip, state)
    frames, block = model.encode(pixels)["frames"], computed.pop("eval.block0")
    computed |= {"eval.block0": block.unflatten(0, pixels.shape[:2]), "train.logits": _logits(model, frames, classes)}
    computed |= _steps(_model(clip, state, mix_weight=float(inputs["loss_ratio"])), inputs, classes, "iwr.")
    return computed | _steps(_model(clip, state, mix_weight=0), inputs, classes, "no_iwr.")


def _model(clip: Clip, state: State, **choices: Any) -> OpenVclip:
    """The model of a training that began with `clip` and is at `state` now."""
    model = build_model(OpenVclip, Config.model_validate(choices), deepcopy(clip), 0, training=True)
    model.clip.load_state_dict(state)
    model.generator = torch.Generator().manual_seed(0)
    assert isinstance(model, OpenVclip)
    return model.train()


@torch.no_grad()
def _tested(model: OpenVclip, clips_BT3HW: Tensor, classes_CD: Tensor, name: str) -> State:
    """Frames and logits of a test, and the stream behind the first block."""
    behind: list[Tensor] = []
    first = model.clip.visual.transformer.resblocks[0]
    handle = first.mlp.register_forward_hook(lambda module, given, made: behind.append(made))
    before = first.ln_2.register_forward_pre_hook(lambda module, given: behind.append(given[0]))
    frames_BTD = model.eval().encode(clips_BT3HW)
    handle.remove()
    before.remove()
    return {
        f"{name}frames": frames_BTD,
        f"{name}logits": _logits(model, frames_BTD, classes_CD),
        f"{name}block0": behind[0] + behind[1],
    }


def _logits(model: Model, frames_BTD: Tensor, classes_CD: Tensor) -> Tensor:
    predictor = model.deploy(Inference(), classes_CD)
    logits_BC: Tensor = predictor.logit_scale * predictor(frames_BTD, classes_CD).cosines_BC
    return logits_BC


def _steps(model: OpenVclip, inputs: State, classes_CD: Tensor, name: str) -> State:
    """The steps of the file, with its shares of CLIP."""
    start = model.config

    def terms_of(step: int) -> Terms:
        if start.mix_weight:
            share = float(inputs["alphas"][step])
            model.config = start.model_copy(update={"mix_low": share, "mix_high": share})
        generator = torch.Generator().manual_seed(step)
        with model.draws_from(generator):
            encoded = model.encode(inputs[f"step{step}.pixels"])
            return model.loss(encoded, inputs[f"step{step}.labels"], classes_CD, generator)

    computed: State = {}
    for step, terms, made in stepped(model, inputs, terms_of, lambda own: own.removeprefix("clip.")):
        found = {**made, "loss": terms["ce"], "loss_mixed": terms.get("ce_mixed", torch.tensor(0.0))}
        computed |= {f"{name}step{step}.{key}": own for key, own in found.items()}
    return computed


# --- FROSTER, which has the same tower, step and mean -----------------------------------------------------------------


def froster_outputs(state: State, inputs: State) -> State:
    """What the file of FROSTER holds under `out.`."""
    own, teacher = (
        {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}
        for prefix in ("model.", "raw_model.")
    )
    tested, tokens = texts(inputs["tokens_test"], "test")
    trained: dict[int, list[list[str]]] = {}
    for step in range(len([name for name in inputs if name.endswith(".labels")])):
        trained[step], more = texts(inputs[f"step{step}.tokens_train"], f"step{step}")
        tokens |= more
    choices = {"residual": float(inputs["projector_scale"]), "distil_weight": float(inputs["distillation"])}
    model = build_model(
        Froster, FrosterConfig.model_validate(choices), small_clip(own, inputs, tokens), 0, training=True
    )
    assert isinstance(model, Froster) and model.teacher is not None
    model.teacher.load_state_dict(teacher)
    model.head.load_state_dict({name: each for name, each in state.items() if name.startswith("projector_")})
    pixels = inputs["step0.pixels"]
    with torch.no_grad():
        classes = model.eval().embed_classes(tested)
        frames = model.encode(pixels)
    computed = {"eval.frames": frames, "eval.classes": classes, "eval.logits": _logits(model, frames, classes)}
    return {**computed, **_froster_steps(model.train(), inputs, trained), **averaged(inputs)}


def _froster_steps(model: Froster, inputs: State, trained: dict[int, list[list[str]]]) -> State:
    computed: State = {}

    def terms_of(step: int) -> Terms:
        labels, generator = inputs[f"step{step}.labels"], torch.Generator().manual_seed(step)
        classes = model.training_texts(trained[step], labels, generator)
        encoded = model.encode(inputs[f"step{step}.pixels"])
        found = {
            "student_frames": unit(encoded["frames"]),
            "teacher_frames": unit(encoded["teacher"]),
            "student_classes": classes[:, 0],
            "teacher_classes": classes[:, 1],
            "logits": _logits(model, encoded["frames"], classes[:, 0]),
        }
        found |= {
            f"projected_{what}": model.projected(kind, found[f"student_{what}"])
            for kind, what in (("v", "frames"), ("t", "classes"))
        }
        terms = model.loss(encoded, labels, classes, generator)
        losses = {"loss_ce": "ce", "loss_frames": "frames", "loss_classes": "classes", "loss": "total"}
        found |= {name: terms[own] for name, own in losses.items()}
        computed.update({f"step{step}.{name}": each.detach() for name, each in found.items()})
        return terms

    for step, _, made in stepped(model, inputs, terms_of, _official_name):
        computed |= {f"step{step}.{name}": each for name, each in made.items()}
    return computed


def _official_name(own: str) -> str:
    for prefix, official in (("clip.", "model."), ("teacher.", "raw_model."), ("head.", "")):
        if own.startswith(prefix):
            return official + own.removeprefix(prefix)
    return own

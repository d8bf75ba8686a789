"""Outputs of ViFi-CLIP's official modules, computed by the method here (golden file `vificlip`).

Legend: B videos, C classes, L tokens of a text, W tower width, D joint width, n vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from math import isqrt

import torch
from torch import Tensor

from bench.checkpoints.heads import HEADS, VIFICLIP
from bench.models.backbones import backbone
from bench.models.clip import Clip
from bench.models.state_dicts import State, layers_in, official_names, renamed
from bench.stages.training.mixing import Blend, cut_box, cut_in, mixed_up, smoothed
from bench.stages.training.schedule import Schedule
from bench.suite.recipe import Training
from methods.clip_mean.config import Config as ClipMeanConfig
from methods.clip_mean.model import Model as ClipMean
from methods.vificlip.config import Config, Inference
from methods.vificlip.model import Model
from tests.golden.official_mote import HEAD_CHANNELS, bare_clip

RULES = VIFICLIP.states["model"]


def named_here(state: State) -> tuple[State, State]:
    """Tensors of CLIP and vectors, from official names, without the rows of the token table."""
    return official_names({new: own for name, own in state.items() if (new := renamed(name, RULES))})


def official_clip(state: State, inputs: State) -> Clip:
    """The CLIP of a first stage, with the token table of the one that it started from."""
    return whole_clip({**named_here(state)[0], "token_embedding.weight": inputs["clip.token_embedding.weight"]}, inputs)


def whole_clip(own: State, inputs: State) -> Clip:
    """A CLIP with these tensors, which tell its sizes."""
    (width, patch), (length, text_width) = own["visual.conv1.weight"].shape[::3], own["positional_embedding"].shape
    spec = replace(
        backbone("ViT-B-16-quickgelu"),
        image_size=isqrt(len(own["visual.positional_embedding"]) - 1) * patch,
        patch_size=patch,
        vision_width=width,
        vision_layers=layers_in(own, r"visual\.transformer\.resblocks\.(\d+)\."),
        vision_heads=int(inputs.get("vision_heads", max(1, width // HEAD_CHANNELS))),
        embed_dim=own["visual.proj"].shape[1],
        text_width=text_width,
        text_layers=layers_in(own, r"transformer\.resblocks\.(\d+)\."),
        text_heads=int(inputs.get("text_heads", max(1, text_width // HEAD_CHANNELS))),
        context_length=length,
        vocab_size=len(own["token_embedding.weight"]),
    )
    clip = bare_clip(spec)
    clip.eval().load_state_dict(own)
    return clip


def reader(tokens_CL: Tensor, vectors: int = 0) -> Callable[[list[str]], Tensor]:
    """A tokenizer of the texts "0", "1" ...: rows of the file, without the words in the place of vectors."""
    rows_CL = torch.cat(
        [tokens_CL[:, :1], tokens_CL[:, 1 + vectors :], torch.zeros_like(tokens_CL[:, :vectors])], dim=1
    )
    return lambda texts: rows_CL[[int(text.removesuffix(".")) for text in texts]]


def outputs(state: State, inputs: State) -> State:
    """Everything under `out`."""
    prompted = {name.removeprefix("prompted."): own for name, own in state.items() if name.startswith("prompted.")}
    clip = official_clip({name: own for name, own in state.items() if not name.startswith("prompted.")}, inputs)
    targets_BC = smoothed(inputs["labels"], len(inputs["tokens"]), float(inputs["smoothing"]))
    found: State = {"targets.smoothed": targets_BC}
    for tunes in ("both", "image", "text"):
        model = Model(Config.model_validate({"tunes": tunes}), deepcopy(clip))
        found[f"trainable.{tunes}"] = torch.tensor(sum(p.numel() for p in model.parameters() if p.requires_grad))
    return {
        **found,
        **_first_stage(deepcopy(clip), inputs, targets_BC),
        **_second_stage(deepcopy(clip), prompted, inputs, targets_BC),
        **_schedules(inputs),
        "zs.logits": _zero_shot(clip, inputs),
    }


def _first_stage(clip: Clip, inputs: State, targets_BC: Tensor) -> State:
    model, found = Model(Config(), clip), State()
    videos, partner_B = Blend(inputs["pixels"], targets_BC), inputs["permutation"]
    found |= _answers(model, inputs["pixels"], inputs["tokens"])
    found["loss.smoothed_only"] = _loss(model, *videos, inputs["tokens"])
    found["loss.plain_ce"] = _loss(model, inputs["pixels"], inputs["labels"], inputs["tokens"])
    height, width = inputs["pixels"].shape[-2:]
    for case in ("cutmix0", "cutmix1"):
        x, y = inputs[f"{case}.centre_xy"].tolist()
        box = cut_box(width, height, float(inputs[f"{case}.lambda"]), (x, y))
        pixels, mixed_BC = cut_in(videos, partner_B, box)
        found |= {
            f"{case}.box_x1y1x2y2": torch.tensor([box.x1, box.y1, box.x2, box.y2]),
            f"{case}.kept": torch.tensor(1 - (box.x2 - box.x1) * (box.y2 - box.y1) / (width * height)),
            f"{case}.pixels": pixels,
            f"{case}.targets": mixed_BC,
            f"{case}.loss": _loss(model, pixels, mixed_BC, inputs["tokens"]),
        }
    pixels, mixed_BC = mixed_up(videos, partner_B, float(inputs["mixup.lambda"]))
    loss = _loss(model, pixels, mixed_BC, inputs["tokens"])
    loss.backward()
    found |= {"mixup.pixels": pixels, "mixup.targets": mixed_BC, "mixup.loss": loss}
    return found | _gradients(model)


def _second_stage(clip: Clip, prompted: State, inputs: State, targets_BC: Tensor) -> State:
    tuned = Model(Config(), deepcopy(clip)).trained_state()
    _, vectors = named_here(prompted)
    model = Model(Config.model_validate(HEADS["vificlip"].choices(vectors)), clip)
    model.init_from(tuned)
    assert model.head is not None
    model.head.load_state_dict(vectors)
    tokens_CL, count = inputs["prompted.tokens"], len(vectors["text.0"])
    found = _answers(model, inputs["pixels"], tokens_CL, count)
    loss = _loss(model, inputs["pixels"], targets_BC, tokens_CL, count)
    loss.backward()
    found["loss"] = loss
    gradients = _gradients(model, "grad.prompted.")
    rounded = {name: own if name == "text.0" else own.half().float() for name, own in vectors.items()}
    model.head.load_state_dict(rounded)
    found["logits_rounded"] = _answers(model, inputs["pixels"], tokens_CL, count)["logits"]
    return {**{f"prompted.{name}": own for name, own in found.items()}, **gradients}


@torch.no_grad()
def _answers(model: Model, pixels: Tensor, tokens_CL: Tensor, vectors: int = 0) -> State:
    """As the deployed model gives them; features are not normalised, logits are scaled."""
    prompts = _read(model, tokens_CL, vectors)
    frames_BTD = model.encode(pixels)
    predictor, classes_CD = model.deploy(Inference(), torch.empty(0)), model.embed_classes(prompts)
    prediction = predictor(frames_BTD, classes_CD)
    return {
        **{"frames": frames_BTD, "video": prediction.features["z"], "texts": model.encode_prompts(prompts)},
        "logits": predictor.logit_scale * prediction.cosines_BC,
    }


def _loss(model: Model, pixels: Tensor, targets: Tensor, tokens_CL: Tensor, vectors: int = 0) -> Tensor:
    """Of labels [B] or targets [B, C], as the trainer asks for it."""
    classes_CD, generator = model.embed_classes(_read(model, tokens_CL, vectors)), torch.Generator()
    return model.loss(model.encode(pixels), targets, classes_CD, generator)["total"]


def _read(model: Model, tokens_CL: Tensor, vectors: int) -> list[list[str]]:
    """Prompts that the model reads as these tokens."""
    model.clip.tokenizer = reader(tokens_CL, vectors)
    return [[str(index)] for index in range(len(tokens_CL))]


def _gradients(model: Model, start: str = "grad.") -> State:
    """Under official names."""
    official = {own: name for name, own in RULES.items()}
    parameters = {name: own.grad for name, own in model.named_parameters() if own.grad is not None}
    return {start + renamed(name, official): gradient for name, gradient in parameters.items()}


def _schedules(inputs: State) -> State:
    """Rates of each step. A micro-step is a video here."""
    found = State()
    for name in [name for name in inputs if name.endswith(".epochs_microsteps_accumulation")]:
        case, (epochs, micro_steps, together) = name.partition(".")[0], inputs[name].tolist()
        sizes = {"batch": together, "micro_steps": together, "drop_last": True}
        recipe = Training.model_validate({"schedule": "vifi", "epochs": epochs, "warmup_epochs": 5, **sizes})
        schedule, rate = Schedule(recipe, micro_steps), float(inputs[f"{case}.lr"])
        rates = [rate * schedule.factor(step) for step in range(schedule.steps)]
        found[f"{case}.rates"] = torch.tensor(rates, dtype=torch.float64)
    return found


@torch.no_grad()
def _zero_shot(clip: Clip, inputs: State) -> Tensor:
    """Logits [B, C] of plain CLIP with bare names."""
    clip.tokenizer = reader(inputs["zs.tokens"])
    model = ClipMean(ClipMeanConfig(), clip)
    classes_CD = model.embed_classes([[str(index)] for index in range(len(inputs["zs.tokens"]))])
    predictor = model.deploy(Inference(), classes_CD)
    logits_BC: Tensor = predictor.logit_scale * predictor(model.encode(inputs["pixels"]), classes_CD).cosines_BC
    return logits_BC

"""Outputs of X-CLIP's official modules, computed by the method here (golden file `xclip`).

Legend: B videos, T frames, N frames of all videos, P tokens of a frame, W tower width, D joint width, C classes, L
tokens of a text.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from bench.checkpoints.heads import HEADS, XCLIP
from bench.models.state_dicts import State, official_names, renamed
from bench.stages.training.mixing import Blend, cut_box, cut_in, mixed_up, smoothed
from bench.stages.training.optimiser import adamw, set_rates
from bench.stages.training.schedule import Schedule
from bench.suite.recipe import Training
from methods.settings import Inference
from methods.xclip.config import HEAD_CHANNELS, PRESETS, Config
from methods.xclip.model import Model
from tests.golden.official_open_vclip import small_clip

RULES = XCLIP.states["model"]


def official_model(state: State, tokens_CL: Tensor) -> Model:
    """The model of a state with official names, all of it trained; its texts "0", "1" ... are rows of the tokens."""
    own, head = official_names({renamed(name, RULES): tensor.float() for name, tensor in state.items()})
    widths = {"vision_heads": own["visual.proj"].shape[0], "text_heads": own["positional_embedding"].shape[1]}
    heads = {name: torch.tensor(max(1, width // HEAD_CHANNELS)) for name, width in widths.items()}
    clip = small_clip(own, heads, {str(row): tokens_L for row, tokens_L in enumerate(tokens_CL)})
    model = Model(Config.model_validate({"texts": "tuned", **HEADS["xclip"].choices(head)}), clip)
    model.head.load_state_dict(head)
    return model


def outputs(state: State, inputs: State) -> State:
    """Everything under `out`."""
    model = official_model(state, inputs["tokens"])
    targets_BC = smoothed(inputs["labels"], len(inputs["tokens"]), float(inputs["smoothing"]))
    found = {**_tower(model, inputs["pixels"]), **_schedule(model, inputs)}
    found |= _answers(model, inputs["pixels"], len(inputs["tokens"]))
    found |= {"targets.plain": targets_BC, "loss.plain": _loss(model, inputs["pixels"], targets_BC)}
    return found | _mixed(model, Blend(inputs["pixels"], targets_BC), inputs)


@torch.no_grad()
def _tower(model: Model, pixels_BT3HW: Tensor) -> State:
    """Messages and tokens of each block, and the patches of each frame."""
    found, sizes = State(), pixels_BT3HW.shape[:2]
    hidden_NPW = model.clip.visual._embeds(pixels_BT3HW.flatten(0, 1))
    for place, block in enumerate(model.blocks(sizes[1])):
        if model.config.messages:
            found[f"message.{place}"] = model.head.messages[place](hidden_NPW[:, 0].unflatten(0, sizes))
        hidden_NPW = block(hidden_NPW)
        found[f"block.{place}"] = hidden_NPW.unflatten(0, sizes)
    if own := model.head.patches:
        found["patches"] = own.ln(hidden_NPW[:, 1:].unflatten(0, sizes)) @ own.proj
    return found


@torch.no_grad()
def _answers(model: Model, pixels_BT3HW: Tensor, classes: int) -> State:
    """As the deployed model gives them."""
    encoded, classes_CKD = model.encode(pixels_BT3HW), model.embed_classes(texts(classes))
    predictor = model.deploy(Inference(), classes_CKD)
    prediction = predictor(encoded, classes_CKD)
    found = {"video": prediction.features["z"], "classes": classes_CKD[:, 0], "cls": encoded}
    if model.config.prompts:
        prompt_BCD = torch.cat(list(predictor.classifier.prompts(encoded["patches"], classes_CKD[:, 0])), dim=1)
        found |= {"cls": encoded["frames"], "patches_mean": encoded["patches"], "prompt": prompt_BCD}
        found["prompted_classes"] = classes_CKD[:, 0] + prompt_BCD
    return {**found, "logits": predictor.logit_scale * prediction.cosines_BC}


def _mixed(model: Model, videos: Blend, inputs: State) -> State:
    """Mixup and CutMix with the draws of the file, and gradients under official names."""
    height, width = videos.pixels.shape[-2:]
    centre = int(inputs["cutmix.centre_x"]), int(inputs["cutmix.centre_y"])
    box = cut_box(width, height, float(inputs["cutmix.lambda"]), centre)
    blends = {
        "cutmix": cut_in(videos, inputs["cutmix.permutation"], box),
        "mixup": mixed_up(videos, inputs["mixup.permutation"], float(inputs["mixup.lambda"])),
    }
    found = State()
    for name, (pixels, targets) in blends.items():
        loss = _loss(model, pixels, targets)
        found |= {f"{name}.pixels": pixels, f"{name}.targets": targets, f"{name}.loss": loss}
        found[f"{name}.logits"] = _answers(model, pixels, targets.shape[1])["logits"]
    found["mixup.loss"].backward()
    official = {own: name for name, own in RULES.items()}
    gradients = {name: own.grad for name, own in model.named_parameters() if own.grad is not None}
    return found | {f"grad.{renamed(name, official)}": gradient for name, gradient in gradients.items()}


def _loss(model: Model, pixels: Tensor, targets_BC: Tensor) -> Tensor:
    """As the trainer asks for it."""
    classes_CKD = model.embed_classes(texts(targets_BC.shape[1]))
    return model.loss(model.encode(pixels), targets_BC, classes_CKD, torch.Generator())["total"]


def texts(classes: int) -> list[list[str]]:
    """Texts that the model of `official_model` can read."""
    return [[str(row)] for row in range(classes)]


def _schedule(model: Model, inputs: State) -> State:
    """Rates of both groups in each step. A micro-step is a video here."""
    own = {name.removeprefix("schedule."): float(each) for name, each in inputs.items() if name.startswith("schedule.")}
    together, official = int(own["accumulation"]), PRESETS["official"]["recipe"]
    recipe = Training.model_validate(
        {
            **{name: official[name] for name in ("schedule", "tower_lr_ratio", "floor_of", "undecayed", "drop_last")},
            **{"lr": own["base"] / official["tower_lr_ratio"], "batch": together, "micro_steps": together},
            **{"epochs": own["epochs"], "warmup_epochs": own["warmup_epochs"]},
        }
    )
    schedule, optimiser = Schedule(recipe, int(own["batches_per_epoch"])), adamw(model, recipe)
    rates = []
    for step in range(schedule.steps):
        set_rates(optimiser, partial(schedule.factor, step))
        rates.append([optimiser.param_groups[0]["lr"], optimiser.param_groups[-1]["lr"]])
    return dict(zip(("schedule.tower", "schedule.new"), torch.tensor(rates).T, strict=True))

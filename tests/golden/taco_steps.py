"""Replay of TACO's golden file: the test, and training steps with teacher, optimiser and ensemble.

Legend: B videos, V views, T frames, D joint CLIP width, C classes, K anchors, L tokens of a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isqrt
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from bench.measure.metrics import fuse
from bench.models.backbones import Backbone, backbone
from bench.models.clip import Clip
from bench.models.state_dicts import State, layers_in, trained_names
from bench.stages.training.average import RunningMean
from bench.stages.training.optimiser import adamw
from bench.suite.protocol import Fusion
from bench.suite.recipe import Average, Training
from methods.contract import Prediction, build_model, cosines
from methods.taco.config import Config, Inference
from methods.taco.model import Model, relative
from tests.golden.official_mote import bare_clip

Tensors = dict[str, Tensor]
PARTS = {"clip.": "model.", "head.": "fusion_model."}  # own names -> official ones


def outputs(path: Path) -> Tensors:
    """All outputs of a file that this code can compute, under their names."""
    case = load_file(path)
    model = _model(case)
    return {**_tested(model, case), **_trained(model, case)}


def _under(case: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in case.items() if name.startswith(prefix)}


# --- the model --------------------------------------------------------------------------------------------------------


def _model(case: Tensors) -> Model:
    """The student with its teacher, both with the file's weights, and a tokenizer that looks texts up in the file."""
    state, taught = _under(case, "state.model."), _under(case, "teacher.")
    clip = bare_clip(_shapes(state, int(case["in.vision_heads"]), int(case["in.text_heads"]), case))
    clip.load_state_dict(state)
    clip.tokenizer = lambda texts: torch.stack([_tokens(case, text) for text in texts])
    config = Config(
        anchors=len(case["in.step0.anchors"]),
        kl_weight=float(case["in.kl_weight"]),
        momentum=_decimal(case["in.momentum"]),
    )
    model = build_model(Model, config, clip, 0, training=True)
    assert isinstance(model, Model) and isinstance(model.teacher, Clip)
    model.load_trained(trained_names(state, _under(case, "state.fusion_model.")))
    model.teacher.load_state_dict(taught)
    return model


def _shapes(state: State, vision_heads: int, text_heads: int, case: Tensors) -> Backbone:
    conv_W3PP, places_NW = state["visual.conv1.weight"], state["visual.positional_embedding"]
    context, text_width = state["positional_embedding"].shape
    patch = conv_W3PP.shape[-1]
    return replace(
        backbone("ViT-B-16-quickgelu"),
        image_size=isqrt(len(places_NW) - 1) * patch,
        patch_size=patch,
        vision_width=len(conv_W3PP),
        vision_layers=layers_in(state, r"visual\.transformer\.resblocks\.(\d+)\."),
        vision_heads=vision_heads,
        embed_dim=state["text_projection"].shape[1],
        text_width=text_width,
        text_layers=layers_in(state, r"transformer\.resblocks\.(\d+)\."),
        text_heads=text_heads,
        context_length=context,
        vocab_size=len(state["token_embedding.weight"]),
    )


def _decimal(value: Tensor) -> float:
    """The number that was written, of which the file has the nearest single-precision one."""
    return float(f"{float(value):.6g}")


def _prompts(case: Tensors, kind: str) -> list[list[str]]:
    """Names of the file's texts, [C][P]."""
    templates, classes = case[f"in.tokens_{kind}"].shape[:2]
    return [[f"{kind} {template} {name}" for template in range(templates)] for name in range(classes)]


def _tokens(case: Tensors, text: str) -> Tensor:
    kind, template, name = text.split()
    tokens_L: Tensor = case[f"in.tokens_{kind}"][int(template), int(name)]
    return tokens_L.long()


# --- the test ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _tested(model: Model, case: Tensors) -> Tensors:
    """Cosines per view and fused scores, through the projection and without it."""
    model.eval()
    views_BVT3HW = case["in.views"]
    frames, classes_CD = model.encode(views_BVT3HW.flatten(0, 1)), model.embed_classes(_prompts(case, "test"))
    found: Tensors = {"frames": frames.unflatten(0, views_BVT3HW.shape[:2]), "classes": classes_CD}
    rules: tuple[tuple[str, Fusion], ...] = (("", "double_softmax"), ("unprojected_", "cos_mean"))
    for prefix, rule in rules:
        projected = not prefix
        predictor = model.deploy(Inference(projected=projected), classes_CD)
        prediction: Prediction = predictor(frames, classes_CD)
        cosines_BVC, norms_BV = (
            each.unflatten(0, views_BVT3HW.shape[:2]) for each in (prediction.cosines_BC, prediction.norms_B)
        )
        scores_BC = torch.from_numpy(fuse(cosines_BVC.numpy(), norms_BV.numpy(), predictor.logit_scale, rule))
        scores_BC = scores_BC if projected else (100 * scores_BC).softmax(dim=-1)
        found |= {f"{prefix}cosines": cosines_BVC, f"{prefix}scores": scores_BC.float()}
    return {f"test.{name}": tensor for name, tensor in found.items()}


# --- training ---------------------------------------------------------------------------------------------------------


def _trained(model: Model, case: Tensors) -> Tensors:
    """Terms, gradients and weights of every step. The file's first step moves a teacher that differs already."""
    tower, head = map(_decimal, case["in.lr"])
    recipe = Training(lr=head, tower_lr_ratio=tower / head, weight_decay=_decimal(case["in.weight_decay"]))
    optimizer = adamw(model, recipe)
    started = {**model.trained_state(), **{f"clip.{name}": own for name, own in _under(case, "clip.").items()}}
    ensemble = RunningMean(Average(kind="epochs", start=True), started)
    model.train()
    found: Tensors = {}
    for step in range(sum(name.endswith(".pixels") for name in case)):
        with torch.no_grad():
            model.after_step()
        assert model.teacher is not None
        teacher = {f"teacher.{name}": own.clone() for name, own in model.teacher.state_dict().items()}
        optimizer.zero_grad()
        computed = teacher | _step(model, case, f"in.step{step}.")
        optimizer.step()
        ensemble.after_epoch(step + 1, False, model.trained_state())
        computed |= {f"after.{name}": own.detach().clone() for name, own in _officially(model.trained_state())}
        found |= {f"step{step}.{name}": own for name, own in computed.items()}
        found |= {f"epoch{step}.ensemble.{name}": own.clone() for name, own in _officially(ensemble.state)}
    return found


def _step(model: Model, case: Tensors, inputs: str) -> Tensors:
    """Forward and backward pass of a batch with the file's anchors in the place of drawn ones."""
    labels_B, anchors_KD, nothing = case[f"{inputs}labels"].long(), case[f"{inputs}anchors"], torch.Generator()
    model.draw_anchors = lambda generator: anchors_KD  # type: ignore[method-assign]
    encoded = model.encode(case[f"{inputs}pixels"])
    classes_C2D = model.training_texts(_prompts(case, "train"), labels_B, nothing)
    terms = model.loss(encoded, labels_B, classes_C2D, nothing)
    video_BD, taught_BD = model.projected(encoded["frames"].mean(dim=1)), encoded["teacher"].mean(dim=1)
    own_CD, taught_CD = classes_C2D.unbind(dim=1)
    (scale_gradient,) = torch.autograd.grad(terms["kl"], model.clip.logit_scale, retain_graph=True)
    terms["total"].backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {
        "frames": encoded["frames"],
        "teacher_frames": encoded["teacher"],
        "video": F.normalize(video_BD, dim=-1),
        "classes": own_CD,
        "teacher_classes": taught_CD,
        "cosines": cosines(video_BD, own_CD),
        "relative_student": relative(video_BD, own_CD, anchors_KD),
        "relative_teacher": relative(taught_BD, taught_CD, anchors_KD),
        "loss_ce": terms["ce"],
        "loss_kl": terms["kl"],
        "loss": terms["total"],
        "kl_grad.model.logit_scale": scale_gradient,
        **{f"grad.{name}": own for name, own in _officially(gradients)},
    }


def _officially(state: State) -> Iterator[tuple[str, Tensor]]:
    """A state under the official names."""
    for name, tensor in state.items():
        own = next(prefix for prefix in PARTS if name.startswith(prefix))
        yield PARTS[own] + name.removeprefix(own), tensor

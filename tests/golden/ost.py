"""Replay of OST's golden files: the method's model on a CLIP of the file's shapes; the solver of transport alone.

Legend: B videos, C classes, D joint CLIP width, K kinds of sentences, N sentences of a kind, P prompts of a class, T
frames.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from methods.ost.config import KINDS, Config
from methods.ost.model import MOST, MOVED, Model, kernel, scores, similarities, summed, transport, unit
from methods.settings import Inference
from methods.text4vis.model import matching
from tests.golden.official_mote import HEAD_CHANNELS
from tests.golden.official_open_vclip import small_clip
from tests.golden.replay import Deviations, Tensors, _compare, _under

TOWERS = {"image_encoder.": "visual.", "text_encoder.": ""}  # official names -> CLIP's
CONVERGED = 2000  # iterations after which a plan moves no more


def replay_ost(path: Path) -> Deviations:
    case = load_file(path)
    inputs = _under(case, "in.")
    model, prompts = _model(_under(case, "state."), inputs)
    with torch.no_grad():
        computed = {**_tested(model, prompts, inputs["pixels"]), **_solved(inputs)}
    return _compare({**computed, **_trained(model, prompts, inputs)}, case)


def _model(state: Tensors, inputs: Tensors) -> tuple[Model, list[list[str]]]:
    """The model with the file's weights, and names of the sentences of each class, which its tokenizer knows."""
    own = {_name(name): tensor for name, tensor in state.items()}
    tokens_KCNL = [inputs[f"{kind}_tokens"] for kind in KINDS]
    tokens = {
        f"{kind} {c} {n}": own_L
        for kind, tokens_CNL in zip(KINDS, tokens_KCNL, strict=True)
        for c, own_NL in enumerate(tokens_CNL)
        for n, own_L in enumerate(own_NL)
    }
    classes, sentences = tokens_KCNL[0].shape[:2]
    prompts = [[f"{kind} {c} {n}" for kind in KINDS for n in range(sentences)] for c in range(classes)]
    widths = {"vision": len(own["visual.conv1.weight"]), "text": own["positional_embedding"].shape[1]}
    heads = {f"{tower}_heads": torch.tensor(max(1, width // HEAD_CHANNELS)) for tower, width in widths.items()}
    return Model(Config(), small_clip(own, {**heads, **inputs}, tokens)).eval(), prompts


def _name(official: str) -> str:
    start = next((start for start in TOWERS if official.startswith(start)), "")
    return TOWERS.get(start, "") + official.removeprefix(start)


def _tested(model: Model, prompts: list[list[str]], pixels: Tensor) -> Tensors:
    frames_BTD, classes_CPD = model.encode(pixels), model.embed_classes(prompts)
    predictor = model.deploy(Inference(), classes_CPD)
    logits_BC, alone_BC = (
        predictor.logit_scale * torch.cat([predictor(part, classes_CPD).cosines_BC for part in parts])
        for parts in ([frames_BTD], frames_BTD.split(1))
    )
    found = {
        "frames": frames_BTD,
        "frames_unit": unit(frames_BTD),
        "test.logits": logits_BC,
        "test.softmax": logits_BC.softmax(dim=-1),
        "test.logits_one_by_one": alone_BC,
    }
    kinds = zip(KINDS, classes_CPD.chunk(len(KINDS), dim=1), strict=True)
    for kind, sentences_CND in kinds:
        config = Config.model_validate({"kinds": kind})
        (similarity_BCTN,) = similarities(frames_BTD, classes_CPD, config)
        own = scores(frames_BTD, classes_CPD, config)
        kernel_BCTN = kernel(similarity_BCTN, config.epsilon)
        plan_BCTN, done = transport(kernel_BCTN, MOST, MOVED)
        converged_BCTN, _ = transport(kernel_BCTN, CONVERGED, 0.0)
        found |= {
            kind: sentences_CND,
            f"{kind}_unit": unit(sentences_CND),
            f"test.{kind}.kernel": kernel_BCTN,
            f"test.{kind}.plan": plan_BCTN,
            f"test.{kind}.iterations": torch.tensor(done),
            f"test.{kind}.pool": model.scale * own["pool"],
            f"test.{kind}.ot": model.scale * own["transport"],
            f"converged.{kind}.ot": model.scale * (converged_BCTN * similarity_BCTN).sum(dim=(-2, -1)),
        }
    return found


def _solved(inputs: Tensors) -> Tensors:
    """Plans of similarities that the file has alone."""
    found: Tensors = {}
    for name in (name.removesuffix(".similarity") for name in inputs if name.startswith("solver_")):
        plan_XTN, done = transport(kernel(inputs[f"{name}.similarity"], Config().epsilon), MOST, MOVED)
        found |= {f"{name}.plan": plan_XTN, f"{name}.iterations": torch.tensor(done)}
    return found


def _trained(model: Model, prompts: list[list[str]], inputs: Tensors) -> Tensors:
    labels_B, nothing = inputs["labels"].long(), torch.Generator()
    frames_BTD, own_BPD = model.encode(inputs["pixels"]), model.training_texts(prompts, labels_B, nothing)
    losses = model.loss(frames_BTD, labels_B, own_BPD, nothing)
    losses["total"].backward()
    official = {name: p.grad for name, p in model.clip.named_parameters() if p.grad is not None}
    return {
        "train.logits": model.clip.logit_scale.exp() * summed(scores(frames_BTD, own_BPD, model.config), model.config),
        "train.targets": matching(labels_B),
        "train.loss_images": losses["videos"],
        "train.loss_texts": losses["texts"],
        "train.total": losses["total"],
        **{f"train.grad.{_official(name)}": gradient for name, gradient in official.items()},
    }


def _official(name: str) -> str:
    if name == "logit_scale":
        return name
    return f"image_encoder.{name.removeprefix('visual.')}" if name.startswith("visual.") else f"text_encoder.{name}"

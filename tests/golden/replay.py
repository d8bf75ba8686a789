"""Replays a golden file through product code: `python -m tests.golden.replay FILE`.

Prints the largest deviation of each output. Exit code 1: beyond tolerance; 2: no known kind of file. The kind is the
longest name that the file's begins with; all sizes come from its content. Outputs are compared absolutely, rates
relative to the base rate, gradients relative to the reference: norm over norm, largest entry over largest entry, or,
where nothing says which of the two is meant, by that which is larger. A kind may have tolerances of its own for some
outputs. An output that is not computed here deviates by inf.

Legend: B batch, T frames, D joint CLIP width, C classes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib import import_module
from math import inf, log
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from bench.core.errors import UserError, unknown
from bench.models.backbones import backbone
from bench.models.clip import Clip
from bench.models.state_dicts import HEAD, TOWER
from bench.stages.training.schedule import lr_factor
from methods.clip_mean.config import Config as ClipMeanConfig
from methods.clip_mean.model import Model as ClipMean
from methods.contract import Prediction, cosines
from methods.mote.config import Inference, merge_weights
from methods.mote.experts import one_expert
from methods.mote.model import Model as Mote
from methods.text4vis.config import Config as Text4VisConfig
from methods.text4vis.model import Model as Text4Vis
from methods.vidprism.config import Config as VidPrismConfig
from methods.vidprism.head import VidPrismHead
from methods.vidprism.model import DIVERSITY
from tests.golden import (
    official_open_vclip,
    official_tc_clip,
    official_viclip,
    official_vificlip,
    official_vita_clip,
    official_xclip,
)
from tests.golden.official_mote import HEAD_CHANNELS, bare_clip, clip_like, official_mote, tower_state
from tests.golden.taco_steps import outputs as taco_outputs

Deviations = dict[str, float]
Tensors = dict[str, Tensor]
Size = Callable[[Tensor], float]

ABSOLUTE, RELATIVE = 1e-5, 1e-4
DATA_CASES = ("frame_sampling", "adapter_frame_sampling", "actionclip_frame_sampling", "view_fusion", "half_classes")


def tolerance(output: str, kind: str = "") -> float:
    """Tolerance of an output: the kind's for the first pattern that its name fits, else that of all kinds."""
    own = (limit for pattern, limit in TOLERANCES.get(kind, {}).items() if fnmatchcase(output, pattern))
    return next(own, RELATIVE if "grad" in output else ABSOLUTE)


def _under(case: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in case.items() if name.startswith(prefix)}


def norm(tensor: Tensor) -> float:
    return float(tensor.norm())


def largest(tensor: Tensor) -> float:
    return float(tensor.abs().max())


def _compare(computed: Tensors, case: Tensors, *sizes: Size) -> Deviations:
    """Deviations of all outputs of a file; `sizes` are the measures of a gradient, by default both."""
    references, sizes = _under(case, "out."), sizes or (norm, largest)
    return {name: _deviation(name, computed.get(name), reference, sizes) for name, reference in references.items()}


def _deviation(name: str, own: Tensor | None, reference: Tensor, sizes: tuple[Size, ...]) -> float:
    if own is None or own.shape != reference.shape:
        return inf
    difference = own.detach() - reference
    if "grad" not in name:
        return largest(difference)
    return max(size(difference) / (size(reference) or 1.0) for size in sizes)


# ---------------------------------------------------------------------------------------------------------------------
# Heads


def _clip_for_head(width: int, heads: int, scale: Tensor) -> Clip:
    """A CLIP whose tower is not used, with the joint width, text width and logit scale that a head expects."""
    text_width = heads * HEAD_CHANNELS
    clip = bare_clip(replace(backbone("glyph-vit"), embed_dim=width, text_width=text_width, text_heads=heads))
    with torch.no_grad():
        clip.logit_scale.fill_(log(float(scale)))
    return clip


def mote_head(path: Path) -> Deviations:
    case = load_file(path)
    inputs, outputs = _under(case, "in."), _under(case, "out.")
    clip = _clip_for_head(inputs["frames"].shape[-1], int(inputs["heads"]), inputs["logit_scale"])
    model, _ = official_mote(tower_state(clip), _under(case, "state."), clip)
    computed = {name: _mote_output(model, inputs, name) for name in outputs if name.startswith("eval.")}
    return _compare(computed | _mote_training(model, inputs), case)


def _mote_output(model: Mote, inputs: Tensors, name: str) -> Tensor:
    """Output of a name such as `eval.frames_merged_tau-0.6_no_tfm` or `eval.logits_unseen_tfm`."""
    pattern = r"eval\.(frames|logits)(?:_expert(\d+)|_merged_tau(-?[\d.]+|inf))?(?:_(seen|unseen))?_(no_tfm|tfm)"
    match = re.fullmatch(pattern, name)
    if match is None:
        return torch.empty(0)
    kind, expert, tau, classes, tfm = match.groups()
    inference = Inference(
        expert=None if expert is None else int(expert),
        tfm=tfm == "tfm",
        merge_temperature=None if tau in (None, "inf") else float(tau),
    )
    predictor = model.deploy(inference, inputs["seen_class_embeddings"])
    frames_BTD, classes_CD = inputs["frames"], inputs[f"{classes or 'seen'}_class_embeddings"]
    prediction: Prediction = predictor(frames_BTD, classes_CD)
    rho_B11 = predictor.strength(frames_BTD, classes_CD)[:, None, None]
    return prediction.cosines_BC if kind == "logits" else frames_BTD + rho_B11 * predictor.head(frames_BTD)


def _mote_training(model: Mote, inputs: Tensors) -> Tensors:
    """Everything under `out.train`, with the routing and the temperatures of the file."""
    frames_BTD = inputs["frames"].clone().requires_grad_()
    classes_CD, experts = inputs["seen_class_embeddings"], model.config.num_experts
    routing_L, taus_L = inputs["train_routing"].tolist(), inputs["train_taus"].tolist()
    passes = {
        "expert": [one_expert(experts, i) for i in routing_L],
        "merged": [merge_weights(experts, tau) for tau in taus_L],
    }
    logits = {
        f"train.logits_{name}": cosines((frames_BTD + model.head(frames_BTD, weights_LE)).mean(dim=1), classes_CD)
        for name, weights_LE in passes.items()
    }
    terms = model.objective(frames_BTD, inputs["labels"], classes_CD, routing_L, taus_L)
    terms["total"].backward()
    names = {"ce_expert": "ce", "ce_merged": "wmr", "mse": "mse", "total": "total"}
    losses = {f"train.loss_{official}": terms[own] for official, own in names.items()}
    gradients = {f"train.grad.{name}": p.grad for name, p in model.head.named_parameters() if p.grad is not None}
    assert frames_BTD.grad is not None
    return {**logits, **losses, **gradients, "train.grad_frames": frames_BTD.grad}


def text4vis_head(path: Path) -> Deviations:
    case = load_file(path)
    inputs, state = _under(case, "in."), _under(case, "state.")
    frames_BTD, classes_CD = inputs["frames"], F.normalize(inputs["class_embeddings"], dim=-1)
    clip = _clip_for_head(frames_BTD.shape[-1], int(inputs["heads"]), inputs["logit_scale"])
    layers = len([name for name in state if name.endswith("attn.in_proj_weight")])
    model = Text4Vis(Text4VisConfig(tower="frozen", layers=layers), clip)
    model.load_trained({f"head.{name}": tensor for name, tensor in state.items()})
    prediction, pooled = (
        each.deploy(Inference(), classes_CD)(frames_BTD, classes_CD)
        for each in (model, ClipMean(ClipMeanConfig(tower="frozen"), clip))
    )
    scale = inputs["logit_scale"]
    return _compare(
        {
            "video": prediction.features["z"],
            "logits": scale * prediction.cosines_BC,
            "logits_mean_pool": scale * pooled.cosines_BC,
        },
        case,
    )


def vidprism_head(path: Path) -> Deviations:
    """With the official code's switches, which are the defaults."""
    case = load_file(path)
    frames_BTD, state = case["in.frames"], _under(case, "state.")
    config = VidPrismConfig.model_validate({"rates": case["in.sampling_rates"].tolist()})
    head = VidPrismHead(frames_BTD.shape[-1], config)
    head.bind_classes(len(state["head.weight"]))
    head.load_state_dict(state)
    with torch.no_grad():
        tested = _vidprism_outputs(head.eval(), "eval.", frames_BTD, ranked=False)
    frames_BTD.requires_grad_()
    trained = _vidprism_outputs(head.train(), "train.", frames_BTD, ranked=True)
    means = [trained[f"train.{name}"].square().mean() for name in ("logits", "projected")]
    losses = [trained[f"train.loss_{name}"] for name in ("diversity", "rank")]
    torch.stack([*means, *losses]).sum().backward()
    assert frames_BTD.grad is not None
    return _compare({**tested, **trained, "train.grad_frames_of_sum": frames_BTD.grad}, case)


def _vidprism_outputs(head: VidPrismHead, phase: str, frames_BTD: Tensor, ranked: bool) -> Tensors:
    sampled, interacted, read, rank = head(frames_BTD, ranked)
    streams = {
        f"{phase}{name}_stream{i}": stream_BLD
        for name, streams in (("sampled", sampled), ("interacted", interacted))
        for i, stream_BLD in enumerate(streams)
    }
    return {
        **streams,
        f"{phase}gate": read.shares_BE,
        f"{phase}logits": head.logits(read.video_BD),
        f"{phase}projected": head.projection_head(read.video_BD),
        f"{phase}loss_diversity": DIVERSITY["batch"](read.summaries_BED),
        f"{phase}loss_rank": rank,
    }


def taco(path: Path) -> Deviations:
    return _compare(taco_outputs(path), load_file(path), largest)


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoint


def mote_checkpoint(path: Path) -> Deviations:
    case = load_file(path)
    pretrained, head = clip_like(_under(case, "pretrained.")), _under(case, f"ckpt.{HEAD}.")
    model, sources_SD = official_mote(_under(case, f"ckpt.{TOWER}."), head, deepcopy(pretrained))
    inputs = _under(case, "in.")
    sources_SD = inputs["seen_class_embeddings"] if sources_SD is None else sources_SD
    suffixes = {match[0] for name in _under(case, "out.") if (match := re.search(r"_alpha\d+$|$", name))}
    computed: Tensors = {}
    for suffix in suffixes:
        mixed = deepcopy(model)
        digits = suffix.removeprefix("_alpha")  # 099 is 0.99
        inference = Inference(clip_alpha=float(f"{digits[0]}.{digits[1:]}") if digits else 1.0)
        mixed.interpolate(pretrained, inference.clip_alpha)
        computed |= {name + suffix: tensor for name, tensor in _outputs(mixed, inference, inputs, sources_SD).items()}
    return _compare(computed, case)


@torch.no_grad()
def _outputs(model: Mote, inference: Inference, inputs: Tensors, sources_SD: Tensor) -> Tensors:
    predictor = model.deploy(inference, sources_SD)
    frames_BTD = model.encode(inputs["frames"])
    logits = {
        f"logits_{kind}": predictor(frames_BTD, inputs[f"{kind}_class_embeddings"]).cosines_BC
        for kind in ("seen", "unseen")
    }
    return {"frame_embeddings": frames_BTD, "logit_scale": torch.tensor(predictor.logit_scale), **logits}


def vificlip(path: Path) -> Deviations:
    case = load_file(path)
    deviations = _compare(official_vificlip.outputs(_under(case, "state."), _under(case, "in.")), case, largest)
    rates = {name: float(case[f"in.{name.partition('.')[0]}.lr"]) for name in deviations if name.endswith(".rates")}
    return {name: worst / rates.get(name, 1.0) for name, worst in deviations.items()}


def open_vclip(path: Path) -> Deviations:
    case = load_file(path)
    parts = (_under(case, prefix) for prefix in ("state.", "clip.", "in."))
    return _compare(official_open_vclip.outputs(*parts), case, largest)


def froster(path: Path) -> Deviations:
    case = load_file(path)
    return _compare(official_open_vclip.froster_outputs(_under(case, "state."), _under(case, "in.")), case, largest)


def xclip(path: Path) -> Deviations:
    case = load_file(path)
    deviations = _compare(official_xclip.outputs(_under(case, "state."), _under(case, "in.")), case, norm)
    base = float(case.get("in.schedule.base", torch.tensor(1.0)))
    return {name: worst / base if name.startswith("schedule.") else worst for name, worst in deviations.items()}


def vita_clip(path: Path) -> Deviations:
    case = load_file(path)
    return _compare(official_vita_clip.outputs(_under(case, "state."), _under(case, "in.")), case, norm)


def tc_clip(path: Path) -> Deviations:
    case = load_file(path)
    parts = (_under(case, "state."), _under(case, "in."), case["state_clip.token_embedding.weight"])
    return _compare(official_tc_clip.outputs(*parts, references=_under(case, "out.")), case)


def viclip(path: Path) -> Deviations:
    case = load_file(path)
    parts = (_under(case, prefix) for prefix in ("state.", "in.", "out."))
    return _compare(official_viclip.outputs(*parts), case)


# ---------------------------------------------------------------------------------------------------------------------
# Schedule, and the cases of the data side


def lr_schedule(path: Path) -> Deviations:
    case = json.loads(path.read_text(encoding="utf-8"))
    bases, length = case["base_lrs"], case["iterations_per_epoch"]
    deviations = [0.0] * len(bases)
    for index, rates in enumerate(case["lr_per_iteration"]):
        epoch, iteration = divmod(index, length)
        own = lr_factor(epoch, iteration, length, case["epochs"], case["warmup_epochs"])
        deviations = [
            max(worst, abs(rate / base - own)) for worst, rate, base in zip(deviations, rates, bases, strict=True)
        ]
    return {f"base_lr {base:g}": worst for base, worst in zip(bases, deviations, strict=True)}


def _data_case(kind: str) -> Callable[[Path], Deviations]:
    def replay_it(path: Path) -> Deviations:
        deviations: Deviations = getattr(import_module("tests.golden.data_cases"), f"replay_{kind}")(path)
        return deviations

    return replay_it


def _method_case(kind: str) -> Callable[[Path], Deviations]:
    """A replay in a module of its own, imported at its first use since it needs this one."""

    def replay_it(path: Path) -> Deviations:
        deviations: Deviations = getattr(import_module(f"tests.golden.{kind}"), f"replay_{kind}")(path)
        return deviations

    return replay_it


KINDS: dict[str, Callable[[Path], Deviations]] = {
    "actionclip": _method_case("actionclip"),
    "st_adapter": _method_case("st_adapter"),
    "adapter_recipes": _method_case("adapter_recipes"),
    "aim": _method_case("aim"),
    "mote_head": mote_head,
    "mote_checkpoint": mote_checkpoint,
    "text4vis_head": text4vis_head,
    "vidprism_head": vidprism_head,
    "taco": taco,
    "msta_viclip": _method_case("msta_viclip"),
    "open_vclip": open_vclip,
    "froster": froster,
    "ost": _method_case("ost"),
    "tc_clip": tc_clip,
    "viclip": viclip,
    "vificlip": vificlip,
    "xclip": xclip,
    "vita_clip": vita_clip,
    "lr_schedule": lr_schedule,
    **{kind: _data_case(kind) for kind in DATA_CASES},
}


# Kind -> pattern of outputs -> tolerance, where it is not that of all kinds.
TOLERANCES: dict[str, dict[str, float]] = {
    "actionclip": {"test.*": 5e-5, "sampling.*": 0.0, "schedule_*": 1e-12},  # test: a softmax of 100 times cosines
    "adapter_recipes": {"*": 1e-12},
    # ViCLIP's logits are up to 100, and what losses make of them is as exact as they are.
    "msta_viclip": {"*.logits": 1e-4, "*.ce": 1e-4, "*.total": 1e-4},
    "lr_schedule": {"*": 1e-12},  # pure arithmetic of Python's numbers
    "tc_clip": {"*.seeds": 0.0, "source": 0.0},
    "viclip": {"logits_*": 1e-4, "loss_ce": 1e-4},
    "vificlip": {"schedule_*": 1e-12, "trainable.*": 0.0, "*.box_*": 0.0},
    "xclip": {"schedule.*": 1e-6},  # rates in single precision, over the tower's base rate
    **{kind: {"*": 0.0} for kind in DATA_CASES if kind.endswith("frame_sampling")},  # whole numbers
}


def kind_of(path: Path) -> str:
    """The longest kind that the file's name starts with. Raises UserError where there is none."""
    found = [kind for kind in KINDS if path.name.startswith(kind)]
    if not found:
        raise unknown("kind of golden file", path.stem, KINDS, where=str(path))
    return max(found, key=len)


def replay(path: Path) -> Deviations:
    """Largest deviation of each output. Raises UserError for a file of no known kind, or that cannot be replayed."""
    kind = kind_of(path)
    try:
        deviations = KINDS[kind](path)
    except (OSError, SafetensorError, LookupError, RuntimeError, TypeError, ValueError) as error:
        what = f"cannot be replayed as {kind}: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(what, where=str(path), hint="it is damaged, or lacks what such a file has") from error
    if not deviations:
        raise UserError(f"has no outputs of {kind}", where=str(path))
    return deviations


def beyond(path: Path, deviations: Deviations) -> set[str]:
    """Outputs that deviate by more than their tolerance. "not <=" rather than ">", so that NaN is among them."""
    kind = kind_of(path)
    return {name for name, worst in deviations.items() if not worst <= tolerance(name, kind)}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m tests.golden.replay FILE", file=sys.stderr)
        return 2
    try:
        deviations = replay(Path(arguments[0]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    wrong = beyond(Path(arguments[0]), deviations)
    for name, worst in deviations.items():
        print(f"{worst:9.2e}  {name}{'  BEYOND TOLERANCE' if name in wrong else ''}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Outputs of Vita-CLIP's official modules, computed by the method here (golden file `vita_clip`).

Legend: B videos, T frames, N frames of a batch, C classes, L tokens of a text, P tokens of a frame, S those with learnt
ones among them, G global tokens, M vectors of a context, W tower width, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.checkpoints.heads import HEADS, VITA_CLIP
from bench.models.clip import Clip
from bench.models.state_dicts import State, official_names, renamed
from methods.text4vis.classifiers import Context, encode
from methods.vita_clip.config import Config, Inference
from methods.vita_clip.model import Model
from tests.golden.official_vificlip import whole_clip

RULES, LAYOUT = VITA_CLIP.states["model"], HEADS["vita_clip"]
PROMPTS = ("global", "local", "summary")


def outputs(state: State, inputs: State) -> State:
    """Everything under `out`."""
    named = {new: own.float() for name, own in state.items() if (new := renamed(name, RULES))}
    tower, head = official_names(named)
    clip, head = whole_clip(LAYOUT.joined(tower), inputs), LAYOUT.widened(head)
    config = Config.model_validate(LAYOUT.choices(head))
    clip.tokenizer = reader(inputs["tokens"], inputs["name_lengths"], config.context_vectors)
    return {
        **_tower(_model(config, clip, head), inputs["pixels"]),
        **_texts(config, clip, head["context.vectors_KMW"], inputs),
        **_answers(_model(config, clip, head), inputs),
        **_with_fewer_prompts(config, clip, head, inputs["pixels"]),
    }


def _model(config: Config, clip: Clip, head: State) -> Model:
    """With those tensors of the head that the config has a place for."""
    model = Model(config, deepcopy(clip))
    model.bind_classes(LAYOUT.bound_classes(head))
    own = model.head.state_dict()
    model.head.load_state_dict({name: tensor for name, tensor in head.items() if name in own})
    return model


def reader(tokens_CL: Tensor, lengths_C: Tensor, vectors: int) -> Callable[[list[str]], Tensor]:
    """A tokenizer of the names "0", "1" ..., with or without a full stop: rows of the file, without placeholders."""
    tokens_CL = torch.cat([tokens_CL[:, :1], F.pad(tokens_CL[:, 1 + vectors :], (0, vectors))], dim=1)
    end = int(tokens_CL.max())

    def read(texts: list[str]) -> Tensor:
        rows_NL = tokens_CL[[int(text.removesuffix(".")) for text in texts]]
        for row_L, text in zip(rows_NL, texts, strict=True):
            if not text.endswith("."):
                behind = 1 + int(lengths_C[int(text)])
                row_L[behind], row_L[behind + 1 :] = end, 0
        return rows_NL

    return read


@torch.no_grad()
def _tower(model: Model, pixels: Tensor) -> State:
    """Blocks one by one. The global tokens of their outputs are computed here, since the method has no use for them."""
    visual, frames, found = model.clip.visual, pixels.shape[1], State()
    hidden_NPW = model._stem(visual, pixels)
    first = 1 + frames * ("local" in model.config.prompts)
    globals_ = slice(first, first + model.config.global_tokens * ("global" in model.config.prompts))
    for layer, block in enumerate(visual.transformer.resblocks):
        whole_NSW = model.extended(hidden_NPW, layer, frames)
        normed_NSW = block.ln_1(whole_NSW)
        global_NGW = (whole_NSW + block.attention(normed_NSW))[:, globals_]
        global_NGW = global_NGW + block.mlp(block.ln_2(global_NGW))
        hidden_NPW = model.step(hidden_NPW, block, layer, frames)
        each = {
            "attention_input": normed_NSW,
            "summary": whole_NSW[:, -1],
            "block": torch.cat([hidden_NPW[:, :1], global_NGW, hidden_NPW[:, 1:]], dim=1),
        }
        found |= {f"{name}.{layer}": own_N.unflatten(0, pixels.shape[:2]) for name, own_N in each.items()}
    return found


@torch.no_grad()
def _texts(config: Config, clip: Clip, vectors_KMW: Tensor, inputs: State) -> State:
    """Features of texts, not normalised; the embedded prompts, without positions, padded to full length."""
    found, classes = State(), len(inputs["tokens"])
    for kind, context, own in (
        ("specific", "class", vectors_KMW),
        ("generic", "generic", inputs["generic_context"][None]),
    ):
        for place in ("end", "middle", "front"):
            sizes = {"context": context, "context_vectors": own.shape[1], "name_at": place}
            learnt = Context(Config.model_validate({**config.model_dump(), **sizes}).learnt, clip, classes)
            learnt.load_state_dict({"vectors_KMW": own})
            layout, vectors_NMW = learnt._lay_out(clip, _names(classes)), learnt._vectors([1] * classes)
            read: list[Tensor] = []
            hook = clip.transformer.register_forward_pre_hook(lambda module, args, read=read: read.append(args[0]))
            found[f"classes_{kind}.{place}"] = encode(clip, *layout, vectors_NMW)
            hook.remove()
            if (kind, place) == ("specific" if len(vectors_KMW) > 1 else "generic", "end"):
                (embedded_NPW,) = read
                embedded_NPW = embedded_NPW - clip.positional_embedding[: embedded_NPW.shape[1]]
                padding_LW = clip.token_embedding(torch.zeros_like(inputs["tokens"][:, embedded_NPW.shape[1] :]))
                found["prompts"] = torch.cat([embedded_NPW, padding_LW], dim=1)
                found["classes"] = found[f"classes_{kind}.{place}"]
    return found


def _answers(model: Model, inputs: State) -> State:
    """As the trainer asks for a loss, and as the deployed model answers."""
    classes_CD = model.embed_classes([[name] for name in _names(len(inputs["tokens"]))])
    frames_BTD = model.encode(inputs["pixels"])
    loss = model.loss(frames_BTD, inputs["labels"], classes_CD, torch.Generator())["total"]
    loss.backward()
    predictor = model.deploy(Inference(), classes_CD)
    prediction = predictor(frames_BTD, classes_CD)
    official = {own: name for name, own in RULES.items()}
    return {
        **{"frames": frames_BTD, "video": prediction.features["z"], "loss": loss},
        "logits": predictor.logit_scale * prediction.cosines_BC,
        **{f"grad.{renamed(n, official)}": p.grad for n, p in model.named_parameters() if p.grad is not None},
    }


@torch.no_grad()
def _with_fewer_prompts(config: Config, clip: Clip, head: State, pixels: Tensor) -> State:
    """Videos with the same weights and only some kinds of tokens."""
    kinds = [own for number in range(len(PROMPTS)) for own in combinations(PROMPTS, number)]
    found = State()
    for own in kinds:
        fewer = {
            name: value for name, value in config.model_dump().items() if name != "global_tokens" or "global" in own
        }
        model = _model(Config.model_validate({**fewer, "prompts": own}), clip, head)
        found[f"video_only.{'_'.join(own) or 'none'}"] = model.encode(pixels).mean(dim=1)
    return found


def _names(classes: int) -> list[str]:
    return [str(index) for index in range(classes)]

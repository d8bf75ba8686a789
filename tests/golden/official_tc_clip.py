"""Outputs of TC-CLIP's official modules, computed by the method here (golden file `tc_clip`).

The file does not say how many heads texts have, nor the merge rate: those are taken that agree with its outputs.

Legend: B videos, T frames, N patches of a frame, S tokens of a clip, W tower width, q seeds of a frame, n of a clip, k
context tokens, D joint width, C classes, P prompts, R, E rows of a class and their width, L tokens of a text, M learnt
words, V text width, I ids.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.checkpoints.heads import TC_CLIP, joined_qkv, split_qkv
from bench.models.state_dicts import State, official_names, renamed
from methods.tc_clip.config import Config, Inference
from methods.tc_clip.model import Model, Texts, read
from methods.tc_clip.tower import ContextTower, means, merged
from tests.golden.official_vificlip import official_clip, reader

RULES = TC_CLIP.states["model"]
CLOSE = 1e-5  # of what agrees


def outputs(state: State, inputs: State, tokens_IV: Tensor, references: State) -> State:
    """Everything under `out`; `tokens_IV` is CLIP's token table. `references` tell the sizes of the file's program."""
    model = _model(state, inputs, tokens_IV, references)
    with torch.no_grad():
        encoded = model.encode(inputs["pixels"])
        prediction = model.deploy(Inference(), torch.empty(0))(encoded, model.embed_classes(_prompts(inputs)))
        found = _blocks(model, inputs["pixels"]) | _texts(model, inputs, encoded["context"])
    found |= {
        **{"class_tokens": encoded["frames"], "context_tokens": encoded["context"], "loss": _loss(model, inputs)},
        **{"video": prediction.features["z"], "video_unit": F.normalize(prediction.features["z"], dim=-1)},
        "logits": model.scale * prediction.cosines_BC,
    }
    for start, stops in (("grad.", True), ("grad_through.", False)):
        model.config = model.config.model_copy(update={"stop_gradient": stops})
        model.zero_grad()
        _loss(model, inputs).backward()
        found |= {start + name: gradient for name, gradient in _gradients(model).items()}
    return found


# --- the model --------------------------------------------------------------------------------------------------------


def _model(state: State, inputs: State, tokens_IV: Tensor, references: State) -> Model:
    _, head = official_names({new: own for name, own in state.items() if (new := renamed(name, RULES))})
    seeds, kept = references["block.0.seeds"].shape[-1], references["block.0.context"].shape[1]
    patches = len(state["image_encoder.positional_embedding"]) - 1
    config = Config(
        context_tokens=kept,
        seed_share=min(1.0, (seeds + 0.5) / patches),
        merge_rate=_rate(references, kept),
        bias="bias.1" in head,
        prompts=len(head["context"]),
        text_length=inputs["tokens"].shape[1],
    )
    width, text = state["image_encoder.proj"].shape
    visual = [len(head["bias.1"])] if config.bias else divisors(width)
    heads = [(own, other) for own in visual for other in sorted(divisors(text), key=lambda other: other != own)]
    models = (_with_heads(config, state, head, inputs | {"clip.token_embedding.weight": tokens_IV}, *h) for h in heads)
    found: list[tuple[float, Model]] = []
    for model in models:
        found.append((_distance(model, inputs, references), model))
        if found[-1][0] < CLOSE:
            break
    return min(found, key=lambda each: each[0])[1]


def _rate(references: State, kept: int) -> int:
    """The merge rate that agrees with the first block's context tokens, the official one first."""
    seeds_BnW = _rows(references["block.0.before_ffn"], references["block.0.seeds"])

    def agrees(rate: int) -> bool:
        own_BkW = means(seeds_BnW, merged(seeds_BnW, kept, rate), kept)
        return torch.allclose(own_BkW, references["block.0.context"], atol=CLOSE, rtol=0)

    return next(filter(agrees, [100, 10, *range(1, 1 + seeds_BnW.shape[1])]), 100)


def _rows(tokens_BSW: Tensor, seeds_BTq: Tensor) -> Tensor:
    """Tokens [B, n, W] of the seeds."""
    patches_BTNW = tokens_BSW.unflatten(1, (seeds_BTq.shape[1], -1))[:, :, 1:]
    rows_BnW: Tensor = patches_BTNW.take_along_dim(seeds_BTq[..., None], dim=2).flatten(1, 2)
    return rows_BnW


def divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def _with_heads(config: Config, state: State, head: State, inputs: State, visual: int, text: int) -> Model:
    plain = {name: own for name, own in joined_qkv(state).items() if renamed(name, RULES).startswith("clip.")}
    sizes = {"vision_heads": torch.tensor(visual), "text_heads": torch.tensor(text)}
    clip, rows = official_clip(plain, inputs | sizes), reader(inputs["tokens"], config.prompts)
    clip.tokenizer = lambda texts: rows([own if own.removesuffix(".").isdigit() else "0" for own in texts])
    model = Model(config, clip)
    model.head.load_state_dict(head)
    return model.eval()


@torch.no_grad()
def _distance(model: Model, inputs: State, references: State) -> float:
    """Largest difference of frame and text features, small for the heads of the file's program."""
    texts = _texts(model, inputs, references["context_tokens"])
    own = {"class_tokens": model.encode(inputs["pixels"])["frames"], "text": texts["text"]}
    return max(float((tensor - references[name]).abs().max()) for name, tensor in own.items())


# --- outputs ----------------------------------------------------------------------------------------------------------


def _blocks(model: Model, pixels: Tensor) -> State:
    """Tokens in and behind the blocks of the visual tower."""
    (videos, frames), patches, found = pixels.shape[:2], model.clip.spec.vision_tokens - 1, State()
    tower, sources = ContextTower(model.clip.visual, model.config, model.head.bias, frames), list[Tensor]()
    hidden_BSW = tower.embedded(pixels)
    for place in range(len(tower.blocks)):
        before_BSW, shares_BTN = tower.attend(hidden_BSW, place)
        seeds_BTq = tower.seeds(shares_BTN)
        context_BkW, hidden_BSW = tower.context(before_BSW, seeds_BTq), tower.step(hidden_BSW, place)
        found |= {f"block.{place}.seeds": seeds_BTq, f"block.{place}.before_ffn": before_BSW}
        found |= {f"block.{place}.context": context_BkW, f"block.{place}": hidden_BSW}
        places_Bn = merged(_rows(before_BSW, seeds_BTq), context_BkW.shape[1], model.config.merge_rate)
        patches_Bn = (seeds_BTq + patches * torch.arange(frames)[:, None]).flatten(1)
        source = torch.zeros(videos, context_BkW.shape[1], frames * patches)
        source[torch.arange(videos)[:, None], places_Bn, patches_Bn] = 1
        sources.append(source)
    return {**found, "source": torch.stack(sources, dim=1)}


def _texts(model: Model, inputs: State, context_BkD: Tensor) -> State:
    classes_CPRE, texts = model.embed_classes(_prompts(inputs)), Texts(model.clip)
    words_BMV = read(model.head.generation, model.words(), context_BkD)
    tokens_CL, words = inputs["tokens"], model.config.prompts
    return {
        "prompts": model.embedded(torch.cat([tokens_CL[:, :1], tokens_CL[:, 1 + words :]], dim=1)),
        "generated_prompts": words_BMV[:, None].expand(-1, len(tokens_CL), -1, -1),
        "text": texts.features(classes_CPRE.flatten(0, 1), texts.keys(words_BMV)),
    }


def _prompts(inputs: State) -> list[list[str]]:
    """Prompts that the model reads as the file's tokens."""
    return [[str(index)] for index in range(len(inputs["tokens"]))]


def _loss(model: Model, inputs: State) -> Tensor:
    encoded, classes_CPRE = model.encode(inputs["pixels"]), model.embed_classes(_prompts(inputs))
    return model.loss(encoded, inputs["targets"], classes_CPRE, torch.Generator())["total"]


def _gradients(model: Model) -> State:
    """Under official names."""
    official = {own: name for name, own in RULES.items()}
    found = {name: own.grad for name, own in model.named_parameters() if own.grad is not None}
    tower, head = official_names(found)
    own = {f"clip.{name}": gradient for name, gradient in split_qkv(tower).items()}
    own |= {f"head.{name}": gradient for name, gradient in head.items()}
    return {renamed(name, official): gradient for name, gradient in own.items()}

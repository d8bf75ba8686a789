"""Frozen CLIP: open_clip's towers with weights from the shipped file, a local file, an open_clip tag, or a random seed.

State keys are OpenAI's (`visual.transformer.resblocks.0...`, `token_embedding.weight`, `logit_scale`), whatever the
source, so that heads that start from text-tower weights find them under their official names.

Legend: N frames or texts, H height, W width, D embedding width, C classes, L context length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import QuickGELU
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from bench.backbones import Backbone, backbone, model_config, random_seed, weights_file
from bench.data.stills import WORDS
from bench.errors import UserError, unknown
from bench.state_dicts import OPENAI_EXTRAS, State, read_torch, refuse_differences, tensors

Tokenizer = Callable[[list[str]], Tensor]
TEXTS_PER_BATCH = 256  # bounds the memory of a large label set's prompts


class WordTokenizer:
    """Word-level tokens of the glyph captions: 0 pads, 1 is an unknown word, the last two ids start and end a text.

    Case and punctuation are ignored. The end has the highest id because CLIP pools at the arg max of the ids.
    """

    PAD, UNKNOWN = 0, 1

    def __init__(self, words: Iterable[str], vocab_size: int, context_length: int) -> None:
        self.ids = {word: index for index, word in enumerate(words, start=2)}
        self.start, self.end, self.context_length = vocab_size - 2, vocab_size - 1, context_length
        if len(self.ids) + 4 > vocab_size:
            raise ValueError(f"{len(self.ids)} words and four marks need more than {vocab_size} ids")

    def __call__(self, texts: list[str]) -> Tensor:
        """Ids [N,L]; longer texts lose their last words."""
        tokens_NL = torch.full((len(texts), self.context_length), self.PAD)
        for row, text in enumerate(texts):
            words = re.findall(r"<unk>|\w+", text.lower())[: self.context_length - 2]
            ids = [self.start, *(self.ids.get(word, self.UNKNOWN) for word in words), self.end]
            tokens_NL[row, : len(ids)] = torch.tensor(ids)
        return tokens_NL


class Clip(open_clip.CLIP):
    """open_clip's CLIP with its tokenizer and the two embeddings that this project needs; `spec` holds its shapes."""

    def __init__(self, spec: Backbone, config: dict[str, Any]) -> None:
        super().__init__(config["embed_dim"], config["vision_cfg"], config["text_cfg"], spec.quick_gelu)
        self.spec = spec
        self.tokenizer = _tokenizer(spec)

    def encode_frames(self, pixels_N3HW: Tensor) -> Tensor:
        """Frames [N,3,H,W], already normalised by spec.mean and spec.std, to embeddings [N,D], not L2-normalised."""
        embeddings_ND: Tensor = self.visual(pixels_N3HW)
        return embeddings_ND

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Texts to embeddings [N,D], not L2-normalised."""
        tokens_NL = self.tokenizer(texts).to(self.token_embedding.weight.device)
        return torch.cat([self.encode_text(part) for part in tokens_NL.split(TEXTS_PER_BATCH)])

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        """Class embeddings [C,D] of unit norm: the normalised mean of a class's normalised prompt embeddings."""
        flat_ND = F.normalize(self.encode_texts([prompt for own in prompts for prompt in own]), dim=-1)
        means = [own_PD.mean(dim=0) for own_PD in flat_ND.split([len(own) for own in prompts])]
        return F.normalize(torch.stack(means), dim=-1)


def _tokenizer(spec: Backbone) -> Tokenizer:
    if spec.name == "glyph-vit":
        return WordTokenizer(WORDS, spec.vocab_size, spec.context_length)
    tokenizer: Tokenizer = open_clip.get_tokenizer(spec.name, context_length=spec.context_length)
    return tokenizer


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's CPU generator starts from `seed`; afterwards it is as it was. Others aren't touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def new_clip(name: str, seed: int) -> Clip:
    """A randomly initialised Clip, trainable, in training mode; no global random state is consumed or altered."""
    with seeded(seed):
        return Clip(backbone(name), model_config(name))


def load_clip(name: str, pretrained: str) -> Clip:
    """A frozen Clip in fp32 and evaluation mode; `pretrained` as in bench.backbones.weights_identity.

    Raises UserError for unknown names and tags, missing or broken files, and weights of another model.
    """
    file, seed = weights_file(name, pretrained), random_seed(pretrained)
    clip = _from_tag(name, pretrained) if file is None and seed is None else new_clip(name, seed or 0)
    if file is not None:
        _load(clip, _read_state(file), str(file))
    clip.float().eval().requires_grad_(False)
    return clip


def check_tag(name: str, pretrained: str) -> None:
    """Raises UserError for weights that are neither a file nor random nor a tag that open_clip knows for the model."""
    allowed = open_clip.list_pretrained_tags_by_model(name)
    if weights_file(name, pretrained) is None and random_seed(pretrained) is None and pretrained not in allowed:
        raise unknown(f"weights of '{name}'", pretrained, [*allowed, "random:<seed>"], where="pretrained")


def _from_tag(name: str, tag: str) -> Clip:
    """Weights of open_clip's zoo by its own loading; activation, mean and std are what the tag was trained with."""
    check_tag(name, tag)
    with seeded(0):
        source = open_clip.create_model(name, pretrained=tag, precision="fp32")
    preprocess = open_clip.get_model_preprocess_cfg(source)
    quick_gelu = isinstance(source.visual.transformer.resblocks[0].mlp.gelu, QuickGELU)
    spec = replace(backbone(name), quick_gelu=quick_gelu, mean=tuple(preprocess["mean"]), std=tuple(preprocess["std"]))
    with seeded(0):
        clip = Clip(spec, model_config(name))
    _load(clip, source.state_dict(), f"open_clip:{name}/{tag}")
    return clip


# ---------------------------------------------------------------------------------------------------------------------
# Weights files


def _read_state(file: Path) -> State:
    """Tensors of a safetensors file, or of a torch file of tensors; a nested or prefixed state is unwrapped."""
    if file.suffix != ".safetensors":
        loaded = read_torch(file)
        return tensors(loaded.get("state_dict", loaded)) if isinstance(loaded, dict) else {}
    try:
        with safe_open(str(file), framework="pt") as stored:
            _check_words((stored.metadata() or {}).get("words"), str(file))
            return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"the weights cannot be read: {error}", where=str(file)) from error


def _check_words(words: str | None, where: str) -> None:
    """The embedding's rows mean nothing under other words than those the tokenizer knows."""
    if words is not None and words.split() != list(WORDS):
        raise UserError("the weights were trained with another vocabulary", where=where, hint="repeat the pre-training")


def _load(clip: Clip, state: State, where: str) -> None:
    """Copies a state into the Clip. Raises UserError with the first tensors that do not fit."""
    state = {key: value for key, value in state.items() if key not in OPENAI_EXTRAS}
    refuse_differences(clip.state_dict(), state, f"not the weights of '{clip.spec.name}'", where)
    clip.load_state_dict(state)

"""Class texts with a learnt context: CoOp (IJCV 2022, arXiv 2109.01134; modules/coop.py of Text4Vis' official code).

Vectors stand where a template has its words, and the frozen text tower turns them and the class name into a feature. A
full stop follows both, whatever their order (official code). A prompt is taken as a class name as it stands.
Left out: the error at a text that is too long (its name is cut off), spaces for underscores, `ce` plus `nce` as a loss.

Legend: N texts, L tokens of a name with its marks, P places of a text (L + M), M vectors, W width of the text tower, D
joint CLIP width, K contexts (1, or one for each class), C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.models.clip import TEXTS_PER_BATCH, Clip, class_means
from methods.text4vis.config import Config


class Layout(NamedTuple):
    """Tokens of names; for every place of a text the token, or, behind those, the vector that stands there; its end."""

    tokens_NL: Tensor
    order_NP: Tensor
    ends_N: Tensor


class Context(nn.Module):
    """Vectors around a class name."""

    def __init__(self, config: Config, clip: Clip, classes: int = 0) -> None:
        super().__init__()
        self.count = config.vectors
        self.class_bound, self.class_at = config.context_of == "class", config.class_at
        start_KMW = torch.empty(classes if self.class_bound else 1, self.count, clip.spec.text_width)
        if config.context_start:
            start_KMW = words(config.context_start, clip).expand_as(start_KMW).clone()
        else:
            nn.init.normal_(start_KMW, std=0.02)
        self.vectors_KMW = nn.Parameter(start_KMW)
        self._last: tuple[list[str], Layout | None] = [], None  # every step has the same texts

    def embed_classes(self, clip: Clip, prompts: list[list[str]]) -> Tensor:
        """Unit class features [C, D], with a gradient to the vectors."""
        texts = [prompt for own in prompts for prompt in own]
        layout = self._last[1]
        if layout is None or self._last[0] != texts:
            layout = self._lay_out(clip, texts)
            self._last = texts, layout
        vectors_NMW = self._vectors([len(own) for own in prompts])
        inputs = [each.to(vectors_NMW.device).split(TEXTS_PER_BATCH) for each in (*layout, vectors_NMW)]
        return class_means(torch.cat([encode(clip, *part) for part in zip(*inputs, strict=True)]), prompts)

    def _vectors(self, counts: list[int]) -> Tensor:
        """[N, M, W] for so many texts of each class."""
        if not self.class_bound:
            return self.vectors_KMW.expand(sum(counts), -1, -1)
        if len(counts) != len(self.vectors_KMW):
            raise ValueError(f"{len(counts)} candidates, but contexts are bound to {len(self.vectors_KMW)} classes")
        return self.vectors_KMW.repeat_interleave(torch.tensor(counts, device=self.vectors_KMW.device), dim=0)

    def _lay_out(self, clip: Clip, texts: list[str]) -> Layout:
        names = [text.removesuffix(".") for text in texts]
        whole_NL, room = clip.tokenizer([f"{name}." for name in names]), clip.spec.context_length - self.count
        tokens_NL = whole_NL[:, :room].clone()
        tokens_NL[whole_NL.argmax(dim=-1) >= room, -1] = whole_NL.max()  # the end has the highest id
        ends_N = tokens_NL.argmax(dim=-1)
        # No token sees those behind it, so what follows the longest text's end is left out.
        length = int(ends_N.max()) + 1
        sizes_N = (clip.tokenizer(names).argmax(dim=-1) - 1).minimum(ends_N - 1)
        order_NP = torch.tensor([self._order(size, length) for size in sizes_N.tolist()])
        return Layout(tokens_NL[:, :length], order_NP, ends_N + self.count)

    def _order(self, size: int, length: int) -> list[int]:
        """The places of a text whose name has `size` of its `length` tokens."""
        before = {"end": self.count, "middle": self.count // 2, "front": 0}[self.class_at]
        vectors = range(length, length + self.count)
        return [0, *vectors[:before], *range(1, size + 1), *vectors[before:], *range(size + 1, length)]


def words(start: str, clip: Clip) -> Tensor:
    """Token embeddings [M, W] of words. Raises UserError unless each of them is one token."""
    (tokens_L,), count = clip.tokenizer([start]), len(start.split())
    if (found := int(tokens_L.argmax()) - 1) != count:
        raise UserError(f"'{start}' is {found} tokens, not one for each word", where="config.context_start")
    embedded_MW: Tensor = clip.token_embedding.weight.detach()[tokens_L[1 : count + 1]]
    return embedded_MW


def encode(clip: Clip, tokens_NL: Tensor, order_NP: Tensor, ends_N: Tensor, vectors_NMW: Tensor) -> Tensor:
    """Embeddings [N, D] of texts, not L2-normalised."""
    rows_N, places = torch.arange(len(ends_N), device=ends_N.device), order_NP.shape[1]
    parts_NPW = torch.cat([clip.token_embedding(tokens_NL), vectors_NMW], dim=1)
    hidden_NPW = parts_NPW[rows_N[:, None], order_NP] + clip.positional_embedding[:places]
    # What `recipe.checkpointing` asks of the visual tower holds for the texts as well: they may be the larger part.
    clip.transformer.grad_checkpointing = clip.visual.transformer.grad_checkpointing
    hidden_NPW = clip.transformer(hidden_NPW, attn_mask=clip.attn_mask[:places, :places])
    embeddings_ND: Tensor = clip.ln_final(hidden_NPW[rows_N, ends_N]) @ clip.text_projection
    return embeddings_ND

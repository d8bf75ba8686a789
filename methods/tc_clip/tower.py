"""TC-CLIP's visual tower (arXiv 2404.09490): frames that attend to context tokens, and how these are merged.

Ties: a sort puts equal values in the order of their places, and the most similar of equal tokens is any of them. Frames
that are repeated, as in short clips, have many, and devices round apart, so bits are equal on one device alone.

Legend: B batch, T frames, P tokens of a frame, N its patches (P - 1), S tokens of a clip (T * P, and behind them k
context tokens), K keys of a frame (P + k), H attention heads, X width of a head, W width of the tower, D joint CLIP
width, q seeds of a frame, n seeds of a clip, m tokens at one step of merging.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.blocks import through
from methods.tc_clip.config import Config, merges


class ContextTower:
    """A walk of clips of so many frames through a visual tower of CLIP; `bias` are tables [H, 1, 2] by block number."""

    def __init__(self, visual: Any, config: Config, bias: nn.ParameterDict, frames: int) -> None:
        self.visual, self.config, self.bias, self.frames = visual, config, bias, frames
        self.blocks: list[Any] = list(visual.transformer.resblocks)
        self.tokens: int = len(visual.positional_embedding)  # P

    def encode(self, clips_BT3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Features of frames [B, T, D] and of context tokens [B, k, D]."""
        hidden_BSW = self.embedded(clips_BT3HW)
        for place in range(len(self.blocks)):
            hidden_BSW = through(self.visual, partial(self.step, place=place), hidden_BSW)
        return self.projected(hidden_BSW)

    def embedded(self, clips_BT3HW: Tensor) -> Tensor:
        """Tokens [B, T * P, W] of clips, in front of the first block."""
        hidden_BTPW: Tensor = self.visual._embeds(clips_BT3HW.flatten(0, 1)).unflatten(0, clips_BT3HW.shape[:2])
        return hidden_BTPW.flatten(1, 2)

    def step(self, hidden_BSW: Tensor, place: int) -> Tensor:
        """Tokens behind a block: those of frames, then new context tokens in the place of those before."""
        block, (hidden_BSW, shares_BTN) = self.blocks[place], self.attend(hidden_BSW, place)
        hidden_BSW = torch.cat([hidden_BSW, self.context(hidden_BSW, self.seeds(shares_BTN))], dim=1)
        behind_BSW: Tensor = hidden_BSW + block.ls_2(block.mlp(block.ln_2(hidden_BSW)))
        return behind_BSW

    def projected(self, hidden_BSW: Tensor) -> tuple[Tensor, Tensor]:
        """As of `encode`, from the tokens behind the last block."""
        own = self.frames * self.tokens
        shown_BSW = torch.cat([hidden_BSW[:, : own : self.tokens], hidden_BSW[:, own:]], dim=1)  # class tokens, context
        features_BSD: Tensor = self.visual.ln_post(shown_BSW) @ self.visual.proj
        return features_BSD[:, : self.frames], features_BSD[:, self.frames :]

    # --- attention ----------------------------------------------------------------------------------------------------

    def attend(self, hidden_BSW: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """Frames' tokens [B, T * P, W] behind the attention of a block, and attention [B, T, N] of class tokens.

        The latter is the mean over heads of what patches get of the class token's attention to all keys.
        """
        block, own = self.blocks[place], self.frames * self.tokens
        attn, width = block.attn, hidden_BSW.shape[-1]
        weight, bias, normed_BSW = attn.in_proj_weight, attn.in_proj_bias, block.ln_1(hidden_BSW)
        query_BSW = F.linear(normed_BSW[:, :own], weight[:width], bias[:width])
        key_BSW, value_BSW = F.linear(normed_BSW, weight[width:], bias[width:]).chunk(2, dim=-1)
        query_BTHPX, key_BTHPX, value_BTHPX = (
            self._by_head(each[:, :own].unflatten(1, (self.frames, -1)), attn.num_heads)
            for each in (query_BSW, key_BSW, value_BSW)
        )
        key_B1HkX, value_B1HkX = (self._by_head(each[:, None, own:], attn.num_heads) for each in (key_BSW, value_BSW))
        query_BTHPX = query_BTHPX * query_BTHPX.shape[-1] ** -0.5
        logits = [query_BTHPX @ key_BTHPX.mT, query_BTHPX @ key_B1HkX.mT]
        if (table_H12 := self.bias.get(str(place))) is not None:
            logits = [each + number_H1[..., None] for each, number_H1 in zip(logits, table_H12.unbind(-1), strict=True)]
        shares_BTHPK = torch.cat(logits, dim=-1).softmax(dim=-1)
        mixed_BTHPX = shares_BTHPK[..., : self.tokens] @ value_BTHPX + shares_BTHPK[..., self.tokens :] @ value_B1HkX
        mixed_BSW = mixed_BTHPX.transpose(2, 3).flatten(3).flatten(1, 2)
        return (
            hidden_BSW[:, :own] + block.ls_1(attn.out_proj(mixed_BSW)),
            shares_BTHPK[:, :, :, 0, 1 : self.tokens].mean(dim=2),
        )

    @staticmethod
    def _by_head(tokens_BTPW: Tensor, heads: int) -> Tensor:
        """Tokens [B, T, H, P, X]."""
        split_BTPHX: Tensor = tokens_BTPW.unflatten(-1, (heads, -1))
        return split_BTPHX.transpose(2, 3)

    # --- context tokens -----------------------------------------------------------------------------------------------

    def seeds(self, shares_BTN: Tensor) -> Tensor:
        """Patches [B, T, q] of the highest attention, by number, in descending order."""
        count = int(self.config.seed_share * (self.tokens - 1))
        return shares_BTN.detach().argsort(dim=-1, descending=True, stable=True)[..., :count]

    def context(self, hidden_BSW: Tensor, seeds_BTq: Tensor) -> Tensor:
        """Context tokens [B, k, W]: means of the seeds that were merged into each."""
        starts_T1 = self.tokens * torch.arange(self.frames, device=seeds_BTq.device)[:, None] + 1
        places_Bn = (starts_T1 + seeds_BTq).flatten(1)
        rows_BnW = hidden_BSW.flatten(0, 1).index_select(0, _rows(places_Bn, hidden_BSW.shape[1]))
        seeds_BnW, keep = rows_BnW.unflatten(0, places_Bn.shape), min(self.config.context_tokens, places_Bn.shape[1])
        return means(seeds_BnW, merged(seeds_BnW, keep, self.config.merge_rate), keep)


@torch.no_grad()
def merged(seeds_BnW: Tensor, keep: int, rate: int) -> Tensor:
    """Context token [B, n] that each seed goes into.

    Steps of merging compare the means of what was merged before. They are those of all seeds in them, so that the
    context tokens follow from the seeds at once.
    """
    device = seeds_BnW.device.type.replace("meta", "cpu")  # tensors without values are counted
    with torch.autocast(device, enabled=False):  # in half precision, cosines near 1 are equal
        tokens_BmW = seeds_BnW.float()
        places_Bn = torch.arange(seeds_BnW.shape[1], device=seeds_BnW.device).expand(seeds_BnW.shape[:2])
        for count, removed in merges(seeds_BnW.shape[1], keep, rate):
            places_Bn = _matched(tokens_BmW, removed).gather(1, places_Bn)
            tokens_BmW = means(seeds_BnW.float(), places_Bn, count - removed)  # not rounded in between
    return places_Bn


def _matched(tokens_BmW: Tensor, removed: int) -> Tensor:
    """New place [B, m] of each token in a step that merges `removed` of the even ones into the odd ones most like them.

    The even ones that stay come first, in descending order of their similarity, then the odd ones.
    """
    unit_BmW = F.normalize(tokens_BmW, dim=-1)
    even_BaW, odd_BbW = unit_BmW[:, ::2], unit_BmW[:, 1::2]
    best_Ba, partner_Ba = (even_BaW @ odd_BbW.mT).max(dim=-1)
    rank_Ba = best_Ba.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    staying = even_BaW.shape[1] - removed
    places_Bm = torch.empty(tokens_BmW.shape[:2], dtype=torch.long, device=tokens_BmW.device)
    places_Bm[:, ::2] = torch.where(rank_Ba < removed, staying + partner_Ba, rank_Ba - removed)
    places_Bm[:, 1::2] = staying + torch.arange(odd_BbW.shape[1], device=tokens_BmW.device)
    return places_Bm


def means(tokens_BnW: Tensor, places_Bn: Tensor, count: int) -> Tensor:
    """Means [B, count, W] of the tokens at each place, whose sums are in fp32."""
    # Rows of all clips together: by them alone, sums are the same in every run on a GPU too.
    rows, shape = _rows(places_Bn, count), (len(tokens_BnW) * count, tokens_BnW.shape[-1])
    zeros = torch.zeros(shape, device=rows.device)
    sums = zeros.index_add(0, rows, tokens_BnW.flatten(0, 1).float())
    sizes = zeros[:, :1].index_add(0, rows, torch.ones_like(rows, dtype=zeros.dtype)[:, None])
    return (sums / sizes).to(tokens_BnW.dtype).view(-1, count, tokens_BnW.shape[-1])


def _rows(places_Bn: Tensor, count: int) -> Tensor:
    """Rows [B * n] of places of clips in a row, each of which has so many."""
    return (places_Bn + count * torch.arange(len(places_Bn), device=places_Bn.device)[:, None]).flatten()

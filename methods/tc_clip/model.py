"""TC-CLIP's class texts (arXiv 2404.09490): learnt words before a name, which read the video before the last block.

The blocks before it are the same for all videos, and the words see no name. So a class is what the last block reads of
it, and there each video adds its own words, for the end mark alone.

Legend: B batch, T frames, N texts, C classes, P prompts of a class, L tokens of a text, R rows of a class
(`Config.class_shape`), M learnt words, K context tokens, H attention heads, X width of a head, V width of the text
tower, E two of them, D joint CLIP width.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.errors import UserError
from bench.models.clip import TEXTS_PER_BATCH, Clip
from methods import contract
from methods.blocks import through
from methods.contract import Encoded, Prediction, Predictor, Terms
from methods.names import class_names, name_tokens
from methods.settings import Inference
from methods.tc_clip.config import Config
from methods.tc_clip.tower import ContextTower

START = "a photo of a"
VIEWS = 32  # views whose class features are made at once, to save memory


class Head(nn.Module):
    """What is learnt beside CLIP: words, numbers for the attention of visual blocks, the layer that reads a video."""

    def __init__(self, config: Config, clip: Clip, words_MV: Tensor) -> None:
        super().__init__()
        spec, words_MV = clip.spec, words_MV[: config.prompts]
        further_MV = nn.init.normal_(torch.empty(config.prompts - len(words_MV), spec.text_width), std=0.02)
        self.context = nn.Parameter(torch.cat([words_MV, further_MV]))
        places = range(1, spec.vision_layers) if config.bias else ()
        tables = {str(place): torch.empty(spec.vision_heads, 1, 2) for place in places}
        self.bias = nn.ParameterDict({place: nn.init.trunc_normal_(own, std=0.02) for place, own in tables.items()})
        self.generation = nn.ModuleList()
        if config.video_prompts:  # starts as the last block of texts
            layer = deepcopy(clip.transformer.resblocks[-1]).requires_grad_()
            layer.ln_1_kv = deepcopy(layer.ln_1)  # with this norm, open_clip's block reads keys and values from outside
            self.generation.append(layer)


class Texts(nn.Module):
    """The last block of the text tower for end marks alone, its projection, and cosines of videos with the outcome."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.block: Any = clip.transformer.resblocks[-1]
        self.ln_final, self.projection = clip.ln_final, clip.text_projection

    def keys(self, hidden_NLV: Tensor) -> Tensor:
        """Keys and values [N, L, E] of tokens."""
        attn, width = self.block.attn, hidden_NLV.shape[-1]
        return F.linear(self.block.ln_1(hidden_NLV), attn.in_proj_weight[width:], attn.in_proj_bias[width:])

    def ends(self, hidden_NV: Tensor) -> Tensor:
        """Queries and hidden states [N, E] of end marks."""
        attn, width = self.block.attn, hidden_NV.shape[-1]
        query_NV = F.linear(self.block.ln_1(hidden_NV), attn.in_proj_weight[:width], attn.in_proj_bias[:width])
        return torch.cat([query_NV, hidden_NV], dim=-1)

    def forward(self, video_BD: Tensor, classes_CPRE: Tensor, words_BME: Tensor) -> Tensor:
        """Cosines [B, C]; `words_BME` are keys and values of each video's words."""
        found = list[Tensor]()
        for some_BD, own_BME in zip(video_BD.split(VIEWS), words_BME.split(VIEWS), strict=True):
            texts_BCPD = self.features(classes_CPRE.flatten(0, 1), own_BME).unflatten(1, classes_CPRE.shape[:2])
            with torch.autocast(video_BD.device.type, enabled=False):
                classes_BCD = F.normalize(F.normalize(texts_BCPD.float(), dim=-1).mean(dim=2), dim=-1)
                found.append((classes_BCD @ F.normalize(some_BD.float(), dim=-1)[:, :, None])[..., 0])
        return torch.cat(found)

    def features(self, texts_NRE: Tensor, words_BME: Tensor) -> Tensor:
        """Text features [B, N, D] for each video, not normalised."""
        attn, own_NLE, count = self.block.attn, texts_NRE[:, 1:], words_BME.shape[1]
        query_NV, hidden_NV = texts_NRE[:, 0].chunk(2, dim=-1)
        query_NHX, key_NLHX, value_NLHX, key_BMHX, value_BMHX = (
            each.unflatten(-1, (attn.num_heads, -1))
            for each in (query_NV, *own_NLE.chunk(2, dim=-1), *words_BME.chunk(2, dim=-1))
        )
        query_NHX = query_NHX * query_NHX.shape[-1] ** -0.5
        own_NHL = torch.einsum("nhx,nlhx->nhl", query_NHX, key_NLHX)
        own_NHL = own_NHL.masked_fill(~own_NLE.any(dim=-1)[:, None], -torch.inf)  # behind the end
        words_BNHM = torch.einsum("nhx,bmhx->bnhm", query_NHX, key_BMHX)
        seen = torch.cat([words_BNHM, own_NHL.expand(len(words_BNHM), -1, -1, -1)], dim=-1).softmax(dim=-1)
        mixed_BNHX = torch.einsum("bnhm,bmhx->bnhx", seen[..., :count], value_BMHX)
        mixed_BNHX = mixed_BNHX + torch.einsum("bnhl,nlhx->bnhx", seen[..., count:], value_NLHX)
        hidden_BNV = hidden_NV + self.block.ls_1(attn.out_proj(mixed_BNHX.flatten(2)))
        hidden_BNV = hidden_BNV + self.block.ls_2(self.block.mlp(self.block.ln_2(hidden_BNV)))
        features_BND: Tensor = self.ln_final(hidden_BNV) @ self.projection
        return features_BND


def read(generation: nn.Module, words_MV: Tensor, context_BKD: Tensor) -> Tensor:
    """Words [B, M, V] of each video in front of the last block."""
    words_BMV = words_MV.expand(len(context_BKD), -1, -1)
    for layer in generation.children():
        words_BMV = layer(words_BMV, context_BKD, context_BKD)
    return words_BMV


def answer(texts: Texts, generation: nn.Module, words_MV: Tensor, encoded: Encoded, classes_CPRE: Tensor) -> Prediction:
    """z = mean over T of the frame features, and its cosines with class features for its words."""
    video_BD, words_BMV = encoded["frames"].mean(dim=1), read(generation, words_MV, encoded["context"])
    cosines_BC = texts(video_BD, classes_CPRE, texts.keys(words_BMV))
    return Prediction(cosines_BC, video_BD.norm(dim=-1), {"z": video_BD})


class VideoPredictor(Predictor):
    """The end of the text tower, and words that read videos."""

    words_MV: Tensor

    def __init__(self, texts: Texts, generation: nn.Module, words_MV: Tensor, logit_scale: float) -> None:
        super().__init__()
        self.texts, self.generation, self.logit_scale = texts, generation, logit_scale
        self.register_buffer("words_MV", words_MV)
        self.eval().requires_grad_(False)

    def forward(self, frames_BTD: Encoded, classes_CD: Tensor) -> Prediction:
        return answer(self.texts, self.generation, self.words_MV, frames_BTD, classes_CD)


class Model(contract.Model):
    """Both towers of CLIP, with context tokens in one and words in the other."""

    config: Config
    start_11: Tensor  # the start mark

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        tokens_1L = clip.tokenizer([START])
        self.register_buffer("start_11", tokens_1L[:, :1].clone(), persistent=False)
        words_MV = clip.token_embedding.weight.detach()[tokens_1L[0, 1 : 1 + len(START.split())]]
        self.head = Head(config, clip, words_MV)
        self._tokenised: tuple[list[str], Tensor] = [], torch.empty(0)  # the last texts: every step has the same

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The numbers for the attention learn at the towers' rate."""
        groups, inside = super().parameter_groups(), list(self.head.bias.parameters())
        head = [p for p in groups["head"] if not any(p is own for own in inside)]
        return {"tower": groups["tower"] + inside, "head": head}

    def encode(self, clips_BT3HW: Tensor) -> Encoded:
        """Frame features [B, T, D], and `context` tokens [B, K, D]."""
        tower = ContextTower(self.clip.visual, self.config, self.head.bias, clips_BT3HW.shape[1])
        frames_BTD, context_BKD = tower.encode(clips_BT3HW)
        return {"frames": frames_BTD, "context": context_BKD}

    def loss(self, frames_BTD: Encoded, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        encoded, texts = frames_BTD, Texts(self.clip)
        if self.config.stop_gradient:
            encoded = {**encoded, "context": encoded["context"].detach()}
        cosines_BC = answer(texts, self.head.generation, self.words(), encoded, classes_CD).cosines_BC
        ce = F.cross_entropy(self.clip.logit_scale.exp() * cosines_BC, labels_B)
        return {"ce": ce, "total": ce}

    @torch.no_grad()
    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> Predictor:
        texts, generation = deepcopy(Texts(self.clip)), deepcopy(self.head.generation)
        return VideoPredictor(texts, generation, self.words().clone(), self.scale)

    # --- texts --------------------------------------------------------------------------------------------------------

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        """What the last block reads of each class [C, P, R, E] (`Config.class_shape`).

        Raises UserError for classes of unequally many prompts, and for a name that has no room behind the words.
        """
        if len({len(own) for own in prompts}) > 1:
            hint = "use templates: name, since the learnt words are the template"
            raise UserError("classes have unequally many prompts", where="recipe.templates", hint=hint)
        names = class_names(prompt for own in prompts for prompt in own)
        if self._tokenised[0] != names:
            room = self.config.length(self.clip.spec) - self.config.prompts
            self._tokenised = names, name_tokens(self.clip.tokenizer, names, room, "config.text_length")
        parts = self._tokenised[1].to(self.start_11.device).split(TEXTS_PER_BATCH)
        classes_CPRE: Tensor = torch.cat([self._read(part_NL) for part_NL in parts]).unflatten(0, (len(prompts), -1))
        return classes_CPRE

    def words(self) -> Tensor:
        """Words [M, V] in front of the last block; they see the start mark and each other."""
        words_MV: Tensor = self.hidden(self.start_11)[0, 1:]
        return words_MV

    def hidden(self, tokens_NL: Tensor) -> Tensor:
        """Texts [N, M + L, V] in front of the last block."""
        clip, length = self.clip, tokens_NL.shape[1] + self.config.prompts
        hidden_NLV: Tensor = self.embedded(tokens_NL) + clip.positional_embedding[:length]
        for block in clip.transformer.resblocks[:-1]:
            hidden_NLV = through(clip.visual, block, hidden_NLV, attn_mask=clip.attn_mask[:length, :length])
        return hidden_NLV

    def embedded(self, tokens_NL: Tensor) -> Tensor:
        """Token embeddings [N, M + L, V] with the words behind the start, without positions."""
        tokens_NLV, words_NMV = self.clip.token_embedding(tokens_NL), self.head.context.expand(len(tokens_NL), -1, -1)
        return torch.cat([tokens_NLV[:, :1], words_NMV, tokens_NLV[:, 1:]], dim=1)

    def _read(self, tokens_NL: Tensor) -> Tensor:
        """Rows [N, R, E] of texts."""
        hidden_NLV, texts, words = self.hidden(tokens_NL), Texts(self.clip), self.config.prompts
        places_L, ends_N = torch.arange(tokens_NL.shape[1], device=tokens_NL.device), tokens_NL.argmax(dim=-1)
        ends_NE = texts.ends(hidden_NLV[torch.arange(len(ends_N), device=ends_N.device), words + ends_N])
        keys_NLE = texts.keys(torch.cat([hidden_NLV[:, :1], hidden_NLV[:, 1 + words :]], dim=1))
        keys_NLE = keys_NLE.masked_fill((places_L > ends_N[:, None])[..., None], 0)
        missing = self.config.length(self.clip.spec) - words - len(places_L)
        return torch.cat([ends_NE[:, None], F.pad(keys_NLE, (0, 0, 0, missing))], dim=1)

"""MSTA's towers and objective (arXiv 2411.11223): L = L_CE + alpha * L_CC.

Legend: B batch, T frames, F features of a clip, N texts of a batch, L tokens of a text, W width of a tower, D joint
CLIP width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

from bench.models.clip import TEXTS_PER_BATCH, Clip, class_means
from methods import contract
from methods.blocks import encoded, through
from methods.clip_mean.model import MeanPredictor
from methods.contract import Terms
from methods.msta.adapters import AdaptedBlock, AdapterPair
from methods.msta.config import Config
from methods.settings import Inference

TowerBlock = Callable[..., Tensor]  # (hidden [N, P, W], attn_mask) -> hidden


class Model(contract.Model):
    """CLIP or ViCLIP with adapters beside its blocks: a video is the mean of its features, a class its adapted text."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        sizes = clip.spec.text_width, clip.spec.vision_width, clip.spec.video
        self.adapters = nn.ModuleList(AdapterPair(config, *sizes) for _ in config.pairs(clip.spec))
        self._tokenised: tuple[list[str], Tensor] = [], torch.empty(0)  # the last texts: every step has the same

    def unused_parameters(self) -> set[str]:
        """Temporal projection of the last block if it leaves out the class token, the only token read there."""
        if self.config.temporal_cls or self.config.pairs(self.clip.spec)[-1][1] < self.clip.spec.vision_layers - 1:
            return set()
        last = f"adapters.{len(self.adapters) - 1}.video.up.temporal."
        return {name for name, _ in self.named_parameters() if name.startswith(last)}

    # --- towers -------------------------------------------------------------------------------------------------------

    def encode(self, clips_BT3HW: Tensor) -> Tensor:
        """Features [B, F, D], of frames that see each other in the adapters, or by a video tower of the clip."""
        if not self.config.adapts_video:
            features_BFD: Tensor = super().encode(clips_BT3HW)
            return features_BFD
        return encoded(self.clip.visual, clips_BT3HW, self._blocks("video", clips_BT3HW.shape[1]))

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        """Unit class features [C, D] by the adapted text tower."""
        if not self.config.texts_inside:
            return super().embed_classes(prompts)
        return class_means(self._encode_texts([prompt for own in prompts for prompt in own]), prompts)

    def _encode_texts(self, texts: list[str]) -> Tensor:
        """Embeddings [N, D] of texts, not L2-normalised."""
        if self._tokenised[0] != texts:
            self._tokenised = texts, self.clip.tokenizer(texts)
        tokens_NL = self._tokenised[1].to(self.clip.token_embedding.weight.device)
        # No token sees those behind it, so tokens behind the longest text's end are left out: most of 77 tokens, and
        # most of a step's memory where hundreds of classes keep their graph.
        tokens_NL = tokens_NL[:, : int(tokens_NL.argmax(dim=-1).max()) + 1]
        return torch.cat([self._encode_tokens(part_NL) for part_NL in tokens_NL.split(TEXTS_PER_BATCH)])

    def _encode_tokens(self, tokens_NL: Tensor) -> Tensor:
        clip, length = self.clip, tokens_NL.shape[1]
        hidden_NLW = clip.token_embedding(tokens_NL) + clip.positional_embedding[:length]
        for block in self._blocks("text"):
            hidden_NLW = through(clip.visual, block, hidden_NLW, attn_mask=clip.attn_mask[:length, :length])
        ends_NW = text_global_pool(clip.ln_final(hidden_NLW), tokens_NL, clip.text_pool_type, clip.text_eos_id)
        embeddings_ND: Tensor = ends_NW @ clip.text_projection
        return embeddings_ND

    def _blocks(self, tower: str, frames: int = 0) -> list[TowerBlock]:
        """Blocks of a tower in their order; those with an adapter are adapted."""
        transformer = self.clip.visual.transformer if tower == "video" else self.clip.transformer
        blocks: list[TowerBlock] = list(transformer.resblocks)
        for pair, (text, video) in zip(self.adapters, self.config.pairs(self.clip.spec), strict=True):
            place = video if tower == "video" else text
            assert isinstance(pair, AdapterPair)
            branch = pair.video if tower == "video" else pair.text
            assert branch is not None
            blocks[place] = AdaptedBlock(self.config, transformer.resblocks[place], branch, pair.shared, frames)
        return blocks

    # --- training and test --------------------------------------------------------------------------------------------

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        ce = self.cross_entropy(frames_BTD.mean(dim=1), labels_B, classes_CD)
        if not self.config.description_sets:
            return {"ce": ce, "total": ce}
        cc = self.inconsistency(classes_CD)
        return {"ce": ce, "cc": cc, "total": ce + self.config.cc_weight * cc}

    def inconsistency(self, classes_CD: Tensor) -> Tensor:
        """L_CC: mean over the classes of 1 - cos(class text, its description), summed over the description sets."""
        with torch.autocast(classes_CD.device.type, enabled=False):
            described = [self.descriptions[kind] for kind in self.config.description_sets]
            distances = [1 - (classes_CD.float() * described_CD).sum(dim=-1) for described_CD in described]
            return torch.stack(distances).sum(dim=0).mean()

    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> MeanPredictor:
        """Mean over the frames; the adapters stay in the towers."""
        return MeanPredictor(self.scale)

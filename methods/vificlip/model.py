"""ViFi-CLIP's towers (arXiv 2212.03640; official code): CLIP's own, or with learnt vectors among their tokens.

A video is the mean of its frames' un-normalised embeddings; its logits are exp(s) times the cosines with the texts.

Legend: B batch, T frames, N frames or texts of a batch, P tokens of a frame, L tokens of a text, W width of a tower, n
vectors, D joint CLIP width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from bench.models.clip import TEXTS_PER_BATCH, Clip, class_means, part_of
from methods.blocks import encoded, through
from methods.clip_mean import model as clip_mean
from methods.names import class_names, name_tokens
from methods.vificlip.config import Config, Prompts

Block = Callable[..., Tensor]  # (hidden [N, P, W], attn_mask) -> hidden


class Vectors(nn.Module):
    """Vectors of each tower's first blocks, from Normal(0, 0.02)."""

    def __init__(self, prompts: Prompts, clip: Clip) -> None:
        super().__init__()
        image = prompts.image_depth, prompts.image, clip.spec.vision_width
        text = prompts.text_depth, prompts.text, clip.spec.text_width
        self.image, self.text = (
            nn.ParameterList(nn.init.normal_(torch.empty(count, width), std=0.02) for _ in range(depth))
            for depth, count, width in (image, text)
        )


class Model(clip_mean.Model):
    """Tuned CLIP, or a frozen one with prompts in both towers."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        self.head: Vectors | None = None
        if config.prompts:
            self.head = Vectors(config.prompts, clip)
            # They may come from another training, without which the vectors are worth nothing.
            self.carried = frozenset(f"clip.{name}" for name in clip.state_dict() if part_of(name) != "tokens")
        self._tokenised: tuple[list[str], Tensor] = [], torch.empty(0)  # the last texts: every step has the same

    def init_from(self, state: dict[str, Tensor]) -> None:
        """Also from a training without prompts, whose towers take the place of CLIP's."""
        if self.head is None or any(name.startswith("head.") for name in state):
            super().init_from(state)
            return
        parts = {part_of(name.removeprefix("clip.")) for name in state}
        tuned = {name for name in self.carried if part_of(name.removeprefix("clip.")) in parts}
        if differing := sorted(tuned ^ set(state)):
            raise KeyError(f"weights differ from CLIP's: {differing[:5]}")
        self.load_state_dict(state, strict=False)

    # --- image tower --------------------------------------------------------------------------------------------------

    def encode(self, clips_BT3HW: Tensor) -> Tensor:
        """Frame features [B, T, D]."""
        if self.head is None:
            frames_BTD: Tensor = super().encode(clips_BT3HW)
            return frames_BTD
        return encoded(self.clip.visual, clips_BT3HW, self._image_blocks(self.head))

    def _image_blocks(self, head: Vectors) -> Iterator[Block]:
        """Blocks of the image tower. The first vectors have no positions and pass the tower's first norm."""
        visual = self.clip.visual
        for place, block in enumerate(visual.transformer.resblocks):
            if place < len(head.image):
                own_nW = head.image[place] if place else visual.ln_pre(head.image[0])
                yield partial(_with_last, block, own_nW, self.clip.spec.vision_tokens)
            else:
                yield block

    # --- text tower ---------------------------------------------------------------------------------------------------

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        """Unit class features [C, D]."""
        return class_means(self.encode_prompts(prompts), prompts)

    def encode_prompts(self, prompts: list[list[str]]) -> Tensor:
        """Embeddings [N, D] of the prompts of all classes, not L2-normalised. Vectors take them as class names.

        Raises UserError for a name that has no room behind the vectors.
        """
        if self.head is None:
            return self.clip.encode_prompts(prompts)
        names = class_names(prompt for own in prompts for prompt in own)
        if self._tokenised[0] != names:
            room = self.clip.spec.context_length - len(self.head.text[0])
            self._tokenised = names, name_tokens(self.clip.tokenizer, names, room, "config.prompts.text")
        parts = self._tokenised[1].to(self.head.text[0].device).split(TEXTS_PER_BATCH)
        return torch.cat([self._encode_names(part_NL, self.head) for part_NL in parts])

    def _encode_names(self, tokens_NL: Tensor, head: Vectors) -> Tensor:
        """Embeddings [N, D] of texts with vectors behind their start, not L2-normalised."""
        clip, (context_nW, *deeper), count = self.clip, head.text, len(head.text[0])
        hidden_NLW, length = _inserted(clip.token_embedding(tokens_NL), context_nW, 1, 1), tokens_NL.shape[1] + count
        hidden_NLW = hidden_NLW + clip.positional_embedding[:length]
        for place, block in enumerate(clip.transformer.resblocks):
            if 0 < place <= len(deeper):
                block = partial(_with_first, block, deeper[place - 1])
            hidden_NLW = through(clip.visual, block, hidden_NLW, attn_mask=clip.attn_mask[:length, :length])
        rows_N, ends_N = torch.arange(len(tokens_NL), device=tokens_NL.device), tokens_NL.argmax(dim=-1) + count
        embeddings_ND: Tensor = clip.ln_final(hidden_NLW[rows_N, ends_N]) @ clip.text_projection
        return embeddings_ND


def _with_last(block: Block, own_nW: Tensor, before: int, hidden_NPW: Tensor) -> Tensor:
    """A block's output with vectors in the place of all tokens but the first `before`."""
    return block(_inserted(hidden_NPW, own_nW, before, hidden_NPW.shape[1]))


def _with_first(block: Block, own_nW: Tensor, hidden_NLW: Tensor, attn_mask: Tensor) -> Tensor:
    """A block's output with vectors in the place of those behind the start of a text."""
    return block(_inserted(hidden_NLW, own_nW, 1, 1 + len(own_nW)), attn_mask=attn_mask)


def _inserted(hidden_NPW: Tensor, own_nW: Tensor, before: int, after: int) -> Tensor:
    """Tokens with vectors between the first `before` and those from `after` on."""
    own_NnW = own_nW.expand(len(hidden_NPW), -1, -1)
    return torch.cat([hidden_NPW[:, :before], own_NnW, hidden_NPW[:, after:]], dim=1)

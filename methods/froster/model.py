"""FROSTER (arXiv 2402.03241): cross-entropy, and the distance of tuned features from those of a frozen CLIP.

L = CE + 2 (L_video + L_text), where L = 1 - mean cosine of features behind a residual projector with the teacher's.
The cross-entropy takes the features before the projectors. The teacher is plain CLIP, without a window over frames.

Legend: B batch, T frames, D joint CLIP width, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.clip import Clip, class_means
from methods import contract
from methods.contract import Encoded, Predictor, Terms, frames_of
from methods.froster.config import Config
from methods.open_vclip.tower import FramesPredictor, WindowTower, pooled, similarities
from methods.settings import Inference


class Model(contract.Model):
    """Both towers of CLIP. In training mode class features are [C, 2, D] where texts are held: own and teacher's."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        names = [f"projector_{kind[0]}" for kind in config.distilled if config.has_head]
        self.head = nn.ModuleDict({name: projector(self.width) for name in names})
        # Features [N, D] of the teacher's texts, which are the same in every step, and the row of each.
        self._taught: tuple[dict[str, int], Tensor] = {}, torch.empty(0)

    # --- towers -------------------------------------------------------------------------------------------------------

    def encode(self, clips_BT3HW: Tensor) -> Encoded:
        """Frame features [B, T, D]; in training also the `teacher`'s, where frames are held to them."""
        frames_BTD = WindowTower(self.clip.visual, self.config)(clips_BT3HW)
        if not self.training or self.teacher is None or "video" not in self.config.distilled:
            return frames_BTD
        with torch.no_grad():
            return {"frames": frames_BTD, "teacher": self.teacher.encode_clips(clips_BT3HW)}

    def draw_texts(self, prompts: list[list[str]], generator: torch.Generator) -> list[list[str]]:
        """One text of each class, at a place that is drawn for all, and the last. Raises ValueError if they differ."""
        self._teach(prompts)
        if self.config.texts == "all":
            return prompts
        numbers = [len(own) for own in prompts]
        if unequal := [place for place, number in enumerate(numbers) if number != numbers[0]]:
            place = unequal[0]
            raise ValueError(
                f"class {place} has {numbers[place]} texts, class 0 has {numbers[0]}; allowed: equally many"
            )
        fixed = self.config.fixed_text == "last"
        if not (free := numbers[0] - fixed):
            return prompts
        drawn = int(torch.randint(free, (), generator=generator))
        return [[own[drawn], own[-1]] if fixed else [own[drawn]] for own in prompts]

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        own_CD = super().embed_classes(prompts)
        if not self.training or self.teacher is None or "text" not in self.config.distilled:
            return own_CD
        self._teach(prompts)
        rows, features_ND = self._taught
        told = [rows[text] for own in prompts for text in own]
        taught_CD = class_means(features_ND.to(own_CD.device)[told], prompts)
        return torch.stack([own_CD, taught_CD.to(own_CD.dtype)], dim=1)

    @torch.no_grad()
    def _teach(self, prompts: list[list[str]]) -> None:
        """Encode all texts by the teacher at once, so that features do not depend on the order of draws."""
        if self.teacher is None or "text" not in self.config.distilled:
            return
        if not all(text in self._taught[0] for own in prompts for text in own):
            rows = {text: row for row, text in enumerate(text for own in prompts for text in own)}
            self._taught = rows, self.teacher.encode_prompts(prompts)

    # --- training and test --------------------------------------------------------------------------------------------

    def loss(self, frames_BTD: Encoded, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        encoded, own_CD = frames_BTD, classes_CD[:, 0] if classes_CD.ndim == 3 else classes_CD
        scores_BC = similarities(pooled(frames_of(encoded), self.config), own_CD, self.config)
        ce = F.cross_entropy(self.clip.logit_scale.exp() * scores_BC, labels_B)
        held: Terms = {}
        if isinstance(encoded, dict):
            held["frames"] = self.distance("v", unit(encoded["frames"]), unit(encoded["teacher"]))
        if classes_CD.ndim == 3:
            held["classes"] = self.distance("t", own_CD, classes_CD[:, 1])
        return {"ce": ce, **held, "total": ce + self.config.distil_weight * sum(held.values(), torch.zeros_like(ce))}

    def distance(self, kind: str, features_ND: Tensor, taught_ND: Tensor) -> Tensor:
        """1 - mean cosine of projected unit features [..., D] of frames (`v`) or classes (`t`) with the teacher's."""
        projected_ND = self.projected(kind, features_ND)
        with torch.autocast(projected_ND.device.type, enabled=False):
            return 1 - F.cosine_similarity(projected_ND.float(), taught_ND.float(), dim=-1).mean()

    def projected(self, kind: str, features_ND: Tensor) -> Tensor:
        """Features [..., D] behind their projector, not normalised."""
        if self.config.projector == "identity":
            return features_ND
        added_ND: Tensor = self.head[f"projector_{kind}"](features_ND)
        return features_ND + self.config.residual * added_ND

    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> Predictor:
        return FramesPredictor(self.config, self.scale)


def projector(width: int) -> nn.Sequential:
    """W2 GELU(W1 x) without biases; W2 begins at zero, so that projected features begin as the features."""
    first, second = (nn.Linear(width, width, bias=False) for _ in range(2))
    nn.init.kaiming_normal_(first.weight)
    nn.init.zeros_(second.weight)
    return nn.Sequential(first, nn.GELU(), second)


def unit(features_BTD: Tensor) -> Tensor:
    """Features of length 1, in fp32."""
    with torch.autocast(features_BTD.device.type, enabled=False):
        return F.normalize(features_BTD.float(), dim=-1)

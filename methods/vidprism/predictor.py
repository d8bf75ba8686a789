"""VidPrism at the test: all experts read out, or one. Legend: B batch, T frames, E experts, D width, C classes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from methods.contract import Prediction, Predictor, cosines
from methods.vidprism.config import Inference
from methods.vidprism.experts import Read
from methods.vidprism.head import Head


class VidPrismPredictor(Predictor):
    """Logits of the linear classifier, or cosines with class texts.

    Features: "z" is the read-out's vector, with class texts its projection; "t" the mean of the experts' tokens,
    "last_ffn_branch" of what their feed-forward networks added. Tokens are no frames, so there is no "t_frames".
    """

    def __init__(self, head: Head, logit_scale: float, inference: Inference) -> None:
        super().__init__()
        self.head = head.deployed(inference.expert)
        self.linear = head.config.classifier == "linear"
        self.logit_scale = 1.0 if self.linear else logit_scale
        self.eval().requires_grad_(False)

    def shares(self, frames_BTD: Tensor, classes_CD: Tensor) -> Tensor | None:
        """[B, E] of the read-out's attention; all of it is that of an expert that is asked alone."""
        experts, asked = self.head.config.experts, self.head.asked
        if not experts:
            return None
        if asked is not None:
            return F.one_hot(frames_BTD.new_full((len(frames_BTD),), asked).long(), experts).to(frames_BTD)
        read: Read = self.head(frames_BTD).read
        return read.shares_BE

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        read: Read = self.head(frames_BTD).read
        features = {"t": read.tokens_BLD.mean(dim=1), "last_ffn_branch": read.branch_BLD.mean(dim=1)}
        if self.linear:
            logits_BC = self.head.logits(read.video_BD)
            return Prediction(logits_BC, logits_BC.new_ones(len(logits_BC)), {"z": read.video_BD, **features})
        video_BD = self.head.projection_head(read.video_BD)
        return Prediction(cosines(video_BD, classes_CD), video_BD.norm(dim=-1), {"z": video_BD, **features})

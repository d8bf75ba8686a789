"""OST's scores of frames and sentences, and its loss over a batch (arXiv 2312.00096; official code).

With unit frames v_t and sentences d_n of a kind, S_tn = v_t . d_n, a class's score is mean(S) + sum(P * S), where P is
the transport plan between frames and sentences; logits are exp(s) times the mean over the kinds. Since a score is the
sum of two terms, each in [-1, 1], predictors hand out their mean and have 2 exp(s) as scale.

Legend: B batch, T frames, D joint CLIP width, C classes, P prompts of a class, K kinds of sentences, N sentences of a
kind, X any leading axes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from methods import contract
from methods.contract import Prediction, Predictor, Terms
from methods.ost.config import KINDS, Config
from methods.settings import Inference
from methods.text4vis.model import divergence, matching

MOST, MOVED = 100, 0.01  # iterations of the official solver, and the movement of row factors that ends it
FIXED = 20  # iterations; their plans differ by less than single precision shows in a logit


class Model(contract.Model):
    """Both towers, with a loss over the batch."""

    config: Config

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        """Features [C, P, D] of all sentences, not normalised."""
        refuse_other_numbers([len(own) for own in prompts], self.config)
        return super().embed_classes(prompts)

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        """Divergence of videos from the sentences of the batch's labels, plus that of these from videos.

        `classes_CD` are the prompts of all classes [C, P, D]; with a tuned text tower those of the labels, [B, P, D].
        """
        own_BPD = classes_CD if self.config.texts_of_labels else classes_CD[labels_B]
        logits_BB = self.clip.logit_scale.exp() * summed(scores(frames_BTD, own_BPD, self.config), self.config)
        targets_BB = matching(labels_B)
        videos, texts = divergence(logits_BB, targets_BB), divergence(logits_BB.T, targets_BB)
        return {"videos": videos, "texts": texts, "total": videos + texts}

    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> Predictor:
        return SentencesPredictor(self.config, self.scale)


class SentencesPredictor(Predictor):
    """Mean of the terms that are added up in a score; z is the mean over T of unit frames."""

    def __init__(self, config: Config, scale: float) -> None:
        super().__init__()
        self.config = config
        self.terms = 2 if config.terms == "both" else 1
        self.logit_scale = self.terms * scale
        self.looks_at_classes = config.depends_on_batch  # a plan's iterations end by a mean over the classes too
        self.eval()

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        scores_BC = summed(scores(frames_BTD, classes_CD, self.config), self.config) / self.terms
        video_BD = unit(frames_BTD).mean(dim=1)
        return Prediction(scores_BC, video_BD.norm(dim=-1), {"z": video_BD})


def scores(frames_BTD: Tensor, classes_CPD: Tensor, config: Config) -> dict[str, Tensor]:
    """The terms of a score, `pool` and `transport` [B, C], means over the kinds."""
    found = [terms(similarity_BCTN, config) for similarity_BCTN in similarities(frames_BTD, classes_CPD, config)]
    return {name: torch.stack([own[name] for own in found]).mean(dim=0) for name in found[0]}


def summed(found: dict[str, Tensor], config: Config) -> Tensor:
    """The terms that the config adds up."""
    return found["pool"] + found["transport"] if config.terms == "both" else found[config.terms]


def similarities(frames_BTD: Tensor, classes_CPD: Tensor, config: Config) -> list[Tensor]:
    """Cosines [B, C, T, N] of frames with the sentences of each kind. Never in bf16, as all cosines of this project."""
    refuse_other_numbers([classes_CPD.shape[1]], config)
    texts_KCND = classes_CPD.unflatten(1, (kinds_of(classes_CPD.shape[1], config), -1)).transpose(0, 1)
    if config.kinds in KINDS and len(texts_KCND) > 1:
        texts_KCND = texts_KCND[KINDS.index(config.kinds)][None]
    with torch.autocast(frames_BTD.device.type, enabled=False):
        products_BTX = unit(frames_BTD) @ unit(texts_KCND).flatten(0, 2).T
    return list(products_BTX.unflatten(-1, texts_KCND.shape[:3]).permute(2, 0, 3, 1, 4))


def terms(similarity_BCTN: Tensor, config: Config) -> dict[str, Tensor]:
    """Both terms of one kind, [B, C], or those that are needed. The plan has no gradient."""
    found = {"pool": similarity_BCTN.mean(dim=(-2, -1))}
    if config.terms != "pool":
        most, moved = (FIXED, 0.0) if config.stop == "fixed" else (MOST, MOVED)
        plan_BCTN, _ = transport(kernel(similarity_BCTN, config.epsilon), most, moved)
        found["transport"] = (plan_BCTN * similarity_BCTN).sum(dim=(-2, -1))
    return found


def kernel(similarity_XTN: Tensor, epsilon: float) -> Tensor:
    """Kernel [..., T, N] of the transport."""
    return ((similarity_XTN - 1) / epsilon).exp()


@torch.no_grad()
def transport(kernel_XTN: Tensor, most: int, moved: float) -> tuple[Tensor, int]:
    """Plans [..., T, N] between frames and sentences that all weigh the same, and the number of iterations (Sinkhorn).

    They end when the row factors of all plans move by less than `moved`, in the mean. Columns of a plan sum to 1 / N,
    rows nearly to 1 / T.
    """
    frames, sentences = kernel_XTN.shape[-2:]
    rows_XT, columns_XN = torch.ones_like(kernel_XTN[..., 0]), torch.ones_like(kernel_XTN[..., 0, :])
    done = 0
    while done < most:
        done, before_XT = done + 1, rows_XT
        rows_XT = 1 / frames / (kernel_XTN * columns_XN[..., None, :]).sum(dim=-1)
        columns_XN = 1 / sentences / (kernel_XTN * rows_XT[..., None]).sum(dim=-2)
        if moved and (rows_XT - before_XT).abs().mean() < moved:
            break
    return rows_XT[..., None] * kernel_XTN * columns_XN[..., None, :], done


def unit(features: Tensor) -> Tensor:
    """Features [..., D] of length 1, in fp32."""
    return F.normalize(features.float(), dim=-1)


def kinds_of(prompts: int, config: Config) -> int:
    """Kinds of so many prompts; a single one is what either kind would have."""
    return 1 if config.kinds == "one" or prompts == 1 else len(KINDS)


def refuse_other_numbers(prompts: list[int], config: Config) -> None:
    """Raises ValueError unless all classes have equally many prompts, and equally many of each kind."""
    if wrong := next((each for each in prompts if each % kinds_of(each, config) or each != prompts[0]), 0):
        raise ValueError(
            f"a class has {wrong} prompts, the first {prompts[0]}; allowed: equally many of all classes, with kinds: "
            f"{config.kinds} half of them spatial and half temporal (templates: ost), with kinds: one of any sort"
        )

"""Classifiers of Text4Vis (arXiv 2207.01297) besides plain class texts: class-bound ones, and a learnt context.

Class-bound: `linear` is trained, as is usual for recognition without texts. The others are frozen and saved with the
trained weights, since no test is possible without them: `random` and `orthogonal` are drawn when the model is made.
`lda` comes from source videos by a linear discriminant analysis (Sec. 3; a file in the official code). Its rows are
Sigma^-1 mu_c, of the classes' means and the covariance within classes, which is shrunk by its uncertainty: Ledoit and
Wolf, A well-conditioned estimator for large-dimensional covariance matrices (2004). How the official file was made is
not published. Offsets of the discriminants are left out: a frozen classifier has rows and no bias.

Learnt context: CoOp (IJCV 2022, arXiv 2109.01134; modules/coop.py of Text4Vis' official code). Vectors stand where a
template has its words, and the frozen text tower turns them and the class name into a feature. A full stop follows
both, whatever their order (official code). A prompt is taken as the class name, with spaces for underscores. Left out:
`ce` plus `nce` as a loss.

Legend: B batch, N videos or texts, D joint CLIP width, C classes, L tokens of a name with its marks, P places of a text
(L + M), M vectors, W width of the text tower, K contexts (1, or one for each class).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.errors import UserError
from bench.models.clip import TEXTS_PER_BATCH, Clip, class_means
from methods.contract import cosines
from methods.names import class_names, name_tokens
from methods.text4vis.config import Config

LEAST = 1e-6  # least shrinkage: it keeps a covariance invertible whose few residuals all lie in one direction


class FrozenRows(nn.Module):
    """Cosines with rows [C, D] that training does not change."""

    rows_CD: Tensor

    def __init__(self, rows_CD: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows_CD", F.normalize(rows_CD, dim=-1).contiguous())

    def logits(self, video_BD: Tensor, scale: Tensor | float) -> Tensor:
        """Logits [B, C]: scale * cosine."""
        return scale * cosines(video_BD, self.rows_CD)


class Discriminants(FrozenRows):
    """Rows of a discriminant analysis; NaN until `learn_from` sets them."""

    def learn_from(self, features_ND: Tensor, labels_N: Tensor) -> None:
        """Set the rows from source videos. Raises UserError where a class has none."""
        self.rows_CD.copy_(discriminant_rows(features_ND, labels_N, len(self.rows_CD)))


class Linear(nn.Linear):
    """A layer on un-normalised video embeddings, without a scale. Initialised as others in the official code."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(width, classes)
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def logits(self, video_BD: Tensor, scale: Tensor | float) -> Tensor:
        """Logits [B, C]; never in half precision, like cosines."""
        with torch.autocast(video_BD.device.type, enabled=False):
            return F.linear(video_BD.float(), self.weight, self.bias)


Classifier = FrozenRows | Linear


def orthogonal(width: int, classes: int) -> FrozenRows:
    """First rows of a random orthogonal matrix. Raises UserError for more classes than rows."""
    if classes > width:
        raise UserError(
            f"{classes} classes, but a matrix of width {width} has no more orthogonal rows than that",
            where="config.classifier",
            hint="use classifier: random, or a backbone with a wider joint space",
        )
    square_DD, _ = torch.linalg.qr(torch.randn(width, width))
    return FrozenRows(square_DD[:classes])


CLASSIFIERS: dict[str, Callable[[int, int], Classifier]] = {
    "linear": Linear,
    "random": lambda width, classes: FrozenRows(torch.randn(classes, width)),
    "orthogonal": orthogonal,
    "lda": lambda width, classes: Discriminants(torch.full((classes, width), torch.nan)),
}


# --- Linear discriminant analysis -------------------------------------------------------------------------------------


def discriminant_rows(features_ND: Tensor, labels_N: Tensor, classes: int) -> Tensor:
    """Unit rows [C, D] in double precision. Raises UserError where a class has no video.

    With one video of each class the scatter within classes is unknown. The shrunk covariance is then a multiple of the
    identity, and rows are the directions of the means.
    """
    features_ND, labels_N = features_ND.double().cpu(), labels_N.cpu()
    means_CD = _means(features_ND, labels_N, classes)
    residuals_ND, freedom = features_ND - means_CD[labels_N], len(features_ND) - classes
    rows_CD = means_CD
    if freedom and residuals_ND.any():
        rows_CD = torch.linalg.solve(within_covariance(residuals_ND, freedom), means_CD.T).T
    return F.normalize(rows_CD, dim=-1)


def _means(features_ND: Tensor, labels_N: Tensor, classes: int) -> Tensor:
    """Class means [C, D]."""
    count_C = torch.bincount(labels_N, minlength=classes)
    if not count_C.all():
        empty = ", ".join(str(index) for index, count in enumerate(count_C.tolist()) if not count)
        raise UserError(
            f"the sample of the source has no video that can be decoded of classes (by id): {empty}",
            where="config.classifier",
            hint="discriminant analysis needs one of each; mend the files, or use another classifier",
        )
    sums_CD = torch.zeros(classes, features_ND.shape[1], dtype=features_ND.dtype)
    return sums_CD.index_add_(0, labels_N, features_ND) / count_C[:, None]


def within_covariance(residuals_ND: Tensor, freedom: int) -> Tensor:
    """Covariance [D, D] of residuals from class means, shrunk towards its mean variance times the identity.

    It is Ledoit and Wolf's estimator, except that N - C of N residuals are independent (`freedom`): variances and their
    uncertainty are divided by that number.
    """
    scaled_ND = residuals_ND * (len(residuals_ND) / freedom) ** 0.5  # as large as if means were known
    covariance_DD: Tensor = scaled_ND.T @ scaled_ND / len(scaled_ND)
    target_DD = covariance_DD.diagonal().mean() * torch.eye(scaled_ND.shape[1], dtype=scaled_ND.dtype)
    return covariance_DD.lerp(target_DD, shrinkage(scaled_ND, covariance_DD, target_DD, freedom))


def shrinkage(scaled_ND: Tensor, covariance_DD: Tensor, target_DD: Tensor, freedom: int) -> float:
    """Weight of the target, LEAST to 1: the covariance's expected error over its distance from the target.

    The error is the mean squared distance of single residuals' products from the covariance, over their number.
    """
    distance = float((covariance_DD - target_DD).square().sum())
    spread = float(scaled_ND.square().sum(dim=1).square().mean() - covariance_DD.square().sum())
    return max(LEAST, min(1.0, spread / freedom / distance)) if distance else 1.0


# --- Class texts with a learnt context --------------------------------------------------------------------------------


class Layout(NamedTuple):
    """Tokens of names; index of the token or (after L) the vector at every place of a text; index of its end."""

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
        """Vectors [N, M, W] for the texts of each class, given their number."""
        if not self.class_bound:
            return self.vectors_KMW.expand(sum(counts), -1, -1)
        if len(counts) != len(self.vectors_KMW):
            raise ValueError(f"{len(counts)} candidates, but contexts are bound to {len(self.vectors_KMW)} classes")
        return self.vectors_KMW.repeat_interleave(torch.tensor(counts, device=self.vectors_KMW.device), dim=0)

    def _lay_out(self, clip: Clip, texts: list[str]) -> Layout:
        names = class_names(texts)
        tokens_NL = name_tokens(clip.tokenizer, names, clip.spec.context_length - self.count, "config.context")
        ends_N, length = tokens_NL.argmax(dim=-1), tokens_NL.shape[1]
        sizes_N = (clip.tokenizer(names).argmax(dim=-1) - 1).minimum(ends_N - 1)
        order_NP = torch.tensor([self._order(size, length) for size in sizes_N.tolist()])
        return Layout(tokens_NL, order_NP, ends_N + self.count)

    def _order(self, size: int, length: int) -> list[int]:
        """Order of tokens and vectors in a text whose name has `size` of its `length` tokens."""
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
    # `recipe.checkpointing` is set on the visual tower; texts follow it, since they may be the larger part.
    clip.transformer.grad_checkpointing = clip.visual.transformer.grad_checkpointing
    hidden_NPW = clip.transformer(hidden_NPW, attn_mask=clip.attn_mask[:places, :places])
    embeddings_ND: Tensor = clip.ln_final(hidden_NPW[rows_N, ends_N]) @ clip.text_projection
    return embeddings_ND

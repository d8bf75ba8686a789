"""Classifiers that are bound to the classes of training, against which Text4Vis holds that of class texts.

`linear` is trained, as is usual for recognition without texts. The others are frozen and saved with what was trained,
because nothing else could be measured with it: `random` and `orthogonal` are drawn when the model is made, `lda` is
learnt from source videos.

Legend: B batch, N videos, D joint CLIP width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.errors import UserError
from methods.contract import cosines
from methods.text4vis.discriminant import discriminant_rows


class FrozenRows(nn.Module):
    """Cosines with rows that training does not change."""

    rows_CD: Tensor

    def __init__(self, rows_CD: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows_CD", F.normalize(rows_CD, dim=-1).contiguous())

    @property
    def classes(self) -> int:
        return len(self.rows_CD)

    def logits(self, video_BD: Tensor, scale: Tensor | float) -> Tensor:
        """[B, C] scale * cosine."""
        return scale * cosines(video_BD, self.rows_CD)


class Discriminants(FrozenRows):
    """Rows of a discriminant analysis, not a number until there was one."""

    def learn_from(self, features_ND: Tensor, labels_N: Tensor) -> None:
        """Take the rows from source videos. Raises UserError where a class has none."""
        self.rows_CD.copy_(discriminant_rows(features_ND, labels_N, self.classes))


class Linear(nn.Linear):
    """A layer on un-normalised video embeddings, without a scale."""

    @property
    def classes(self) -> int:
        return self.out_features

    def logits(self, video_BD: Tensor, scale: Tensor | float) -> Tensor:
        """[B, C]; as for cosines, never in half precision."""
        with torch.autocast(video_BD.device.type, enabled=False):
            return F.linear(video_BD.float(), self.weight, self.bias)


Classifier = FrozenRows | Linear


def linear(width: int, classes: int) -> Linear:
    """Starts as the other linear layers of the official code do: the paper does not say how."""
    layer = Linear(width, classes)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def random(width: int, classes: int) -> FrozenRows:
    """Rows of normal draws."""
    return FrozenRows(torch.randn(classes, width))


def orthogonal(width: int, classes: int) -> FrozenRows:
    """The first rows of a random orthogonal matrix. Raises UserError for more classes than rows."""
    if classes > width:
        raise UserError(
            f"{classes} classes, but a matrix of width {width} has no more orthogonal rows than that",
            where="config.classifier",
            hint="use classifier: random, or a backbone with a wider joint space",
        )
    square_DD, _ = torch.linalg.qr(torch.randn(width, width))
    return FrozenRows(square_DD[:classes])


def lda(width: int, classes: int) -> Discriminants:
    """Rows that source videos are still to tell."""
    return Discriminants(torch.full((classes, width), torch.nan))


CLASSIFIERS: dict[str, Callable[[int, int], Classifier]] = {
    "linear": linear,
    "random": random,
    "orthogonal": orthogonal,
    "lda": lda,
}

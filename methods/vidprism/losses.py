"""VidPrism's auxiliary losses over a batch (arXiv 2605.28229; official code where the two differ).

The rank loss is made where windows are merged. Legend: B batch, E experts, D joint CLIP width.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def balance(shares_BE: Tensor) -> Tensor:
    """E times the sum of squares of the experts' mean shares; 1, its least value, where all are used alike."""
    return shares_BE.shape[1] * shares_BE.mean(dim=0).square().sum()


def mean_cosine(vectors_XYD: Tensor) -> Tensor:
    """Mean cosine over pairs of rows X that have the same Y; 0 for a single row.

    The products of all pairs are the square of their sum without the squares, so no matrix of pairs is needed.
    """
    rows, columns = vectors_XYD.shape[:2]
    if rows < 2:
        return vectors_XYD.new_zeros(())
    unit_XYD = F.normalize(vectors_XYD, dim=-1)
    products = unit_XYD.sum(dim=0).square().sum() - unit_XYD.square().sum()
    return products / (columns * rows * (rows - 1))


def _unlike_videos(summaries_BED: Tensor) -> Tensor:
    return 1 - mean_cosine(summaries_BED) if len(summaries_BED) > 1 else summaries_BED.new_zeros(())


# The code means to compare experts, but goes through the batch: it pulls different videos together.
DIVERSITY: dict[str, Callable[[Tensor], Tensor]] = {
    "batch": _unlike_videos,
    "experts": lambda summaries_BED: mean_cosine(summaries_BED.transpose(0, 1)),
}

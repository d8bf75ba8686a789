"""The choice of one of several points by validation (docs/tuning.md).

The seeds that choose a point are not those that measure it, because a lucky seed is lucky on both lists.
Legend: P points, S seeds, B resamples of the videos.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def chosen(judged_PS: NDArray[np.floating], *, across: bool = True) -> NDArray[np.intp]:
    """The point [S] (or [S,B]) at which each seed is measured, from validation numbers [P,S] (or [P,S,B]).

    `across` seeds: the point with the best mean over the *other* seeds, so that equal points give an unbiased number
    (cross-fitting, as of Chernozhukov et al. 2018). Otherwise, and with one seed, the point with the best mean over
    all seeds, for each seed the same. Of equally good points, the first.
    """
    seeds = judged_PS.shape[1]
    mean_PS = np.repeat(judged_PS.mean(axis=1, keepdims=True), seeds, axis=1)
    if across and seeds > 1:
        mean_PS = (seeds * mean_PS - judged_PS) / (seeds - 1)
    return np.asarray(mean_PS.round(6).argmax(axis=0))


def resampled(
    test_PS: NDArray[np.floating],
    test_PSB: NDArray[np.floating],
    picked_S: NDArray[np.intp],
    again_SB: NDArray[np.intp],
) -> NDArray[np.floating]:
    """A column's numbers of the chosen points under resamples, [S,B], where `again_SB` is chosen anew in each.

    A resample in which another point is chosen moves a number by what the points differ by. Their means differ by
    chance as well, which the spread of the seeds tells of already, so they are shrunk to their common mean by the part
    of their variance that is noise (James & Stein 1961).
    """
    seeds, places_S = test_PS.shape[1], np.arange(test_PS.shape[1])
    places_B = np.arange(test_PSB.shape[2])
    mean_P, apart_PB = test_PS.mean(axis=1), test_PSB.mean(axis=1) - test_PSB.mean(axis=(0, 1))
    noise = test_PS.var(axis=1, ddof=1).mean() / seeds if seeds > 1 else apart_PB.var(axis=1, ddof=1).mean()
    variance = mean_P.var(ddof=1) if len(mean_P) > 1 else 0.0
    level_P = mean_P * max(0.0, 1 - noise / variance) if variance > noise else np.zeros_like(mean_P)
    change_SB = test_PSB[again_SB, places_S[:, None], places_B] - test_PS[again_SB, places_S[:, None]]
    moved_SB = level_P[again_SB] - level_P[picked_S][:, None]
    return np.asarray(test_PS[picked_S, places_S][:, None] + change_SB + moved_SB)

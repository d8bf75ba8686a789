"""Weights: how far experts lie from each other in weight space, as a whole and layer by layer. E experts, G groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reports import style

Floats = NDArray[np.float64]

RIGHT = 2**0.5  # relative distance of orthogonal vectors of one length


@dataclass(frozen=True)
class Distances:
    """Relative L2 distance and cosine [G,E,E] between the parameters of experts; the first group is all layers.

    `parameters` [G]: how many of them one expert has. A distance is relative to the root mean square of both lengths.
    """

    row: str
    label: str
    point: str
    seed: int
    groups: tuple[str, ...]
    parameters: tuple[int, ...]
    distance: Floats
    cosine: Floats
    identity: str


def distance_figures(found: Sequence[Distances]) -> dict[tuple[str, str], Figure]:
    """Per (row id, point), heatmaps [E,E]: distance and cosine over all layers, then the distance in each layer."""
    return {setting: _figure(seeds) for setting, seeds in _by_setting(found).items()}


def distance_table(found: Sequence[Distances]) -> pd.DataFrame:
    """A line per row, point, group and pair of experts: means and s.d. (ddof 1) over seeds."""
    lines = [
        {
            **{"row": own.row, "label": own.label, "point": own.point, "seed": own.seed, "group": group},
            **{"parameters": own.parameters[g], "a": a, "b": b},
            **{"distance": own.distance[g, a, b], "cosine": own.cosine[g, a, b]},
        }
        for own in found
        for g, group in enumerate(own.groups)
        for a, b in zip(*np.triu_indices(own.distance.shape[1], 1), strict=True)
    ]
    names = ["row", "label", "point", "group", "parameters", "a", "b"]
    measures = {f"{name}_{fact}": (name, fact) for name in ("distance", "cosine") for fact in ("mean", "std")}
    if not lines:
        return pd.DataFrame(columns=[*names, *measures, "seeds"])
    grouped = pd.DataFrame(lines).groupby(names, sort=False)
    return grouped.agg(**measures, seeds=("seed", "size")).reset_index()


def _by_setting(found: Sequence[Distances]) -> dict[tuple[str, str], list[Distances]]:
    settings: dict[tuple[str, str], list[Distances]] = {}
    for own in found:
        settings.setdefault((own.row, own.point), []).append(own)
    return settings


def _figure(seeds: list[Distances]) -> Figure:
    first = seeds[0]
    distance_SGEE, cosine_SGEE = (np.stack([getattr(own, name) for own in seeds]) for name in ("distance", "cosine"))
    distance_GEE, cosine_EE = distance_SGEE.mean(axis=0), cosine_SGEE.mean(axis=0)[0]
    kinds = [("distance", group, matrix) for group, matrix in zip(first.groups, distance_GEE, strict=True)]
    kinds.insert(1, ("cosine", first.groups[0], cosine_EE))
    side = 0.6 + 0.34 * distance_GEE.shape[1]
    limits = {"distance": max(RIGHT, float(np.nanmax(distance_GEE))), "cosine": 1.0}
    with style.look():
        figure, panels = style.panels(len(kinds), side, side + 0.1)
        for axes, (kind, group, matrix_EE) in zip(panels, kinds, strict=True):
            _heatmap(axes, matrix_EE, limits[kind], f"{kind}, {group}")
        name = ", ".join(filter(None, [first.label, first.point]))
        figure.suptitle(f"{name}: experts in weight space", fontsize=9, parse_math=False)
        style.note(figure, _note(first, distance_SGEE, cosine_SGEE[:, :1]))
    return figure


def _heatmap(axes: Axes, matrix_EE: Floats, top: float, title: str) -> None:
    seaborn.heatmap(
        matrix_EE, ax=axes, vmin=0, vmax=top, cmap="Blues", square=True, annot=True, fmt=".2f",
        annot_kws={"size": style.SMALL}, linewidths=0.5, cbar=False,
    )  # fmt: skip
    axes.tick_params(length=0)
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    axes.set_title(title, fontsize=7.5, parse_math=False)
    axes.set_xlabel("expert")
    axes.set_ylabel("expert")


def _note(first: Distances, distance_SGEE: Floats, cosine_SGEE: Floats) -> str:
    seeds = len(distance_SGEE)
    many = f"{first.parameters[0]:,} parameters an expert"
    scale = "Distance: L2, over the root mean square of both lengths;\n0: equal, 1.41: orthogonal and of one length."
    if seeds == 1:
        return f"One seed, {many}.\n{scale}"
    spread = max(float(np.nanmax(values.std(axis=0, ddof=1))) for values in (distance_SGEE, cosine_SGEE))
    return f"Means over {seeds} seeds, s.d. at most {spread:.3f}; {many}.\n{scale}"

"""Figures of how alike experts are: their features (MoTE, NeurIPS 2024, Fig. 7), and their weights by layer.

E experts, G groups of parameters, S seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.measure.statistics import Floats
from reports import style
from reports.facts import Distances, Probe, by_setting
from reports.results import Results
from reports.style import Panel, Picture, expert_picture

FEATURES = {"t": "temporal feature", "z": "video embedding", "last_ffn_branch": "last feed-forward branch"}
RIGHT = 2**0.5  # relative distance of orthogonal vectors of one length

# --- features --------------------------------------------------------------------------------------------------------


def similarity_figures(results: Results) -> Iterator[Picture]:
    """Per probed row, a heatmap [E+1,E+1] for every point, protocol and feature; the mean over seeds."""
    for row, name in results.labels.items():
        if probes := [probe for probe in results.probes if probe.subject.row == row]:
            caption = f"Mean cosine similarity between the features of the experts of {name}, printed in the cells."
            figure = _similarity_figure(by_setting(probes, "protocol", "feature", "names"))
            yield expert_picture("similarity", (row,), caption, figure)


def _similarity_figure(settings: list[list[Probe]]) -> Figure:
    means = [np.mean([probe.similarity for probe in probes], axis=0) for probes in settings]
    low = min(0.5, *(mean.min() for mean in means))  # the paper's colour bar starts at 0.5
    side = 1.6 + 0.42 * max(len(mean) for mean in means)
    parts = [
        Panel(partial(_feature_heatmap, names=probes[0].names, mean=mean, low=float(low)), _feature_title(probes))
        for probes, mean in zip(settings, means, strict=True)
    ]
    title = f"{settings[0][0].subject.label}: similarity of experts"
    return style.figure(parts, side + 0.5, side, title=title, small=True)


def _feature_heatmap(axes: Axes, names: Sequence[str], mean: np.ndarray, low: float) -> None:
    _heatmap(
        axes, mean, (low, 1.0), "viridis", 7, xticklabels=names, yticklabels=names,
        cbar_kws={"label": "cosine similarity"},
    )  # fmt: skip
    axes.set_xticklabels(axes.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")


def _feature_title(probes: list[Probe]) -> str:
    first = probes[0]
    setting = ", ".join(filter(None, [first.subject.point, FEATURES.get(first.feature, first.feature), first.protocol]))
    spread = np.std([probe.similarity for probe in probes], axis=0, ddof=1).max() if len(probes) > 1 else 0
    seeds = f"{len(probes)} seeds, s.d. ≤ {spread:.3f}" if len(probes) > 1 else "1 seed"
    return f"{setting}\n{first.videos} videos × {seeds}"


# --- weights ---------------------------------------------------------------------------------------------------------


def distance_figures(results: Results) -> Iterator[Picture]:
    """Per row and point, heatmaps [E,E]: distance and cosine over all layers, then the distance in each layer."""
    for seeds in by_setting(results.distances):
        caption = f"How far the experts of {seeds[0].subject.name} lie from each other in weight space."
        yield expert_picture("weights", seeds[0].setting, caption, _distance_figure(seeds))


def distance_table(found: Sequence[Distances]) -> pd.DataFrame:
    """A line per row, point, group and pair of experts: means and s.d. (ddof 1) over seeds."""
    lines = [
        {
            **{name: getattr(own.subject, name) for name in ("row", "label", "point", "seed")},
            "group": group,
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


def _distance_figure(seeds: list[Distances]) -> Figure:
    first = seeds[0]
    distance_SGEE, cosine_SGEE = (np.stack([getattr(own, name) for own in seeds]) for name in ("distance", "cosine"))
    distance_GEE, cosine_EE = distance_SGEE.mean(axis=0), cosine_SGEE.mean(axis=0)[0]
    kinds = [("distance", group, matrix) for group, matrix in zip(first.groups, distance_GEE, strict=True)]
    kinds.insert(1, ("cosine", first.groups[0], cosine_EE))
    side = 0.6 + 0.34 * distance_GEE.shape[1]
    limits = {"distance": max(RIGHT, float(np.nanmax(distance_GEE))), "cosine": 1.0}
    parts = [
        Panel(partial(_heatmap, matrix=matrix_EE, limits=(0, limits[kind]), colours="Blues", cbar=False),
              f"{kind}, {group}", "expert", "expert")
        for kind, group, matrix_EE in kinds
    ]  # fmt: skip
    title, note = f"{first.subject.name}: experts in weight space", _note(first, distance_SGEE, cosine_SGEE[:, :1])
    return style.figure(parts, side, side + 0.1, title=title, small=True, note=note)


def _note(first: Distances, distance_SGEE: Floats, cosine_SGEE: Floats) -> str:
    seeds = len(distance_SGEE)
    many = f"{first.parameters[0]:,} parameters an expert"
    scale = "Distance: L2, over the root mean square of both lengths;\n0: equal, 1.41: orthogonal and of one length."
    if seeds == 1:
        return f"One seed, {many}.\n{scale}"
    spread = max(float(np.nanmax(values.std(axis=0, ddof=1))) for values in (distance_SGEE, cosine_SGEE))
    return f"Means over {seeds} seeds, s.d. at most {spread:.3f}; {many}.\n{scale}"


def _heatmap(
    axes: Axes, matrix: Floats, limits: tuple[float, float], colours: str, size: float = style.SMALL, **more: object
) -> None:
    """Draw a matrix with its numbers in the cells."""
    seaborn.heatmap(
        matrix, ax=axes, vmin=limits[0], vmax=limits[1], cmap=colours, square=True, annot=True, fmt=".2f",
        annot_kws={"size": size}, linewidths=0.5, **more,
    )  # fmt: skip
    axes.tick_params(length=0)
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)

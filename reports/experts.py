"""Experts: how alike their features are, and what each can do alone (MoTE, NeurIPS 2024, Figs. 7 and 3). E experts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import labels, scatter, style
from reports.results import Probe, Results


def similarity_figures(results: Results) -> dict[str, Figure]:
    """Per probed row id, a heatmap [E+1,E+1] for every point, protocol and feature; the mean over seeds."""
    figures = {}
    for row in results.labels():
        probes = [probe for probe in results.probes if probe.row == row]
        if probes:
            figures[row] = _similarity_figure(_by_setting(probes))
    return figures


def accuracy_figures(results: Results) -> dict[tuple[str, str], Figure]:
    """Per (row id, point) with expert choices: what was trained on against what was not, for each trade-off.

    Closed-set against each zero-shot target and HM_ZS; base against novel. The reference row is a level, not a point:
    its accuracy in training lies too far away to tell the experts apart.
    """
    if (results.table["expert"] == "").all():
        return {}
    experts, rows = results.summary(experts=True, alike=True), results.summary(alike=True)
    references = [line for _, line in rows.iterrows() if line["row"] == results.settings.reference]
    figures = {}
    for (row, point), lines in experts.groupby(["row", "point"], sort=False):
        drawn = [
            pair for pair in _pairs(results) if not scatter.points(lines, *pair)[["x", "y"]].isna().any(axis=1).all()
        ]
        if drawn:
            levels = [x for x in references if x["row"] != row and results.comparable(x, lines.iloc[0])]
            figures[str(row), str(point)] = _accuracy_figure(results, str(row), lines, drawn, levels)
    return figures


def _pairs(results: Results) -> list[tuple[str, str]]:
    """The measures (x, y) of a panel each: y is a side of a trade-off or one of what it is a mean of."""
    sides = [measure.needs for measure in results.trade_offs.values()]
    return [(x, target) for x, y in sides for target in (*results.measures[y].needs, y)]


def _by_setting(probes: list[Probe]) -> list[list[Probe]]:
    settings: dict[tuple[str, str, str, tuple[str, ...]], list[Probe]] = {}
    for probe in probes:
        settings.setdefault((probe.point, probe.protocol, probe.feature, probe.names), []).append(probe)
    return list(settings.values())


def _similarity_figure(settings: list[list[Probe]]) -> Figure:
    means = [np.mean([probe.similarity for probe in probes], axis=0) for probes in settings]
    low = min(mean.min() for mean in means)
    side = 1.6 + 0.42 * max(len(mean) for mean in means)
    with style.look():
        figure, panels = style.panels(len(settings), side + 0.5, side)
        for axes, probes, mean in zip(panels, settings, means, strict=True):
            _heatmap(axes, probes, mean, float(low))
        figure.suptitle(f"{settings[0][0].label}: similarity of experts", fontsize=9, parse_math=False)
    return figure


def _heatmap(axes: Axes, probes: list[Probe], mean: np.ndarray, low: float) -> None:
    first = probes[0]
    seaborn.heatmap(
        mean, ax=axes, vmin=low, vmax=1.0, cmap="viridis", square=True, annot=True, fmt=".2f", annot_kws={"size": 7},
        linewidths=0.5, xticklabels=first.names, yticklabels=first.names, cbar_kws={"label": "cosine similarity"},
    )  # fmt: skip
    axes.tick_params(length=0)
    axes.set_xticklabels(axes.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    setting = ", ".join(filter(None, [first.point, first.feature, first.protocol]))
    seeds = "1 seed" if len(probes) == 1 else f"{len(probes)} seeds"
    axes.set_title(f"{setting}\n{first.videos} videos × {seeds}", fontsize=7.5, parse_math=False)


def _accuracy_figure(
    results: Results, row: str, lines: pd.DataFrame, pairs: list[tuple[str, str]], levels: list[pd.Series]
) -> Figure:
    measures = dict.fromkeys(measure for pair in pairs for measure in pair)
    absent = lines[[f"{measure}_mean" for measure in measures]].isna().any(axis=1)
    with style.look():
        figure, panels = style.panels(len(pairs), 3.4, 3.0, columns=2)
        figure.suptitle(", ".join(filter(None, [results.labels()[row], lines["point"].iloc[0]])), parse_math=False)
        for axes, (x, y) in zip(panels, pairs, strict=True):
            scatter.fit(axes, scatter.points(lines, x, y))
            for level in levels:
                _draw_level(axes, level, y)
            axes.set_xlabel(scatter.axis_title(results, x))
            axes.set_ylabel(scatter.axis_title(results, y))
        style.note(figure, scatter.seed_note(lines, *measures) + scatter.missing_note(lines[absent], *measures))
        figure.draw_without_rendering()  # settles the layout, which direct labels depend on
        figure.set_layout_engine("none")
        for axes, pair in zip(panels, pairs, strict=True):
            _draw_experts(axes, results, scatter.points(lines, *pair))
    return figure


def _draw_level(axes: Axes, line: pd.Series, target: str) -> None:
    """The reference's accuracy on the target as a dashed line, for which the axis is widened."""
    height = line[f"{target}_mean"]
    if np.isnan(height):
        return
    low, high = axes.get_ylim()
    room = 0.12 * (max(high, height) - min(low, height))
    axes.set_ylim(max(0.0, min(low, height - room)), min(100.5, max(high, height + room)))
    axes.axhline(height, color=style.FAINT, linestyle="--", linewidth=0.9, zorder=1)
    axes.annotate(line["label"], (0.01, height), xycoords=("axes fraction", "data"), xytext=(0, 2),
                  textcoords="offset points", color=style.FAINT, fontsize=style.SMALL, parse_math=False)  # fmt: skip


def _draw_experts(axes: Axes, results: Results, experts: pd.DataFrame) -> None:
    marks = style.marks(results.labels(), results.settings.reference)
    own, texts = experts.dropna(subset=["x", "y"]), []
    for _, point in own.iterrows():
        merged = point["expert"] == "merged"
        colour = marks[point["row"]].colour
        scatter.bars(axes, point.to_frame().T, style.Mark(colour, "D" if merged else "o"))
        texts.append(labels.Label(point["x"], point["y"], point["expert"], colour, 7.5 if merged else style.SMALL))
    labels.place(axes, texts, scatter.crosses(own))

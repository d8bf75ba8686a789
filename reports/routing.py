"""Routing: how often each expert was really drawn in training, against the odds that its method names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from reports import style


@dataclass(frozen=True)
class Routing:
    """Draws [L,E] of E experts in L layers during one training; `odds` [E] are nominal, empty if there are none.

    `pool`: what is drawn, where a layer has several kinds of experts.
    """

    row: str
    label: str
    point: str
    seed: int
    pool: str
    counts: NDArray[np.int64]
    odds: tuple[float, ...]
    identity: str


def routing_figures(found: Sequence[Routing]) -> dict[tuple[str, str], Figure]:
    """Per (row id, point), the share of draws of every expert, a bar for each layer; a panel for each pool."""
    settings: dict[tuple[str, str], dict[str, list[Routing]]] = {}
    for routing in found:
        settings.setdefault((routing.row, routing.point), {}).setdefault(routing.pool, []).append(routing)
    return {setting: _figure(list(pools.values())) for setting, pools in settings.items()}


def _figure(pools: list[list[Routing]]) -> Figure:
    first = pools[0][0]
    draws = sorted({int(count) for pool in pools for own in pool for count in own.counts.sum(axis=1)})
    with style.look():
        figure, panels = style.panels(len(pools), 3.6, 2.5)
        for axes, pool in zip(panels, pools, strict=True):
            axes.set_title(pool[0].pool if len(pools) > 1 else "", parse_math=False)
            _bars(axes, np.stack([100 * own.counts / own.counts.sum(axis=1, keepdims=True) for own in pool]))
            if first.odds:
                _nominal(axes, np.asarray(first.odds), draws[0])
        top = min(100, max(axes.get_ylim()[1] for axes in panels))
        for axes in panels:
            axes.set_ylim(0, top)
        panels[0].set_ylabel("share of draws in training (%)")
        panels[0].legend(loc="upper left", fontsize=style.SMALL, frameon=False, handlelength=1.2)
        figure.suptitle(", ".join(filter(None, [first.label, first.point])), parse_math=False)
        style.note(figure, _note(first, draws, len(pools[0])))
    return figure


def _bars(axes: Axes, shares_SLE: NDArray[np.float64]) -> None:
    """Groups of a bar for each layer, the first the lightest, with one standard deviation over seeds."""
    seeds, layers, experts = shares_SLE.shape
    axes.set_xticks(range(experts))
    axes.set_xlabel("expert, counted from 0")
    width = 0.8 / layers
    shades = np.linspace(0.35, 1.0, layers) if layers > 1 else [1.0]
    for layer, shade in enumerate(shades):
        places = np.arange(experts) + (layer - (layers - 1) / 2) * width
        spread = shares_SLE[:, layer].std(axis=0, ddof=1) if seeds > 1 else None
        axes.bar(
            places, shares_SLE[:, layer].mean(axis=0), width, yerr=spread, color=(style.PALETTE[0], shade),
            label=f"layer {layer}", error_kw={"elinewidth": 0.8, "ecolor": style.INK}, edgecolor="white", linewidth=0.3,
        )  # fmt: skip


def _nominal(axes: Axes, odds_E: NDArray[np.float64], draws: int) -> None:
    """The method's odds across each group, within what chance alone makes of so many draws in 95 of 100 cases."""
    chance_E = 196 * np.sqrt(odds_E * (1 - odds_E) / draws)
    for expert, (odds, chance) in enumerate(zip(100 * odds_E, chance_E, strict=True)):
        axes.fill_between(
            [expert - 0.46, expert + 0.46], odds - chance, odds + chance, color=style.PALETTE[1], alpha=0.25,
            linewidth=0, zorder=0.5,
        )  # fmt: skip
        axes.plot([expert - 0.46, expert + 0.46], [odds, odds], color=style.PALETTE[1], linewidth=1.2, zorder=3)
    axes.add_line(Line2D([], [], color=style.PALETTE[1], linewidth=1.2, label="nominal"))


def _note(first: Routing, draws: list[int], seeds: int) -> str:
    counts = f"{draws[0]:,}" if len(draws) == 1 else f"{draws[0]:,}–{draws[-1]:,}"
    drawn = f"{counts} draws per layer in each of {seeds} seeds" if seeds > 1 else f"{counts} draws per layer, 1 seed"
    bars = "; error bars: ±1 s.d. over seeds" if seeds > 1 else ""
    band = "\nBand: 95 % of one training's shares lie in it, if draws follow the nominal odds." if first.odds else ""
    return f"{drawn}{bars}.{band}"

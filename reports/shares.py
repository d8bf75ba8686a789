"""Figures of experts' shares: of the draws in training against nominal odds, and of the answer. E experts, S seeds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from reports import style
from reports.facts import Routing, Shares, by_setting
from reports.results import Results
from reports.style import Panel, Picture, expert_picture

CHANCE = 1.96  # standard deviations that hold 95 of 100 draws

# --- in training -----------------------------------------------------------------------------------------------------


def routing_figures(results: Results) -> Iterator[Picture]:
    """Per row and point, the share of draws of every expert, a bar for each layer; a panel for each pool."""
    for routings in by_setting(results.routing):
        caption = f"How often each expert of {routings[0].subject.name} was drawn in training."
        figure = _routing_figure(by_setting(routings, "pool"))
        yield expert_picture("routing", routings[0].setting, caption, figure)


def _routing_figure(pools: list[list[Routing]]) -> Figure:
    first = pools[0][0]
    draws = sorted({int(count) for pool in pools for own in pool for count in own.counts.sum(axis=1)})

    def draw(axes: Axes, pool: list[Routing]) -> None:
        _layer_bars(axes, np.stack([100 * own.counts / own.counts.sum(axis=1, keepdims=True) for own in pool]))
        if first.odds:
            _nominal(axes, np.asarray(first.odds), draws[0])

    def finish(panels: list[Axes]) -> None:
        style.share_top(panels, 100)
        panels[0].set_ylabel("share of draws in training (%)")
        panels[0].legend(loc="upper left", fontsize=style.SMALL, frameon=False, handlelength=1.2)

    titles = [pool[0].pool if len(pools) > 1 else "" for pool in pools]
    parts = [
        Panel(partial(draw, pool=pool), title, "expert, counted from 0")
        for pool, title in zip(pools, titles, strict=True)
    ]
    note = _routing_note(first, draws, len(pools[0]))
    return style.figure(parts, 3.6, 2.5, title=first.subject.name, note=note, after=finish)


def _layer_bars(axes: Axes, shares_SLE: NDArray[np.float64]) -> None:
    """Groups of a bar for each layer, the first the lightest, with one standard deviation over seeds."""
    seeds, layers, experts = shares_SLE.shape
    axes.set_xticks(range(experts))
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
    """The method's odds across each group, in a band that holds 95 of 100 shares of so many draws."""
    chance_E = 100 * CHANCE * np.sqrt(odds_E * (1 - odds_E) / draws)
    for expert, (odds, chance) in enumerate(zip(100 * odds_E, chance_E, strict=True)):
        axes.fill_between(
            [expert - 0.46, expert + 0.46], odds - chance, odds + chance, color=style.PALETTE[1], alpha=0.25,
            linewidth=0, zorder=0.5,
        )  # fmt: skip
        axes.plot([expert - 0.46, expert + 0.46], [odds, odds], color=style.PALETTE[1], linewidth=1.2, zorder=3)
    axes.add_line(Line2D([], [], color=style.PALETTE[1], linewidth=1.2, label="nominal"))


def _routing_note(first: Routing, draws: list[int], seeds: int) -> str:
    counts = f"{draws[0]:,}" if len(draws) == 1 else f"{draws[0]:,}–{draws[-1]:,}"
    drawn = f"{counts} draws per layer in each of {seeds} seeds" if seeds > 1 else f"{counts} draws per layer, 1 seed"
    bars = "; error bars: ±1 s.d. over seeds" if seeds > 1 else ""
    band = "\nBand: 95 % of one training's shares lie in it, if draws follow the nominal odds." if first.odds else ""
    return f"{drawn}{bars}.{band}"


# --- in the answer ---------------------------------------------------------------------------------------------------


def share_figures(results: Results) -> Iterator[Picture]:
    """One figure, if any method tells its shares: a panel for each row and point, a bar for each expert."""
    if settings := by_setting(results.shares, "protocol"):
        caption = "How much of the answer to a video goes to each expert: of a merge its weight, of attention its part."
        yield Picture("experts", "expert-shares", caption, _share_figure(settings))


def _share_figure(settings: list[list[Shares]]) -> Figure:
    most = max(len(seeds[0].mean) for seeds in settings)

    def finish(panels: list[Axes]) -> None:
        style.share_top(panels, 112, 1.12)
        panels[0].set_ylabel("share of the answer (%)")

    parts = [Panel(partial(_expert_bars, seeds=own), _share_title(own), "expert, counted from 0") for own in settings]
    size = max(2.6, 0.8 + 0.42 * most), 2.4
    return style.figure(parts, *size, small=True, note=_share_note(settings), after=finish)


def _expert_bars(axes: Axes, seeds: list[Shares]) -> None:
    """Means over seeds with one standard deviation over them; the dotted line is an equal share."""
    shares_SE = 100 * np.stack([own.mean for own in seeds])
    experts, mean_E = range(shares_SE.shape[1]), shares_SE.mean(axis=0)
    spread_E = shares_SE.std(axis=0, ddof=1) if len(seeds) > 1 else np.zeros(len(mean_E))
    axes.bar(
        experts, mean_E, 0.7, yerr=spread_E if len(seeds) > 1 else None, color=style.PALETTE[0],
        error_kw={"elinewidth": 0.8, "ecolor": style.INK},
    )  # fmt: skip
    for expert, (mean, spread) in enumerate(zip(mean_E, spread_E, strict=True)):
        axes.annotate(
            f"{mean:.1f}", (expert, mean + spread), (0, 2), textcoords="offset points", ha="center",
            fontsize=style.SMALL, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
    axes.axhline(100 / len(mean_E), color=style.INK, linestyle=":", linewidth=0.9)
    axes.set_xticks(experts)


def _share_title(seeds: list[Shares]) -> str:
    """E.g. "MoTE", "K600, 100 videos × 3 seeds" on two lines."""
    first, number = seeds[0], f"{len(seeds)} seeds" if len(seeds) > 1 else "1 seed"
    measured = f"{first.protocol}, {first.videos} videos × {number}"
    return "\n".join(filter(None, [first.subject.label, first.subject.point, measured]))


def _share_note(settings: list[list[Shares]]) -> str:
    several = any(len(seeds) > 1 for seeds in settings)
    between = 100 * max(float(own.std.max()) for seeds in settings for own in seeds)
    bars = "Error bars: ±1 s.d. over seeds. " if several else ""
    varies = f"s.d. over videos at most {between:.1f} points" if between >= 0.05 else "alike for every video"
    return f"{bars}Dotted: equal shares.\nWithin a seed: {varies}."

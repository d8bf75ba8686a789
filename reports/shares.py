"""Shares: how much of the answer goes to each expert, as its method tells. E experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reports import style
from reports.shown import Picture

if TYPE_CHECKING:
    from reports.results import Results


@dataclass(frozen=True)
class Shares:
    """Shares [E] of the answer, which add up to 1: `mean` and `std` (population form) over so many `videos`."""

    row: str
    label: str
    point: str
    seed: int
    protocol: str
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    videos: int
    identity: str


def share_figures(results: Results) -> Iterator[Picture]:
    """One picture, if any method tells its shares: a panel for each row and point, a bar for each expert."""
    panels: dict[tuple[str, str, str], list[Shares]] = {}
    for own in results.shares:
        panels.setdefault((own.row, own.point, own.protocol), []).append(own)
    if panels:
        caption = "How much of the answer to a video goes to each expert: of a merge its weight, of attention its part."
        yield Picture("experts", "expert-shares", caption, _figure(list(panels.values())))


def _figure(settings: list[list[Shares]]) -> Figure:
    most = max(len(seeds[0].mean) for seeds in settings)
    with style.look():
        figure, panels = style.panels(len(settings), max(2.6, 0.8 + 0.42 * most), 2.4)
        for axes, seeds in zip(panels, settings, strict=True):
            _bars(axes, seeds)
        top = min(112, 1.12 * max(axes.get_ylim()[1] for axes in panels))
        for axes in panels:
            axes.set_ylim(0, top)
        panels[0].set_ylabel("share of the answer (%)")
        style.note(figure, _note(settings))
    return figure


def _bars(axes: Axes, seeds: list[Shares]) -> None:
    """Means over seeds with one standard deviation over them; the dotted line is an equal share."""
    first, shares_SE = seeds[0], 100 * np.stack([own.mean for own in seeds])
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
    axes.set_xlabel("expert, counted from 0")
    name = "\n".join(filter(None, [first.label, first.point]))
    axes.set_title(f"{name}\n{_count(seeds)}", fontsize=7.5, parse_math=False)


def _count(seeds: list[Shares]) -> str:
    """E.g. "K600, 100 videos × 3 seeds"."""
    number = f"{len(seeds)} seeds" if len(seeds) > 1 else "1 seed"
    return f"{seeds[0].protocol}, {seeds[0].videos} videos × {number}"


def _note(settings: list[list[Shares]]) -> str:
    several = any(len(seeds) > 1 for seeds in settings)
    between = 100 * max(float(own.std.max()) for seeds in settings for own in seeds)
    bars = "Error bars: ±1 s.d. over seeds. " if several else ""
    varies = f"s.d. over videos at most {between:.1f} points" if between >= 0.05 else "alike for every video"
    return f"{bars}Dotted: equal shares.\nWithin a seed: {varies}."

"""Figures of experts: accuracy of each alone (MoTE, NeurIPS 2024, Fig. 3), likeness of features (Fig. 7) and weights,
shares of the draws in training against nominal odds, and of the answer; maps of patches in each frame that are like the
temporal feature (Fig. 6).

E experts, G groups of parameters, L layers, S seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from bench.measure.statistics import Floats
from reports import scatter, style
from reports.facts import Distances, MappedClip, Maps, Probe, Routing, Shares, by_setting
from reports.results import Results
from reports.style import READS, Panel, Picture, expert_picture

PLACES = 15  # along a level that its name is tried at
AROUND = 2.5  # points between a level's name and a mark
NAMED = 6  # references that have their names beside them; more are in a legend
REACH = 2.0  # how far from the experts a reference may lie to be a point, in widths of their range
FEATURES = {"t": "temporal feature", "z": "video embedding", "last_ffn_branch": "last feed-forward branch"}
RIGHT = 2**0.5  # relative distance of orthogonal vectors of one length
EQUAL = 1e-3  # shares of an answer that differ by less are those of a plain mean
CHANCE = 1.96  # standard deviations that hold 95 of 100 draws
COLUMNS = 8  # frames that fit across a page
TILE = 0.8  # inches
WIDTH = 20  # characters of a class name in a line beside them

# --- accuracy --------------------------------------------------------------------------------------------------------


def accuracy_figures(results: Results) -> Iterator[Picture]:
    """Per row and point with expert choices: trained classes against untrained ones, for each trade-off.

    Closed-set against each zero-shot target and HM_ZS; base against novel. Rows of other methods are references: points
    too, or levels where their accuracy in training lies too far away to tell the experts apart.
    """
    if (results.table["expert"] == "").all():
        return
    experts, rows = results.summary(experts=True, alike=True), results.summary(alike=True)
    for (row, point), lines in experts.groupby(["row", "point"], sort=False):
        drawn = [
            pair for pair in _pairs(results) if not scatter.points(lines, *pair)[["x", "y"]].isna().any(axis=1).all()
        ]
        if drawn:
            others = [results.comparable(x, lines.iloc[0]) for _, x in rows.iterrows()]
            references = rows[np.array(others) & (rows["method"] != lines["method"].iloc[0])]
            caption = ", ".join(
                filter(None, [f"What each expert of {results.labels[str(row)]} can do alone", str(point)])
            )
            figure = _accuracy_figure(results, str(row), lines, drawn, references)
            yield expert_picture("accuracy", (str(row), str(point)), f"{caption}; {READS}.", figure)


def _pairs(results: Results) -> list[tuple[str, str]]:
    """The measures (x, y) of a panel each: y is a side of a trade-off or one of what it is a mean of."""
    sides = [measure.needs for measure in results.trade_offs.values()]
    return [(x, target) for x, y in sides for target in (*results.measures[y].needs, y)]


def _accuracy_figure(
    results: Results, row: str, lines: pd.DataFrame, pairs: list[tuple[str, str]], references: pd.DataFrame
) -> Figure:
    measures, many = dict.fromkeys(measure for pair in pairs for measure in pair), len(references) > NAMED
    absent = lines[[f"{measure}_mean" for measure in measures]].isna().any(axis=1)
    shown = pd.concat([lines.assign(label=lines["expert"]), references])

    def panel(x: str, y: str) -> Panel:
        experts, others = (scatter.points(own, x, y).dropna(subset=["x", "y"]) for own in (lines, references))
        near = _near(experts, others)
        points, levels = pd.concat([experts, others[near]]), others[~near]

        def draw(axes: Axes) -> None:
            scatter.fit(axes, points)
            _draw_levels(axes, levels)

        def label(axes: Axes) -> None:
            _name_levels(axes, levels, results.measures[x].title, points)
            _draw_points(axes, results, points, many)

        return Panel(draw, "", scatter.axis_title(results, x), scatter.axis_title(results, y), label)

    def legend(panels: list[Axes]) -> None:
        marks = style.marks(results.labels, results.settings.reference)
        located = [scatter.points(references, *pair)[["x", "y"]].notna().all(axis=1) for pair in pairs]
        own = references[np.logical_or.reduce(located)].drop_duplicates("row")
        handles = [
            Line2D([], [], color=marks[key].colour, marker=marks[key].marker, linestyle="none", label=name)
            for key, name in own[["row", "label"]].itertuples(index=False)
        ]
        panels[0].figure.legend(handles=handles, loc="outside right upper", fontsize=style.SMALL, frameon=False)

    letters = min(references["label"].str.len().max(), style.LONGEST) if many else 0
    return style.figure(
        [panel(x, y) for x, y in pairs],
        *(3.4, 3.0, 2),
        beside=0.4 + letters * style.SMALL / style.LETTERS if many else 0.0,
        after=legend if many else None,
        title=", ".join(filter(None, [results.labels[row], lines["point"].iloc[0]])),
        note=scatter.seed_note(shown, *measures) + scatter.missing_note(lines[absent], *measures),
    )


def _near(experts: pd.DataFrame, others: pd.DataFrame) -> pd.Series:
    """True for references that are near enough to the experts to be points; the others are levels."""
    low, high = experts["x"].min(), experts["x"].max()
    room = REACH * max(high - low, 1.0)
    return others["x"].between(low - room, high + room)


def _draw_levels(axes: Axes, levels: pd.DataFrame) -> None:
    """Accuracies on the target as dashed lines, for which the axis is widened. Their training accuracy lies off it."""
    for height in levels["y"]:
        low, high = axes.get_ylim()
        room = 0.12 * (max(high, height) - min(low, height))
        axes.set_ylim(max(0.0, min(low, height - room)), min(100.5, max(high, height + room)))
        axes.axhline(height, color=style.FAINT, linestyle="--", linewidth=0.9, zorder=1)


def _name_levels(axes: Axes, levels: pd.DataFrame, trained: str, points: pd.DataFrame) -> None:
    """Names the lines where they hide the fewest marks, then bars, next to a line if there is such a place."""
    frame, pixels = axes.get_window_extent(), axes.figure.dpi / 72
    marks_P2, bars_K2 = (axes.transData.transform(own) for own in (points[["x", "y"]], scatter.crosses(points)))
    for _, line in levels.iterrows():
        name = axes.annotate(
            f"{line['label']} ({trained} {line['x']:.1f})", (0.01, line["y"]), (0, 0), va="center",
            xycoords=("axes fraction", "data"), textcoords="offset points", color=style.FAINT, fontsize=style.SMALL,
            parse_math=False,
        )  # fmt: skip
        box = name.get_window_extent().padded(AROUND * pixels)
        lefts = np.linspace(0.01, max(0.99 - box.width / frame.width, 0.01), PLACES)
        rises = [side * (box.height / 2 + gap * pixels) for gap in (0, 8, 16) for side in (1, -1)]
        tried = [(left, rise) for rise in rises for left in lefts]
        shifted = [box.translated((left - lefts[0]) * frame.width, rise) for left, rise in tried]
        hidden = [tuple(sum(own.contains(*at) for at in places) for places in (marks_P2, bars_K2)) for own in shifted]
        left, rise = tried[hidden.index(min(hidden))]
        name.xy = (left, line["y"])
        name.set_position((0, rise / pixels))


def _draw_points(axes: Axes, results: Results, points: pd.DataFrame, many: bool) -> None:
    """Experts in their row's colour, their merge larger, and references by marks of their own; a legend names many."""
    marks = style.marks(results.labels, results.settings.reference)
    texts = []
    for _, point in points.iterrows():
        mark, name = marks[point["row"]], point["expert"] or point["label"]
        if point["expert"]:
            mark = style.Mark(mark.colour, "D" if name == "merged" else "o")
        scatter.bars(axes, point.to_frame().T, mark)
        size = 7.5 if name == "merged" else style.SMALL
        if point["expert"] or not many:
            texts.append(scatter.Label(point["x"], point["y"], name, mark.colour, size))
    scatter.place(axes, texts, scatter.crosses(points))


# --- similarity of features ------------------------------------------------------------------------------------------


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
    axes.tick_params(axis="x", rotation=90)


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
    title, note = (
        f"{first.subject.name}: experts in weight space",
        _distance_note(first, distance_SGEE, cosine_SGEE[:, :1]),
    )
    return style.figure(parts, side, side + 0.1, title=title, small=True, note=note)


def _distance_note(first: Distances, distance_SGEE: Floats, cosine_SGEE: Floats) -> str:
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


# --- shares in training ----------------------------------------------------------------------------------------------


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
        style.share_heights(panels, 0, 100)
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


# --- shares of the answer --------------------------------------------------------------------------------------------


def share_figures(results: Results) -> Iterator[Picture]:
    """One figure: a panel for each row and point whose shares differ between experts or videos, a bar an expert."""
    if settings := [seeds for seeds in by_setting(results.shares, "protocol") if any(map(_tells, seeds))]:
        caption = "How much of the answer to a video goes to each expert: of a merge its weight, of attention its part."
        yield Picture("experts", "expert-shares", caption, _share_figure(settings))


def _tells(shares: Shares) -> bool:
    return bool(np.ptp(shares.mean) > EQUAL or shares.std.max() > EQUAL)


def _share_figure(settings: list[list[Shares]]) -> Figure:
    most = max(len(seeds[0].mean) for seeds in settings)

    def finish(panels: list[Axes]) -> None:
        style.share_heights(panels, 0, 112, 1.12)
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


# --- maps -----------------------------------------------------------------------------------------------------------


def map_figures(results: Results) -> Iterator[Picture]:
    """Per row, point and clip, a line for each choice and a column for each frame; the first seed."""
    first: dict[tuple[str, ...], tuple[Maps, MappedClip]] = {}
    for maps in sorted(results.maps, key=lambda maps: maps.subject.seed):
        for number, clip in enumerate(maps.clips, start=1):
            first.setdefault((*maps.setting, str(number)), (maps, clip))
    for key, (maps, clip) in first.items():
        caption = f"What the temporal feature of {maps.subject.name} is like in each frame, video {key[-1]}."
        yield expert_picture("maps", key, caption, _map_figure(maps, clip))


def scaled(cosines_TGG: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each frame's map from 0 (its least alike patch) to 1; zeros where all are alike."""
    low, high = (limit(cosines_TGG, axis=(1, 2), keepdims=True) for limit in (np.min, np.max))
    span = high - low
    return np.asarray(np.divide(cosines_TGG - low, span, out=np.zeros_like(cosines_TGG), where=span > 0))


def _map_figure(maps: Maps, clip: MappedClip) -> Figure:
    frames = len(clip.pixels)
    shown = np.linspace(0, frames - 1, min(COLUMNS, frames)).round().astype(int)
    rows = len(maps.names) + 1
    with style.look():
        figure = Figure(figsize=(TILE * len(shown) + 1.3, TILE * rows + 0.75), layout="constrained")
        grid = figure.subplots(rows, len(shown), squeeze=False)
        for axes, frame in zip(grid[0], shown, strict=True):
            _show_frame(axes, clip.pixels[frame])
            axes.set_title(f"frame {frame}", fontsize=style.SMALL)
        _name_line(grid[0, 0], "frames")
        for line, name, predicted, cosines_TGG in zip(grid[1:], maps.names, clip.predicted, clip.cosines, strict=True):
            for axes, frame, map_GG in zip(line, shown, scaled(cosines_TGG)[shown], strict=True):
                image = _show_frame(axes, clip.pixels[frame], map_GG)
            low, high = cosines_TGG[shown].min(), cosines_TGG[shown].max()
            _name_line(line[0], f"{name}\n{fill(predicted, WIDTH)}\n{low:.2f} to {high:.2f}")
        bar = figure.colorbar(image, ax=grid[1:], ticks=[0, 1], aspect=30, shrink=0.8, pad=0.01)
        bar.set_ticklabels(["least", "most"])
        bar.set_label("cosine, scaled in each frame")
        title = ", ".join([maps.subject.name, maps.protocol, f"seed {maps.subject.seed}"])
        figure.suptitle(f"{title}\n{clip.video}: {clip.shown}", fontsize=8, parse_math=False)
        some = f", {len(shown)} of {frames} frames" if frames > len(shown) else ""
        style.add_note(figure, f"Left: choice of experts, class it predicts, range of its cosines. 1 clip{some}.")
    return figure


def _show_frame(axes: Axes, pixels_3SS: NDArray[np.uint8], map_GG: NDArray[np.float32] | None = None) -> AxesImage:
    """A frame, in grey below its map."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    side = pixels_3SS.shape[-1]
    if map_GG is None:
        return axes.imshow(pixels_3SS.transpose(1, 2, 0))
    axes.imshow(pixels_3SS.mean(axis=0), cmap="gray", vmin=0, vmax=255)
    return axes.imshow(
        map_GG, cmap="inferno", vmin=0, vmax=1, alpha=0.6, interpolation="bilinear", extent=(0, side, side, 0)
    )


def _name_line(axes: Axes, text: str) -> None:
    axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=style.SMALL, parse_math=False)

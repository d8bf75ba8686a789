"""Figures of costs: accuracy against FLOPs, latency and trainable parameters, with Pareto fronts; costs of experts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from math import ceil, floor, log10, nan

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from reports import scatter, style
from reports.costs import GIGA, MEGA, cost_values, digits, expert_values, flop_unit, pareto_front
from reports.facts import Cost
from reports.results import Results
from reports.style import Panel, Picture

WIDE = 10.0  # from here on, largest over smallest price, the axis is logarithmic
ROOM = 0.18  # around the points, of their range
MANY = 10  # rows, from which on a panel is larger
KEY = ["row", "point"]
TIME = "Median ms per video"


def cost_figures(results: Results) -> Iterator[Picture]:
    """Accuracy against costs, for the measures that summarize the suite, and costs of experts."""
    if not results.costs:
        return
    derived = [measure for measure in results.headlines if results.measures[measure].needs]
    for measure in derived or results.headlines[:1]:
        if figure := _price_figure(results, measure):
            words = results.words(measure)
            caption = (
                f"{style.sentence(words)}, against what it costs; steps are the Pareto front, whose members have "
                "the larger names. Prices are in the tables of this section."
            )
            stem = "costs" if len(derived) < 2 else f"costs-{measure.replace('/', '-')}"
            yield Picture("costs", stem, caption, figure)
    if figure := _expert_figure(results.costs):
        caption = "What each expert costs in a training step, and alone, merged or all together at the test."
        yield Picture("costs", "costs-experts", caption, figure)


# --- accuracy against prices -----------------------------------------------------------------------------------------


def _price_figure(results: Results, measure: str) -> Figure | None:
    """A row of panels for each facet, a panel for each price; None where nothing has both accuracy and cost."""
    summary, prices = results.summary(alike=True), _prices(results.costs)
    summary = summary[summary[f"{measure}_planned"]]
    known = np.array([key in prices.index for key in summary[KEY].itertuples(index=False, name=None)])
    present = summary[f"{measure}_n"] > 0
    located = scatter.heights(summary[known & present], measure).join(prices, on=KEY)
    titles = [str(title) for title in prices if located[title].gt(0).any()]
    if located.empty or not titles:
        return None
    facets = results.facets(located, results.settings.join)
    marks = style.marks(results.labels, results.settings.reference)
    shares, said = scatter.shares(located, results)
    disturbed = {
        own.setting: entry["disturbed"] for own in results.costs if (entry := own.latency()) and entry.get("disturbed")
    }

    def panel(facet: str, price: str) -> Panel:
        lines = facets[facet].assign(x=facets[facet][price], dx=0.0).dropna(subset=["x"])
        spoilt = disturbed if price.startswith(TIME) else {}
        lines["front"] = pareto_front(lines["x"], lines["y"]) & (len(lines) > 1) & (not spoilt)

        def draw(axes: Axes) -> None:
            _fit(axes, lines["x"], located)
            axes.plot(*_steps(axes, lines), color=style.FAINT, linewidth=1.0, zorder=1.5)
            for key, group in lines.groupby(KEY, sort=False):
                share = float(shares[group.index[0]])
                scatter.bars(axes, group, marks[str(key[0])], hollow=key in spoilt, share=share)

        def label(axes: Axes) -> None:
            scatter.place(axes, _names(lines, results, marks), _obstacles(axes, lines))

        return Panel(draw, facet, price, scatter.axis_title(results, measure) if price == titles[0] else "", label)

    parts = [panel(facet, price) for facet, price in product(facets, titles)]
    note = _note(summary, measure, known, present, results.costs, said)
    reasons = dict.fromkeys(
        f"{results.labels[row]}{point and ', '}{point}: {why}" for (row, point), why in disturbed.items()
    )
    if reasons:
        note += f"\nNo front over time; hollow: disturbed measurements ({'; '.join(reasons)})."
    rows = max(own["row"].nunique() for own in facets.values())
    return style.figure(parts, *((3.5, 3.3) if rows <= MANY else (4.0, 3.9)), columns=len(titles), note=note)


def _prices(costs: tuple[Cost, ...]) -> pd.DataFrame:
    """The prices of every row and point, with the titles of their axes as columns.

    Latencies are of the device and the setting that most rows were measured on, nan for others.
    """
    values = [cost_values(cost.result) for cost in costs]
    prices = {"GFLOPs per video (2 per multiply-add)": [own["flops_video_counted"] / GIGA for own in values]}
    if settings := list(filter(None, map(_setting, costs))):
        common = max(settings, key=settings.count)
        title = f"{TIME}\n({{}}, {{}}, batch {{}})".format(*common)
        prices[title] = [_ms(cost, common) for cost in costs]
    prices["Trainable parameters (M)"] = [own["parameters_trainable"] / MEGA for own in values]
    found = pd.DataFrame(prices, pd.MultiIndex.from_tuples([cost.setting for cost in costs], names=KEY))
    return found[~found.index.duplicated(keep="last")]


def _setting(cost: Cost) -> tuple[str, str, int] | None:
    entry = cost.latency()
    return (cost.machine["device"], entry["precision"], entry["batch"]) if entry else None


def _ms(cost: Cost, setting: tuple[str, str, int]) -> float:
    entry = cost.latency()
    return 1000 * entry["p50"] / entry["batch"] if entry and _setting(cost) == setting else nan


def _fit(axes: Axes, x: pd.Series, everything: pd.DataFrame) -> None:
    """Logarithmic where prices span a factor of ten; 0 then stands at the left end, on a linear piece."""
    low, high = everything["y"] - everything["dy"], everything["y"] + everything["dy"]
    room = max(ROOM * (high.max() - low.min()), 1 - (high.max() - low.min()) / 2)
    axes.set_ylim(max(0.0, low.min() - room), min(100.5, high.max() + room))
    if x.empty:
        return
    positive = x[x > 0]
    if len(positive) and positive.max() > WIDE * positive.min():
        room, zero = (positive.max() / positive.min()) ** ROOM, bool((x == 0).any())
        _logarithmic(axes, positive.min(), positive.max() * room, zero)
        axes.set_xlim(-0.6 * positive.min() if zero else positive.min() / room, positive.max() * room)
        return
    room = ROOM * (x.max() - x.min()) or ROOM * x.max() or 1
    axes.set_xlim(x.min() - room, x.max() + room)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= x.max() + room])


def _logarithmic(axes: Axes, smallest: float, largest: float, zero: bool) -> None:
    if zero:
        axes.set_xscale("symlog", linthresh=smallest, linscale=0.4)
    else:
        axes.set_xscale("log")
    decades = [10.0**power for power in range(floor(log10(smallest)), ceil(log10(largest)) + 1)]
    steps = (1,) if len(decades) > 3 else (1, 2, 5)
    ticks = [step * decade for decade in decades for step in steps if smallest <= step * decade <= largest]
    axes.set_xticks([0] * zero + ticks, ["0"] * zero + [f"{tick:,g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _steps(axes: Axes, lines: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the front: level until the next member, up to the right end of the axes."""
    front = lines[lines["front"]].sort_values(["x", "y"])
    if front.empty:
        return np.empty(0), np.empty(0)
    x = np.repeat([*front["x"], axes.get_xlim()[1]], 2)[1:-1]
    return x, np.repeat(front["y"].to_numpy(float), 2)


def _names(lines: pd.DataFrame, results: Results, marks: dict[str, style.Mark]) -> list[scatter.Label]:
    """The best member of the front of each row, and the best point of each row that has none there, which is smaller.

    Where all points of a row have one price and accuracy, the label is the row's alone.
    """
    facets = results.facet_axes(results.settings.join)
    axes = [axis for axis in results.axes if axis not in facets]
    names = []
    for row, group in lines.groupby("row", sort=False):
        members = group[group["front"]]
        best = (group if members.empty else members).sort_values("y", ascending=False, kind="stable").iloc[0]
        name = results.name(best, axes) if len(group[["x", "y"]].drop_duplicates()) > 1 else str(best["label"])
        names.append(scatter.Label(best["x"], best["y"], name, marks[str(row)].colour, 6.5 if members.empty else 7.5))
    return names


def _obstacles(axes: Axes, lines: pd.DataFrame) -> np.ndarray:
    corners = scatter.along(*_steps(axes, lines)) if len(lines) else np.empty((0, 2))
    return np.concatenate([scatter.crosses(lines), corners])


def _note(
    summary: pd.DataFrame, measure: str, known: np.ndarray, present: pd.Series, costs: tuple[Cost, ...], said: str
) -> str:
    """The small print: meaning of bars and steps, and rows that could not be drawn."""
    several = (known & present).sum() > 1
    front = (
        "Steps: Pareto front of the means, which nothing beats in both; differences may be chance." if several else ""
    )
    unprofiled = f"\nNot drawn, no profile: {scatter.named(summary[~known])}." if not known.all() else ""
    settings = {_setting(cost) for cost in costs}
    other = "\nLatencies measured otherwise than the axis says are left out." if len(settings) > 1 else ""
    missing = scatter.missing_note(summary[known & ~present], measure)
    return f"{scatter.seed_note(summary[known & present], measure)}{said} {front}{missing}{unprofiled}{other}"


# --- experts ---------------------------------------------------------------------------------------------------------


def _expert_figure(costs: tuple[Cost, ...]) -> Figure | None:
    """Two panels for each profile with experts: a training step, and every way to answer."""
    profiles = {(own.subject.row, own.subject.identity): own for own in reversed(costs) if own.result["experts"]}
    if not profiles:
        return None
    note = (
        "FLOPs: 2 per multiply-add, matrix products as counted. Training: one video, forward and backward, "
        "expected over the routing; only what goes through the expert. Test: one view, the whole head without the "
        "tower."
    )
    parts = [panel for cost in reversed(profiles.values()) for panel in _expert_panels(cost)]
    if not parts:
        return None
    return style.figure(parts, 2.9, 2.3, columns=4, small=True, note=note)


def _expert_panels(cost: Cost) -> Iterator[Panel]:
    """A training step through each expert, and the head of each choice at the test, where experts differ."""
    numbers = {values["expert"]: values for values in expert_values(cost.result)}
    steps = [numbers[expert["name"]]["training_flops"] for expert in cost.result["experts"]]
    draw = partial(
        _bars, names=[str(i) for i in range(len(steps))], values=steps, colours=[*map(style.colour, range(len(steps)))]
    )
    if _differ(steps):
        yield Panel(draw, f"{cost.subject.name}\ntraining step, through each expert", "expert, counted from 0")
    choices = [choice["name"] for choice in cost.result["choices"]]
    names, heads = [name.removeprefix("expert ") for name in choices], [numbers[name]["head_flops"] for name in choices]
    colours = [style.colour(int(name)) if name.isdigit() else style.INK for name in names]
    draw = partial(_bars, names=names, values=heads, colours=colours)
    if _differ([head for name, head in zip(names, heads, strict=True) if name.isdigit()]):
        yield Panel(draw, f"{cost.subject.name}\ntest, head for one view", "an expert alone, or all of them")


def _differ(values: list[float]) -> bool:
    """True if bars of these numbers would not all look alike."""
    return max(values, default=0) > 1.01 * min(values, default=0)


def _bars(axes: Axes, names: list[str], values: list[float], colours: list[str]) -> None:
    """A bar for each name with its value above, in MFLOPs or GFLOPs."""
    unit, word = flop_unit(max(values))
    places = range(len(names))
    axes.bar(places, [value / unit for value in values], 0.7, color=colours)
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            digits(value / unit), (place, value / unit), (0, 2), textcoords="offset points", ha="center",
            fontsize=style.SMALL if len(names) < 10 else style.SMALL - 1.5,
        )  # fmt: skip
    axes.set_xticks(places, names)
    axes.set_ylabel(word)
    axes.margins(y=0.15)

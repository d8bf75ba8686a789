"""Accuracy class by class: of each choice of experts (MoTE, Fig. 4), and of compared rows, on the same videos.

B resamples, C classes, N videos, U groups of videos (docs/statistics.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.core.seeds import seed_for
from bench.measure.statistics import FLAT, percentiles, tails, tango
from reports import style
from reports.comparisons import interval_text, pairings, signed
from reports.results import TRIAL, Results
from reports.style import Panel, Picture, expert_picture
from reports.table import Table, cells, columns, frame

SETTING = ["row", "label", "point", "protocol"]
SHOWN = 12  # classes of a figure of experts
PICTURES, CASES = 6, 12  # compared pairs × protocols that are drawn, and that are in the table's file
SIDE = 6  # classes of a figure that gain, and that lose
LONGEST = 40  # characters of a class name that a column has room for
WIDTH = 4.4  # inches of a figure of gains and losses
FEWEST = 5  # videos or groups of a class from which an interval is given
DRAWS = 500
HEADS = {
    **{"Row": False, "minus": False, "Protocol": False, "Class": False, "Videos": True},
    **{"Difference": True, "95 % interval": True},
}

# --- choices of experts ----------------------------------------------------------------------------------------------


def category_table(results: Results) -> pd.DataFrame:
    """A line per row, point, protocol, class and choice of experts: top-1 in percent, mean and s.d. over seeds.

    Zero-shot protocols, or all where there is none. A class has the mean of the parts that have it, and is known by its
    name because parts may number classes otherwise; `videos` counts those of all parts. A seed that lacks a part is
    left out. `spread` is the largest difference between two choices. No lines without expert choices.
    """
    lines = results.evaluations().query("expert != ''")
    lines = lines[lines["protocol"].isin(results.of_role("zero-shot") or results.roles)]
    complete = lines.groupby([*SETTING, "expert", "seed"], sort=False)["identity"].transform("min") != ""
    parts = [_accuracies(line, results) for _, line in lines[complete].iterrows()]
    if not parts:
        return pd.DataFrame(columns=[*SETTING, "class", "videos", "expert", "mean", "std", "seeds", "spread"])
    keys = [*SETTING, "class", "expert"]
    per_seed = (
        pd.concat(parts).groupby([*keys, "seed"], sort=False).agg(top1=("top1", "mean"), videos=("videos", "sum"))
    )
    over_seeds = per_seed.groupby(keys, sort=False).agg(
        videos=("videos", "first"), mean=("top1", "mean"), std=("top1", "std"), seeds=("top1", "size")
    )
    found = over_seeds.reset_index()
    means = found.groupby([*SETTING, "class"], sort=False)["mean"]
    return found.assign(spread=means.transform("max") - means.transform("min"))


def category_figures(results: Results) -> Iterator[Picture]:
    """Per row, point and protocol, the classes in which the choices of experts differ most."""
    for (row, point, protocol), lines in category_table(results).groupby(["row", "point", "protocol"], sort=False):
        name = ", ".join(filter(None, [results.labels[str(row)], str(point)]))
        caption = f"Accuracy by class on {protocol}, where the experts of {name} differ most."
        yield expert_picture("classes", (str(row), str(point), str(protocol)), caption, _category_figure(lines))


def _accuracies(line: pd.Series, results: Results) -> pd.DataFrame:
    """Accuracy of every class that one evaluation has videos of; half-class draws measure some videos never."""
    predictions = results.predictions(line["identity"]).dropna(subset="correct")
    classes = predictions.assign(correct=100 * predictions["correct"].astype(float)).groupby("label")["correct"]
    found = classes.agg(top1="mean", videos="size").reset_index()
    found["class"] = _names(results, line["identity"], found["label"])
    return found.assign(**{name: line[name] for name in (*SETTING, "expert", "seed")})


def _names(results: Results, identity: str, labels: pd.Series) -> list[str]:
    """The class names of labels in one evaluation."""
    names = results.class_names(identity)
    return [names[label] if label < len(names) else f"class {label}" for label in labels]


def _category_figure(lines: pd.DataFrame) -> Figure:
    """Classes × choices: the accuracy, with one standard deviation over seeds, on what it has over the class's mean."""
    first, choices = lines.iloc[0], list(lines["expert"].unique())
    classes = lines.drop_duplicates("class").sort_values("spread", ascending=False, kind="stable")
    drawn = classes.head(SHOWN)
    mean, std = (
        lines.pivot(index="class", columns="expert", values=own).loc[drawn["class"], choices] for own in ("mean", "std")
    )
    above = mean.sub(mean.mean(axis=1), axis=0)
    several = int(lines["seeds"].min()) > 1
    texts = mean.map("{:.0f}".format) + (std.map(" ± {:.0f}".format) if several else "")

    def draw(axes: Axes) -> None:
        most = max(float(above.abs().to_numpy().max()), 1.0)
        seaborn.heatmap(
            above, ax=axes, vmin=-most, vmax=most, cmap="PuOr_r", annot=texts, fmt="", annot_kws={"size": style.SMALL},
            linewidths=0.5, cbar_kws={"label": "points over the mean of the class"},
        )  # fmt: skip
        axes.set_xticks(np.arange(len(choices)) + 0.5, choices, rotation=90, parse_math=False)
        axes.set(xlabel="", ylabel="")
        axes.tick_params(length=0)
        _name_classes(axes, drawn, LONGEST, 0.5)

    width = 3.0 + (0.6 if several else 0.4) * len(choices)
    height, note = 1.3 + 0.2 * len(drawn), _category_note(lines, len(drawn), len(classes))
    title = f"{', '.join(filter(None, [first['label'], first['point']]))}: top-1 of the class, {first['protocol']} (%)"
    return style.figure([Panel(draw)], width, height, title=title, note=note)


def _name_classes(axes: Axes, lines: pd.DataFrame, longest: int, first: float = 0.0) -> None:
    """Name the classes of `lines` on the vertical axis from `first` on, with their numbers of videos."""
    names = [f"{style.shortened(str(line['class']), longest)} ({line['videos']})" for _, line in lines.iterrows()]
    axes.set_yticks(np.arange(len(lines)) + first, names, parse_math=False, rotation=0)


def _category_note(lines: pd.DataFrame, drawn: int, classes: int) -> str:
    seeds = int(lines["seeds"].min())
    which = (
        f"The {drawn} of {classes} classes in which choices differ most"
        if drawn < classes
        else f"All {classes} classes"
    )
    bars = f"Means ±1 s.d. over {seeds} seeds" if seeds > 1 else "One seed"
    return f"{which}, with numbers of videos.\n{bars}.\nClasses chosen by these numbers overstate differences."


# --- compared rows ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassDifferences:
    """Row `a` minus row `b` on a protocol: per class `videos`, their `groups`, `difference`, `low`, `high` in points.

    Sorted from the largest gain to the largest loss; the interval is nan for classes of fewer than `FEWEST` groups.
    """

    a: str
    b: str
    protocol: str
    seeds: tuple[int, int]
    classes: pd.DataFrame

    @property
    def grouped(self) -> bool:
        """True if videos come in groups, which are resampled in their place."""
        return bool((self.classes["groups"] < self.classes["videos"]).any())

    @property
    def extremes(self) -> pd.DataFrame:
        """The classes with the largest gains and losses."""
        signs = np.sign(self.classes["difference"].to_numpy())
        rows = np.concatenate([np.flatnonzero(signs > 0)[:SIDE], np.flatnonzero(signs < 0)[-SIDE:]])
        return self.classes.iloc[rows]


def class_figures(results: Results) -> Iterator[Picture]:
    """The classes of the largest gains and losses of the first compared pairs, for `PICTURES` pairs × protocols."""
    drawn = [own for own in class_differences(results) if len(own.extremes)]
    for number, own in enumerate(drawn[:PICTURES], start=1):
        caption = f"{own.a} minus {own.b} by class on {own.protocol}: the largest gains and losses."
        yield Picture("classes", f"classes-{number}", caption, _figure(own))


def class_tables(results: Results) -> Iterator[Table]:
    """The classes that the figures show as a table, and all classes in its file."""
    found = class_differences(results)
    shown = [own for own in found if len(own.extremes)][:PICTURES]
    if not shown:
        return
    rows = [cells(*_row(own, line)) for own in shown for _, line in own.extremes.iterrows()]
    values = frame(
        {"a": own.a, "b": own.b, "protocol": own.protocol} | {str(name): value for name, value in line.items()}
        for own in found
        for _, line in own.classes.iterrows()
    )
    grouped = any(own.grouped for own in shown)
    caption = (
        f"{results.title}: the {SIDE} classes of the largest gains and losses in top-1, in points, mean over seeds, "
        f"with bootstrap intervals over the class's {'groups of ' * grouped}videos given the seeds, for the first "
        f"{len(shown)} of the compared pairs and protocols.{' Videos: in brackets, their groups.' * grouped} The CSV "
        f"file has every class of the first {len(found)}. Classes chosen by these numbers "
        "overstate differences, and the intervals are not corrected for their number."
    )
    yield Table("classes", "classes", caption, columns(HEADS), tuple(rows), values=values)


@lru_cache(maxsize=2)
def class_differences(results: Results) -> tuple[ClassDifferences, ...]:
    """The first `CASES` compared pairs × protocols that both sides have results of and measure as the column says."""
    return tuple(islice(_differences(results), CASES))


def _differences(results: Results) -> Iterator[ClassDifferences]:
    cells = results.table.groupby([*TRIAL[:3], "protocol"], sort=False).indices
    for a, b in pairings(results):
        names = [results.name(side) for side in (a, b)]
        for protocol in results.roles:
            if any(side[f"{protocol}_deviation"] or not side[f"{protocol}_n"] for side in (a, b)):
                continue
            keys = [(side["row"], side["point"], side["expert"], protocol) for side in (a, b)]
            first, second = (_by_video(results, results.table.iloc[cells[key]]) for key in keys)
            difference = (100 * (first - second)).dropna()
            if difference.index.get_level_values("class").nunique() > 1:
                seeds = (int(a[f"{protocol}_n"]), int(b[f"{protocol}_n"]))
                seed = seed_for("bootstrap classes", protocol)
                yield ClassDifferences(names[0], names[1], protocol, seeds, _by_class(difference, seed))


def _by_video(results: Results, lines: pd.DataFrame) -> pd.Series:
    """Correctness by video, class name and group of one cell, the mean over seeds, and over splits of the video."""
    own = lines[lines.groupby("seed")["identity"].transform("min") != ""].drop_duplicates(["seed", "identity"])
    by_part = own.groupby("part", sort=False)
    parts = [_part(results, seeds["dataset"].iloc[0], list(seeds["identity"])) for _, seeds in by_part]
    return pd.concat(parts).groupby(["video", "class", "group"], sort=False)["correct"].mean()


def _part(results: Results, dataset: str, identities: list[str]) -> pd.DataFrame:
    first = results.predictions(identities[0])
    labels = _names(results, identities[0], first["label"])
    correct_N = np.mean([results.correct(identity) for identity in identities], axis=0)
    own = {"video": first["video"], "class": labels, "group": results.group_names(dataset, first["video"])}
    return pd.DataFrame({**own, "correct": correct_N}).dropna()


def _by_class(difference: pd.Series, seed: int) -> pd.DataFrame:
    found = difference.groupby("class", sort=False).agg(videos="size", difference="mean").reset_index()
    units = difference.groupby(["class", "group"], sort=False).agg(["sum", "size"])
    by_class = [own.to_numpy() for _, own in units.groupby("class", sort=False)]
    groups_C = np.array([len(own) for own in by_class])
    sum_U, size_U = np.concatenate(by_class).T
    means_BC, mean_C = _resample_classes(sum_U, size_U, groups_C, seed), found["difference"].to_numpy()
    few_C = np.where(groups_C < found["videos"], tails(groups_C) * np.sqrt(groups_C / np.maximum(groups_C - 1, 1)), 1)
    bounds_2C = np.array(percentiles(means_BC, axis=0))
    low, high = bounds_2C + (few_C - 1) * (bounds_2C - mean_C)
    for place in np.flatnonzero(high - low < FLAT):  # the class's videos have the same difference
        share, groups = mean_C[place] / 100, int(groups_C[place])
        low[place], high[place], _ = 100 * np.array(tango(max(share, 0) * groups, max(-share, 0) * groups, groups))
    few = groups_C < FEWEST
    found = found.assign(groups=groups_C, low=np.where(few, np.nan, low), high=np.where(few, np.nan, high))
    return found.sort_values("difference", ascending=False, kind="stable", ignore_index=True)


def _resample_classes(
    sum_U: NDArray[np.float64], size_U: NDArray[np.float64], groups_C: NDArray[np.intp], seed: int
) -> NDArray[np.float64]:
    """Means [B,C] of classes whose groups of videos are resampled within the class; values in the order of classes."""
    first_C = np.cumsum(groups_C) - groups_C
    first_U, groups_U = np.repeat(first_C, groups_C), np.repeat(groups_C, groups_C)
    picks_BU = first_U + (np.random.default_rng(seed).random((DRAWS, len(sum_U))) * groups_U).astype(int)
    sums_BC, sizes_BC = (np.add.reduceat(own_U[picks_BU], first_C, axis=1) for own_U in (sum_U, size_U))
    means_BC: NDArray[np.float64] = sums_BC / sizes_BC
    return means_BC


def _row(own: ClassDifferences, line: pd.Series) -> tuple[str, ...]:
    interval = "–" if np.isnan(line["low"]) else interval_text(line["low"], line["high"])
    videos = f"{line['videos']} ({line['groups']})" if line["groups"] < line["videos"] else str(line["videos"])
    return own.a, own.b, own.protocol, str(line["class"]), videos, signed(line["difference"]), interval


def _figure(own: ClassDifferences) -> Figure:
    lines = own.extremes
    note = (
        f"{len(lines)} of {len(own.classes)} classes, with numbers of videos ({own.classes['videos'].sum()} in all); "
        f"n = {own.seeds[0]} / {own.seeds[1]} seeds.\nBars: 95 % bootstrap intervals over the class's "
        f"{'groups of ' * own.grouped}videos.\n"
        "Classes chosen by these numbers overstate differences."
    )
    panel, title = (
        Panel(partial(_draw, lines=lines), x="top-1 of the class (points)"),
        f"{own.a} − {own.b}: {own.protocol}",
    )
    return style.figure([panel], WIDTH, max(2.2, 1.1 + 0.2 * len(lines)), title=title, note=note)


def _draw(axes: Axes, lines: pd.DataFrame) -> None:
    axes.axvline(0, color=style.FAINT, linewidth=0.8)
    for place, (_, line) in enumerate(lines.iterrows()):
        colour, middle = style.PALETTE[0 if line["difference"] > 0 else 1], line["difference"]
        if not np.isnan(line["low"]):
            axes.plot([line["low"], line["high"]], [place, place], color=colour, linewidth=0.9)
        axes.plot([middle], [place], color=colour, marker="o", markersize=4, linestyle="none")
    _name_classes(axes, lines, LONGEST)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.grid(axis="x", color=style.GRID, linewidth=0.5)

"""Categories: what each choice of experts can do class by class, on classes never seen (MoTE, Fig. 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import style
from reports.results import Results

ClassNames = Callable[[str], Sequence[str]]  # the candidate classes of an evaluation, by its identity

SHOWN = 12  # classes of a figure
LONGEST = 26  # characters of a class name that a column has room for
SETTING = ["row", "label", "point", "protocol"]


def category_table(results: Results, class_names: ClassNames) -> pd.DataFrame:
    """A line per row, point, protocol, class and choice of experts: top-1 in percent, mean and s.d. over seeds.

    Zero-shot protocols, or all where there is none. A class has the mean of the parts that have it, and is known by its
    name because parts may number classes otherwise; `videos` counts those of all parts. A seed that lacks a part is
    left out. `spread` is the largest difference between two choices. No lines without expert choices.
    """
    lines = results.evaluations().query("expert != ''")
    lines = lines[lines["protocol"].isin(results.of_role("zero-shot") or results.roles)]
    complete = lines.groupby([*SETTING, "expert", "seed"], sort=False)["identity"].transform("min") != ""
    parts = [_part(line, results, class_names) for _, line in lines[complete].iterrows()]
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


def category_figures(results: Results, class_names: ClassNames) -> dict[tuple[str, str, str], Figure]:
    """Per (row id, point, protocol), the classes in which the choices of experts differ most."""
    table = category_table(results, class_names)
    return {
        (str(row), str(point), str(protocol)): _figure(lines)
        for (row, point, protocol), lines in table.groupby(["row", "point", "protocol"], sort=False)
    }


def _part(line: pd.Series, results: Results, class_names: ClassNames) -> pd.DataFrame:
    """Accuracy of every class that one evaluation has videos of; half-class draws measure some videos never."""
    predictions = results.predictions(line["identity"]).dropna(subset="correct")
    classes = predictions.assign(correct=100 * predictions["correct"].astype(float)).groupby("label")["correct"]
    found = classes.agg(top1="mean", videos="size").reset_index()
    names = class_names(line["identity"])
    found["class"] = [names[label] if label < len(names) else f"class {label}" for label in found["label"]]
    return found.assign(**{name: line[name] for name in (*SETTING, "expert", "seed")})


def _figure(lines: pd.DataFrame) -> Figure:
    first, choices = lines.iloc[0], list(lines["expert"].unique())
    classes = lines.drop_duplicates("class").sort_values("spread", ascending=False, kind="stable")
    drawn = classes.head(SHOWN)
    with style.look():
        figure, (axes,) = style.panels(1, 3.6, max(2.2, 0.95 + 0.25 * len(drawn)))
        for place, (_, own) in enumerate(drawn.iterrows()):
            _draw_class(axes, place, lines[lines["class"] == own["class"]], choices)
        axes.set_yticks(range(len(drawn)), [_class_label(own) for _, own in drawn.iterrows()], parse_math=False)
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.set_xlim(-3, 103)
        axes.grid(axis="x", color=style.GRID, linewidth=0.5)
        axes.set_xlabel(f"top-1 of the class, {first['protocol']} (%)", parse_math=False)
        title = ", ".join(filter(None, [first["label"], first["point"]]))
        handles = axes.get_legend_handles_labels()
        unique = dict(zip(reversed(handles[1]), reversed(handles[0]), strict=True))
        figure.legend(
            [unique[name] for name in choices], choices, loc="outside upper center", ncols=min(5, len(choices)),
            fontsize=style.SMALL, frameon=False, handletextpad=0.1, columnspacing=0.8, title=title, title_fontsize=8,
        )  # fmt: skip
        style.note(figure, _note(lines, len(drawn), len(classes)))
    return figure


def _draw_class(axes: Axes, place: int, lines: pd.DataFrame, choices: Sequence[str]) -> None:
    """The choices of one class below each other, with one standard deviation over seeds."""
    marks = style.marks(choices, choices[0])
    axes.plot([lines["mean"].min(), lines["mean"].max()], [place, place], color=style.GRID, linewidth=4, zorder=1)
    for _, line in lines.iterrows():
        mark, shift = marks[line["expert"]], np.linspace(-0.3, 0.3, len(choices))[choices.index(line["expert"])]
        axes.errorbar(
            line["mean"], place + shift, xerr=np.nan_to_num(line["std"]), color=mark.colour, marker=mark.marker,
            markersize=7 if mark.marker == "*" else 4, markeredgecolor="white", markeredgewidth=0.4, elinewidth=0.8,
            linestyle="none", label=line["expert"], zorder=3,
        )  # fmt: skip


def _class_label(line: pd.Series) -> str:
    name = str(line["class"])
    return f"{name if len(name) <= LONGEST else name[: LONGEST - 1] + '…'} ({line['videos']})"


def _note(lines: pd.DataFrame, drawn: int, classes: int) -> str:
    seeds = int(lines["seeds"].min())
    which = (
        f"The {drawn} of {classes} classes in which choices differ most"
        if drawn < classes
        else f"All {classes} classes"
    )
    bars = f"Means ±1 s.d. over {seeds} seeds" if seeds > 1 else "One seed"
    return f"{which}, with numbers of videos.\n{bars}.\nClasses chosen by these numbers overstate differences."

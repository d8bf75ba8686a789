"""What the rows of note answer class by class: accuracies of all rows, the most frequent confusions, and their matrix.

The rows of note are the best one and the reference, or the next best one where the reference is the best or there is
none. C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import chain

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reports import style
from reports.findings import complete_lines
from reports.results import Results
from reports.style import Panel, Picture
from reports.table import Column, Table, TableCell, cells, columns

ANSWER = ["row", "protocol", "class", "answer"]
NO_ANSWER = ""  # to a video that could not be decoded
CONFUSIONS = 5  # of each row of note, on each protocol
LINES, FEWEST = 60, 3  # classes of the table of accuracies, and of each protocol at least; its file has all
LARGEST = 64  # classes of a matrix that can still be read


@lru_cache(maxsize=2)
def contenders(results: Results) -> pd.DataFrame:
    """Lines of `Results.summary`, the best first: each row at its best point of the first panel of the figures.

    The best is that of the first headline measure; rows without all results of it are left out.
    """
    panels = results.facets(results.summary(alike=True), None)
    return complete_lines(next(iter(panels.values())), results.headlines[0]).drop_duplicates("row")


def of_note(results: Results) -> list[pd.Series]:
    """The best line and the reference's, or that of the next best; fewer where there are fewer."""
    best, others = contenders(results).iloc[:1], contenders(results).iloc[1:]
    reference = others[others["row"] == results.settings.reference]
    return [line for _, line in chain(best.iterrows(), (reference if len(reference) else others).iloc[:1].iterrows())]


def evaluated(results: Results, lines: pd.DataFrame) -> pd.DataFrame:
    """The evaluations, one line each, behind some lines of `Results.summary`."""
    own = results.lines(experts=False).merge(lines[["row", "point"]], on=["row", "point"])
    return own[own["identity"] != ""].drop_duplicates(["row", "seed", "protocol", "identity"])


def answers(results: Results, identity: str) -> pd.DataFrame:
    """Of each measured video of an evaluation: `video`, `class`, `answer` as names, and `correct`, sorted by class."""
    table, names = results.predictions(identity).dropna(subset="correct"), results.class_names(identity)
    table = table.sort_values("label", kind="stable")
    label_N, answer_N = (table[name].to_numpy() for name in ("label", "prediction"))
    most = int(max(label_N.max(initial=-1), answer_N.max(initial=-1)))
    names_C = np.array([*names, *(f"class {label}" for label in range(len(names), most + 1))], dtype=object)
    decoded_N = table["failure"].isna().to_numpy() if "failure" in table else True
    return pd.DataFrame(
        {
            "video": table["video"].to_numpy(),
            "class": names_C[label_N],
            "answer": np.where(decoded_N, names_C[answer_N], NO_ANSWER),
            "correct": table["correct"].to_numpy(float),
        }
    )


@lru_cache(maxsize=2)
def answered(results: Results) -> pd.DataFrame:
    """How often the contenders answered a class with another one: `count`, and how many of those were `correct`.

    A line for each of `ANSWER`, in the order of classes; answers of all seeds and splits together. A protocol that
    draws halves of the classes has the answers among all of them, but `correct` is of the draws.
    """
    found = [
        answers(results, line["identity"])
        .groupby(["class", "answer"], sort=False, as_index=False)["correct"]
        .agg(count="size", correct="sum")
        .assign(row=line["row"], protocol=line["protocol"])
        for line in evaluated(results, contenders(results)).to_dict("records")
    ]
    if not found:
        return pd.DataFrame(columns=[*ANSWER, "count", "correct"])
    summed: pd.DataFrame = pd.concat(found).groupby(ANSWER, sort=False, as_index=False)[["count", "correct"]].sum()
    return summed


def class_accuracy_tables(results: Results) -> Iterator[Table]:
    """The accuracy of every row on every class; the page has those of each protocol that the best row knows least."""
    if (found := answered(results)).empty:
        return
    sums = found.groupby(["protocol", "class", "row"], sort=False)[["count", "correct"]].sum()
    wide = (100 * sums["correct"] / sums["count"]).unstack("row").reindex(columns=contenders(results)["row"])
    per_seed = sums["count"].unstack("row") / contenders(results).set_index("row")["seeds"]
    videos = per_seed.max(axis=1).round().astype(int)
    room = max(FEWEST, LINES // wide.index.get_level_values("protocol").nunique())
    order = wide.iloc[:, 0].sort_values(kind="stable").index
    hardest = wide.loc[order].groupby(level="protocol", sort=False).head(len(wide) if len(wide) <= LINES else room)
    hardest = hardest.reindex([key for key in wide.index if key in hardest.index])
    names = [Column(results.name(line), True) for _, line in contenders(results).iterrows()]
    rows = [
        (*cells(str(name), str(protocol), str(videos[protocol, name])), *map(_percent, own))
        for (protocol, name), own in zip(hardest.index, hardest.to_numpy(), strict=True)
    ]
    which = (
        f"the {room} classes of each protocol that are hardest for the best row"
        if len(hardest) < len(wide)
        else "every class"
    )
    caption = (
        f"{results.title}: top-1 of {which}, in percent, each row at its best point, the best row first. Videos: of "
        "the class, in all splits. The CSV file has every class, under the ids of the rows."
    )
    heads = columns({"Class": False, "Protocol": False, "Videos": True})
    values = wide.assign(videos=videos).reset_index()
    yield Table("classes", "class-accuracies", caption, (*heads, *names), tuple(rows), values=values)


def confusion_tables(results: Results) -> Iterator[Table]:
    """The most frequent confusions of each row of note on each protocol, beside those of the other one."""
    noted, found = of_note(results), answered(results)
    found = found.assign(of=found.groupby(ANSWER[:3])["count"].transform("sum"))
    found = found.assign(share=100 * found["count"] / found["of"])
    wrong = found[(found["answer"] != found["class"]) & (found["answer"] != NO_ANSWER)]
    ids, names = [line["row"] for line in noted], [results.name(line) for line in noted]
    wrong = wrong[wrong["row"].isin(ids)]
    if wrong.empty:
        return
    ranked = wrong.sort_values(["share", "count"], ascending=False, kind="stable")
    most = ranked.groupby(["row", "protocol"], sort=False).head(CONFUSIONS)
    counts, of = wrong.set_index(ANSWER)["count"].to_dict(), found.set_index(ANSWER[:3])["of"].to_dict()
    rows = [
        (
            *cells(str(name), str(answer), protocol),
            *(_times(counts.get((row, protocol, name, answer), 0), of.get((row, protocol, name))) for row in ids),
        )
        for protocol in results.roles
        for name, answer in most.loc[most["protocol"] == protocol, ANSWER[2:]].drop_duplicates().itertuples(index=False)
    ]
    caption = (
        f"{results.title}: the most frequent confusions of {' and '.join(names)}. The {CONFUSIONS} of each row on each "
        "protocol by their share: how many of the answers to videos of a class, in all splits and seeds together, were "
        "this other class. The CSV file has every confusion of these rows."
    )
    heads = (
        *columns({"Class": False, "Answered as": False, "Protocol": False}),
        *(Column(name, True) for name in names),
    )
    values = wrong.drop(columns="correct")
    yield Table("classes", "confusions", caption, heads, tuple(rows), values=values)


def confusion_figures(results: Results) -> Iterator[Picture]:
    """The matrices of the rows of note on the first closed-set protocol, if it has few enough classes."""
    noted, found = of_note(results), answered(results)
    for protocol in results.of_role("closed-set")[:1]:
        own = found[found["protocol"] == protocol]
        names = list(dict.fromkeys(own["class"]))
        if noted and 1 < len(names) <= LARGEST:
            matrices = [_matrix(own[own["row"] == line["row"]], names) for line in noted]
            titles = [results.name(line) for line in noted]
            caption = f"How often {' and '.join(titles)} answered each class of {protocol} with each other one."
            yield Picture("classes", "confusions", caption, _figure(matrices, titles, names, protocol))


def _percent(value: float) -> TableCell:
    return TableCell("–" if np.isnan(value) else f"{value:.1f}")


def _times(count: int, of: int | None) -> TableCell:
    return TableCell(f"{count} of {of} ({100 * count / of:.0f} %)" if of else "–")


def _matrix(own: pd.DataFrame, names: list[str]) -> NDArray[np.float64]:
    """Percent of the answers to each class [C,C], true classes downwards; nan for a class without videos."""
    counts = own.pivot_table(index="class", columns="answer", values="count", aggfunc="sum", fill_value=0)
    matrix_CC = counts.reindex(index=names, columns=names, fill_value=0).to_numpy(float)
    of_C = counts.sum(axis=1).reindex(names).to_numpy(float)
    found: NDArray[np.float64] = 100 * matrix_CC / of_C[:, None]
    return found


def _figure(matrices: list[NDArray[np.float64]], titles: list[str], names: list[str], protocol: str) -> Figure:
    size = min(7.0, 190 / len(names))  # points, of the names of classes
    side = max(3.2, min(4.2, 1.4 + 0.13 * len(names)))
    parts = [
        Panel(
            partial(_draw, matrix=matrix, names=names, size=size),
            style.wrapped(style.shortened(title, 60), side - 1.6, 9),
            *("answer", "class"),
        )
        for matrix, title in zip(matrices, titles, strict=True)
    ]

    def bar(panels: list[Axes]) -> None:
        own = panels[0].figure.colorbar(panels[0].images[0], ax=panels, shrink=0.6, aspect=30)
        own.set_label("% of the answers to the class", fontsize=7)

    note = f"{len(names)} classes of {protocol}; answers of all seeds and splits together."
    return style.figure(parts, side + 0.4, side, small=True, note=note, after=bar)


def _draw(axes: Axes, matrix: NDArray[np.float64], names: list[str], size: float) -> None:
    axes.imshow(matrix, vmin=0, vmax=100, cmap="Blues", interpolation="nearest")
    short = [style.shortened(name, 24) for name in names]
    axes.set_xticks(range(len(names)), short, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(names)), short, fontsize=size, parse_math=False)
    axes.tick_params(length=0, pad=1)

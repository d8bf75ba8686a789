"""What the numbers say, in sentences made from the numbers."""

from __future__ import annotations

import pandas as pd

from reports.results import Results, is_draw
from reports.tables import cell


def findings(results: Results) -> list[str]:
    """How much is measured, which row is best in each facet, the best of the reference, and what is not compared."""
    table, summary = results.evaluations(), results.summary(alike=True)
    choices = ", expert choices included" if (table["expert"] != "").any() else ""
    done = f"{table['top1'].notna().sum()} of {len(table)} results are there{choices}"
    trials = f"{table['row'].nunique()} rows, {summary['seeds'].sum()} trials (rows × points × seeds)"
    protocols = "1 protocol" if len(results.roles) == 1 else f"{len(results.roles)} protocols"
    sentences = [f"{trials} on {protocols}; {done}."]
    for title, lines in results.facets(summary, None).items():
        for measure in results.headlines:
            sentences += _facet(results, measure, f" ({title})" if title else "", lines)
    if set(results.axes) - set(results.protocol_axes):
        sentences.append("The best point is chosen by the numbers reported here, so it flatters rows with many points.")
    deviating = table.loc[table["deviation"] != "", ["row", "point", "protocol"]].drop_duplicates()
    if len(deviating):
        cells = "1 cell is" if len(deviating) == 1 else f"{len(deviating)} cells are"
        sentences.append(f"{cells} measured otherwise than the column says (†): shown, but not compared or combined.")
    return sentences


def undecodable(results: Results) -> list[str]:
    """One sentence per protocol with videos that could not be decoded."""
    table = results.evaluations()
    return [
        f"{protocol}: up to {group['undecodable'].max():.0f}{_of_videos(group)} videos could not be "
        f"decoded and count as wrong ({len(group)} results)."
        for protocol, group in table[table["undecodable"] > 0].groupby("protocol", sort=False)
    ]


def missing(results: Results) -> list[str]:
    """One entry per row, point, expert, protocol and part without all its results, with the seeds that lack."""
    lines = results.table[results.table["top1"].isna()]
    groups = lines.groupby(["label", "point", "expert", "protocol", "part"], sort=False)
    return [
        f"{', '.join(filter(None, names))}: seed {', '.join(str(seed) for seed in group['seed'])}"
        for names, group in ((tuple(map(str, key)), group) for key, group in groups)
    ]


def _of_videos(lines: pd.DataFrame) -> str:
    """Out of how many; not for draws of classes, which have fewer videos than were decoded."""
    return "" if is_draw(lines["part"]).any() else f" of {lines['videos'].max():.0f}"


def _facet(results: Results, measure: str, where: str, lines: pd.DataFrame) -> list[str]:
    title = results.words(measure)
    complete = lines[lines[f"{measure}_n"] == lines["seeds"]]
    if complete.empty:
        return [f"No row has a complete {title} yet{where}."]
    best = complete.iloc[int(complete[f"{measure}_mean"].argmax())]
    named = [axis for axis in results.axes if axis not in results.facet_axes(None)]
    sentences = [f"Best {title}{where}: {results.name(best, named)} with {_numbers(results, measure, best)}."]
    reference = complete[complete["row"] == results.settings.reference].nlargest(1, f"{measure}_mean")
    for _, line in reference.drop(index=best.name, errors="ignore").iterrows():
        gain = best[f"{measure}_mean"] - line[f"{measure}_mean"]
        behind = f", {gain:.1f} points below the best" if gain > 0 else ""
        what = f", {title}" if len(results.headlines) > 1 else ""
        name, numbers = results.name(line, named), _numbers(results, measure, line)
        sentences.append(f"Reference{what}{where}: {name} with {numbers}{behind}.")
    return sentences


def _numbers(results: Results, measure: str, line: pd.Series) -> str:
    def percent(name: str) -> str:
        return f"{cell(line, name, results).text()} %"

    sides = [f"{results.measures[need].title} {percent(need)}" for need in results.measures[measure].needs]
    seeds = "1 seed" if line["seeds"] == 1 else f"n = {line['seeds']} seeds"
    return f"{percent(measure)} ({'; '.join(filter(None, [', '.join(sides), seeds]))})"

"""What the numbers say, in sentences made from the numbers."""

from __future__ import annotations

import pandas as pd

from reports.results import Results
from reports.tables import cell


def findings(results: Results) -> list[str]:
    """How much is measured, which row has the best trade-off in each facet, and what the reference has."""
    table, summary = results.table, results.summary()
    choices = ", expert choices included" if (table["expert"] != "").any() else ""
    done = f"{table['top1'].notna().sum()} of {len(table)} results are there{choices}"
    trials = f"{table['row'].nunique()} rows, {summary['seeds'].sum()} trials (rows × points × seeds)"
    sentences = [f"{trials} on {table['protocol'].nunique()} protocols; {done}."]
    for title, lines in results.facets(summary, None).items():
        sentences += _facet(results, f" ({title})" if title else "", lines)
    if results.axes:
        sentences.append("The best point is chosen by the numbers reported here, so it flatters rows with many points.")
    return sentences


def undecodable(results: Results) -> list[str]:
    """One sentence per protocol with videos that could not be decoded."""
    lines = results.table[results.table["undecodable"] > 0]
    return [
        f"{protocol}: up to {group['undecodable'].max():.0f} of {group['videos'].max():.0f} videos could not be "
        f"decoded and count as wrong ({len(group)} results)."
        for protocol, group in lines.groupby("protocol", sort=False)
    ]


def missing(results: Results) -> list[str]:
    """One entry per row, point, expert and protocol without all its results, with the seeds that lack."""
    lines = results.table[results.table["top1"].isna()]
    groups = lines.groupby(["label", "point", "expert", "protocol"], sort=False)
    return [
        f"{', '.join(filter(None, names))}: seed {', '.join(str(seed) for seed in group['seed'])}"
        for names, group in ((tuple(map(str, key)), group) for key, group in groups)
    ]


def _facet(results: Results, where: str, lines: pd.DataFrame) -> list[str]:
    complete = lines[lines["trade_off_n"] == lines["seeds"]]
    if complete.empty:
        return [f"No row has a complete trade-off yet{where}."]
    best = complete.iloc[int(complete["trade_off_mean"].argmax())]
    named = [axis for axis in results.axes if axis not in results.facet_axes(None)]
    sentences = [f"Best trade-off{where}: {results.name(best, named)} with {_numbers(results, best)}."]
    for _, line in complete[complete["row"] == results.settings.reference].iterrows():
        gain = best["trade_off_mean"] - line["trade_off_mean"]
        behind = f", {gain:.1f} points below the best" if gain > 0 else ""
        sentences.append(f"Reference{where}: {results.name(line, named)} with {_numbers(results, line)}{behind}.")
    return sentences


def _numbers(results: Results, line: pd.Series) -> str:
    closed = results.protocols("closed-set")[0]
    trade_off, seen, unseen = (cell(line, measure).text() for measure in ("trade_off", closed, "hm_zs"))
    seeds = "1 seed" if line["seeds"] == 1 else f"n = {line['seeds']} seeds"
    return f"{trade_off} % (closed-set {seen} %, HM_ZS {unseen} %; {seeds})"

"""The findings of a report in sentences made from its numbers, and what failed or is missing."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from bench.core.words import counted
from reports.accuracies import DIGITS, score
from reports.bootstrap import Gap, bootstrap
from reports.comparisons import LEVEL, Pairing, column_tests, interval_text, lacking, p_text
from reports.costs import GIGA, MEGA, cost_values, digits
from reports.results import Results, is_draw, place_of
from reports.table import Table, cells, columns

FAILURE_HEADS = {"Stage": False, "Attempts": True, "Failed": True, "Last reason": False}
MOST_NAMED = 4  # rows that the headline names
MOST = 3  # panels that the headline tells, each in a sentence
FAILURES = (
    "Stages of this suite that failed and have no record yet, from the store's log of attempts, with the last line of "
    "what the last failure said, and those whose record is damaged: they did run, and a run makes them again."
)


def findings(results: Results) -> list[str]:
    """Sentences on the best row of each facet, its lead, significance and cost; then the number of results."""
    table, summary = results.evaluations(), results.summary(alike=True)
    sentences = []
    for title, lines in results.facets(summary, None).items():
        for measure in results.headlines:
            sentences += _facet(results, measure, f" ({title})" if title else "", lines)
    if set(results.axes) - set(results.protocol_axes) and any(own.startswith("Best") for own in sentences):
        sentences.append("The best point is chosen by the numbers reported here, so it flatters rows with many points.")
    sentences += [results.tuning.sentence] if results.tuning else []
    choices = ", expert choices included" if (table["expert"] != "").any() else ""
    be = "is" if len(table) == 1 else "are"
    done = f"{table['top1'].notna().sum()} of {counted(len(table), 'result')} {be} there{choices}"
    sizes = counted(table["row"].nunique(), "row"), counted(int(summary["seeds"].sum()), "trial")
    trials = f"{', '.join(sizes)} (rows × points × seeds)"
    sentences.append(f"{trials} on {counted(len(results.roles), 'protocol')}; {done}.")
    if apart := results.measured_with(place_of(line) for _, line in summary.iterrows()):
        sentences.append(f"Not measured alike: {apart}.")
    deviating = table.loc[table["deviation"] != "", ["row", "point", "protocol"]].drop_duplicates()
    if len(deviating):
        cells = "1 cell is" if len(deviating) == 1 else f"{len(deviating)} cells are"
        sentences.append(f"{cells} measured otherwise than the column says (†): shown, but not compared or combined.")
    return sentences


def headline(results: Results) -> str:
    """One sentence to quote, on the first of the measures that summarize the suite; empty where nothing can be told.

    E.g. "On trade-off, MoTE and Dense temporal tie (not enough seeds to tell); CLIP mean-pool is significantly worse".
    """
    facets, several = results.facets(results.summary(alike=True), None), len(results.facet_axes(None)) > 0
    if results.sides or len(facets) > MOST:
        return ""
    told = (_told(results, lines, f" ({title})" if several else "") for title, lines in facets.items())
    sentences = [*filter(None, told)]
    return " ".join([*sentences, results.tuning.caution if results.tuning and sentences else ""]).strip()


def _told(results: Results, lines: pd.DataFrame, panel: str) -> str:
    """The sentence of a panel."""
    measure = results.headlines[0]
    complete = complete_lines(lines, measure)
    first = complete.drop_duplicates("row")
    if len(first) < 2:
        return ""
    best, gaps = place_of(first.iloc[0]), column_tests(results)
    tested = {
        str(line["label"]): gaps.get((measure, frozenset((best, place_of(line))))) for _, line in first.iterrows()
    }
    worse = [label for label, gap in tested.items() if gap and gap.p < LEVEL]
    level = [label for label, gap in tested.items() if gap and label not in worse]
    where = f"On {results.words(measure)}{panel}, "
    verdicts = [
        lacking(results, measure, Pairing(first.iloc[0], line), gap)
        for _, line in first.iloc[1:].iterrows()
        if (gap := tested[str(line["label"])]) and gap.p >= LEVEL
    ]
    tie = f"tie{_too_little(verdicts)}"
    runs = "" if (complete["seeds"] > 1).any() else ", by one run each"
    if len(level) == 1:
        return f"{where}{level[0]} is significantly better than {_named(worse, 'all other rows')}{runs}."
    if not worse:
        everyone = _named(level, f"all {len(level)} rows")
        return f"{where}{everyone} {tie}{runs}: none is significantly worse than the best."
    below = f"{_named(worse, f'the other {len(worse)} rows')} {'is' if len(worse) == 1 else 'are'} significantly worse"
    if len(level) > MOST_NAMED:
        return f"{where}{len(level)} rows {tie}, {level[0]} first; {below}{runs}."
    return f"{where}{_named(level, '')} {tie}; {below}{runs}."


def _too_little(verdicts: list[str]) -> str:
    """What ties rest on too little of, in brackets; empty if there is enough."""
    found = [what for what in ("seeds", "videos") if any(what in verdict for verdict in verdicts)]
    apart = "" if all(verdicts) else " all apart"
    return f" (not enough {' or '.join(found)} to tell{apart})" if found else ""


def _named(labels: list[str], many: str) -> str:
    """Up to four labels, "a, b and c"; `many` in the place of more."""
    return many if len(labels) > MOST_NAMED else " and ".join(filter(None, [", ".join(labels[:-1]), labels[-1]]))


def undecodable(results: Results) -> list[str]:
    """One sentence per protocol with videos that could not be decoded."""
    table = results.evaluations()
    return [
        f"{protocol}: up to {group['undecodable'].max():.0f}{_of_videos(group)} videos could not be "
        f"decoded and count as wrong ({counted(len(group), 'result')})."
        for protocol, group in table[table["undecodable"] > 0].groupby("protocol", sort=False)
    ]


def missing(results: Results) -> list[str]:
    """An entry for every row, point, expert, protocol and part that lacks results, with the seeds."""
    table = (results.tuning.full if results.tuning else results).table  # of all settings that were tried
    lines = table[table["top1"].isna()]
    seeds = lines.groupby(["label", "point", "expert", "protocol", "part"], sort=False)["seed"]
    return [f"{', '.join(filter(None, map(str, names)))}: seed {', '.join(map(str, own))}" for names, own in seeds]


def failure_tables(results: Results) -> Iterator[Table]:
    """The failed stages that have no record yet; nothing if there are none."""
    failed = [own for own in results.failures if not own.done]
    if failed:
        rows = tuple(cells(own.title, str(own.attempts), str(own.failures), own.reason) for own in failed)
        yield Table("missing", "failures", FAILURES, columns(FAILURE_HEADS), rows)


def _of_videos(lines: pd.DataFrame) -> str:
    """The number of all videos; empty for draws of classes, which have fewer videos than were decoded."""
    return "" if is_draw(lines["part"]).any() else f" of {lines['videos'].max():.0f}"


def complete_lines(lines: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The lines that have a measure in all of their seeds, the best first."""
    own = lines[lines[f"{measure}_n"] == lines["seeds"]]
    return own.sort_values(f"{measure}_mean", ascending=False, kind="stable")


def _facet(results: Results, measure: str, where: str, lines: pd.DataFrame) -> list[str]:
    """The best, the next best row and the reference, each with its distance; a row has its best point."""
    title, mean = results.words(measure), f"{measure}_mean"
    complete = complete_lines(lines, measure)
    if complete.empty:
        return [f"No row has a complete {title} yet{where}."]
    best, rest = complete.iloc[0], complete.iloc[1:]
    resampled, facets = bootstrap(results, False), results.facet_axes(None)
    if complete[mean].round(DIGITS).nunique() == 1:
        return [_no_best(results, measure, where, complete)]
    names = {
        index: results.name(line, [axis for axis in results.axes if axis not in facets])
        for index, line in complete.iterrows()
    }
    sentences = [f"Best {title}{where}: {names[best.name]} with {_numbers(results, measure, best)}."]
    gaps = column_tests(results)
    others = rest[rest["row"] != best["row"]]
    reference = complete[complete["row"] == results.settings.reference].index[:1]
    shown = dict.fromkeys(others.index[:1], "Next")
    shown |= dict.fromkeys(reference.drop([best.name], errors="ignore"), "Reference")
    of = f", {title}" if len(results.headlines) > 1 else ""
    for index, what in shown.items():
        line = complete.loc[index]
        pair = [place_of(side) for side in (best, line)]
        alone = any(resampled.alone(place, measure) for place in pair)
        numbers = _numbers(results, measure, line) if what == "Reference" else f"{line[mean]:.1f} %"
        level = round(line[mean], DIGITS) == round(best[mean], DIGITS)
        behind = "as good as the best" if level else _behind(gaps[measure, frozenset(pair)], alone)
        sentences.append(f"{what}{of}{where}: {names[index]} with {numbers}, {behind}.")
    return sentences + _costs(results, where, {names[index]: complete.loc[index] for index in (best.name, *shown)})


def _no_best(results: Results, measure: str, where: str, complete: pd.DataFrame) -> str:
    """The sentence in the place of the best, where there is a single number or all are equal."""
    first, title = complete.iloc[0], results.words(measure)
    numbers = _numbers(results, measure, first)
    if len(complete) == 1:
        return f"No best {title}{where}: only {results.name(first)} has all results, {numbers}."
    return f"No best {title}{where}: all {len(complete)} have {numbers}."


def _behind(gap: Gap, alone: bool) -> str:
    """E.g. "2.1 points below the best (95 % interval 0.4 to 3.8; significant, p = 0.012 after Holm over 5 tests)"."""
    p = p_text(gap.p)
    holm = f"p {p if p.startswith('<') else f'= {p}'}" + (
        f" after Holm over {gap.tests} tests" if gap.tests > 1 else ""
    )
    verdict = "significant" if gap.p < LEVEL else "not significant"
    over = "over videos alone: one run" if alone else "over videos and seeds"
    interval = f"95 % interval {interval_text(gap.low, gap.high)} for this pair"
    return f"{gap.points:.1f} points below the best ({verdict} {over}, {holm}; {interval})"


def _costs(results: Results, where: str, lines: dict[str, pd.Series]) -> list[str]:
    """Costs of the named rows that have a profile: GFLOPs per video, and trainable parameters."""
    profiles = {cost.setting: cost_values(cost.result) for cost in results.costs}
    found = {name: profiles.get((line["row"], line["point"])) for name, line in lines.items()}
    texts = [
        f"{name} {digits(profile['flops_video_counted'] / GIGA)} GFLOPs per video, "
        f"{digits(profile['parameters_trainable'] / MEGA)} M trainable parameters"
        for name, profile in found.items()
        if profile
    ]
    return [f"Cost{where}: {'; '.join(texts)}."] if texts else []


def _numbers(results: Results, measure: str, line: pd.Series) -> str:
    def percent(name: str) -> str:
        return f"{score(line, name, results).text} %"

    sides = [f"{results.measures[need].title} {percent(need)}" for need in results.measures[measure].needs]
    seeds = "1 seed" if line["seeds"] == 1 else f"n = {line['seeds']} seeds"
    return f"{percent(measure)} ({'; '.join(filter(None, [', '.join(sides), seeds]))})"

"""Alarms: numbers of a suite that are probably not what they seem, with what that commonly means.

Rows that share their trained weights, because only inference differs, may well agree; that is no alarm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import pandas as pd
from scipy import stats

from bench.core.words import counted
from bench.measure.statistics import TAILS
from reports.accuracies import score
from reports.beside import measured_pairs
from reports.results import PLACE, TRIAL, Results, is_draw

WRONG = 3  # videos that rows have to get wrong alike; that both are right about everything is no wonder
CLEAR = 0.25  # guessing must stay this near to its mean, else there are too few videos to say anything
ABOVE = 3.0  # points over the published number
NAMED = 5  # rows that an alarm names


@lru_cache(maxsize=2)
def alarms(results: Results) -> tuple[str, ...]:
    """All alarms of a suite, in sentences; a comparison has none, since its sides may be the same on purpose."""
    if results.sides:
        return ()
    lines = results.lines(experts=False)
    lines = lines[lines["identity"] != ""]
    if "_weights" not in lines:
        lines = lines.assign(_weights=lines["row"] + lines["point"] + lines["seed"].astype(str))
    names = lines.drop_duplicates(PLACE)
    named = {(line["row"], line["point"]): results.name(line) for _, line in names.iterrows()}
    lines = lines.assign(name=[named[key] for key in zip(lines["row"], lines["point"], strict=True)])
    return (
        *results.unsound,
        *_identical(results, lines),
        *_at_chance(results, lines),
        *_above_published(results),
        *_all_tied(results, lines),
    )


def _identical(results: Results, lines: pd.DataFrame) -> Iterator[str]:
    """Rows of other methods or weights that answer every video of a protocol alike."""
    found: dict[tuple[str, ...], list[str]] = {}  # rows -> protocols
    for protocol, group in lines.drop_duplicates(["protocol", "identity", "row", "point"]).groupby(
        "protocol", sort=False
    ):
        for same in _same_answers(results, group):
            names = list(same["name"])
            if (same.groupby("name")["_weights"].nunique() > 1).any():
                names = [f"{name}, seed {seed}" for name, seed in zip(names, same["seed"], strict=True)]
            where = f"{protocol} ({same['top1'].iloc[0]:.1f} % of {same['videos'].iloc[0]:,.0f} videos)"
            found.setdefault(tuple(dict.fromkeys(names)), []).append(where)
    for rows, protocols in found.items():
        yield (
            f"identical predictions: {_listed(rows)} give the same answer to every video of {_listed(protocols)}, "
            "although methods or trained weights differ. Commonly a setting without effect, a training that changed "
            "nothing (its rate, its weights not loaded), or a model that has collapsed to one class."
        )


def _same_answers(results: Results, lines: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Lines of several models with equal predictions, a few of them wrong, or with equal cosines."""
    found: dict[tuple[object, ...], list[int]] = {}
    columns = (lines[name] for name in ("identity", "dataset", "top1", "mean_class"))
    for place, (identity, *measured) in enumerate(zip(*columns, strict=True)):
        answers, scores = results.answered(identity), b""
        if answers.wrong < WRONG:
            scores = blake2b(results.cosines(identity)).digest() if results.cosines else identity.encode()
        found.setdefault((*measured, answers.digest, scores), []).append(place)
    weights = lines["_weights"].to_numpy()
    yield from (lines.iloc[places] for places in found.values() if len({*weights[places]}) > 1)


def _at_chance(results: Results, lines: pd.DataFrame) -> Iterator[str]:
    """Rows that are no better than guessing, as far as their number of videos tells."""
    guesses: dict[tuple[str, int, int], list[str]] = {}  # protocol, videos, classes -> rows
    known = zip(lines["identity"], is_draw(lines["part"]), strict=True)
    classes = np.array([len(results.class_names(identity)) // (1 + drawn) for identity, drawn in known], int)
    low = (classes > 1) & (lines["top1"] <= _guessing(lines["videos"], classes)).to_numpy()
    for (_, _, protocol), group in lines.assign(low=low, among=classes).groupby(
        ["row", "point", "protocol"], sort=False
    ):
        if group["low"].any() and len(at_chance := group[group.groupby("seed")["low"].transform("all")]):
            seeds = at_chance["seed"].unique()
            which = f", seed {', '.join(map(str, seeds))}" if len(seeds) < group["seed"].nunique() else ""
            text = f"{at_chance['name'].iloc[0]}{which} {at_chance['top1'].mean():.1f} %"
            key = (str(protocol), int(at_chance["videos"].iloc[0]), int(group["among"][group["low"]].iloc[0]))
            guesses.setdefault(key, []).append(text)
    for (protocol, videos, among), rows in guesses.items():
        most = _guessing(pd.Series([videos]), np.array([among])).iloc[0]
        yield (
            f"accuracy at chance: on {protocol}, {_listed(rows)}. Guessing gives {100 / among:.1f} % of n = {videos:,} "
            f"videos and C = {among:,} classes, by chance up to {most:.1f} %. Commonly labels in another order than "
            "the class texts, a training that diverged or did not begin, or weights that are not those of the method."
        )


def _guessing(videos: pd.Series, classes: np.ndarray) -> pd.Series:
    """The most percent that guessing gets, two-sided 95 %; -1 where so few videos tell nothing."""
    share = 1 / np.maximum(classes, 1)
    most = pd.Series(stats.binom.ppf(TAILS[1], videos, share) / videos, videos.index)
    return (100 * most).where(most - share <= CLEAR, -1.0)


def _above_published(results: Results) -> Iterator[str]:
    """Rows that are far better than the number published for them, measured alike as far as is stated."""
    for pair, line in measured_pairs(results):
        own = None if line is None else score(line, pair.measure, results)
        if line is None or own is None or not (own.complete and pair.comparable):
            continue
        number = pair.number
        if own.mean - float(number.value) > ABOVE:
            yield (
                f"above the published number: {results.name(line)} has {own.mean:.1f} % on "
                f"{results.measures[pair.measure].title}, {number.source} ({number.table}) {number.value} %, "
                f"{own.mean - float(number.value):.1f} points less. Commonly test videos among those of training, "
                "fewer or easier videos or classes than published, or a number of another protocol."
            )


def _all_tied(results: Results, lines: pd.DataFrame) -> Iterator[str]:
    """Protocols on which everything has the same accuracy; two rows also have to be right about the same videos."""
    for protocol, group in lines.groupby("protocol", sort=False):
        models, accuracies = group["_weights"].nunique(), group.groupby(TRIAL)["top1"].mean().round(9)
        if models < 2 or accuracies.nunique() > 1 or group["name"].nunique() < 2:
            continue
        if models > 2 or len({results.correct(identity).tobytes() for identity in group["identity"]}) == 1:
            videos, names = counted(int(group["videos"].iloc[0]), "video"), _listed(list(group["name"].unique()))
            yield (
                f"all rows tied: on {protocol}, {names} have {accuracies.iloc[0]:.1f} % of {videos}. Commonly too "
                "few or too easy videos, settings without effect, or the same weights behind all rows."
            )


def _listed(names: Sequence[str] | Iterable[str]) -> str:
    """A few names, and the number of others."""
    names = list(names)
    more = [counted(len(names) - NAMED, "other")] if len(names) > NAMED else []
    *first, last = [*names[:NAMED], *more]
    return f"{'; '.join(first)} and {last}" if first else last

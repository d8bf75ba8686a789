"""Tuned axes: the settings that each row tries, and the rules by which one of them is chosen (docs/tuning.md).

An axis marked `tune: true` has values, or a range from which points are drawn. All tuned axes of a row become one axis,
`tuned`, whose named points move their fields together. `select` names what chooses among them. A rule says which
protocols judge a column; reports choose by them (`reports.tuning`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from itertools import combinations, product
from typing import Any, Protocol

import numpy as np

from bench.core.errors import UserError, unknown
from bench.core.seeds import seed_for
from bench.core.words import counted
from bench.data.datasets import dataset
from bench.suite.file import Select, Settings, TunedAxis
from bench.suite.trial import Suite, Trial
from bench.suite.yaml_lines import KeyPath, Where, validate

TUNED = "tuned"  # the axis that all tuned axes of a row become
Points = dict[str, Settings]  # name -> fields


# --- the points that rows try -----------------------------------------------------------------------------------------


def tunes(data: Settings) -> bool:
    """Tells whether a suite, as it is written, marks an axis, or has one of the name that these get."""
    return any(path == TUNED or _marked(axis) for axes in _all_axes(data) for path, axis in axes.items())


def bundled(data: Settings, where: Where) -> Settings:
    """A suite as it is written, with one plain axis `tuned` of each row in the place of those that are marked.

    Raises UserError at what is wrong with them.
    """
    select, common = data.get("select"), _axes(data)
    for name, axes in ((None, common), *((row, _axes(own)) for row, own in _rows(data).items())):
        if TUNED in axes:
            place = ("axes", TUNED) if name is None else ("rows", name, "axes", TUNED)
            what = (
                f"an axis cannot be called '{TUNED}': it is what the axes of a row become that are marked `tune: true`"
            )
            raise UserError(what, where=where(place), hint="another name, or another field of a marked axis")
    if select is None:
        raise UserError(
            "an axis is tuned, and nothing says what chooses among its points",
            where=where(("axes",) if any(map(_marked, common.values())) else ("rows",)),
            hint="select: {protocol: NAME, budget: N}",
        )
    chosen = validate(Select, select, lambda key: where(("select", *key)))
    rows = {}
    for name, row in _rows(data).items():
        if not isinstance(row, dict):
            return data  # validation refuses it
        own = _axes(row)
        places: dict[str, KeyPath] = {path: ("axes", path) for path in common}
        places |= {path: ("rows", name, "axes", path) for path in own}
        marked = {path: axis for path, axis in {**common, **own}.items() if _marked(axis)}
        rest = {path: axis for path, axis in own.items() if path not in marked}
        if marked:
            axes = {path: _validated(axis, places[path], where) for path, axis in marked.items()}
            budget = chosen.budgets.get(name, chosen.budget)
            rest[TUNED] = _points(axes, budget, chosen, where(places[next(iter(marked))]))
        rows[name] = {**row, "axes": rest} if rest or own else row
    plain = {path: axis for path, axis in common.items() if not _marked(axis)}
    return {**data, "rows": rows, **({"axes": plain} if "axes" in data else {})}


def _rows(data: Settings) -> Settings:
    rows = data.get("rows")
    return rows if isinstance(rows, dict) else {}


def _all_axes(data: Settings) -> Iterator[Settings]:
    yield from map(_axes, [data, *_rows(data).values()])


def _axes(data: object) -> Settings:
    axes = data.get("axes") if isinstance(data, dict) else None
    return axes if isinstance(axes, dict) else {}


def _marked(axis: object) -> bool:
    return isinstance(axis, dict) and "tune" in axis and not isinstance(axis["tune"], dict)  # else it is a bundle


def _validated(axis: Settings, place: KeyPath, where: Where) -> TunedAxis:
    own = validate(TunedAxis, axis, lambda key: where((*place, *key)))
    if (own.values is None) == (own.range is None):
        raise UserError("a tuned axis has either `values` or a `range`", where=where(place))
    if own.range is not None:
        low, high = own.range
        if not low < high or (own.scale == "log" and low <= 0):
            above = " above 0" if own.scale == "log" else ""
            raise UserError(
                f"expected a lower and a higher number{above}, got {low:g} and {high:g}", where=where((*place, "range"))
            )
    bundles = own.values.values() if isinstance(own.values, dict) else [{str(place[-1]): None}]
    for field in (str(field) for bundle in bundles for field in bundle):
        if field.startswith(("protocol.", "protocols.")):
            what = f"'{field}' is a way to measure, and what is tuned is measured alike"
            raise UserError(
                what, where=where(place), hint="an axis without `tune`, or fields of config, inference, recipe"
            )
    if own.range is None and own.scale != "linear":
        raise UserError("has no effect: it is for a range", where=where((*place, "scale")))
    return own


def _points(axes: Mapping[str, TunedAxis], budget: int, select: Select, where: str) -> Points:
    """The points of a row: the grid of all values, or `budget` points where an axis has a range."""
    if all(axis.values is not None for axis in axes.values()):
        chosen: list[tuple[Any, ...]] = [*product(*(axis.values or () for axis in axes.values()))]
    else:
        chosen = [*zip(*(_drawn(path, axis, budget, select) for path, axis in axes.items()), strict=True)]
    short = [path.rpartition(".")[2] for path in axes]
    found = Points()
    for values in chosen:
        fields, texts = Settings(), []
        for (path, axis), value in zip(axes.items(), values, strict=True):
            fields |= axis.values[value] if isinstance(axis.values, dict) else {path: value}
            name = path.rpartition(".")[2]
            texts.append(f"{path if short.count(name) > 1 else name} {_text(value)}")
        found[", ".join(texts)] = fields
    if len(found) < len(chosen):
        raise UserError(
            f"{counted(len(chosen), 'point')} hold {counted(len(found), 'setting')}",
            where=where,
            hint="values that differ in four digits, another select.seed, or a smaller budget",
        )
    return found


def _drawn(path: str, axis: TunedAxis, count: int, select: Select) -> list[Any]:
    """Points of one axis. A Latin hypercube has one in each of `count` equal parts (McKay et al. 1979)."""
    generator = np.random.default_rng(seed_for("tuned settings", select.search, select.seed, path))
    even = select.search == "latin-hypercube"
    share_N = (generator.permutation(count) + generator.random(count)) / count if even else generator.random(count)
    if axis.range is None:
        values = [*(axis.values or ())]
        return [values[int(share * len(values))] for share in share_N]
    low, high = axis.range
    whole = isinstance(low, int) and isinstance(high, int)
    if axis.scale == "log":
        found = [low * (high / low) ** float(share) for share in share_N]
    elif whole:
        found = [low + int(share * (high - low + 1)) for share in share_N]
    else:
        found = [low + (high - low) * float(share) for share in share_N]
    return [round(value) if whole else float(f"{value:.4g}") for value in found]


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


# --- rules ------------------------------------------------------------------------------------------------------------


class Rule(Protocol):
    """Which protocols judge the points of a row for a column: the point with the best mean over them is chosen.

    `flatters`: it looks at the column itself, so the number is too good. `validates`: it needs `select.protocol`.
    """

    flatters: bool
    validates: bool

    def judges(self, column: str, validation: str, roles: Mapping[str, str]) -> tuple[str, ...]:
        """Names of the protocols; `roles` are those of all columns."""


class SourceValidation:
    """The best under the validation protocol; one point for all columns."""

    flatters, validates = False, True

    def judges(self, column: str, validation: str, roles: Mapping[str, str]) -> tuple[str, ...]:
        return (validation,)


class LeaveOneTargetOut:
    """For a target the best on the other targets, for another column the best on all targets."""

    flatters, validates = False, False

    def judges(self, column: str, validation: str, roles: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(name for name, role in roles.items() if role == "zero-shot" and name != column)


class Oracle:
    """The best on the column itself: what nobody can know beforehand."""

    flatters, validates = True, False

    def judges(self, column: str, validation: str, roles: Mapping[str, str]) -> tuple[str, ...]:
        return (column,)


RULES: dict[str, type[Rule]] = {
    "source-validation": SourceValidation,
    "leave-one-target-out": LeaveOneTargetOut,
    "oracle": Oracle,
}


def rule(name: str, where: str = "") -> Rule:
    """A rule by its name, or a class of somebody's package, `module:Class`. Raises UserError."""
    module, colon, attribute = name.partition(":")
    if name not in RULES and not colon:
        raise unknown("rule", name, RULES, where=where)
    try:
        found: Rule = RULES[name]() if name in RULES else getattr(import_module(module), attribute)()
    except Exception as error:  # code of others
        raise UserError(f"cannot be used: {type(error).__name__}: {error}", where=where or name) from error
    if absent := [own for own in ("flatters", "validates", "judges") if not hasattr(found, own)]:
        raise UserError(f"the rule has no '{absent[0]}'", where=where or name, hint="bench.suite.tuning.Rule")
    return found


# --- what is refused --------------------------------------------------------------------------------------------------


def check(suite: Suite) -> Iterator[str]:
    """A note on a choice that flatters. Raises UserError for one that is unfair, or chooses on a column unasked."""
    file, select = suite.file, suite.file.select
    tried = {name: len(row.axes.get(TUNED, ())) or 1 for name, row in file.rows.items()}
    if select is None:
        return
    if max(tried.values()) == 1:
        raise UserError(
            "no axis is tuned",
            where=suite.where(("select",)),
            hint="axes: {recipe.lr: {tune: true, values: [1.0e-4, 1.0e-3]}}",
        )
    by = rule(select.rule, suite.where(("select", "rule")))
    if select.protocol is None and by.validates:
        raise UserError(f"the rule '{select.rule}' needs a protocol", where=suite.where(("select", "protocol")))
    if select.protocol is not None:
        _check_protocol(suite, select.protocol, tried)
    _check_rule(suite, by, suite.where(("select", "rule")))
    _check_kept(suite)
    _check_budgets(suite, select, tried)
    if by.validates and (others := _elsewhere(suite, select.protocol or "", tried)):
        where = suite.where(("select", "protocol"))
        yield f"{where}: '{select.protocol}' measures {others}, and the rows learn another dataset"
    if by.flatters:
        yield f"{suite.where(('select', 'rule'))}: '{select.rule}' sees what is measured, so its numbers flatter"


def _elsewhere(suite: Suite, protocol: str, tried: Mapping[str, int]) -> str:
    """The dataset of a validation protocol where it is not the source of a tuned row; else empty."""
    for trial in suite.trials:
        own = dict(trial.protocols).get(protocol)
        if own and tried[trial.row] > 1 and trial.config.trains and own.dataset != trial.recipe.source:
            return f"'{own.dataset}'"
    return ""


def _check_rule(suite: Suite, by: Rule, where: str) -> None:
    """Each column is judged by protocols that there are, and not by its own videos unless the rule says so."""
    assert suite.file.select is not None
    validation, known = suite.file.select.protocol or "", suite.file.protocols
    roles = {name: suite.columns[name].role for name in suite.shown}
    for column in roles:
        try:
            judges = by.judges(column, validation, roles)
        except Exception as error:  # code of others
            raise UserError(f"'judges' of the rule fails: {type(error).__name__}: {error}", where=where) from error
        if not isinstance(judges, tuple | list) or not judges or not {*judges} <= {*known}:
            raise UserError(f"the rule judges column '{column}' by {judges!r}", where=where, allowed=known)
        own = suite.columns[column].dataset
        if not by.flatters and (
            same := [name for name in judges if name in roles and suite.columns[name].dataset == own]
        ):
            what = f"column '{column}' would be judged by '{same[0]}', which measures the same dataset"
            raise UserError(what, where=where, hint="leave one of them out, or the rule `source-validation`")


def _check_protocol(suite: Suite, name: str, tried: Mapping[str, int]) -> None:
    """The protocol that chooses measures no video of a column or of a training, and measures every row that tunes."""
    file, place = suite.file, suite.where(("select", "protocol"))
    if name not in file.protocols:
        raise unknown("protocol", name, file.protocols, where=place)
    if len(file.protocols) == 1:
        raise UserError("there is no column besides the protocol that chooses", where=place)
    for trial in suite.trials:
        measured = dict(trial.protocols)
        if tried[trial.row] > 1 and name not in measured:
            where = suite.where(("rows", trial.row, "protocols"))
            raise UserError(f"'{name}', which chooses, does not measure this row", where=where)
    lists: dict[tuple[str, str], frozenset[str]] = {}
    for looked_at, other, what in dict.fromkeys(_beside(suite, name)):
        for own in (looked_at, other):
            lists[own] = lists[own] if own in lists else _videos(suite, *own)
        if looked_at == other or lists[looked_at] & lists[other]:
            raise UserError(
                f"measures videos of {what}, so a choice on them would flatter",
                where=suite.where(("protocols", name)),
                hint="a split of its own",
            )


def _check_kept(suite: Suite) -> None:
    """No row keeps its best weights by a column, which is a choice on it as well."""
    videos = cache(partial(_videos, suite))
    for trial in suite.trials:
        if trial.recipe.keep != "best" or not trial.recipe.validation or not trial.config.trains:
            continue
        kept = trial.recipe.source, trial.recipe.validation
        for column, protocol in trial.protocols:
            lists = {(part.dataset, part.split) for part in protocol.parts().values()} if column in suite.shown else ()
            if kept in lists or any(videos(*kept) & videos(*own) for own in lists):
                what = f"row '{trial.row}' keeps the weights that are best on '{column}', which is a column"
                hint = "recipe.validation: a split of its own"
                raise UserError(what, where=suite.where(("rows", trial.row)), hint=hint)


def _beside(suite: Suite, name: str) -> Iterator[tuple[tuple[str, str], tuple[str, str], str]]:
    """The lists that a protocol looks at, each beside those of columns and trainings, which it must not share."""
    for trial in suite.trials:
        measured = dict(trial.protocols)
        for part in measured[name].parts().values() if name in measured else ():
            looked_at = part.dataset, part.split
            for other, protocol in measured.items():
                for own in protocol.parts().values() if other != name else ():
                    yield looked_at, (own.dataset, own.split), f"the column '{other}'"
            before: Trial | None = trial
            while before and before.config.trains and not before.recipe.imported:
                yield looked_at, (before.recipe.source, before.recipe.split), f"the training of row '{before.row}'"
                before = before.init_from


def _videos(suite: Suite, name: str, split: str) -> frozenset[str]:
    """The places of a list's videos, under whichever name; none where it cannot be read, which the plan says."""
    with suppress(UserError):
        own = dataset(name, suite.datasets)
        root = os.path.realpath(own.location())
        return frozenset(f"{root}/{entry.path}" for entry in own.entries(split))
    return frozenset()


def _check_budgets(suite: Suite, select: Select, tried: Mapping[str, int]) -> None:
    rows = suite.file.rows
    for row in select.budgets:
        if row not in rows:
            raise unknown("row", row, rows, where=suite.where(("select", "budgets")))
    for row, count in tried.items():
        budget = select.budgets.get(row, select.budget)
        if count > budget or count < select.budgets.get(row, 0):
            raise UserError(
                f"row '{row}' tries {counted(count, 'setting')}, and its budget is {budget}",
                where=suite.where(("rows", row, "axes")),
            )
    declared = {row for row, own in select.budgets.items() if own != select.budget}
    for a, b in suite.file.report.compare or combinations(tried, 2):
        if tried[a] != tried[b] and not {a, b} & declared:
            fewer, more = sorted((a, b), key=lambda row: tried[row])
            raise UserError(
                f"row '{fewer}' tries {counted(tried[fewer], 'setting')} and row '{more}' {tried[more]}, "
                "and they are compared",
                where=suite.where(("rows", fewer)),
                hint=f"equal budgets, or one that is meant: select.budgets: {{{fewer}: {tried[fewer]}}}",
            )

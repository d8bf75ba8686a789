"""A suite with some of its rows: the override `rows=[a, b]` keeps these, `rows.c=null` leaves one out.

Rows that are left out are not even validated. What refers to them is left out with them, and so are protocols that no
other row is measured under; with `rows=[a, b]` also published numbers without a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from bench.core.errors import UserError, unknown
from bench.suite.file import Settings
from bench.suite.yaml_lines import load_value


def selection(rows: str | None, without: str) -> list[str]:
    """The overrides for `--rows a,b` and `--without c`. Raises UserError for `--rows` without a name."""
    names, others = ([name.strip() for name in text.split(",")] for text in (rows or "", without))
    if rows is not None and not any(names):
        raise UserError("names no row", where="--rows")
    kept = [f"rows={yaml.safe_dump(names, default_flow_style=True, width=10_000).strip()}"] if rows is not None else []
    return [*kept, *(f"rows.{name}=null" for name in others if name)]


def restricted(data: Settings, overrides: Iterable[str]) -> tuple[Settings, list[str]]:
    """A suite's data with the rows that overrides select, and the overrides that do not. Raises UserError."""
    others = []
    for text in overrides:
        key, _, value = text.partition("=")
        kept = _kept(data.get("rows"), key, load_value(value, f"override {text}"), f"override {text}")
        if kept is None:
            others.append(text)
        else:
            data = restricted_to(data, kept, f"override {text}", alone=key == "rows")
    return data, others


def _kept(rows: Any, key: str, value: Any, where: str) -> list[str] | None:
    """The rows that an override keeps; None if it selects none."""
    leaves_out = key.startswith("rows.") and key.count(".") == 1 and value is None
    if not isinstance(rows, dict) or not (leaves_out or (key == "rows" and isinstance(value, list))):
        return None
    names = [key.partition(".")[2]] if leaves_out else [str(name) for name in value]
    if wrong := [name for name in names if name not in rows]:
        raise unknown("row", wrong[0], rows, where=where)
    return [name for name in rows if (name in names) != leaves_out]


def restricted_to(data: Settings, kept: list[str], where: str, alone: bool = False) -> Settings:
    """The data with these rows. Raises UserError if none is left, or one begins with the training of another."""
    rows: dict[str, Any] = {name: data["rows"][name] for name in kept}
    gone, bodies = data["rows"].keys() - rows.keys(), [own for own in rows.values() if isinstance(own, dict)]
    if not rows:
        raise UserError("leaves no row", where=where)
    for name, own in rows.items():
        first = (own.get("init_from") or own.get("start")) if isinstance(own, dict) else None
        if first in gone:
            what = f"row '{name}' begins with the training of row '{first}', which is left out"
            raise UserError(what, where=where, hint=f"keep '{first}', or leave out '{name}' too")
    before, data = _axes(data), {**data, "rows": rows}
    if (protocols := data.get("protocols")) and bodies and all(own.get("protocols") for own in bodies):
        measured = {name for own in bodies for name in own["protocols"]}
        data["protocols"] = {name: own for name, own in protocols.items() if name in measured}
        unmeasured = tuple(f"protocols.{name}." for name in protocols.keys() - measured)
        if isinstance(axes := data.get("axes"), dict):
            data["axes"] = {path: own for path, own in axes.items() if not path.startswith(unmeasured)}
    if isinstance(select := data.get("select"), dict) and isinstance(budgets := select.get("budgets"), dict):
        data["select"] = {**select, "budgets": {name: own for name, own in budgets.items() if name not in gone}}
    if isinstance(data.get("report"), dict):
        data["report"] = _of_report(data, gone | {""} if alone else gone, before - _axes(data))
    return data


def _axes(data: Settings) -> set[str]:
    """Names of all axes."""
    bodies = [own for own in (data, *data["rows"].values()) if isinstance(own, dict)]
    return {path.rpartition(".")[2] for own in bodies for path in own.get("axes") or ()}


def _of_report(data: Settings, gone: set[str], axes: set[str]) -> Settings:
    """The report without what refers to rows, protocols or axes that are left out."""
    report = dict(data["report"])
    for key in ("experts", "compare", "published"):
        if isinstance(own := report.get(key), list):
            report[key] = [each for each in own if not gone & set(_rows_of(each))]
    if report.get("reference") in gone:
        del report["reference"]
    profile = report.get("profile")
    if isinstance(profile, dict) and profile.get("rows"):
        left = [name for name in profile["rows"] if name not in gone]
        report["profile"] = {**profile, "rows": left} if left else None  # no names would mean all
    if "experts_protocol" in report and (
        not report.get("experts") or report["experts_protocol"] not in data.get("protocols", ())
    ):
        del report["experts_protocol"]
    if report.get("join") in axes:
        del report["join"]
    return report


def _rows_of(entry: Any) -> list[str]:
    """The rows that an entry of a report's list names: one, a pair, or that of a selector of published numbers."""
    return [entry] if isinstance(entry, str) else [entry.get("row", "")] if isinstance(entry, dict) else list(entry)

"""Settings without effect: whatever reads them finds another one in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from bench.core.errors import UserError
from bench.suite.file import Axis, Row, Settings, SuiteFile
from bench.suite.named_protocols import named_protocol
from bench.suite.trial import Suite
from bench.suite.yaml_lines import KeyPath

MOVED = object()  # the values of an axis, which no fixed value equals


class _Setting(NamedTuple):
    field: str  # such as views.frames of a recipe
    key: KeyPath  # where it gets the value
    value: Any


def refuse_idle(suite: Suite, origin: Callable[[KeyPath], str]) -> Iterator[str]:
    """Notes about settings without effect. Raises UserError for an override that has none at all.

    `origin` of a key: "file", "override", or "" if a preset or world wrote it.
    """
    found: dict[tuple[str, KeyPath], list[_Setting | None]] = {}
    for row_id, row in suite.file.rows.items():
        for settings in _layered(suite.file, row_id, row):
            for index, own in enumerate(settings):
                over = next((each for each in settings[:index:-1] if f"{own.field}.".startswith(f"{each.field}.")), own)
                # An override is meant to take the place of what the file says.
                meant = origin(own.key) == "file" and origin(over.key) == "override"
                if origin(own.key) and own.key[-1] != "use":
                    found.setdefault(own[:2], []).append(None if meant or over.value == own.value else over)
    for (_, key), places in found.items():
        winners = [over for over in places if over]
        by = " and ".join(dict.fromkeys(".".join(map(str, over.key)) for over in winners))
        asked, beaten = origin(key) == "override", any(over.key[-1] == "use" for over in winners)
        if asked and winners == places:
            raise UserError(f"has no effect: {by} is in its place", where=suite.where(key), hint=f"override {by}")
        if beaten or winners == places or (asked and winners):
            yield f"{suite.where(key)}: has no effect where {by} is in its place"


def _layered(file: SuiteFile, row_id: str, row: Row) -> Iterator[list[_Setting]]:
    """A row's settings, each before those that take its place: recipe and the like, then under each protocol."""

    def axes(start: str) -> list[_Setting]:
        return [*_axes(file.axes, ("axes",), start), *_axes(row.axes, ("rows", row_id, "axes"), start)]

    for part in ("config", "inference", "recipe"):
        below = _flat(file.recipe, ("recipe",)) if part == "recipe" else []
        yield [*below, *_flat(getattr(row, part), ("rows", row_id, part)), *axes(f"{part}.")]
    for name in row.protocols or file.protocols:
        own = file.protocols[name]
        used = _flat(named_protocol(own["use"]), ()) if "use" in own else []
        below = [
            *_flat(file.protocol, ("protocol",)),
            *(each._replace(key=("protocols", name, "use")) for each in used),
        ]
        mine = [*_flat(own, ("protocols", name)), *axes(f"protocols.{name}.")]
        yield [*below, *mine, *_flat(row.protocol, ("rows", row_id, "protocol")), *axes("protocol.")]


def _axes(axes: Mapping[str, Axis], place: KeyPath, start: str) -> Iterator[_Setting]:
    """The fields that begin so and that an axis sets at each of its points."""
    for path, axis in axes.items():
        fields = {path} if isinstance(axis, list) else set.intersection(*map(set, axis.values()))
        for field in sorted(field for field in fields if field.startswith(start)):
            yield _Setting(field.removeprefix(start), (*place, path), MOVED)


def _flat(settings: Settings, place: KeyPath) -> list[_Setting]:
    found = []
    for key, value in settings.items():
        if isinstance(value, dict) and key != "templates":  # those of classes are one value
            found += [each._replace(field=f"{key}.{each.field}") for each in _flat(value, (*place, key))]
        else:
            found.append(_Setting(key, (*place, key), value))
    return found

"""Differences of two records: their settings, the code that ran, and the same of their inputs, down to the first.

A hash of data or texts is shown with a description of its content, which the record's `context` holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from bench.core.errors import UserError
from bench.data.selection import Selection
from bench.store.records import KINDS, RecordData, Store

SHORTEST = 4  # characters of an identity that name a record
SHOWN = 10  # candidates for an unknown or ambiguous name
NAMES = 3  # shown of the classes that only one side has
NOTHING = "–"
UNKNOWN = "not recorded"
CODE = "code of "


@dataclass(frozen=True)
class StoredRecord:
    """A record and its store, which also has the records of its inputs."""

    store: Store
    record: RecordData

    def input(self, name: str) -> StoredRecord | None:
        """The record of an input; None if there is no such input, or its record is gone."""
        key = self.record["inputs"].get(name)
        record = self.store.find(*key) if key else None
        return StoredRecord(self.store, record) if record else None


class Difference(NamedTuple):
    """A field in which two records differ, with both values. The name of an input precedes its fields."""

    field: str
    a: str
    b: str

    @property
    def name(self) -> str:
        """The field within its own record."""
        return self.field.rpartition(": ")[2]


@dataclass
class Differences:
    """Differences of two records and of their inputs, and notes on what is not recorded."""

    fields: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    older: set[str] = field(default_factory=set)  # "A", "B": sides with records that do not say which code they ran

    def add(self, path: str, name: str, a: str, b: str) -> None:
        """Add a difference, unless the record that uses this input has the same one."""
        if not path or (a, b) not in [each[1:] for each in self.fields if each.name == name][-1:]:
            self.fields.append(Difference(path + name, a, b))

    def verdict(self, a: StoredRecord, b: StoredRecord) -> str:
        """A sentence that sums the differences up."""
        if a.record["identity"] == b.record["identity"]:
            return f"The same record: {a.record['title']} ({a.record['kind']} {a.record['identity']})."
        if a.record["kind"] != b.record["kind"]:
            return "They are records of different kinds."
        if not self.fields:
            return "No recorded field differs: the identities were computed in different ways."
        if all(each.name.startswith(CODE) for each in self.fields):
            return f"Only code differs: {', '.join(sorted({each.name.removeprefix(CODE) for each in self.fields}))}."
        if all(UNKNOWN in each for each in self.fields):
            return "Only code differs, but which modules is not recorded."
        return "1 field differs." if len(self.fields) == 1 else f"{len(self.fields)} fields differ."


def find_record(store: Store, key: str) -> StoredRecord:
    """The record whose identity starts with `key`, or in the folder `key`.

    Raises UserError with candidates if there is none, or more than one.
    """
    folder = Path(key)
    if (folder / "record.json").is_file():
        kind, identity = folder.resolve().parts[-2:]
        own = Store(folder.resolve().parents[2])
        return StoredRecord(own, own.read(kind, identity))
    kinds = {identity: kind for kind in sorted(KINDS) for identity in sorted(store.known(kind))}
    named = [identity for identity in kinds if identity.startswith(key)]
    if len(named) == 1 and len(key) >= SHORTEST:
        return StoredRecord(store, store.read(kinds[named[0]], named[0]))
    what = f"'{key}' names {len(named)} records" if named else f"no record starts with '{key}'"
    candidates = (named or get_close_matches(key, kinds, SHOWN, cutoff=0.0))[:SHOWN]
    shown = [_titled(store, kinds[identity], identity) for identity in candidates]
    hint = f"at least {SHORTEST} characters of an identity, or the folder of a record"
    raise UserError(what, where=str(store.root), allowed=shown, hint=hint)


def differences(a: StoredRecord, b: StoredRecord) -> Differences:
    """All differences of two records and of their inputs."""
    found = Differences()
    if a.record["identity"] != b.record["identity"]:
        _compare(a, b, "", found, set())
    if found.older:
        sides = " and ".join(sorted(found.older))
        found.notes.append(f"Records of {sides} do not say which code they ran: more of it may differ.")
    return found


def _titled(store: Store, kind: str, identity: str) -> str:
    record = store.find(kind, identity)
    return f"{identity} ({record['title'] if record else 'damaged'})"


def _compare(a: StoredRecord, b: StoredRecord, path: str, found: Differences, seen: set[tuple[str, str]]) -> None:
    """Add the differences of two records and of their inputs. Each pair of inputs is compared once."""
    ours, theirs = a.record, b.record
    seen.add((ours["identity"], theirs["identity"]))
    if ours["kind"] != theirs["kind"]:
        found.add(path, "kind", ours["kind"], theirs["kind"])
        return
    settings = list(_settings(ours, theirs))
    explained = bool(settings) or ours["inputs"] != theirs["inputs"]
    for name, *texts in [*settings, *_code(ours.get("source"), theirs.get("source"), explained)]:
        found.add(path, name, *texts)
    found.notes += [f"{path}{note}" for note in _same_name(ours, theirs)]
    found.older |= {side for side, record in (("A", ours), ("B", theirs)) if record.get("source") is None}
    for name in {**ours["inputs"], **theirs["inputs"]}:
        keys, one, other = [record["inputs"].get(name) for record in (ours, theirs)], a.input(name), b.input(name)
        if keys[0] == keys[1]:
            continue
        if one and other:
            if (one.record["identity"], other.record["identity"]) not in seen:
                _compare(one, other, f"{path}{name}: ", found, seen)
            continue
        found.add(path, name, *(f"{key[0]} {key[1][:8]}" if key else NOTHING for key in keys))
        if all(keys):
            found.notes.append(f"{path}{name}: a record is no longer in the store, so its differences are not known.")


def _code(ours: dict[str, str] | None, theirs: dict[str, str] | None, explained: bool) -> Iterator[tuple[str, ...]]:
    """The modules that differ; "code" alone if they are not recorded and nothing else differs."""
    if ours is not None and theirs is not None:
        for name in sorted(ours | theirs):
            if ours.get(name) != theirs.get(name):
                yield f"{CODE}{name}", ours.get(name, NOTHING)[:8], theirs.get(name, NOTHING)[:8]
    elif not explained:
        yield "code", *(UNKNOWN if source is None else "recorded" for source in (ours, theirs))


def _settings(a: RecordData, b: RecordData) -> Iterator[tuple[str, ...]]:
    """Names and both values of settings that differ, as identities see them, which distinguish 1 from 1.0."""
    sides = [(dict(_flat(record["spec"])), record["context"]) for record in (a, b)]
    for name in sides[0][0] | sides[1][0]:
        if len({json.dumps(fields[name]) if name in fields else None for fields, _ in sides}) > 1:
            yield (
                name,
                *(_shown(name, fields[name], context) if name in fields else NOTHING for fields, context in sides),
            )
            if name == "prompts":
                yield from _class_names(*(context["class_names"] for _, context in sides))


def _flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Values with their dotted paths; a list of (name, settings) pairs is read as a dict."""
    if isinstance(value, list) and value and all(_is_named(item) for item in value):
        value = dict(value)
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _is_named(item: object) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], dict)


def _shown(name: str, value: object, context: dict[str, Any]) -> str:
    """A value as text; of a hash, the description of its content and its first digits."""
    text = value if isinstance(value, str) else json.dumps(value)
    about = _about(name, context)
    return f"{about} ({text.removeprefix('sha256:')[:8]})" if about else text or '""'


def _about(name: str, context: dict[str, Any]) -> str:
    """Description of the content that a hash stands for; empty if the field is no hash."""
    match name:
        case "content" | "validation":
            listed = context.get("selection" if name == "content" else "validation")
            return str(Selection(*listed)) if listed else str(context.get("dataset", ""))
        case "prompts":
            return f"{context.get('templates', 'descriptions')}, {len(context['class_names'])} classes"
        case "classes":
            return f"{context['class_features']}, {len(context['class_names'])} classes"
        case "weights":
            return str(context["pretrained"])
    return ""


def _class_names(ours: list[str], theirs: list[str]) -> Iterator[tuple[str, str, str]]:
    """Classes that only one of the records has."""
    if ours != theirs:
        yield "class names", _only(ours, theirs), _only(theirs, ours)


def _only(own: list[str], other: list[str]) -> str:
    lone = [name for name in own if name not in set(other)]
    more = f" and {len(lone) - NAMES} more" if len(lone) > NAMES else ""
    return f"also {', '.join(lone[:NAMES])}{more}" if lone else "the same in another order" if own != other else NOTHING


def _same_name(a: RecordData, b: RecordData) -> Iterator[str]:
    """Notes on lists with equal names and different content."""
    for name in ("content", "validation"):
        sides = [(record["spec"].get(name), _about(name, record["context"])) for record in (a, b)]
        if all(value for value, _ in sides) and sides[0][0] != sides[1][0] and sides[0][1] == sides[1][1]:
            yield f"{name}: both are {sides[0][1]}, but the list or its videos differ."

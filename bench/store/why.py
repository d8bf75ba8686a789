"""Differences two records differ: their settings, the code that ran, and the same of their inputs, down to the first.

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
        return StoredRecord(self.store, self.store.read(*key)) if key and self.store.done(*key) else None

    def named_input(self, name: str) -> str:
        """The kind and the start of the identity of an input."""
        key = self.record["inputs"].get(name)
        return f"{key[0]} {key[1][:8]}" if key else NOTHING


class Difference(NamedTuple):
    """A field in which two records differ, with both values. The name of an input precedes its fields."""

    field: str
    a: str
    b: str


@dataclass
class Differences:
    """Differences of two records. `code`: modules that differ, as far as recorded; `notes`: what is not recorded."""

    fields: list[Difference] = field(default_factory=list)
    code: set[str] = field(default_factory=set)
    older: set[str] = field(default_factory=set)  # "A", "B": sides with records that do not say which code they ran
    notes: list[str] = field(default_factory=list)

    def add(self, path: str, name: str, a: str, b: str) -> None:
        """Add a difference, unless the record that uses this input has the same one."""
        outer = {found.field.rpartition(": ")[2]: found[1:] for found in self.fields}
        if not path or outer.get(name) != (a, b):
            self.fields.append(Difference(path + name, a, b))

    def verdict(self, a: StoredRecord, b: StoredRecord) -> str:
        """A sentence that sums the differences up."""
        if a.record["identity"] == b.record["identity"]:
            return f"The same record: {a.record['title']} ({a.record['kind']} {a.record['identity']})."
        if a.record["kind"] != b.record["kind"]:
            return "They are records of different kinds."
        if not self.fields:
            return "No recorded field differs: the identities were computed in different ways."
        if all(difference.field.rpartition(": ")[2].startswith(CODE) for difference in self.fields):
            return f"Only code differs: {', '.join(sorted(self.code))}."
        if all(a == UNKNOWN or b == UNKNOWN for _, a, b in self.fields):
            return "Only code differs, but which modules is not recorded."
        count = len(self.fields)
        return "1 field differs." if count == 1 else f"{count} fields differ."


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
    return f"{identity} ({store.read(kind, identity)['title']})"


def _compare(a: StoredRecord, b: StoredRecord, path: str, found: Differences, seen: set[tuple[str, str]]) -> None:
    """Add the differences of two records and of their inputs. Each pair of inputs is compared once."""
    seen.add((a.record["identity"], b.record["identity"]))
    fields = list(_fields(a.record, b.record))
    for name, *texts in fields:
        found.add(path, name, *texts)
    if a.record["kind"] != b.record["kind"]:
        return
    found.notes += [f"{path}{note}" for note in _same_name(a.record, b.record)]
    _compare_code(a.record, b.record, path, found, explained=bool(fields) or a.record["inputs"] != b.record["inputs"])
    for name in {**a.record["inputs"], **b.record["inputs"]}:
        if a.record["inputs"].get(name) != b.record["inputs"].get(name):
            _compare_input(a, b, name, path, found, seen)


def _compare_input(
    a: StoredRecord, b: StoredRecord, name: str, path: str, found: Differences, seen: set[tuple[str, str]]
) -> None:
    ours, theirs = a.input(name), b.input(name)
    if ours and theirs:
        if (ours.record["identity"], theirs.record["identity"]) not in seen:
            _compare(ours, theirs, f"{path}{name}: ", found, seen)
        return
    found.add(path, name, a.named_input(name), b.named_input(name))
    if name in a.record["inputs"] and name in b.record["inputs"]:
        found.notes.append(f"{path}{name}: a record is no longer in the store, so its differences are not known.")


def _compare_code(a: RecordData, b: RecordData, path: str, found: Differences, explained: bool) -> None:
    """Add the modules that differ. If they are not recorded and nothing else differs, only "code" is added."""
    ours, theirs = a.get("source"), b.get("source")
    if ours is not None and theirs is not None:
        modules = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
        found.code |= set(modules)
        for name in modules:
            found.add(path, f"{CODE}{name}", *(side.get(name, NOTHING)[:8] for side in (ours, theirs)))
        return
    found.older |= {side for side, source in (("A", ours), ("B", theirs)) if source is None}
    if not explained:
        found.add(path, "code", *(UNKNOWN if source is None else "recorded" for source in (ours, theirs)))


def _fields(a: RecordData, b: RecordData) -> Iterator[tuple[str, str, str]]:
    """Names and both values of settings that differ."""
    if a["kind"] != b["kind"]:
        yield "kind", a["kind"], b["kind"]
        return
    ours, theirs = dict(_flat(a["spec"])), dict(_flat(b["spec"]))
    for name in ours | theirs:
        if _text(ours, name) != _text(theirs, name):
            own, other = (
                _shown(name, fields[name], record["context"]) if name in fields else NOTHING
                for fields, record in ((ours, a), (theirs, b))
            )
            yield name, own, other
            if name == "prompts":
                yield from _class_names(a["context"], b["context"])


def _text(fields: dict[str, object], name: str) -> str | None:
    """A value as identities see it, which distinguish 1 from 1.0."""
    return json.dumps(fields[name]) if name in fields else None


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


def _class_names(a: RecordData, b: RecordData) -> Iterator[tuple[str, str, str]]:
    """Classes that only one of the records has."""
    ours, theirs = a["class_names"], b["class_names"]
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

"""Why two records differ: what was asked for, the code that ran, and, as deep as it goes, the same of their inputs.

Hashes of data and texts are told with what they are the content of, which the records keep beside them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from bench.core.errors import UserError
from bench.data.selection import Selection
from bench.store.records import Store

Part = dict[str, Any]

SHORTEST = 4  # characters of an identity that name a record
SHOWN = 10  # candidates, where a name is not clear
NAMES = 3  # of classes that only one side has
NOTHING = "–"
UNKNOWN = "not recorded"
CODE = "code of "


@dataclass(frozen=True)
class Found:
    """A record and the store it lies in, where its inputs are."""

    store: Store
    record: Part

    def input(self, name: str) -> Found | None:
        """The record of an input; None if there is no such input, or its record is gone."""
        key = self.record["inputs"].get(name)
        return Found(self.store, self.store.read(*key)) if key and self.store.done(*key) else None

    def named_input(self, name: str) -> str:
        """The kind and the start of the identity of an input."""
        key = self.record["inputs"].get(name)
        return f"{key[0]} {key[1][:8]}" if key else NOTHING


class Difference(NamedTuple):
    """A field that two records differ in, with what each has. Those of inputs begin with the inputs' names."""

    field: str
    a: str
    b: str


@dataclass
class Why:
    """All that differs. `code`: modules that differ, where they are known; `notes`: what the records leave open."""

    differences: list[Difference] = field(default_factory=list)
    code: set[str] = field(default_factory=set)
    older: set[str] = field(default_factory=set)  # of "A" and "B", which has records that do not say what code they ran
    notes: list[str] = field(default_factory=list)

    def add(self, path: str, name: str, a: str, b: str) -> None:
        """A difference, unless what the record is an input of has the same one."""
        outer = {found.field.rpartition(": ")[2]: found[1:] for found in self.differences}
        if not path or outer.get(name) != (a, b):
            self.differences.append(Difference(path + name, a, b))

    def verdict(self, a: Found, b: Found) -> str:
        """The answer in a sentence."""
        if a.record["identity"] == b.record["identity"]:
            return f"The same record: {a.record['title']} ({a.record['kind']} {a.record['identity']})."
        if a.record["kind"] != b.record["kind"]:
            return "They are records of different kinds."
        if not self.differences:
            return "Nothing that the records say differs: their identities were made in different ways."
        if all(difference.field.rpartition(": ")[2].startswith(CODE) for difference in self.differences):
            return f"Only code differs: {', '.join(sorted(self.code))}."
        if all(a == UNKNOWN or b == UNKNOWN for _, a, b in self.differences):
            return "Only code differs, but which modules is not recorded."
        count = len(self.differences)
        return "1 field differs." if count == 1 else f"{count} fields differ."


def find_record(store: Store, key: str) -> Found:
    """The record whose identity starts with `key`, or that lies in the folder `key`.

    Raises UserError with the candidates if there is none, or more than one.
    """
    folder = Path(key)
    if (folder / "record.json").is_file():
        kind, identity = folder.resolve().parts[-2:]
        own = Store(folder.resolve().parents[2])
        return Found(own, own.read(kind, identity))
    kinds = {identity: kind for kind in _kinds(store) for identity in sorted(store.known(kind))}
    named = [identity for identity in kinds if identity.startswith(key)]
    if len(named) == 1 and len(key) >= SHORTEST:
        return Found(store, store.read(kinds[named[0]], named[0]))
    what = f"'{key}' names {len(named)} records" if named else f"no record starts with '{key}'"
    candidates = (named or get_close_matches(key, kinds, SHOWN, cutoff=0.0))[:SHOWN]
    shown = [_titled(store, kinds[identity], identity) for identity in candidates]
    hint = f"at least {SHORTEST} characters of an identity, or the folder of a record"
    raise UserError(what, where=str(store.root), allowed=shown, hint=hint)


def why(a: Found, b: Found) -> Why:
    """Every field in which two records differ."""
    found = Why()
    if a.record["identity"] != b.record["identity"]:
        _compare(a, b, "", found, set())
    if found.older:
        sides = " and ".join(sorted(found.older))
        found.notes.append(
            f"Records of {sides} do not say which code they ran: whether more of it differs is not known."
        )
    return found


def _kinds(store: Store) -> list[str]:
    folder = store.root / "records"
    return sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []


def _titled(store: Store, kind: str, identity: str) -> str:
    return f"{identity} ({store.read(kind, identity)['title']})"


def _compare(a: Found, b: Found, path: str, found: Why, seen: set[tuple[str, str]]) -> None:
    """Add what differs in two records and in their inputs; a pair of inputs that is met again is passed over."""
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


def _compare_input(a: Found, b: Found, name: str, path: str, found: Why, seen: set[tuple[str, str]]) -> None:
    ours, theirs = a.input(name), b.input(name)
    if ours and theirs:
        if (ours.record["identity"], theirs.record["identity"]) not in seen:
            _compare(ours, theirs, f"{path}{name}: ", found, seen)
        return
    found.add(path, name, a.named_input(name), b.named_input(name))
    if name in a.record["inputs"] and name in b.record["inputs"]:
        found.notes.append(f"{path}{name}: a record is no longer in the store, so what differs in it is not known.")


def _compare_code(a: Part, b: Part, path: str, found: Why, explained: bool) -> None:
    """Modules that differ. Of records that do not say, that their code does if nothing else explains them."""
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


def _fields(a: Part, b: Part) -> Iterator[tuple[str, str, str]]:
    if a["kind"] != b["kind"]:
        yield "kind", a["kind"], b["kind"]
        return
    ours, theirs = dict(_flat(a["spec"])), dict(_flat(b["spec"]))
    for name in ours | theirs:
        if _text(ours, name) != _text(theirs, name):
            own, other = (
                _told(name, fields[name], record["context"]) if name in fields else NOTHING
                for fields, record in ((ours, a), (theirs, b))
            )
            yield name, own, other
            if name == "prompts":
                yield from _class_names(a["context"], b["context"])


def _text(fields: Part, name: str) -> str | None:
    """A value as identities take it, which tell 1 from 1.0."""
    return json.dumps(fields[name]) if name in fields else None


def _flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Dotted paths of everything inside; a list of named parts counts as what it names."""
    if isinstance(value, list) and value and all(_is_named(part) for part in value):
        value = dict(value)
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _is_named(part: object) -> bool:
    return isinstance(part, list) and len(part) == 2 and isinstance(part[0], str) and isinstance(part[1], dict)


def _told(name: str, value: object, context: Part) -> str:
    """A value in print; hashes with what they are the content of."""
    text = value if isinstance(value, str) else json.dumps(value)
    about = _about(name, context)
    return f"{about} ({text.removeprefix('sha256:')[:8]})" if about else text or '""'


def _about(name: str, context: Part) -> str:
    """What a hash is the content of, in words; empty for what is no hash."""
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


def _class_names(a: Part, b: Part) -> Iterator[tuple[str, str, str]]:
    """Classes that only one side has."""
    ours, theirs = a["class_names"], b["class_names"]
    if ours != theirs:
        yield "class names", _only(ours, theirs), _only(theirs, ours)


def _only(own: list[str], other: list[str]) -> str:
    lone = [name for name in own if name not in set(other)]
    more = f" and {len(lone) - NAMES} more" if len(lone) > NAMES else ""
    return f"also {', '.join(lone[:NAMES])}{more}" if lone else "the same in another order" if own != other else NOTHING


def _same_name(a: Part, b: Part) -> Iterator[str]:
    """What carries the same name on both sides and is not the same."""
    for name in ("content", "validation"):
        sides = [(record["spec"].get(name), _about(name, record["context"])) for record in (a, b)]
        if all(value for value, _ in sides) and sides[0][0] != sides[1][0] and sides[0][1] == sides[1][1]:
            yield f"{name}: both are {sides[0][1]}, but the list or its videos differ."

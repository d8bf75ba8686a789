"""Suites over other suites: `base: other.yaml`, or the name of a shipped suite.

Keys of a file are laid over those of its base: mappings are merged key by key, in the base's order and then their own;
everything else takes the base's place. `null` removes a key of the base, but where it is a value (`VALUES`). What is
merged knows the file and line of every key, and its relative paths lead where they led from the file that has them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import yaml

from bench.core.errors import UserError, unknown
from bench.core.files import expanded
from bench.models.prompts import TEMPLATES
from bench.suite.subset import restricted_to
from bench.suite.yaml_lines import KeyPath, load_yaml

Settings = dict[str, Any]
SUITES = Path(__file__).parents[2] / "suites"  # the shipped ones
KEY = "base"
SUFFIXES = (".yaml", ".yml")
VALUES = dict.fromkeys(("recipe", "config", "inference", "protocol", "at_toy_scale"), 1)  # a key -> how far below it
VALUES |= {"protocols": 2, "datasets": 2, "axes": 3}  # `null` is a value


@dataclass(frozen=True)
class Merged:
    """A suite's data with all that comes from its bases."""

    data: Settings
    places: dict[KeyPath, str]  # key path -> file:line
    changes: tuple[str, ...] = ()  # a sentence for each base: what the file over it adds, replaces, removes


def merged_suite(path: Path, above: tuple[Path, ...] = ()) -> Merged:
    """Read a suite, of which those `above` are made, and its bases. Raises UserError with file and line."""
    data, lines = load_yaml(path)
    own = Merged(data, {key: f"{path}:{line}" for key, line in lines.items()})
    if KEY not in data:
        return own
    file = _base(data[KEY], path, f"{own.places[KEY,]}: {KEY}")
    circle = [*above, path, file]
    if any(os.path.samefile(file, other) for other in circle[:-1]):
        shown = " → ".join(map(str, circle))
        raise UserError("the suite is a base of itself", where=own.places[KEY,], hint=shown)
    base = merged_suite(file, (*above, path))
    here, there = file.parent.resolve(), path.parent.resolve()
    if here != there:
        base = Merged(_moved(base.data, here, there), base.places, base.changes)
    return _Layers(base, own, str(data[KEY])).merged()


def suite_text(path: Path) -> bytes:
    """The content of a suite's file or, with a base, of a file in its place that needs none. Raises UserError."""
    found = merged_suite(path)
    if KEY not in found.data:
        return path.read_bytes()
    data = {key: own for key, own in found.data.items() if key != KEY}
    remarks = "".join(f"# {' '.join(sentence.split())}\n" for sentence in found.changes)
    return (remarks + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)).encode()


def _base(name: object, path: Path, where: str) -> Path:
    """The file of a base: relative to the file that names it, or a shipped suite."""
    if not isinstance(name, str):
        raise UserError("expected a path, or the name of a shipped suite", where=where)
    if "/" not in name and not name.endswith(SUFFIXES):
        known = {file.stem: file for file in SUITES.glob("*.yaml")}
    else:
        file = path.parent / expanded(name)
        if os.path.isfile(file):
            return file
        if os.path.exists(file):
            raise UserError(f"{file} is not a regular file", where=where, hint="a suite is a YAML file")
        beside = file.parent.glob("*.y*ml") if os.path.isdir(file.parent) else ()
        known = {str(Path(name).with_name(other.name)): other for other in beside if other.name != path.name}
    if name not in known:
        raise unknown("suite", name, known, where=where)
    return known[name]


class _Layers:
    """A suite's keys over those of its base, which it calls `name`."""

    def __init__(self, base: Merged, own: Merged, name: str) -> None:
        self.base, self.own, self.name = base, own, name
        self.changed: dict[str, list[KeyPath]] = {"adds": [], "replaces": [], "removes": []}

    def merged(self) -> Merged:
        over = {key: value for key, value in self.own.data.items() if key != KEY}
        below = {key: value for key, value in self.base.data.items() if key != KEY}
        rows, own_rows = below.get("rows"), over.get("rows")
        if isinstance(rows, dict) and isinstance(own_rows, dict) and None in own_rows.values():
            kept = [name for name in rows if own_rows.get(name, "") is not None]
            gone = next(name for name, value in own_rows.items() if value is None)
            where = self.own.places["rows", gone]
            below = {**restricted_to(below, kept, where), "rows": rows}  # what refers to the others goes with them
        data = self._laid(below, over, ())
        removed = {*self.changed["removes"]}
        gone = {*self.changed["replaces"], *removed, (KEY,)}
        known = self.base.places.items()
        places = {key: place for key, place in known if not any(key[:n] in gone for n in range(1, len(key) + 1))}
        places |= {key: place for key, place in self.own.places.items() if key not in removed}
        dotted = {verb: [".".join(map(str, key)) for key in keys] for verb, keys in self.changed.items()}
        told = "; ".join(f"{verb} {', '.join(keys)}" for verb, keys in dotted.items() if keys)
        changes = (f"base {self.name}: {told or 'nothing is changed'}", *self.base.changes)
        return Merged({KEY: self.name, **data}, places, changes)

    def _laid(self, below: Settings, over: Settings, path: KeyPath) -> Settings:
        found = dict(below)
        for key, value in over.items():
            at = (*path, key)
            if value is None and not _holds_values(at):
                if key not in below and at not in self.base.places:
                    where = f"{self.own.places[at]}: {'.'.join(map(str, at))}"
                    raise unknown(f"key of base '{self.name}'", key, below, where=where)
                self.changed["removes"].append(at)
                found.pop(key, None)
            elif isinstance(value, dict) and isinstance(below.get(key), dict):
                found[key] = self._laid(below[key], value, at)
            else:
                if key not in below or repr(below[key]) != repr(value):
                    self.changed["replaces" if key in below else "adds"].append(at)
                found[key] = value
        return found


def _holds_values(key: KeyPath) -> bool:
    """Tells whether `null` at a key is a value, as in any file."""
    first, *more = (key[2:] if key[0] == "rows" else key) or ("rows",)
    return len(more) >= VALUES.get(str(first), len(key))


# --- relative paths ---------------------------------------------------------------------------------------------------


def _moved(data: Settings, here: Path, there: Path) -> Settings:
    """The data of a base in the folder `here` for a suite in the folder `there`: its paths lead where they led."""
    found: Settings = _with_templates(data, lambda text: os.path.relpath(here / text, there))  # axes show them
    if isinstance(declared := data.get("datasets"), dict):
        found["datasets"] = {name: _dataset(own, here) for name, own in declared.items()}
    return found


def _with_templates(value: Any, moved: Callable[[str], str], named: bool = False) -> Any:
    """Data with other paths of files of templates; `named`: the value is one, or a list of them."""
    if isinstance(value, dict):
        return {key: _with_templates(own, moved, key.rpartition(".")[2] == "templates") for key, own in value.items()}
    if isinstance(value, list):
        return [_with_templates(own, moved, named) for own in value]
    is_file = named and isinstance(value, str) and value not in TEMPLATES and not {"{", "}"} & {*value}
    return moved(value) if is_file and _is_relative(value) and ("/" in value or Path(value).suffix) else value


def _dataset(declared: Any, here: Path) -> Any:
    """A dataset whose folders, and files beside the declaring suite, are absolute; others are found in its lists."""
    if not isinstance(declared, dict):
        return declared
    lists = declared.get("lists", "")

    def folder(text: Any) -> Any:
        return str(here / text) if _is_relative(text) else text

    def file(text: Any) -> Any:
        if isinstance(text, list):
            return [file(own) for own in text]
        pattern = escape(text).replace("[*]", "*") if _is_relative(text) else ""
        places = [here / expanded(lists)] if isinstance(lists, str) and lists else []
        found = [place for place in (*places, here) if pattern and any(place.glob(pattern))]
        return str(here / text) if found[:1] == [here] else text

    found = {key: folder(own) if key in ("root", "lists") else own for key, own in declared.items()}
    if isinstance(links := declared.get("links"), dict) and "follow" in links:
        own = links["follow"]
        found["links"] = {**links, "follow": [*map(folder, own)] if isinstance(own, list) else folder(own)}
    for key in ("classes", "known_bad"):
        if isinstance(declared.get(key), str):
            found[key] = file(declared[key])
    for key in ("variants", "splits"):
        if isinstance(named := declared.get(key), dict):
            found[key] = {
                name: {**own, "list": file(own.get("list"))} if isinstance(own, dict) and "list" in own else file(own)
                for name, own in named.items()
            }
    return found


def _is_relative(text: Any) -> bool:
    """True for a path that starts at the folder of its suite."""
    return isinstance(text, str) and text != "" and not text.startswith(("$", "~")) and not os.path.isabs(text)

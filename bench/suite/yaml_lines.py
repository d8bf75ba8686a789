"""YAML with the line of every key: text, numbers, lists and mappings, and errors that say where they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bench.core.errors import UserError, unknown

KeyPath = tuple[str | int, ...]
Lines = dict[KeyPath, int]
Where = Callable[[KeyPath], str]
Validated = TypeVar("Validated", bound=BaseModel)

LARGEST_FILE = 2_000_000  # bytes, which take about half a minute
LARGEST_NUMBER = 2**63
DEEPEST = 40  # mappings and lists in each other
SHOWN = 80  # characters of a wrong value in a message

_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    yaml.MappingNode: ("map",),
    yaml.SequenceNode: ("seq",),
    yaml.ScalarNode: ("str", "int", "float", "bool", "null"),
}
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """Plain values: no tags, no dates, no aliases (two places out of one), no key twice (one would be lost).

    1:30:00 and 010 are text; YAML 1.1 takes them for numbers in base 60 and 8, 5400 and 8.
    """

    depth = 0

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        other_base = tag in (f"{_TAG}int", f"{_TAG}float") and (":" in value or re.match(r"[-+]?0[0-9_]", value))
        return self.DEFAULT_SCALAR_TAG if other_base or tag.removeprefix(_TAG) not in _PLAIN[kind] else tag

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            hint = "write the value out, or make it an axis"
            raise UserError("aliases (*name) are not allowed", where=self.place(mark), hint=hint)
        if self.depth > DEEPEST:
            raise UserError("too many lists and mappings in each other", where=self.place(mark), allowed=[DEEPEST])
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def place(self, mark: yaml.Mark) -> str:
        return f"{self.name}:{mark.line + 1}"

    def plain(self, node: yaml.Node, path: KeyPath, lines: Lines) -> Any:
        """The value of a node. Notes the line of every key below it."""
        where = self.place(node.start_mark)
        if node.tag.removeprefix(_TAG) not in _PLAIN[type(node)]:
            tag = node.tag.replace(_TAG, "!!")
            raise UserError(f"{tag} is not allowed", where=where, hint="text, numbers, lists, mappings; without a tag")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, lines)
        if isinstance(node, yaml.SequenceNode):
            lines.update({(*path, i): own.start_mark.line + 1 for i, own in enumerate(node.value)})
            return [self.plain(own, (*path, i), lines) for i, own in enumerate(node.value)]
        try:
            value = self.construct_object(node)
        except (ValueError, LookupError) as error:
            raise UserError(f"{_shown(node.value)} is not {node.tag.removeprefix(_TAG)}", where=where) from error
        if isinstance(value, int) and abs(value) >= LARGEST_NUMBER:
            raise UserError("the number is too large", where=where, allowed=["numbers below 2^63"])
        if isinstance(value, str) and (found := _INVISIBLE.search(value)):
            raise UserError(f"the character U+{ord(found[0]):04X} is not allowed in text", where=where)
        return value

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, lines: Lines) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, own in node.value:
            name, where = self.plain(key, path, {}), self.place(key.start_mark)
            if not isinstance(name, str):
                hint = f"write '{key.value}' in quotes" if isinstance(key, yaml.ScalarNode) else "a key is one word"
                raise UserError(f"the key {_shown(name)} is not text", where=where, hint=hint)
            if name in data:
                first = f"the first one is in line {lines[*path, name]}"
                raise UserError(f"key {_shown(name)} appears twice", where=where, hint=first)
            lines[*path, name] = key.start_mark.line + 1
            data[name] = self.plain(own, (*path, name), lines)
        return data


def load_yaml(path: Path, empty: bool = False) -> tuple[dict[str, Any], Lines]:
    """The mapping in a YAML file, which may be `empty`, and the line of every key path. UserError has file and line."""
    lines: Lines = {}
    data = _read(_text(path), str(path), lines)
    if data is None and empty:
        return {}, lines
    if not isinstance(data, dict):
        raise UserError("expected a mapping of keys to values", where=f"{path}:1")
    return data, lines


def load_value(text: str, where: str = "") -> Any:
    """One value, read as in a file. Raises UserError at `where`."""
    try:
        return _read(text, where, {})
    except UserError as error:
        raise error.at(where) from error


def _text(path: Path) -> str:
    """The content of a regular file, also behind a link. Raises UserError."""
    if not path.is_file():
        raise UserError("not a regular file" if path.exists() else "no such file", where=str(path))
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise UserError(f"the file has {size:,} bytes", where=str(path), allowed=[f"up to {LARGEST_FILE:,}"])
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"not text in UTF-8: {error.reason}", where=f"{path}:{line}") from error


def _read(text: str, name: str, lines: Lines) -> Any:
    try:
        loader = _Loader(text)
        loader.name = name
        node = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"the character U+{error.character:04X} is not allowed", where=f"{name}:{line}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"not valid YAML: {reason}", where=f"{name}:{mark.line + 1 if mark else 1}") from error
    return None if node is None else loader.plain(node, (), lines)


# --- errors of models -------------------------------------------------------------------------------------------------

_MAPPING = "a mapping of keys to values"
_TYPES = {
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), _MAPPING),
    "string_type": "text",
}
_OTHERS = {
    "finite_number": "a finite number",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number greater than or equal to {ge}",
    "less_than": "a number less than {lt}",
    "less_than_equal": "a number less than or equal to {le}",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text of the form {pattern}",
    "literal_error": "{expected}",
}


def validate(model: type[Validated], data: object, where: Where) -> Validated:
    """`data` as an instance of `model`. The first mistake becomes a UserError that names its place and the choices."""
    try:
        made = model.model_validate(data)
    except ValidationError as error:
        raise _user_error(model, data, error.errors(), where) from error
    for path, value in _truths(data, made):
        raise UserError(f"expected a number, got {_shown(value)}", where=where(path))
    return made


def _truths(data: object, made: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, bool]]:
    """The places of true and false in the data that pydantic has taken for 1 and 0."""
    if isinstance(data, bool) and type(made) in (int, float):
        yield path, data
    inner: Any = vars(made) if isinstance(made, BaseModel) else made
    inner = dict(enumerate(made)) if isinstance(made, list | tuple) else inner if isinstance(inner, Mapping) else {}
    for key, own in data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else ():
        yield from _truths(own, inner.get(key), (*path, key))


def _user_error(model: type[BaseModel], data: object, errors: list[ErrorDetails], where: Where) -> UserError:
    placed = [(_inside(data, each["loc"]), each) for each in errors]
    alike = [(path, each) for path, each in placed if path[: len(placed[0][0])] == placed[0][0]]
    path = max((path for path, _ in alike), key=len)  # of the choices for a value, the one that fits best
    found = [each for own, each in alike if own == path]
    found = [each for each in found if each["type"] not in (*_TYPES, "literal_error")] or found
    error = found[0]
    noun = "key" if error["loc"][-1:] == ("[key]",) else "value"
    if error["type"] == "extra_forbidden":
        parent = _model_at(model, path[:-1])
        return unknown("key", str(path[-1]), parent.model_fields if parent else (), where=where(path))
    if error["type"] == "missing":
        name = error["loc"][-1]
        what = f"key '{name}' is required" if isinstance(name, str) else f"expected more than {name} items"
        return UserError(what, where=where(path))
    if error["type"] == "literal_error" and len(found) == 1:
        allowed = [part.strip("' ") for part in str(error["ctx"]["expected"]).replace(" or ", ", ").split(", ")]
        return unknown(noun, str(error["input"])[:SHOWN], allowed, where=where(path))
    forms = {**_TYPES, **_OTHERS}
    if any(each["type"] not in forms for each in found):
        message = error["msg"].removeprefix("Value error, ")
        got = "" if error["type"] == "value_error" else f", got {_shown(error['input'])}"
        return UserError(f"{message}{got}", where=where(path))
    expected = " or ".join(dict.fromkeys(forms[each["type"]].format(**each.get("ctx", {})) for each in found))
    return UserError(f"expected {expected}, got {_shown(error['input'])}", where=where(path))


def _inside(data: object, path: KeyPath) -> KeyPath:
    """The parts of a path that are keys of the data, without pydantic's names of choices."""
    found: list[str | int] = []
    for part in path:
        known = data if isinstance(data, Mapping) else range(len(data)) if isinstance(data, list | tuple) else ()
        if part in known:
            found.append(part)
            data = data[part]  # type: ignore[index]
    return tuple(found)


def _shown(value: object) -> str:
    """A value in a message, as in YAML, shortened."""
    names = {None: "nothing", True: "true", False: "false"}
    text = names[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """The pydantic model that a key path leads to, through plain sub-models only."""
    current: Any = model
    for part in path:
        field = getattr(current, "model_fields", {}).get(part)
        annotation = field.annotation if field else None
        held = [getattr(a, "__origin__", a) for a in getattr(annotation, "__args__", ())]  # of Annotated, the type
        arguments = [a for a in held if isinstance(a, type) and issubclass(a, BaseModel)]
        if annotation is None and current is not None:
            continue  # a key of a mapping, or a place in a list: the model of its values was found one step before
        current = arguments[0] if arguments else annotation
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None

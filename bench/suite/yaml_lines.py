"""YAML with the line of every key: duplicate keys and aliases are refused, and errors can say where they are."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bench.core.errors import UserError, unknown

KeyPath = tuple[str | int, ...]
Where = Callable[[KeyPath], str]
Validated = TypeVar("Validated", bound=BaseModel)

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """Safe loading, without aliases (they make two places out of one) and duplicate keys (one would be lost).

    1:30:00 is text; YAML 1.1 takes it for a number in base 60, 5400.
    """

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        in_base_60 = tag in _NUMBERS and ":" in value
        return self.DEFAULT_SCALAR_TAG if in_base_60 else tag

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise UserError(
                "aliases (*name) are not allowed",
                where=f"{mark.name}:{mark.line + 1}",
                hint="write the value out, or make it an axis",
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Hashable, int] = {}
        for key, _ in node.value:
            name, line = self.construct_object(key), key.start_mark.line + 1
            if name in seen:
                raise UserError(
                    f"key '{name}' appears twice",
                    where=f"{key.start_mark.name}:{line}",
                    hint=f"the first one is in line {seen[name]}",
                )
            seen[name] = line
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """The mapping in a YAML file and the line of every key path. Raises UserError with file and line."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        loader.name = str(path)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node is not None else None
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise UserError(f"not text in UTF-8: {error.reason}", where=str(path)) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"not valid YAML: {error.problem}", where=f"{path}:{line}") from error
    if not isinstance(data, dict):
        raise UserError("expected a mapping of keys to values", where=str(path))
    lines: dict[KeyPath, int] = {}
    _collect_lines(node, (), lines)
    return data, lines


def load_value(text: str) -> Any:
    """One value, read as in a file. Raises yaml.YAMLError, and UserError for what files may not contain."""
    return yaml.load(text, _Loader)


def _collect_lines(node: Any, path: KeyPath, lines: dict[KeyPath, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines[*path, key.value] = key.start_mark.line + 1
            _collect_lines(value, (*path, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[*path, index] = value.start_mark.line + 1
            _collect_lines(value, (*path, index), lines)


def validate(model: type[Validated], data: object, where: Where) -> Validated:
    """`data` as an instance of `model`. The first mistake becomes a UserError that names its place and the choices."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _user_error(model, error.errors()[0], where) from error


def _user_error(model: type[BaseModel], error: ErrorDetails, where: Where) -> UserError:
    path: KeyPath = tuple(error["loc"])
    noun = "value"
    if path[-1:] == ("[key]",):  # it is the key itself that is wrong
        path, noun = path[:-1], "key"
    if error["type"] == "extra_forbidden":
        parent = _model_at(model, path[:-1])
        return unknown("key", str(path[-1]), parent.model_fields if parent else (), where=where(path))
    if error["type"] == "missing":
        return UserError(f"key '{path[-1]}' is required", where=where(path[:-1]))
    if error["type"] == "literal_error":
        allowed = [part.strip("' ") for part in str(error["ctx"]["expected"]).replace(" or ", ", ").split(", ")]
        return unknown(noun, str(error["input"]), allowed, where=where(path))
    message = error["msg"].removeprefix("Value error, ")
    got = "" if error["type"] == "value_error" else f", got {error['input']!r}"
    return UserError(f"{message}{got}", where=where(path))


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """The pydantic model that a key path leads to, through plain sub-models only."""
    current: Any = model
    for part in path:
        field = getattr(current, "model_fields", {}).get(part)
        annotation = field.annotation if field else None
        arguments = [a for a in getattr(annotation, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
        if annotation is None and current is not None and isinstance(part, str):
            continue  # a key of a mapping: its values' model was found one step before
        current = arguments[0] if arguments else annotation
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None

"""Prompts of one's own: patterns or, by class, whole texts (CuPL), in a suite or in a file.

A pattern with `{description}`, `{spatial}` or `{temporal}` becomes a prompt for each such sentence about the class
(FROSTER, TACO, OST); `descriptions` of the recipe or protocol says where these come from (bench/data/descriptions.py).

A set goes by a name that holds its content or a hash of it, so that recipes and protocols with other prompts differ.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.core.errors import UserError, unknown
from bench.core.files import expanded, not_found
from bench.core.identity import digest
from bench.data.descriptions import are_named
from bench.data.lists import plain_name
from bench.models.prompts import KINDS, TEMPLATES, kinds, prompts
from bench.suite.yaml_lines import load_value

MOST = 1_000  # patterns of a set, texts of a class
LARGEST = 20_000_000  # bytes of a file
HOLES = ("{}", *(f"{{{kind}}}" for kind in KINDS))
FORMS = (f"patterns with one {' or '.join(HOLES)} each", "{class: [texts]}", "a file of them (.txt, .yaml, .json)")

Templates = tuple[str, ...] | dict[str, tuple[str, ...]]  # patterns, or class without case and the like -> texts
Told = Mapping[str, Mapping[str, Sequence[str]]]  # kind -> class -> sentences


def read_templates(value: Any, folder: Path, where: str) -> tuple[str, Templates]:
    """A set of templates and its name: a shipped one, or made of the content. Raises UserError."""
    if isinstance(value, str) and value in TEMPLATES:
        return value, TEMPLATES[value]
    if isinstance(value, str) and not {"{", "}"} & set(value):
        value, where = _read(value, folder, where), f"{where}: {value}"
    if isinstance(value, dict):
        texts = {str(name): _checked(own, f"{where}: class '{name}'", 0) for name, own in value.items()}
        return f"texts of {len(texts)} classes, {digest(texts)[:8]}", texts
    patterns = _checked(value, where, 1)
    alike = [name for name, own in TEMPLATES.items() if own == patterns]
    same = [name for name in alike if kinds(patterns) or prompts(name, ["a_b"]) == filled(patterns, ["a_b"])]
    several = f"{len(patterns)} patterns, {digest(patterns)[:8]}" if len(patterns) > 1 else patterns[0]
    return (same or [several])[0], patterns


def check_classes(templates: Templates, names: Iterable[str], where: str) -> None:
    """Raises UserError unless each of these classes has texts, once, and no other has."""
    known, given = {plain_name(name): name for name in names}, [plain_name(name) for name in templates]
    if odd := [name for name, plain in zip(templates, given, strict=True) if plain not in known]:
        raise unknown("class", odd[0], known.values(), where=where)
    if wrong := [name for plain, name in known.items() if given.count(plain) != 1]:
        raise UserError(f"{len(wrong)} classes do not have texts exactly once, such as '{wrong[0]}'", where=where)


def filled(templates: Templates, names: Sequence[str], told: Told | None = None) -> list[list[str]]:
    """The prompts of each class, [C][P]; its name for a class without texts, as while a dataset is missing.

    `told` has the sentences of all kinds that patterns ask for, about at least these classes.
    """
    if isinstance(templates, dict):
        texts = {plain_name(name): own for name, own in templates.items()}
        return [list(texts.get(plain_name(name), (name,))) for name in names]
    told = told or {}
    named = are_named(told.get("description", {}))
    return [[text for pattern in templates for text in _texts(pattern, name, told, named)] for name in names]


def _texts(pattern: str, name: str, told: Told, named: bool) -> list[str]:
    """One text, or one for each sentence of the kind that the pattern asks for.

    Beside descriptions that are `named`, `{}` is their own name of the class.
    """
    for kind in kinds([pattern]):
        spoken = [(own.partition(":")[0] if named and kind == "description" else name, own) for own in told[kind][name]]
        return [pattern.replace("{}", beside).replace(f"{{{kind}}}", own) for beside, own in spoken]
    return [pattern.replace("{}", name)]


def _read(text: str, folder: Path, where: str) -> Any:
    file = folder / expanded(text)
    if not os.path.isfile(file) and not file.suffix and "/" not in text:
        raise unknown("templates", text, [*TEMPLATES, *FORMS], where=where)
    try:
        if not os.path.isfile(file) or file.stat().st_size > LARGEST:
            reason = not_found("file of templates", file) or f"{file} has more than {LARGEST:,} bytes"
            raise UserError(reason, where=where, allowed=FORMS)
        content = file.read_text(encoding="utf-8-sig")
        if file.suffix in (".yaml", ".yml"):
            return load_value(content)
        lines = [line.strip() for line in content.splitlines() if line.strip()]
        return json.loads(content) if file.suffix == ".json" else lines
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}", where=where) from error


def _checked(value: Any, where: str, holes: int) -> tuple[str, ...]:
    """Texts, or patterns with holes: one for the class name, for sentences about it, or for both."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not 0 < len(texts) <= MOST:
        raise UserError(f"expected 1 to {MOST:,} {'patterns' if holes else 'texts'}", where=where, allowed=FORMS)
    for number, text in enumerate(texts, start=1):
        found = re.findall(r"\{\w*\}", text) if isinstance(text, str) else []
        names, others = found.count("{}"), len(found) - found.count("{}")
        most = names <= 1 and others <= 1 if holes else names == 0
        if not isinstance(text, str) or not text.strip() or not most or (holes and not found):
            form = f"a text with {' or '.join(HOLES)} once" if holes else "a text without {}"
            raise UserError(f"number {number} is {text!r}", where=where, allowed=[form])
        rest = re.sub("|".join(map(re.escape, HOLES)), "", text)
        if holes and ({"{", "}"} & set(rest) or text in texts[: number - 1]):
            hint = "no brace but {}, which stands for the class name, and those allowed; no pattern twice"
            raise UserError(f"number {number} is '{text}'", where=where, allowed=HOLES, hint=hint)
    return tuple(texts)

"""Prompt templates by name, from bench/assets/templates.yaml.

A class text is the normalised mean of the normalised embeddings of its prompts. Only the lists of prompts are
reproduced. ActionCLIP averages the softmax over classes of its 16 prompts instead of their embeddings, left out here.
Other sets, and texts of each class, are read by bench/suite/templates.py, which also fills patterns that ask for
descriptions of the classes: `{description}`, `{spatial}`, `{temporal}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from bench.core.errors import UserError, unknown
from bench.core.files import ASSETS

TEMPLATES: dict[str, tuple[str, ...]] = {
    name: tuple(own) for name, own in yaml.safe_load((ASSETS / "templates.yaml").read_text(encoding="utf-8")).items()
}

KINDS = ("description", "spatial", "temporal")  # of sentences about a class, `{KIND}` in a pattern


def kinds(patterns: Iterable[str]) -> tuple[str, ...]:
    """The kinds of sentences that patterns ask for."""
    asked = "".join(patterns)
    return tuple(kind for kind in KINDS if f"{{{kind}}}" in asked)


def prompts(template: str, class_names: Sequence[str]) -> list[list[str]]:
    """The prompts of each class, [C][P]. Raises UserError for an unknown name or a set that asks for descriptions."""
    if template not in TEMPLATES:
        raise unknown("templates", template, TEMPLATES)
    if kinds(TEMPLATES[template]):
        raise UserError(f"templates '{template}' ask for descriptions of the classes, which only suites name")
    if template == "vifi":
        class_names = [name.replace("_", " ") for name in class_names]
    return [[pattern.format(name) for pattern in TEMPLATES[template]] for name in class_names]


def texts_of(context: Mapping[str, Any]) -> list[list[str]]:
    """Texts of each class by a stage's context: its sentences, or the class name in every template."""
    return context.get("sentences") or prompts(context["templates"], context["class_names"])

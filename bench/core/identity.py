"""Identities: what makes two pieces of work the same.

An identity is a hash of a stage's kind, fully resolved settings, the source it runs and the identities of its inputs.
The source enters as the syntax trees of every project module that the stage's modules import, so comments, docstrings
and formatting do not change it, and a change of anything that is executed does.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PROJECT = ("bench", "methods")


def digest(value: object) -> str:
    """Hash of a JSON value, alike for every key order; 32 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def source_fingerprint(*modules: str) -> str:
    """Hash of the code of these modules and of every project module they import, directly or not."""
    return digest(source_hashes(*modules))


def source_hashes(*modules: str) -> dict[str, str]:
    """What the fingerprint is made of: the hash of each of these modules, and of each that they import."""
    packages = frozenset(PROJECT) | {module.partition(".")[0] for module in modules}
    found: dict[str, str] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name not in found and (file := _file(name)) is not None:
            found[name], imported = _parse(file)
            todo += [*_parents(name), *(other for other in imported if other.partition(".")[0] in packages)]
    return found


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


@cache
def _file(module: str) -> Path | None:
    """The source file of a project module; None for a name inside a module. Nothing is imported."""
    top, _, rest = module.partition(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return Path(spec.origin) if spec and spec.origin and not rest else None
    for location in spec.submodule_search_locations:
        base = Path(location, *rest.split(".")) if rest else Path(location)
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


@cache
def _parse(file: Path) -> tuple[str, tuple[str, ...]]:
    """(hash of the code without comments and docstrings, names of imported modules)."""
    tree = _Executed().visit(ast.parse(file.read_bytes(), filename=str(file)))
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest(), tuple(_imports(ast.walk(tree)))


class _Executed(ast.NodeTransformer):
    """Removes what never runs: docstrings and blocks for type checkers."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
        return node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)

"""Identities: when two pieces of work are the same.

An identity hashes a stage's kind, its settings, the source that it runs and the identities of its inputs.

Source enters as the syntax trees of the project modules that the stage's modules import, without what cannot change a
number: comments, docstrings, formatting, type-checking blocks, the arguments of `raise`, field declarations of settings
and the tables `PRESETS` and `VARIANTS` (their values enter as settings), and whole modules that only carry work out.

Settings enter by value. A field that has its neutral value, the default that it had when it was first recorded
(bench/assets/neutral.json), is left out: a new field at its default changes no identity, a changed default does.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache, cached_property
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from annotated_types import Ge, Le, Lt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bench.core.errors import UserError
from bench.core.files import cache_dir

PROJECT = ("bench", "methods")
NEUTRAL_FILE = Path(__file__).parents[1] / "assets" / "neutral.json"
BY_VALUE = frozenset({"PRESETS", "VARIANTS"})  # module-level tables whose entries reach a stage as its settings


def digest(value: object) -> str:
    """Hash of a JSON value, alike for every key order; 32 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# --- settings ---------------------------------------------------------------------------------------------------------


def setting(default: Any, description: str, **more: Any) -> Any:
    """A key of a suite or a site: its default and its meaning, for the reference and for errors."""
    return Field(default=default, description=description, **more)


Values = TypeVar("Values", list[Any], tuple[Any, ...])


def _distinct(values: Values) -> Values:
    """Raises ValueError for a value that is given twice; 1, 1.0 and true are one."""
    seen = set()
    for value in values:
        if (plain := _hashable(value)) in seen:
            raise ValueError(f"{value} is given twice")
        seen.add(plain)
    return values


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return frozenset((key, _hashable(own)) for key, own in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


# Numbers have limits, so that a slip of the keyboard is refused instead of filling the memory.
Count = Annotated[int, Ge(1), Le(1_000_000)]
Few = Annotated[int, Ge(1), Le(1000)]  # of what each costs a module, a stage or a process
Seed = Annotated[int, Ge(0), Lt(2**63)]
Distinct = AfterValidator(_distinct)


class Identified(BaseModel):
    """Settings that take part in identities by value."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the fields that do not have their neutral values."""
        return digest(identity_value(self))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy without what was computed from the fields, which pydantic would take over although they change."""
        copied = super().model_copy(update=update, deep=deep)
        for name in set(copied.__dict__) - set(type(self).model_fields):
            del copied.__dict__[name]
        return copied

    def __hash__(self) -> int:
        return hash(self.fingerprint)


def identity_value(value: object) -> Any:
    """A setting as it enters identities: a JSON value, of models without the fields that have their neutral values."""
    if isinstance(value, BaseModel):
        neutral = neutral_values(type(value))
        fields = {name: identity_value(getattr(value, name)) for name in type(value).model_fields}
        return {name: own for name, own in fields.items() if name not in neutral or own != neutral[name]}
    if isinstance(value, Mapping):
        return {name: identity_value(own) for name, own in value.items()}
    return [identity_value(own) for own in value] if isinstance(value, list | tuple) else value


@cache
def neutral_values(model: type[BaseModel]) -> dict[str, Any]:
    """Field -> the value at which it leaves identities alone: as recorded, for a newer field its default.

    Empty for a model that is not recorded, such as one of another package: all its fields count.
    """
    known = recorded().get(model_name(model))
    return {} if known is None else {**default_values(model), **known}


def default_values(model: type[BaseModel]) -> dict[str, Any]:
    """Field -> its default as it enters identities, of the fields that have one."""
    fields = {name: field for name, field in model.model_fields.items() if not field.is_required()}
    return {name: identity_value(field.get_default(call_default_factory=True)) for name, field in fields.items()}


def model_name(model: type[BaseModel]) -> str:
    """The name under which a model's neutral values are recorded."""
    return f"{model.__module__}.{model.__qualname__}"


@cache
def recorded() -> dict[str, dict[str, Any]]:
    """Model -> field -> recorded neutral value (`python -m tools.neutral` adds what is new)."""
    found: dict[str, dict[str, Any]] = json.loads(NEUTRAL_FILE.read_text(encoding="utf-8"))
    return found


# --- source -----------------------------------------------------------------------------------------------------------


@cache
def source_fingerprint(*modules: str, without: frozenset[str] = frozenset()) -> str:
    """Hash of the code of these modules and of every project module they import, directly or not.

    `without` names the modules that only carry the work out; neither they nor what only they import counts.
    """
    return digest(source_hashes(*modules, without=without))


def source_hashes(*modules: str, without: frozenset[str] = frozenset()) -> dict[str, str]:
    """The parts of `source_fingerprint`: a hash for each module that counts and is not empty."""
    packages = frozenset(PROJECT) | {module.partition(".")[0] for module in modules}
    found: dict[str, str] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name not in found and name not in without and (file := _file(name)) is not None:
            found[name], imported = _parse(name, file)
            todo += [*_parents(name), *(other for other in imported if other.partition(".")[0] in packages)]
    return {name: own for name, own in found.items() if own}


def read_sources_again() -> None:
    """Forget where source files lie and what is in them: the code of this process has moved, or may have changed."""
    for each in (source_fingerprint, _file, _content, _parse, _models):
        each.cache_clear()


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
        return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") and not rest else None
    for location in spec.submodule_search_locations:
        base = Path(location, *rest.split(".")) if rest else Path(location)
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


@cache
def _content(file: Path) -> bytes:
    return file.read_bytes()


@cache
def _parse(module: str, file: Path) -> tuple[str, tuple[str, ...]]:
    """(hash of the code that can change a number, names of imported modules); the hash of no code is ""."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    try:
        return _counted(_content(file), package, _models(file))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"not Python: {error}", where=f"{file}:{getattr(error, 'lineno', 1)}") from error


@cache
def _counted(content: bytes, package: str, models: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    """What `_parse` returns, of the content of a file: equal files at two places are parsed once."""

    def parsed() -> list[Any]:
        counted = _Counted(models).visit(ast.parse(content))
        code = ast.unparse(counted)
        return [hashlib.sha256(code.encode()).hexdigest() if code else "", [*_imports(counted, package)]]

    hashed, imported = _kept(parsed, content, package, *sorted(models))
    return hashed, tuple(imported)


def _kept(parsed: Callable[[], list[Any]], content: bytes, *more: str) -> list[Any]:
    """What is parsed of a source file, by this Python and this module; kept in the cache folder for other processes."""
    parser = _content(Path(__file__)), sys.version_info[:2]
    file = cache_dir() / "sources" / hashlib.sha256(repr((parser, content, more)).encode()).hexdigest()[:32]
    with suppress(OSError, ValueError):
        found: list[Any] = json.loads(file.read_bytes())
        if isinstance(found, list) and len(found) == 2:
            return found
    found = parsed()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(found), encoding="utf-8")
        unfinished.replace(file)
    return found


class _Counted(ast.NodeTransformer):
    """Leaves the code that can change a number. `models`: classes of the module whose fields are settings."""

    def __init__(self, models: frozenset[str]) -> None:
        self.models = models

    def visit_Module(self, node: ast.Module) -> ast.AST:
        node.body = [each for each in _without_docstring(node.body) if not (self.models and _is_table(each))]
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = _without_docstring(node.body)
        if node.name in self.models:
            node.body = [each for each in node.body if not _is_field(each)] or [ast.Pass()]
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.body = _without_docstring(node.body)
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING") else node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """An error's text changes no number."""
        if isinstance(node.exc, ast.Call):
            return ast.Raise(exc=node.exc.func, cause=None)
        return node


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    match body:
        case [ast.Expr(ast.Constant(str())), *rest]:
            return rest or [ast.Pass()]
    return body


def _is_table(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return any(isinstance(target, ast.Name) and target.id in BY_VALUE for target in targets)


def _is_field(node: ast.stmt) -> bool:
    """True for a field's declaration and for the text below it."""
    match node:
        case ast.AnnAssign(target=ast.Name(name), annotation=annotation):
            return "ClassVar" not in ast.unparse(annotation) and not name.startswith("_")
        case ast.Expr(ast.Constant(str())):
            return True
    return False


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


# --- which classes are settings ---------------------------------------------------------------------------------------


@cache
def _models(file: Path) -> frozenset[str]:
    """The classes of a module that derive from pydantic's BaseModel, also through other project modules."""
    names, classes = _classes(_content(file))
    known = {"BaseModel", "Identified"} | {name for name, module, own in names if _is_model(module, own)}
    for name, bases in classes:
        if known & bases:
            known.add(name)
    return frozenset(name for name, _ in classes if name in known)


@cache
def _classes(content: bytes) -> tuple[tuple[tuple[str, str, str], ...], tuple[tuple[str, frozenset[str]], ...]]:
    """(imported classes as in `_names`, the module's own classes with the names of their bases)."""

    def parsed() -> list[Any]:
        tree = ast.parse(content)
        own = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        return [[*_names(tree)], [(node.name, [*map(ast.unparse, node.bases)]) for node in own]]

    names, classes = _kept(parsed, content, "classes")
    return tuple(map(tuple, names)), tuple((name, frozenset(bases)) for name, bases in classes)


def _names(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """(name here, module, name there) of imported classes, `settings.Config` after `from methods import settings`."""
    modules = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PROJECT:
            for alias in node.names:
                yield alias.asname or alias.name, node.module, alias.name
                modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for each in ast.walk(tree):
        if isinstance(each, ast.ClassDef):
            for base in each.bases:
                here, dot, name = ast.unparse(base).partition(".")
                if dot and here in modules:
                    yield ast.unparse(base), modules[here], name


def _is_model(module: str, name: str) -> bool:
    file = _file(module)
    return file is not None and name in _models(file)

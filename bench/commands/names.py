"""The commands `list`, which shows the names that a suite may use, and `cite`, which prints the papers behind them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import typer

from bench.commands.options import Overrides, Plugins, SuiteName, out
from bench.data.datasets import Dataset, datasets
from bench.published.references import references
from bench.suite.named_protocols import named_protocols
from bench.suite.resolve import SUITES, load_suite, suite_path
from methods.registry import methods, use_plugins


def list_(
    what: Annotated[Literal["methods", "suites", "datasets", "protocols"], typer.Argument(help="kind of names")],
    plugin: Plugins = None,
) -> None:
    """List the names that a suite may use."""
    use_plugins(plugin or ())
    for name, text in _listing(what):
        out.print(f"[bold]{name}[/bold]  {text}", highlight=False, soft_wrap=True)


def cite(suite: SuiteName, overrides: Overrides = None, plugin: Plugins = None) -> None:
    """Print BibTeX entries of the methods, datasets and backbones of a suite, as far as they are known."""
    use_plugins(plugin or ())
    trials = load_suite(suite_path(suite), tuple(overrides or ())).trials
    used = [own.dataset for trial in trials for _, protocol in trial.protocols for own in protocol.parts().values()]
    recipes = [trial.recipe for trial in trials]
    entries = references(
        (trial.method for trial in trials),
        (*(recipe.source for recipe in recipes), *used),
        (recipe.backbone for recipe in recipes),
    )
    print("\n\n".join(entries.values()))


def _listing(what: str) -> Iterable[tuple[str, str]]:
    """Names and descriptions."""
    if what == "methods":
        return [(name, found.summary) for name, found in methods().items()]
    if what == "datasets":
        return [(name, _described(data)) for name, data in datasets({}).items()]
    if what == "protocols":
        return named_protocols()
    suites = [load_suite(path) for path in sorted(SUITES.glob("*.yaml"))]
    return [(suite.name, suite.file.title) for suite in suites]


def _described(data: Dataset) -> str:
    """Splits with their numbers of videos, as far as known, and what is missing."""
    splits = [f"{split} {count:,}" if (count := data.count(split)) else split for split in data.splits]
    missing = None if data.buildable else data.missing()
    return ", ".join(splits) + (f"  ({missing})" if missing else "")

"""Options and consoles that commands share, and the opening of a suite."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.commands.checks import unusable_folders
from bench.commands.display import bars
from bench.core.errors import UserError, refuse_all
from bench.core.files import cache_dir
from bench.graph.build import Graph, build_graph
from bench.launch.launches import Launch
from bench.published.pairing import pairs
from bench.store.provenance import Provenance, provenance
from bench.suite.resolve import SUITES, load_suite, suite_path
from bench.suite.trial import Suite
from methods.registry import use_plugins

console = Console(stderr=True)  # progress, warnings, errors
out = Console()  # results


def shipped() -> list[str]:
    """Names of the shipped suites, by which shells complete them."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


SuiteName = Annotated[
    str,
    typer.Argument(metavar="SUITE", help="name of a shipped suite, or a path to a YAML file", autocompletion=shipped),
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. recipe.epochs=5")]
StorePath = Annotated[Path, typer.Option("--store", envvar="VTB_STORE", help="folder of records and reports")]
CachePath = Annotated[
    Path | None, typer.Option("--cache", envvar="VTB_CACHE", help="folder of the embedded videos and decoded frames")
]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="PACKAGE", help="package of a method without an entry point; may be repeated"),
]

Rows = Annotated[str | None, typer.Option("--rows", metavar="ROW,ROW", help="rows to keep of the suite")]
Without = Annotated[str, typer.Option("--without", metavar="ROW,ROW", help="rows to leave out")]

Wrong = Callable[[Suite | None], Iterable[UserError]]  # what is wrong with a suite, or without one with the command

DEFAULT_STORE = Path("runs")


def say(text: str, style: str | None = None, console: Console = out) -> None:
    """Print a result as it is, without markup or line breaks."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def warn(text: str, style: str = "yellow") -> None:
    """Print a warning or an error as it is."""
    say(text, style, console)


class Warnings(logging.Handler):
    """Prints the warnings of all rooms while it is open, each once: what is passed over, and what to do about it."""

    def __init__(self, style: str | None = "yellow") -> None:
        super().__init__(logging.WARNING)
        self.style, self.shown = style, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.shown and self.style:
            warn(f"warning: {text}", self.style)
        self.shown.add(text)

    def __enter__(self) -> Warnings:
        logging.getLogger("bench").addHandler(self)
        return self

    def __exit__(self, *_raised: object) -> None:
        logging.getLogger("bench").removeHandler(self)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[..., None]]:
    """A function (done, total, description) that draws a progress bar."""
    with bars(console) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total, text=title: shown.update(task, completed=done, total=total, description=text)


def use_cache(cache: Path | None) -> None:
    """Let this folder, if there is one, be the cache of this process and of those that it starts."""
    if cache is not None:
        os.environ["VTB_CACHE"] = str(cache)


@contextmanager
def without_collecting() -> Iterator[None]:
    """Thousands of small objects all stay alive; collecting takes half of a large plan's time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@without_collecting()
def open_suite(
    name: str,
    overrides: list[str] | None,
    store: Path,
    cache: Path | None,
    plugins: list[str] | None,
    wrong: Wrong = lambda suite: (),
    folder: Path | None = None,
) -> tuple[Suite, Graph]:
    """Read a suite and build its graph, with a progress bar for datasets that are read for the first time.

    Raises one UserError for all that is `wrong` with it, or with the command if the suite itself cannot be read; also
    for a store or cache that nothing can be written to. Paths in the suite start at its folder, or else at `folder`.
    """
    use_plugins(plugins or ())
    use_cache(cache)
    unusable = [*unusable_folders({"--store": store, "--cache": cache_dir()})]
    try:
        suite = load_suite(suite_path(name), tuple(overrides or ()), folder)
    except UserError as error:
        refuse_all([error, *wrong(None), *unusable])
        raise
    refuse_all([*suite.problems, *wrong(suite), *unusable])
    pairs(suite)  # refuses a selector of published numbers that finds none
    for note in suite.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    with bars(console) as shown:
        tasks: dict[str, Any] = {}

        def hashing(dataset: str, done: int, total: int) -> None:
            if dataset not in tasks:
                tasks[dataset] = shown.add_task(f"reading {dataset} once for its identity")
            shown.update(tasks[dataset], completed=done, total=total)

        graph = build_graph(suite, hashing)
    gc.freeze()  # nor later
    return suite, graph


def open_launched(launch: Launch, wrong: Wrong = lambda suite: ()) -> tuple[Suite, Graph]:
    """Open the suite of a launch as it was submitted, in the folder where it was."""
    with suppress(FileNotFoundError):  # nothing may depend on it
        os.chdir(launch.about["folder"])
    folder = Path(launch.about["file"]).parent
    return open_suite(str(launch.suite_file), launch.about["overrides"], launch.store.root, None, None, wrong, folder)


def origin_of(launch: Launch | None) -> Provenance:
    """The provenance of what is done now: under the code of a launch, with the revision that it was of."""
    known = launch.about["provenance"] if launch else {}
    return {**provenance(), **{name: known[name] for name in ("revision", "dirty") if name in known}}

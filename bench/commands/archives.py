"""The commands on archives: `pack`, `merge`, `verify`; and `leaderboard`, over stores and archives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from bench.commands.checks import unusable_files, unusable_folders
from bench.commands.display import counted
from bench.commands.options import (
    DEFAULT_STORE,
    CachePath,
    Overrides,
    Plugins,
    StorePath,
    SuiteName,
    open_suite,
    say,
    use_cache,
)
from bench.core.errors import UserError, refuse_all
from bench.launch.launches import MERGED, launch_folders, suite_of
from bench.store.records import MARKER, Store

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="archives that `pack` wrote")]
Sources = Annotated[list[Path], typer.Argument(metavar="STORE|FILE...", help="stores and archives")]


def pack(
    suite: SuiteName,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="archive to write, such as results.zip")],
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
    cache: CachePath = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="with the tensors of trainings and features, many times larger")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Pack the records of a suite, as far as there are any, into one file, and say its root hash."""
    from bench.care.archive import pack as packed

    refuse_all(unusable_files({"FILE": target}))
    declared, graph = open_suite(suite, overrides, store, cache, plugin)
    records = Store(store)
    launches = [folder for folder in launch_folders(records, MERGED) if suite_of(folder) == declared.name]
    keys = [stage.key for stage in graph.stages.values()]
    archive = packed(target, declared.name, records, keys, launches, weights)
    say(f"{target}: {counted(len(archive.keys), 'record')} of {counted(len(keys), 'stage')}, {decimal(archive.size)}")
    if without := sum(bool(archive.left_out(*key)) for key in archive.keys):
        say(f"without the weights of {counted(without, 'record')}")
    say(f"root hash: {archive.root}")


def merge(files: Files, store: StorePath = DEFAULT_STORE) -> None:
    """Add the records of archives to a store; those there stay. An archive that contradicts itself is refused."""
    from bench.care.archive import Archive, refuse_contradictions
    from bench.care.archive import merge as merged

    archives = [Archive.of(path) for path in files]
    for archive in archives:
        refuse_contradictions(archive)
    refuse_all(unusable_folders({"--store": store}))
    target = Store.create(store)
    for archive in archives:
        done = merged(archive, target)
        completed = f", {done['completed']} completed with weights" if done["completed"] else ""
        say(f"{archive.path}: {counted(done['added'], 'record')} added{completed}, {done['there']} were there")


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="archive that `pack` wrote")],
    expect: Annotated[
        str, typer.Option("--expect", metavar="HASH", help="root hash that it should have; at least 16 digits")
    ] = "",
    sample: Annotated[
        int, typer.Option("--sample", min=0, max=10_000, help="videos whose scores are computed again from weights")
    ] = 0,
    cache: CachePath = None,
) -> None:
    """Check an archive: hashes, metrics from predictions, scores from weights. Exit code 1 if anything contradicts."""
    from bench.care.archive import Archive
    from bench.care.verify import verify as verified

    if expect and (len(expect) < 16 or not {*expect.lower()} <= {*"0123456789abcdef"}):
        raise UserError(f"'{expect}' is no root hash", where="--expect", hint="`pack` says it: 64 digits, 16 will do")
    use_cache(cache)
    archive = Archive.of(file)
    found = verified(archive, expect, sample)
    say(f"{file}: suite {archive.listed.suite}, {counted(len(archive.keys), 'record')}, root hash {found.root}")
    for line in found.checked:
        say(f"checked: {line}")
    for line in found.unchecked:
        say(f"not checked: {line}")
    for contradiction in found.wrong:
        say(f"CONTRADICTION: {contradiction}", "bold red")
    if found.wrong:
        raise typer.Exit(1)


def leaderboard(
    sources: Sources,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="folder of the page and its tables")] = Path(
        "leaderboard"
    ),
) -> None:
    """Write one page over many suites: a row for each method and configuration, a column for each protocol."""
    from bench.care.archive import Archive, refuse_contradictions
    from reports.leaderboard import Source, write_leaderboard

    refuse_all(unusable_folders({"--out": out}))
    opened: list[Source] = []
    for path in sources:
        if path.is_dir() and not (path / MARKER).is_file():
            raise UserError(f"is no store: it has no {MARKER}", where=str(path))
        opened.append(Store(path) if path.is_dir() else Archive.of(path))
        if isinstance(archive := opened[-1], Archive):
            refuse_contradictions(archive)
    say(f"leaderboard: {write_leaderboard(opened, out).resolve()}")

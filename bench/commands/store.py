"""The commands on the store: `why` compares records, `compare` suites or revisions; `gc` and `remove` delete."""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.table import Column, Table
from rich.text import Text

from bench.commands.checks import unusable_folders
from bench.commands.display import counted
from bench.commands.options import (
    DEFAULT_STORE,
    CachePath,
    Overrides,
    Plugins,
    StorePath,
    SuiteName,
    Warnings,
    console,
    open_suite,
    out,
    progress_bar,
    say,
    warn,
)
from bench.core.errors import UserError, refuse_all
from bench.core.files import cache_dir
from bench.launch.code import AGAIN, changed_files, changed_kinds, is_intact
from bench.launch.launches import MERGED, Launch, find_launch, launch_folders, launches
from bench.launch.removal import needless
from bench.store.garbage import Garbage, find
from bench.store.garbage import remove as removed
from bench.store.records import KINDS, Store
from bench.store.why import differences, find_record
from bench.suite.resolve import suite_path

RecordName = Annotated[
    str, typer.Argument(help="start of a record's identity, of any kind, or a record's folder; alone, a launch")
]
OtherRecord = Annotated[str | None, typer.Argument(metavar="[B]", help="another record")]
Side = Annotated[str, typer.Argument(help="a suite, SUITE@REVISION, or the folder of a report")]

log = logging.getLogger(__name__)


def why(a: RecordName, b: OtherRecord = None, store: StorePath = DEFAULT_STORE) -> None:
    """Show which fields make two records differ: settings, data, code, and those of their inputs.

    Of one launch, show how the checkout differs from its code, and which kinds of stages have other identities now.
    """
    if b is None:
        for line in _moved_on(find_launch(Store(store), a)):
            say(line)
        return
    records = [find_record(Store(store), key) for key in (a, b)]
    found = differences(*records)
    if found.fields:
        table = Table("field", *(f"{side}: {one.record['title']}" for side, one in zip("AB", records, strict=True)))
        for difference in found.fields:
            table.add_row(*map(Text, difference))
        out.print(table)
    for sentence in [found.verdict(*records), *found.notes]:
        say(sentence)


def _moved_on(launch: Launch) -> Iterator[str]:
    """How the checkout differs from the code of a launch, file by file, and what that changes."""
    if launch.code is None or not launch.code.is_dir():
        raise UserError("its code is not in the store", where=launch.name)
    if files := changed_files(launch):
        yield f"the checkout differs from the code of launch {launch.name} in {counted(len(files), 'file')}:"
        yield from (f"  {name}" for name in files)
    else:
        yield f"the checkout has the code of launch {launch.name}"
    if kinds := changed_kinds(launch):
        yield f"other identities, so other records: {', '.join(kinds)}"
    else:
        yield "no stage has another identity"


def compare(
    a: Side,
    b: Side,
    target: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="else compare-A-B beside the store's reports")
    ] = None,
    store: StorePath = DEFAULT_STORE,
    fail: Annotated[bool, typer.Option("--fail-on-regression", help="end with 1 if anything became worse")] = False,
) -> None:
    """Write the page of two suites or revisions, B against A, and say which accuracies and times became worse."""
    from reports.compare import changes, merge, sentences
    from reports.page import write_report
    from reports.snapshot import find

    folder = target or store / "reports" / f"compare-{_slug(a)}-{_slug(b)}"
    refuse_all(unusable_folders({"--out" if target else "--store": folder}))
    merged = merge(find(a, store), find(b, store), (a, b))
    page = write_report(merged, folder)
    for sentence in sentences(merged):
        say(sentence)
    say(f"report: {page}")
    if fail and any(change.worse for change in changes(merged)):
        raise typer.Exit(1)


def _slug(side: str) -> str:
    return re.sub(r"[^\w.]+", "-", side).strip("-.")


def gc(
    store: StorePath = DEFAULT_STORE,
    cache: CachePath = None,
    days: Annotated[int, typer.Option("--days", min=1, help="how long unfinished work and frames are kept")] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would be removed")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="name every file and folder")] = False,
) -> None:
    """Remove garbage: leftovers of ended work, and decoded frames that were not read for long. Records stay."""
    if not store.is_dir():
        raise UserError("no such folder", where=str(store), hint="--store names the folder of records")
    found = find(Store(store), cache.expanduser() if cache else cache_dir(), days, time.time())
    _remove(found, dry_run, paths)


def remove(
    suite: SuiteName,
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
    cache: CachePath = None,
    yes: Annotated[bool, typer.Option("--yes", help="remove them; else they are only shown")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="name every folder")] = False,
    plugin: Plugins = None,
) -> None:
    """Remove the records of a suite that no other suite needs which was launched in the store, and its launches.

    With overrides, those of the suite under them. Its report stays.
    """
    if not store.is_dir():
        raise UserError("no such folder", where=str(store), hint="--store names the folder of records")
    declared, graph = open_suite(suite, overrides, store, cache, plugin)
    if merged := [own for own in launch_folders(Store(store), MERGED) if own.parent.name == MERGED]:
        warn(f"launches that were merged ({len(merged)}) are not looked at: what they need is not kept for them")
    _remove(needless(declared, suite_path(suite), graph, Store(store)), not yes, paths)
    if not yes:
        say("nothing has been removed; --yes removes it")


def _remove(found: Iterable[Garbage], dry_run: bool, paths: bool) -> None:
    """Remove garbage, and print what it was."""
    with console.status("searching"):
        ended = [(item, "") for item in found] if dry_run else list(removed(found))
    gone = [item for item, error in ended if not error]
    for item in gone if paths else ():
        say(f"{item.kind:<18} {item.path}")
    if gone:
        out.print(_table(gone, "would be removed" if dry_run else "removed"))
    else:
        say("nothing to remove")
    for error in (error for _, error in ended if error):
        warn(f"not removed: {error}")


def examine_store(folder: Path) -> None:
    """Warn of everything that is wrong in a store. Exit code 1 if there is anything."""
    from bench.care.store import examine

    if not folder.is_dir():
        raise UserError("no such folder", where=str(folder))
    store = Store(folder)
    with Warnings(style=None) as found, progress_bar(f"examining {folder}") as show:
        lone = examine(store, show)
        for launch in launches(store):
            launch.ended(), launch.arrays()
            if launch.code and not is_intact(launch.code):
                log.warning("%s: the copy of code was changed, or is gone\n  hint: %s", launch.code, AGAIN)
    size = counted(sum(len(store.known(kind)) for kind in KINDS), "record")
    say(f"{folder}: {size}, {counted(len(found.shown), 'problem') if found.shown else 'no problems found'}")
    if lone:
        say(f"{counted(lone, 'record')} with inputs that have no record; a run makes them again where it needs them")
    if found.shown:
        raise typer.Exit(1)


def _table(gone: Iterable[Garbage], title: str) -> Table:
    """Number and size of each kind of garbage, with the reason, and the total."""
    groups = defaultdict[tuple[str, str], list[int]](list)
    for item in gone:
        groups[item.kind, item.reason].append(item.bytes)
    numbers = (Column(name, justify="right") for name in ("number", "size"))
    table = Table("what", *numbers, "why", title=title, title_justify="left")
    for (kind, reason), sizes in groups.items():
        table.add_row(kind, f"{len(sizes):,}", decimal(sum(sizes)), reason)
    table.add_section()
    all_sizes = [size for sizes in groups.values() for size in sizes]
    table.add_row("in all", f"{len(all_sizes):,}", decimal(sum(all_sizes)))
    return table

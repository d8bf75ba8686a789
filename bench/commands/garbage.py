"""The command that removes what nobody needs any more from the store and the cache folder: `gc`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from bench.core.errors import UserError

if TYPE_CHECKING:
    from bench.store.garbage import Waste

console = Console(stderr=True)
out = Console()

StorePath = Annotated[Path, typer.Option("--store", envvar="VTB_STORE", help="folder of records and reports")]
CachePath = Annotated[
    Path | None, typer.Option("--cache", envvar="VTB_CACHE", help="folder of the embedded videos and decoded frames")
]


def gc(
    store: StorePath = Path("runs"),
    cache: CachePath = None,
    days: Annotated[int, typer.Option("--days", min=1, help="how long unfinished work and frames are kept")] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="name every file and folder")] = False,
) -> None:
    """Remove what nobody needs any more: leftovers of ended work, decoded frames long unread. Records stay."""
    from bench.core.files import cache_dir
    from bench.store.garbage import find, remove
    from bench.store.records import Store

    if not store.is_dir():
        raise UserError("there is no such folder", where=str(store), hint="--store names the folder of records")
    folder = cache.expanduser() if cache else cache_dir()
    found = find(Store(store), folder, days, time.time())
    with console.status("looking"):
        ended = [(waste, "") for waste in found] if dry_run else list(remove(found))
    gone = [waste for waste, why in ended if not why]
    if paths:
        for waste in gone:
            out.print(f"{waste.kind:<18} {waste.path}", highlight=False, markup=False, soft_wrap=True)
    if gone:
        out.print(_table(gone, "would be removed" if dry_run else "removed"))
    else:
        out.print("nothing to remove", highlight=False)
    for why in (why for _, why in ended if why):
        console.print(f"left: {why}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def _table(gone: Iterable[Waste], title: str) -> Table:
    """A line for every kind and reason, and the total."""
    groups: dict[tuple[str, str], list[int]] = {}
    for waste in gone:
        groups.setdefault((waste.kind, waste.reason), []).append(waste.bytes)
    table = Table(title=title, title_justify="left")
    for name in ("what", "number", "size", "why"):
        table.add_column(name, justify="right" if name in ("number", "size") else "left")
    for (kind, reason), sizes in groups.items():
        table.add_row(kind, f"{len(sizes):,}", decimal(sum(sizes)), reason)
    table.add_section()
    everything = [size for sizes in groups.values() for size in sizes]
    table.add_row("in all", f"{len(everything):,}", decimal(sum(everything)))
    return table

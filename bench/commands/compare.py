"""The command that sets two suites, or two revisions of one, side by side: `compare`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

out = Console()

Side = Annotated[str, typer.Argument(help="a suite, SUITE@REVISION, or the folder of a report")]
StorePath = Annotated[Path, typer.Option("--store", envvar="VTB_STORE", help="folder of records and reports")]


def compare(
    a: Side,
    b: Side,
    target: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="else compare-A-B beside the store's reports")
    ] = None,
    store: StorePath = Path("runs"),
    fail: Annotated[bool, typer.Option("--fail-on-regression", help="end with 1 if anything became worse")] = False,
) -> None:
    """Write the page of two suites or revisions, B against A, and say which accuracies and times became worse."""
    from reports.compare import changes, merge, sentences
    from reports.page import write_report
    from reports.snapshot import find

    merged = merge(find(a, store), find(b, store), (a, b))
    page = write_report(merged, target or store / "reports" / f"compare-{_slug(a)}-{_slug(b)}")
    for sentence in sentences(merged):
        out.print(sentence, highlight=False, markup=False, soft_wrap=True)
    out.print(f"report: {page}", highlight=False, markup=False, soft_wrap=True)
    if fail and any(change.worse for change in changes(merged)):
        raise typer.Exit(1)


def _slug(side: str) -> str:
    """A side's name within a folder's."""
    return re.sub(r"[^\w.]+", "-", side).strip("-.")

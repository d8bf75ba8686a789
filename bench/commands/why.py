"""The command that tells records apart: `why`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

out = Console()

RecordName = Annotated[str, typer.Argument(help="start of a record's identity, of any kind, or a record's folder")]
StorePath = Annotated[Path, typer.Option("--store", envvar="VTB_STORE", help="folder of records and reports")]


def why(a: RecordName, b: RecordName, store: StorePath = Path("runs")) -> None:
    """Say which fields make two records differ: settings, data, code, and those of their inputs."""
    from bench.store.records import Store
    from bench.store.why import find_record
    from bench.store.why import why as compare

    found = [find_record(Store(store), key) for key in (a, b)]
    answer = compare(*found)
    if answer.differences:
        table = Table("field", *(f"{side}: {one.record['title']}" for side, one in zip("AB", found, strict=True)))
        for difference in answer.differences:
            table.add_row(*map(Text, difference))
        out.print(table)
    for sentence in [answer.verdict(*found), *answer.notes]:
        out.print(sentence, highlight=False, markup=False, soft_wrap=True)

"""The last run of the benchmarks against the one before it: `python -m tests.benchmarks.compare [FOLDER]`.

Only runs on the same machine are compared. A benchmark that a run left out is compared with the last run that has it.
Where two competitors take turns, the time is our processor time, and their ratio within the run stands beside it: it
means the same on every machine, and however busy it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

FOLDER = Path(".benchmarks")
Part = dict[str, Any]


class Line(NamedTuple):
    """A benchmark: least seconds of the last run before this one and of this one, and our ratio to a competitor now."""

    name: str
    last: float | None
    now: float
    competitor: float | None

    @property
    def ratio(self) -> float | None:
        return self.now / self.last if self.last else None


def lines(runs: Iterable[Part]) -> list[Line]:
    """Every benchmark of the newest run; none without runs."""
    ordered = sorted(runs, key=lambda run: str(run["datetime"]))
    if not ordered:
        return []
    *earlier, newest = ordered
    last: dict[str, float] = {}
    for run in earlier:
        if _machine(run) == _machine(newest):
            last |= {_name(own): _seconds(own) for own in run["benchmarks"]}
    return [
        Line(_name(own), last.get(_name(own)), _seconds(own), own["extra_info"].get("ratio"))
        for own in newest["benchmarks"]
    ]


def _machine(run: Part) -> tuple[object, ...]:
    """What has to be the same for times to be comparable."""
    about = run["machine_info"]
    return about["node"], about["cpu"].get("brand_raw"), about["cpu"].get("count"), about["python_version"]


def _name(own: Part) -> str:
    return str(own["fullname"]).removeprefix("tests/benchmarks/")


def _seconds(own: Part) -> float:
    """The least time: what disturbs a run only makes it longer. Of competitors who take turns, ours."""
    ours = own["extra_info"].get("ms")
    return ours[0] / 1e3 if ours else float(own["stats"]["min"])


def _text(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return (
        f"{seconds:.3g} s"
        if seconds >= 1
        else f"{1e3 * seconds:.3g} ms"
        if seconds >= 1e-3
        else f"{1e6 * seconds:.3g} µs"
    )


def main(folder: Path) -> None:
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*/*.json")]
    if not runs:
        print(f"no run of the benchmarks is saved below {folder}")
        return
    table = Table("benchmark", "last", "now", "now / last", "to its competitor")
    for line in lines(runs):
        ratios = (f"{ratio:.2f} x" if ratio else "–" for ratio in (line.ratio, line.competitor))
        table.add_row(Text(line.name), _text(line.last), _text(line.now), *ratios)
    Console().print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)

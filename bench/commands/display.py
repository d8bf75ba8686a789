"""What a launch shows while it works: bars with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bench.launch.local import Launch, Watch

PLAIN_SECONDS = 10.0  # between two plain lines


def bars(console: Console) -> Progress:
    """Bars of counted work with the time that is left."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=console)


@contextmanager
def watching(console: Console, estimates: dict[str, float], slots: int) -> Iterator[Watch]:
    """A `watch` for the launcher. `estimates`: seconds by stage identity; they are corrected by what really passes."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            yield lambda state: live.update(_picture(state, estimates, slots))
    else:
        yield _Plain(console, estimates, slots)


class _Plain:
    """A line now and then, and one for every failure."""

    def __init__(self, console: Console, estimates: dict[str, float], slots: int) -> None:
        self.console, self.estimates, self.slots = console, estimates, slots
        self.last = 0.0

    def __call__(self, state: Launch) -> None:
        ended = not state.todo and not state.running
        if ended or time.monotonic() - self.last >= PLAIN_SECONDS:
            self.last = time.monotonic()
            now = ", ".join(stage.title for stage in state.running.values())
            self.console.print(
                f"{_summary(state, self.estimates, self.slots)}{'  ' + now if now else ''}",
                highlight=False,
                soft_wrap=True,
            )


def _picture(state: Launch, estimates: dict[str, float], slots: int) -> Group:
    """The summary and a bar for each running stage."""
    columns = ("{task.description:<48.48}", "{task.fields[unit]}", "{task.fields[elapsed]}")
    title, unit, elapsed = (TextColumn(column, markup=False) for column in columns)
    bars = Progress(title, BarColumn(24), MofNCompleteColumn(), unit, elapsed)
    for stage in state.running.values():
        known = state.store.progress(*stage.key) or {"done": 0, "total": None, "unit": "", "started": time.time()}
        passed = clock(time.time() - known["started"])
        bars.add_task(stage.title, completed=known["done"], total=known["total"], unit=known["unit"], elapsed=passed)
    return Group(Text(_summary(state, estimates, slots)), bars)


def _summary(state: Launch, estimates: dict[str, float], slots: int) -> str:
    outcome, elapsed = state.outcome, time.monotonic() - state.started
    ended = len(outcome.done) + len(outcome.failed)
    total = ended + len(state.running) + len(state.todo)
    failed = f", {len(outcome.failed)} failed" if outcome.failed else ""
    return f"{ended}/{total} stages{failed}  elapsed {clock(elapsed)}  ETA {_eta(state, estimates, slots, elapsed)}"


def _eta(state: Launch, estimates: dict[str, float], slots: int, elapsed: float) -> str:
    """Time left: estimates of what is left, scaled by how the estimates of what is done came true."""
    left = sum(estimates[identity] for identity in state.todo)
    begun = sum(estimates[identity] for identity in state.running)
    passed = sum(estimates[identity] * _fraction(state, identity) for identity in state.running)
    done = sum(estimates[stage.identity] for stage in state.outcome.done) + passed
    return clock((left + begun - passed) * (elapsed / done if done else 1 / slots))


def _fraction(state: Launch, identity: str) -> float:
    known = state.store.progress(state.running[identity].kind, identity)
    return known["done"] / known["total"] if known and known["total"] else 0.0


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

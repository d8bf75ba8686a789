"""Progress bars, the display of a local run, and the words for times, numbers and names that commands share."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from bench.launch.launches import JobArray
from bench.launch.local import LocalRun, Watch
from bench.store.records import ProgressData

UNKNOWN = {"done": 0, "total": None, "unit": ""}  # progress of a stage that has just started
LINE_SECONDS = 10.0  # between two lines, where there is no terminal
NAMED = 5  # names that are listed of many


def bars(console: Console) -> Progress:
    """Progress bars with numbers and the time left."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=console)


# --- a local run ------------------------------------------------------------------------------------------------------


@contextmanager
def watching(console: Console, estimates: dict[str, float], slots: int) -> Iterator[Watch]:
    """Display a local run: live bars on a terminal, a line every few seconds and one at the end elsewhere.

    `estimates` are seconds by stage identity; the ETA corrects them by the time that passes.
    """
    last = 0.0

    def show(run: LocalRun) -> None:
        nonlocal last
        progress = {stage.identity: run.store.progress(*stage.key) or UNKNOWN for stage in run.running.values()}
        text = _summary(run, estimates, slots, progress)
        if console.is_terminal:
            live.update(Group(Text(text), _bars_of(run, progress)))
        elif not (run.todo or run.running) or time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            titles = ", ".join(stage.title for stage in run.running.values())
            console.print(f"{text}{'  ' + titles if titles else ''}", highlight=False, soft_wrap=True)

    live = Live(console=console, refresh_per_second=4)
    with live if console.is_terminal else nullcontext():
        yield show


def _bars_of(run: LocalRun, progress: dict[str, ProgressData]) -> Progress:
    """A bar for each running stage."""
    columns = ("{task.description:<48.48}", "{task.fields[unit]}", "{task.fields[elapsed]}")
    title, unit, elapsed = (TextColumn(column, markup=False) for column in columns)
    bars = Progress(title, BarColumn(24), MofNCompleteColumn(), unit, elapsed)
    for identity, known in progress.items():
        passed = clock(time.time() - known.get("started", time.time()))
        numbers = {"completed": known["done"], "total": known["total"], "unit": known["unit"]}
        bars.add_task(run.running[identity].title, **numbers, elapsed=passed)
    return bars


def _summary(run: LocalRun, estimates: dict[str, float], slots: int, progress: dict[str, ProgressData]) -> str:
    """Numbers of stages, and the time left: estimated, scaled by the actual over the estimated time so far."""
    elapsed, ended = time.monotonic() - run.started, len(run.done) + len(run.failed)
    failed = f", {len(run.failed)} failed" if run.failed else ""
    fractions = {
        identity: known["done"] / known["total"] if known["total"] else 0.0 for identity, known in progress.items()
    }
    passed = sum(estimates[identity] * fraction for identity, fraction in fractions.items())
    left = sum(estimates[identity] for identity in (*run.todo, *run.running)) - passed
    done = sum(estimates[stage.identity] for stage in run.done) + passed
    eta = clock(left * (elapsed / done if done else 1 / slots))
    return f"{ended}/{ended + len(run.running) + len(run.todo)} stages{failed}  elapsed {clock(elapsed)}  ETA {eta}"


# --- words ------------------------------------------------------------------------------------------------------------


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def moment(when: float) -> str:
    """Date and time of day."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def counted(count: int, thing: str) -> str:
    """A number with its noun in singular or plural."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def named(names: list[str]) -> str:
    """The first few names, and the number of others."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more  # titles have commas


def plain(text: str) -> str:
    """Remove terminal commands, and of lines that overwrite each other, as bars do, all but the last."""
    text = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)", "", text)
    text = re.sub(r"[^\n\r]*\r(?!\n)(?=[^\n])", "", text)
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def summary(submitted: list[JobArray]) -> str:
    """Numbers of stages, jobs and arrays that were submitted, and the job of the finalizer."""
    arrays = [array for array in submitted if not array.finalizer]
    jobs = [numbers for array in arrays for numbers in array.array_tasks]
    size = f"{counted(sum(map(len, jobs)), 'stage')} in {counted(len(jobs), 'job')} ({counted(len(arrays), 'array')})"
    return f"{size}, finalizer: job {submitted[-1].job}"

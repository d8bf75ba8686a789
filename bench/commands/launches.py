"""The commands that look after launches: `status` shows how one stands, `logs` what a stage left.

`cancel` ends one, `retry` goes on with it.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.text import Text

from bench.commands.picture import NAMED, counted, moment, named, picture, plain, state_in_words
from bench.core.errors import UserError

if TYPE_CHECKING:
    from bench.launch.launches import Key, Launch
    from bench.launch.states import Survey
    from bench.store.records import Store

console = Console(stderr=True)
out = Console()

MATCHES = 20  # stages of which `logs` shows the log
SECONDS_TO_END = 120.0  # for which `cancel` waits until nothing runs any more; Slurm kills after 30 by default
POLL = 0.5  # seconds

LaunchName = Annotated[
    str | None,
    typer.Argument(metavar="[LAUNCH]", help="a suite's name, or the start of a launch's id; else the newest"),
]
StorePath = Annotated[Path, typer.Option("--store", envvar="VTB_STORE", help="folder of records and reports")]
DEFAULT_STORE = Path("runs")


def status(
    name: LaunchName = None,
    store: StorePath = DEFAULT_STORE,
    stages: Annotated[bool, typer.Option("--stages", help="list every stage")] = False,
    full: Annotated[bool, typer.Option("--full", help="whole tracebacks, not their last lines")] = False,
    all_launches: Annotated[bool, typer.Option("--list", help="list all launches")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="look again and again until the launch has ended")] = False,
    interval: Annotated[float, typer.Option("--interval", min=1, help="seconds between two looks of --watch")] = 10.0,
) -> None:
    """Show how a launch stands: its stages by state, what runs, what failed and why. Ends with 1 if it went wrong."""
    from bench.launch.launches import find_launch
    from bench.launch.states import survey
    from bench.store.records import Store

    records = Store(store)
    if all_launches:
        for line in _launches(records):
            _say(line)
        return
    launch = find_launch(records, name)
    if watch:
        seen = _watch(launch, interval, stages, full)
    else:
        seen = survey(launch)
        _print(picture(seen, stages, full))
    if seen.wrong:
        raise typer.Exit(1)


def logs(
    trial: Annotated[
        str, typer.Argument(metavar="TRIAL", help="part of a stage's title, or the start of its identity")
    ],
    name: Annotated[str | None, typer.Option("--launch", metavar="LAUNCH", help="as in `status`")] = None,
    store: StorePath = DEFAULT_STORE,
    lines: Annotated[int, typer.Option("--lines", min=0, help="last lines of each file of output")] = 40,
) -> None:
    """Show what happened to stages of a launch: their attempts, their checkpoints, the output of their jobs."""
    from bench.launch.failures import Outputs
    from bench.launch.launches import find_launch
    from bench.store.records import Store

    launch = find_launch(Store(store), name)
    numbers = _matching(launch, trial)
    jobs, outputs = _jobs_by_stage(launch), Outputs(launch.folder / "jobs")
    events = launch.store.events()
    titles = {stage.key: stage.title for stage in launch.stages}
    for number in numbers[:MATCHES]:
        stage = launch.stages[number]
        _say(f"{stage.title}  ({stage.kind} {stage.identity})", style="bold")
        for event in events:
            if event.get("identity") == stage.identity:
                _say(f"  {moment(event['time'])}  {_in_words(event, titles)}")
        for line in _remains(launch.store, stage.key):
            _say(f"  {line}")
        for job, others in jobs.get(number, {}).items():
            shared = f", shared with {counted(others, 'other stage')}" if others else ""
            _say(f"  job {job}{shared}" + ("" if outputs.files(job) else ": no output"))
            for file in outputs.files(job):
                _show_end(file, lines)
    if len(numbers) > MATCHES:
        _say(f"and {len(numbers) - MATCHES} more stages; say more of the title")


def cancel(name: LaunchName = None, store: StorePath = DEFAULT_STORE) -> None:
    """End a launch: cancel its jobs, or interrupt its process on this machine. Records and checkpoints stay."""
    from bench.launch.launches import find_launch
    from bench.store.records import Store

    launch = find_launch(Store(store), name)
    if launch.about["on"] == "slurm":
        _cancel_jobs(launch)
    else:
        _interrupt(launch)


def retry(name: LaunchName = None, store: StorePath = DEFAULT_STORE) -> None:
    """Try again what a launch has not finished, with all attempts anew: only that, and under the same settings."""
    from bench.launch.launches import find_launch
    from bench.launch.slurm import resubmit, summary
    from bench.store.records import Store

    launch = find_launch(Store(store), name)
    if not launch.lacking():
        _say(f"{launch.name}: every stage has its record")
    elif launch.about["on"] == "slurm":
        _say(f"{launch.name}: {summary(resubmit(launch))}")
    else:
        again = shlex.join([launch.about["file"], *launch.about["overrides"], "--store", str(store)])
        raise UserError("it was not on Slurm", where=launch.name, hint=f"python run_suite.py {again}")


# --- status -----------------------------------------------------------------------------------------------------------


def _watch(launch: Launch, interval: float, stages: bool, full: bool) -> Survey:
    """Look until the launch has ended, or the user has seen enough; what was seen last."""
    from bench.launch.states import survey

    seen = survey(launch)
    try:
        if out.is_terminal:
            with Live(Group(*picture(seen, stages, full)), console=out, auto_refresh=False) as live:
                while seen.going_on:
                    time.sleep(interval)
                    seen = survey(launch)
                    live.update(Group(*picture(seen, stages, full)), refresh=True)
        else:
            _print(picture(seen, stages, full))
            while seen.going_on:
                time.sleep(interval)
                seen = survey(launch)
                _say("")
                _print(picture(seen, stages, full))
    except KeyboardInterrupt:
        pass
    return seen


def _launches(store: Store) -> Iterator[str]:
    """A line for each launch, the newest first."""
    from bench.launch.launches import launch_folders, open_launch
    from bench.launch.states import Survey, gather

    launches = [open_launch(folder) for folder in reversed(launch_folders(store))]
    going = [launch for launch in launches if not launch.ended()]
    facts = gather(store, going)
    width = max((len(launch.name) for launch in launches), default=0)
    if facts.silence:
        yield f"{facts.silence}: a launch that has not ended is taken to go on"
    for launch in launches:
        state = state_in_words(Survey(launch, facts))
        yield f"{launch.name:<{width}}  {launch.about['on']:<5}  {len(launch.stages):>5} stages  {state}"
    if not launches:
        yield f"nothing was launched with the store {store.root}"


# --- logs -------------------------------------------------------------------------------------------------------------


def _matching(launch: Launch, trial: str) -> list[int]:
    """Numbers of the stages that are meant. Raises UserError if there is none."""
    wanted = trial.lower()
    found = [
        number
        for number, stage in enumerate(launch.stages)
        if wanted in stage.title.lower() or stage.identity.startswith(wanted)
    ]
    if not found:
        titles = sorted({stage.title for stage in launch.stages})
        raise UserError(
            f"no stage of this launch is called '{trial}'",
            where=launch.name,
            allowed=get_close_matches(trial, titles, n=10, cutoff=0.3) or titles[:10],
            hint="part of a title, or the start of an identity; `status --stages` lists them. Stages that had their "
            "record are not part of a launch",
        )
    return found


def _jobs_by_stage(launch: Launch) -> dict[int, dict[str, int]]:
    """The jobs of every stage, in order, with the number of other stages in them."""
    from bench.launch.states import elements

    found: dict[int, dict[str, int]] = {}
    for name, _, numbers in elements(launch.jobs()):
        for number in numbers:
            found.setdefault(number, {})[name] = len(numbers) - 1
    return found


def _in_words(event: dict[str, Any], titles: dict[Key, str]) -> str:
    """What happened, as a sentence."""
    from bench.commands.display import clock

    reason = _indented(str(event.get("reason", "")))
    match event["event"]:
        case "start":
            job = f", job {event['job']}" if event.get("job") else ""
            by = f", by launch {event['launch']}" if event.get("launch") else ""
            return f"started on {event.get('host', '?')}, process {event.get('pid', '?')}{job}{by}"
        case "end":
            return f"done in {clock(event['seconds'])}"
        case "failure":
            return f"failed{', another attempt would end alike' if event.get('final') else ''}: {reason}"
        case "interrupted":
            return f"interrupted at {event['done']}: {reason}"
        case "death":
            return f"its process died{': ' if reason else ''}{reason}"
        case "blocked":
            lacking = [titles.get((kind, identity), f"{kind} {identity}") for kind, identity in event["lacking"]]
            return f"not started, no record of {named(lacking)}"
        case "note":
            return f"note: {_indented(str(event.get('text', '')))}"
        case other:
            return str(other)


def _remains(store: Store, key: Key) -> Iterator[str]:
    """What there is of a stage: its record, or a checkpoint."""
    checkpoint = store.checkpoint(*key)
    if store.done(*key):
        yield f"record: {store.folder(*key)}"
    elif files := [file.stat() for file in checkpoint.glob("**/*") if file.is_file()]:
        size, changed = sum(file.st_size for file in files), max(file.st_mtime for file in files)
        yield f"checkpoint: {checkpoint}, {decimal(size)}, of {moment(changed)}"
    else:
        yield "no checkpoint"


def _show_end(file: Path, lines: int) -> None:
    """A file's path and its last lines."""
    from bench.launch.failures import tail

    text = plain(tail(file)).splitlines()
    _say(f"    {file}" + ("" if text else ": empty"))
    for line in text[-lines:] if lines else ():
        _say(f"      {line}")


def _indented(text: str) -> str:
    """Text of several lines below the sentence that it belongs to."""
    lines = plain(text).splitlines()
    return "".join(f"\n      {line}" for line in lines) if len(lines) > 1 else "".join(lines)


# --- cancel -----------------------------------------------------------------------------------------------------------


def _cancel_jobs(launch: Launch) -> None:
    from bench.launch import scheduler
    from bench.launch.launches import release
    from bench.launch.states import Survey, gather

    scheduler.jobs()  # raises where there is no Slurm
    seen = Survey(launch, gather(launch.store, [launch]))
    if seen.ended and not seen.active:
        _say(f"{launch.name} has ended already ({seen.ended['state']})")
        return
    if seen.submitting and not seen.active:
        raise UserError(
            "its jobs are just being submitted", where=launch.name, hint="wait, or interrupt the submission"
        )
    known = len(seen.active) - len(seen.closing)
    # The closing job first: as long as it lives, it may submit again what is cancelled here.
    _cancel(launch, closing_only=True)
    left = _cancel(launch, closing_only=False)
    for stage in launch.stages:
        release(launch.store, stage.key, launch.name)
    launch.end("cancelled")
    _say(f"{launch.name}: cancelled ({counted(known, 'job')})")
    if left:
        console.print(f"still ending: {' '.join(left[:NAMED])}", style="yellow", highlight=False, markup=False)


def _cancel(launch: Launch, closing_only: bool) -> list[str]:
    """Cancel jobs of a launch, and again what comes back, until none is left; those that take too long to end."""
    from bench.launch import scheduler
    from bench.launch.states import elements

    deadline = time.monotonic() + SECONDS_TO_END
    asked: dict[str, str] = {}  # job -> the state in which it was asked to end
    with console.status("waiting for jobs to end"):
        while True:
            queue = scheduler.jobs()
            submitted = [
                (name, jobs.job) for name, jobs, _ in elements(launch.jobs()) if jobs.closing or not closing_only
            ]
            active = [(name, job) for name, job in submitted if name in queue and queue[name].active]
            if not active or time.monotonic() > deadline:
                return [name for name, _ in active]
            # A whole array at once. A job that had just had itself requeued waits again, and is asked once more.
            scheduler.cancel({job for name, job in active if asked.get(name) != queue[name].state})
            asked |= {name: queue[name].state for name, _ in active}
            time.sleep(POLL)


def _interrupt(launch: Launch) -> None:
    """End a local launch as Ctrl-C would."""
    from bench.launch.states import command_line, process_lives

    about = launch.about
    host, pid = about["host"], about["pid"]
    if ended := launch.ended():
        _say(f"{launch.name} has ended already ({ended['state']})")
        return
    lives = process_lives(about)
    if lives is None:
        raise UserError(f"it was started on {host}", where=launch.name, hint=f"there: run this, or kill -INT {pid}")
    if lives:
        command = command_line(pid)
        if command is None or "run_suite" not in command:
            what = "unknown" if command is None else f"'{command}'"
            raise UserError(f"process {pid} is {what}, not a run of suites", where=launch.name, hint="has it ended?")
        os.kill(pid, signal.SIGINT)
        _wait_for_end(launch)
    if not launch.ended():
        launch.end("cancelled")
    _say(f"{launch.name}: cancelled")


def _wait_for_end(launch: Launch) -> None:
    """Raises UserError if the process does not end."""
    from bench.launch.states import process_lives

    deadline = time.monotonic() + SECONDS_TO_END
    with console.status("waiting for its process to end"):
        while process_lives(launch.about):
            if time.monotonic() > deadline:
                raise UserError(f"process {launch.about['pid']} does not end", where=launch.name)
            time.sleep(POLL)


# --- words ------------------------------------------------------------------------------------------------------------


def _say(text: str, style: str | None = None) -> None:
    out.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _print(parts: Iterable[RenderableType]) -> None:
    for part in parts:
        out.print(part, highlight=False, soft_wrap=isinstance(part, Text))

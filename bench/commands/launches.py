"""The commands on launches: `status`, `logs` of a stage, `cancel`, `retry` of stages without a record; and `site`."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.text import Text

from bench.commands.display import NAMED, clock, counted, in_foreground, moment, named, picture, plain, state_name
from bench.commands.driver import drive, drive_here
from bench.commands.options import DEFAULT_STORE, StorePath, console, open_launched, out, say, warn
from bench.commands.suites import carry_out
from bench.core.errors import UserError
from bench.core.processes import Stopped, process_lives
from bench.launch import scheduler
from bench.launch.claims import driving_process, release_all
from bench.launch.code import run_under
from bench.launch.discover import as_yaml, discovered
from bench.launch.failures import job_outputs, tail
from bench.launch.launches import Launch, StageKey, find_launch, jobs_of, launches
from bench.launch.site import load_site
from bench.launch.slurm import active_jobs_of, reopen, submit_drivers
from bench.launch.states import LaunchStatus, command_line, launch_status, observe
from bench.stages.work import Compute
from bench.store.provenance import other_versions
from bench.store.records import Event, Store

MATCHES = 20  # stages that `logs` shows
SECONDS_TO_END = 120.0  # that `cancel` waits for jobs to end; Slurm kills them after 30 by default
POLL = 0.5  # seconds

LaunchName = Annotated[
    str | None,
    typer.Argument(metavar="[LAUNCH]", help="a suite's name, or the start of a launch's id; else the newest"),
]


def status(
    name: LaunchName = None,
    store: StorePath = DEFAULT_STORE,
    stages: Annotated[bool, typer.Option("--stages", help="list every stage")] = False,
    full: Annotated[bool, typer.Option("--full", help="whole tracebacks, not their last lines")] = False,
    all_launches: Annotated[bool, typer.Option("--list", help="list all launches")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="repeat until the launch has ended")] = False,
    interval: Annotated[float, typer.Option("--interval", min=1, help="seconds between repetitions of --watch")] = 10.0,
) -> None:
    """Show the status of a launch: stages by state, running stages, failures with causes. Exit code 1 if it failed."""
    records = Store(store)
    if all_launches:
        for line in _launches(records):
            say(line)
        return
    launch = find_launch(records, name)
    if watch:
        found = _watch(launch, interval, stages, full)
    else:
        found = launch_status(launch)
        _print(picture(found, stages, full))
    if found.wrong:
        raise typer.Exit(1)


def logs(
    trial: Annotated[
        str, typer.Argument(metavar="TRIAL", help="part of a stage's title, the start of its identity, or `driver`")
    ],
    name: Annotated[str | None, typer.Option("--launch", metavar="LAUNCH", help="as in `status`")] = None,
    store: StorePath = DEFAULT_STORE,
    lines: Annotated[int, typer.Option("--lines", min=0, help="last lines of each output file")] = 40,
) -> None:
    """Show the history of stages of a launch: attempts, checkpoints, and the output of their jobs."""
    launch = find_launch(Store(store), name)
    jobs, outputs = jobs_of(launch.arrays()), job_outputs(launch.folder / "jobs")
    if trial == "driver":
        drivers = [array for array in launch.arrays() if array.driver]
        if process := driving_process(launch):
            say(in_foreground(process))
        elif not drivers:
            say("no job has driven this launch; a driver in the foreground writes to its terminal alone")
        for array in drivers:
            silent = "" if outputs[array.job] else ": no output"
            say(f"driver: job {array.job}, submitted {moment(array.time)}{silent}")
            for file in outputs[array.job]:
                _show_end(file, lines)
        return
    numbers = _matching(launch, trial)
    events = launch.store.events()
    titles = {stage.key: stage.title for stage in launch.stages}
    for number in numbers[:MATCHES]:
        stage = launch.stages[number]
        say(f"{stage.title}  ({stage.kind} {stage.identity})", style="bold")
        for event in events:
            if event.get("identity") == stage.identity:
                say(f"  {moment(event['time'])}  {_sentence(event, titles)}")
        for line in _record_or_checkpoint(launch.store, stage.key):
            say(f"  {line}")
        for job, members in jobs:
            if number in members:
                shared = f", shared with {counted(len(members) - 1, 'other stage')}" if len(members) > 1 else ""
                say(f"  job {job}{shared}" + ("" if outputs[job] else ": no output"))
                for file in outputs[job]:
                    _show_end(file, lines)
    if len(numbers) > MATCHES:
        say(f"and {len(numbers) - MATCHES} more stages; give more of the title")


def cancel(name: LaunchName = None, store: StorePath = DEFAULT_STORE) -> None:
    """End a launch: cancel its jobs, or interrupt its process on this machine. Records and checkpoints stay."""
    launch = find_launch(Store(store), name)
    if launch.about["on"] == "slurm":
        _cancel_jobs(launch)
    else:
        _interrupt(launch)


def retry(
    name: LaunchName = None,
    store: StorePath = DEFAULT_STORE,
    here: Annotated[bool, typer.Option("--here", help="on Slurm: drive it in this process, not in a job")] = False,
) -> None:
    """Go on with a launch, under its own code and settings. Stages that failed in one that ended get new attempts."""
    launch = find_launch(Store(store.resolve()), name)
    if not launch.missing() and launch.ended():
        say(f"{launch.name}: every stage has its record")
        return
    if differing := other_versions(launch.about.get("provenance", {}).get("versions", {})):
        hint = "install those versions again, or run the suite anew"
        raise UserError(f"it ran with other packages: {differing}", where=launch.name, hint=hint)
    on_slurm = launch.about["on"] == "slurm"
    if not on_slurm and launch_status(launch).going_on:
        raise UserError("it is going on", where=launch.name, hint="wait for its end, or `cancel` it first")
    run_under(launch, sys.argv[1:])
    if on_slurm:
        since = reopen(launch)
        if not here:
            say(f"{launch.name}: driver: job {submit_drivers(launch, drive, since)[0].job}")
        elif not drive_here(launch, since):
            raise typer.Exit(1)
        return
    about = launch.about
    file, root, compute = Path(about["file"]), launch.store.root, Compute(**about["compute"])
    if carry_out(lambda wrong: (*open_launched(launch, wrong), file), root, compute, about["jobs"], earlier=launch):
        raise typer.Exit(1)
    if not launch.ended():  # its process ended without a word
        launch.end("complete")


# --- status -----------------------------------------------------------------------------------------------------------


def _watch(launch: Launch, interval: float, stages: bool, full: bool) -> LaunchStatus:
    """Show the status until the launch ends or the user interrupts. Returns the last status."""
    found = launch_status(launch)
    live = Live(Group(*picture(found, stages, full)), console=out, auto_refresh=False)
    with suppress(Stopped), live if out.is_terminal else nullcontext():
        if not out.is_terminal:
            _print(picture(found, stages, full))
        while found.going_on:
            time.sleep(interval)
            found = launch_status(launch)
            if out.is_terminal:
                live.update(Group(*picture(found, stages, full)), refresh=True)
            else:
                _print([Text(""), *picture(found, stages, full)])
    return found


def _launches(store: Store) -> Iterator[str]:
    """A line for each launch, the newest first."""
    found = list(launches(store))
    seen = observe(store, [launch for launch in found if not launch.ended()])
    width = max((len(launch.name) for launch in found), default=0)
    if seen.silence:
        yield f"{seen.silence}: launches that have not ended count as going on"
    for launch in found:
        state = state_name(LaunchStatus(launch, seen))
        yield f"{launch.name:<{width}}  {launch.about['on']:<5}  {len(launch.stages):>5} stages  {state}"
    if not found:
        yield f"the store {store.root} has no launches"


# --- logs -------------------------------------------------------------------------------------------------------------


def _matching(launch: Launch, trial: str) -> list[int]:
    """Numbers of the stages that match. Raises UserError if none does."""
    wanted = trial.lower()
    found = [n for n, own in enumerate(launch.stages) if wanted in own.title.lower() or own.identity.startswith(wanted)]
    if not found:
        titles = sorted({stage.title for stage in launch.stages})
        raise UserError(
            f"no stage of this launch matches '{trial}'",
            where=launch.name,
            allowed=get_close_matches(trial, titles, n=10, cutoff=0.3) or titles[:10],
            hint="give part of a title, or the start of an identity; `status --stages` lists them. Stages that already "
            "had a record are not part of a launch",
        )
    return found


def _sentence(event: Event, titles: dict[StageKey, str]) -> str:
    """An event as a sentence."""
    reason = _indented(str(event.get("reason", "")))
    match event["event"]:
        case "start":
            job = f", job {event['job']}" if event.get("job") else ""
            by = f", by launch {event['launch']}" if event.get("launch") else ""
            return f"started on {event.get('host', '?')}, process {event.get('pid', '?')}{job}{by}"
        case "end":
            startup = f", after {clock(event['startup'])} of start-up" if "startup" in event else ""
            return f"done in {clock(event.get('seconds', 0))}{startup}"
        case "failure":
            return f"failed{', another attempt would fail too' if event.get('final') else ''}: {reason}"
        case "interrupted":
            return f"interrupted at {event.get('done', 0)}: {reason}"
        case "death":
            return f"its process died{': ' if reason else ''}{reason}"
        case "blocked":
            missing = [titles.get((kind, name), f"{kind} {name}") for kind, name in event.get("lacking", ())]
            return f"not started, no record of {named(missing)}"
        case "note":
            return f"note: {_indented(str(event.get('text', '')))}"
        case other:
            return str(other)


def _record_or_checkpoint(store: Store, key: StageKey) -> Iterator[str]:
    """A line about the record of a stage, or else about its checkpoint."""
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
    text = plain(tail(file)).splitlines()
    say(f"    {file}" + ("" if text else ": empty"))
    for line in text[-lines:] if lines else ():
        say(f"      {line}")


def _indented(text: str) -> str:
    """Text of several lines, each on a line of its own below the sentence."""
    lines = plain(text).splitlines()
    return "".join(f"\n      {line}" for line in lines) if len(lines) > 1 else "".join(lines)


# --- cancel -----------------------------------------------------------------------------------------------------------


def _cancel_jobs(launch: Launch) -> None:
    scheduler.jobs()  # raises UserError without Slurm
    status = launch_status(launch)
    if status.ended and not status.active:
        say(f"{launch.name} has ended already ({status.ended['state']})")
        return
    if status.submitting and not status.active:
        raise UserError("its jobs are being submitted now", where=launch.name, hint="wait, or interrupt the submission")
    stages, drivers = set(status.active) - {*status.drivers}, status.drivers
    launch.end("cancelled")  # at which a driver leaves, also one that is no job
    # The drivers first: they would submit the cancelled stages again, and each would be followed by its successor.
    _cancel(launch, drivers)
    left = _cancel(launch)
    release_all(launch)
    say(f"{launch.name}: cancelled ({counted(len(stages), 'job')}, {counted(len(drivers), 'driver')})")
    if left:
        warn(f"still ending: {' '.join(left[:NAMED])}")


def _cancel(launch: Launch, only: list[str] | None = None) -> list[str]:
    """Cancel jobs of a launch, and jobs that come back, until none is left. Returns jobs that take too long to end."""
    deadline = time.monotonic() + SECONDS_TO_END
    asked: dict[str, str] = {}  # job -> its state when it was cancelled
    with console.status("waiting for jobs to end"):
        while True:
            queue = scheduler.jobs()
            active = [job for job in active_jobs_of(launch, queue) if only is None or job in only]
            if not active or time.monotonic() > deadline:
                return active
            # Whole arrays. A job that had just requeued itself is pending again, and is cancelled once more.
            scheduler.cancel({job.partition("_")[0] for job in active if asked.get(job) != queue[job].state})
            asked |= {job: queue[job].state for job in active}
            time.sleep(POLL)


def _interrupt(launch: Launch) -> None:
    """End a local launch in order. Raises UserError if its process cannot be reached or does not end."""
    host, pid = launch.about["host"], launch.about["pid"]
    if ended := launch.ended():
        say(f"{launch.name} has ended already ({ended['state']})")
        return
    lives = process_lives(launch.about)
    if lives is None:
        raise UserError(f"it was started on {host}", where=launch.name, hint=f"run this there, or kill {pid}")
    if lives:
        command = command_line(pid)
        if command is None or not re.search(r"run_suite\.py( |$)|(^|[ /])vtb( |$)", command):
            what = "unknown" if command is None else f"'{command}'"
            raise UserError(f"process {pid} is {what}, not a run of suites", where=launch.name, hint="has it ended?")
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS_TO_END
        with console.status("waiting for its process to end"):
            while process_lives(launch.about):
                if time.monotonic() > deadline:
                    raise UserError(f"process {pid} does not end", where=launch.name)
                time.sleep(POLL)
    if not launch.ended():
        launch.end("cancelled")
    say(f"{launch.name}: cancelled")


def _print(parts: Iterable[RenderableType]) -> None:
    for part in parts:
        out.print(part, highlight=False, soft_wrap=isinstance(part, Text))


# --- site -------------------------------------------------------------------------------------------------------------


def site(
    discover: Annotated[bool, typer.Option("--discover", help="draft one from what Slurm says of itself")] = False,
    file: Annotated[Path | None, typer.Option("--site", metavar="FILE", help="instead of $VTB_SITE")] = None,
) -> None:
    """Show the profile of the cluster that launches follow, as YAML (docs/slurm.md)."""
    say(discovered() if discover else as_yaml(load_site(file)[0]))

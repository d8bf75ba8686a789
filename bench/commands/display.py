"""What commands show: progress bars, a local run, `status`, and the words for times, numbers and names."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from bench.core.words import counted, typed
from bench.graph.price import Price
from bench.launch.claims import driving_process, refused
from bench.launch.code import moved_on
from bench.launch.failures import FailureGroup, grouped
from bench.launch.launches import JobArray, LaunchData, stage_jobs
from bench.launch.local import Watch
from bench.launch.schedule import Schedule
from bench.launch.states import STATES, LaunchStatus, StageStatus
from bench.launch.usage import usage
from bench.store.records import KINDS, ProgressData
from bench.suite.resources import in_clock

UNKNOWN = {"done": 0, "total": None, "unit": ""}  # progress of a stage that has just started
DAY = 86400.0  # seconds
LINE_SECONDS = 10.0  # between two lines, where there is no terminal
NAMED = 5  # names that are listed of many
RUNNING_SHOWN = 20  # stages; --stages lists all
TRACEBACK_LINES = 15  # without --full
STYLES = {"done": "green", "running": "cyan", "failed": "red", "blocked": "yellow", "lost": "red"}
HELD = ("JobHeldUser", "JobHeldAdmin", "launch failed requeued held", "job requeued in held state")


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

    def show(run: Schedule) -> None:
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


def _bars_of(run: Schedule, progress: dict[str, ProgressData]) -> Progress:
    """A bar for each running stage."""
    columns = ("{task.description:<48.48}", "{task.fields[unit]}", "{task.fields[elapsed]}")
    title, unit, elapsed = (TextColumn(column, markup=False) for column in columns)
    bars = Progress(title, BarColumn(24), MofNCompleteColumn(), unit, elapsed)
    for identity, known in progress.items():
        passed = clock(time.time() - known.get("started", time.time()))
        numbers = {"completed": known["done"], "total": known["total"], "unit": known["unit"]}
        bars.add_task(run.running[identity].title, **numbers, elapsed=passed)
    return bars


def _summary(run: Schedule, estimates: dict[str, float], slots: int, progress: dict[str, ProgressData]) -> str:
    """Numbers of stages, and the time left: estimated, scaled by the actual over the estimated time so far."""
    elapsed, ended = time.monotonic() - run.started, len(run.done) + len(run.failed)
    failed = f", {len(run.failed)} failed" if run.failed else ""
    passed = sum(estimates[identity] * own["done"] / own["total"] for identity, own in progress.items() if own["total"])
    left = sum(estimates[identity] for identity in (*run.todo, *run.running)) - passed
    done = sum(estimates[stage.identity] for stage in run.done) + passed
    eta = clock(left * (elapsed / done if done else 1 / slots))
    waiting = "".join(
        f", waiting for {counted(count, 'stage')} of launch {launch}"
        for launch, count in Counter(run.waiting.values()).items()
    )
    total = ended + len(run.saved) + len(run.running) + len(run.todo)
    return f"{ended}/{total} stages{failed}{waiting}  elapsed {clock(elapsed)}  ETA {eta}"


# --- the price of a plan ----------------------------------------------------------------------------------------------


def price_lines(price: Price, kept_frames: float) -> Iterator[str]:
    """What stages take, on what that rests, and which of them take most."""
    device, slots = price.speed.device, counted(price.slots, "slot")
    wall = clock(price.wall) if price.wall < 2 * DAY else f"{amount(price.wall / DAY)} days"
    yield f"price: {amount(price.device_hours)} device-hours of {device}, {wall} in {slots}"
    by_table = f"from the table for {device}"
    records = f"from {counted(price.records, 'record')} of like size"
    share = price.share(price.measured)
    basis = f"{records} ({share:.0%}), else {by_table}" if price.records and share < 1 else records
    yield f"  {basis if price.records else by_table}; docs/pricing.md"
    yield f"  most of it: {dominating(price)}"
    if missing := [stage for stage in price.stages if stage.missing]:
        unknown = f"; {counted(price.unsized, 'stage')} of unknown size are priced too low" if price.unsized else ""
        yield f"  data missing: {price.share(missing):.0%} of it is for {counted(len(missing), 'stage')}{unknown}"
    if (share := price.share(price.decoding)) > 0.1:
        workers = counted(price.speed.workers, "worker")
        yield f"  decoding with {workers} takes longer than computing for {share:.0%} of it: see --workers, `prepare`"
    parts = {**price.disk, "kept frames": kept_frames}
    named = ", ".join(f"{name} {amount(own / 1e9)}" for name, own in parts.items() if own > 5e6)
    yield f"disk: {amount(sum(parts.values()) / 1e9)} GB" + (f" ({named})" if named else "")


def dominating(price: Price) -> str:
    """The stages that take most, with their share."""
    return ", ".join(f"{title} ({share:.0%})" for title, share in price.dominating())


# --- words ------------------------------------------------------------------------------------------------------------


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def amount(number: float) -> str:
    """A number with two digits, or all before its point."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def moment(when: float) -> str:
    """Date and time of day."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


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
    """Numbers of stages, jobs and arrays that were submitted, and the job of the driver."""
    arrays = stage_jobs(submitted)
    jobs = [numbers for array in arrays for numbers in array.array_tasks]
    size = f"{counted(sum(map(len, jobs)), 'stage')} in {counted(len(jobs), 'job')} ({counted(len(arrays), 'array')})"
    drivers = ", then ".join(f"job {array.job}" for array in submitted if array.driver)
    return size + (f", driver: {drivers}" if drivers else "")


# --- status -----------------------------------------------------------------------------------------------------------


def picture(status: LaunchStatus, every: bool, full: bool) -> list[RenderableType]:
    """All that `status` prints. `every`: list all stages; `full`: show whole tracebacks."""
    cancelled = (status.ended or {}).get("state") == "cancelled"
    shown = [stage for stage in status.stages if not (cancelled and stage.state == "lost")]
    parts: list[RenderableType] = [*_header(status), _table(status.stages), *_running(status), *_waiting(status)]
    for group in grouped(shown, status.launch.folder / "jobs", status.seen.queue):
        parts += _failures(group, full)
    parts += _blocked(status)
    if status.on_slurm and (status.ended or every):
        parts += _usage(status)
    if every:
        parts += [Text(""), *(_line(stage) for stage in status.stages)]
    return parts


def _header(status: LaunchStatus) -> Iterator[Text]:
    about = status.launch.about
    where = "on Slurm, submitted" if status.on_slurm else f"on {about['host']} (process {about['pid']}), started"
    ago = clock(max(0.0, status.seen.time - about["created"]))
    yield Text(f"{about['suite']}: launch {status.launch.name}", style="bold")
    yield Text(f"{where} {moment(about['created'])}, {ago} ago: ").append(*_outcome(status))
    if status.drivers:
        queue = status.seen.queue or {}
        first, *later = (f"job {job} {queue[job].state}" for job in status.drivers)
        yield Text(f"driver: {first}" + (f"; its successor: {', '.join(later)}" if later else ""))
    elif process := driving_process(status.launch):
        yield Text(in_foreground(process))
    if status.on_slurm and status.driven and (words := refused(status.launch)):
        yield Text(f"Slurm refuses jobs: {words}; the driver asks again", style="yellow")
    if status.seen.silence:
        yield Text(f"{status.seen.silence}: states are read from events and progress files only", style="yellow")
    if not status.complete and (moved := moved_on(status.launch)):
        more = f"`{typed('why', status.launch.name, '--store', status.launch.store.root)}` shows more"
        yield Text(f"the checkout differs from the code of this launch: {moved} ({more})", style="yellow")


def in_foreground(driver: LaunchData) -> str:
    """Where a driver runs that is no job."""
    return f"driver: process {driver['pid']} on {driver['host']}, in the foreground; its output is on its terminal"


def _outcome(status: LaunchStatus) -> tuple[str, str]:
    """The status of the launch as a whole, and its colour."""
    if status.ended:
        state = f"{state_name(status)} since {moment(status.ended['time'])}"
        state += f" ({reason})" if (reason := status.ended.get("reason")) else ""
        if status.wrong:
            return state, "red"
        return state + ("" if state_name(status) == "complete" else "; by now every stage has its record"), "green"
    if status.going_on:
        if not status.wrong:
            return "going on", "green"
        return f"its jobs go on, but nothing submits others, because {_driver(status)}; `{_retry(status)}`", "red"
    what = "every stage has its record, but it ended before its report" if status.complete else "gone"
    why = _driver(status) if status.on_slurm else "its process ended without a message"
    return f"{what}: {why}; `{_retry(status)}` goes on with it", "red"


def _driver(status: LaunchStatus) -> str:
    """What became of the driver, in Slurm's words."""
    return f"its driver ended ({status.last_driver})" if status.last_driver else "no driver is left"


def _retry(status: LaunchStatus) -> str:
    return typed("retry", status.launch.name, "--store", status.launch.store.root)


def state_name(status: LaunchStatus) -> str:
    """The state of a launch in a word or two."""
    return str(status.ended["state"]) if status.ended else "going on" if status.going_on else "gone"


def _table(stages: list[StageStatus]) -> Table:
    """Numbers of stages by kind and state."""
    counts = Counter((status.stage.kind, status.state) for status in stages)
    kinds = [kind for kind in KINDS if any((kind, state) in counts for state in STATES)]
    table = Table("stage", *(Column(state, justify="right", style=STYLES.get(state, "")) for state in STATES))
    for kind in kinds:
        table.add_row(kind, *(str(counts[kind, state] or "") for state in STATES))
    if len(kinds) != 1:
        table.add_section()
        table.add_row("in all", *(str(sum(counts[kind, state] for kind in kinds) or "") for state in STATES))
    return table


def _running(status: LaunchStatus) -> Iterator[Text]:
    """The running stages, and about how long the launch takes."""
    running = [stage for stage in status.stages if stage.state == "running"]
    for stage in running[:RUNNING_SHOWN]:
        yield _line(stage)
    if len(running) > RUNNING_SHOWN:
        yield Text(f"and {len(running) - RUNNING_SHOWN} more; --stages lists them")
    if status.eta is not None:
        yield Text(f"ETA {clock(status.eta)}, with {status.at_once} at once as now")
    elif status.work_left is not None and status.going_on:
        yield Text(f"about {clock(status.work_left)} of work left, one stage after the other")


def _waiting(status: LaunchStatus) -> Iterator[Text]:
    """The reasons for queued stages, and the jobs that the user has to release."""
    reasons = Counter(s.remark.partition(":")[0] or "next" for s in status.stages if s.state == "queued")
    if reasons:
        yield Text("queued: " + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()))
    held = [name for name in status.active if (status.seen.queue or {})[name].reason in HELD]
    if held:
        first = f", the first {NAMED}" if len(held) > NAMED else ""
        release = f"`scontrol release {' '.join(held[:NAMED])}`"
        yield Text(f"held: {counted(len(held), 'job')}; {release} releases them{first}", style="yellow")
    if again := sum(stage.will_retry for stage in status.stages):
        yield Text(f"{again} will be tried again", style="yellow")


def _failures(group: FailureGroup, full: bool) -> Iterator[Text]:
    """A group of failures: its stages, what to do, and the text of one failure."""
    stages = [failure.status for failure in group.failures]
    again = sum(status.will_retry for status in stages)
    later = f" ({'' if again == len(stages) else f'{again} '}will be tried again)" if again else ""
    titles = named([status.stage.title for status in stages])
    yield Text("")
    yield Text(f"{group.cause.name}: {counted(len(stages), 'stage')}{later}: {titles}", style="red")
    yield Text(f"  what to do: {group.action}")
    example = group.example
    job = f", job {example.status.job}" if example.status.job else ""
    host = f" on {example.status.host}" if example.status.host else ""
    yield Text(f"  {example.status.stage.title}, {moment(example.time)}{job}{host}:")
    lines = plain(example.text).splitlines() or ["no message"]
    if len(lines) > TRACEBACK_LINES and not full:
        yield Text(f"    ... ({len(lines) - TRACEBACK_LINES} lines before; --full shows them)")
        lines = lines[-TRACEBACK_LINES:]
    for line in lines:
        yield Text(f"    {line}")


def _blocked(status: LaunchStatus) -> Iterator[Text]:
    """The number of blocked stages, and the failed stages that block them."""
    blocked = [stage for stage in status.stages if stage.state == "blocked"]
    if not blocked:
        return
    titles = {stage.key: stage.title for stage in status.launch.stages}
    by = Counter(key for stage in blocked for key in stage.blockers)
    causes = named([f"{titles.get(key, ' '.join(key))} ({count})" for key, count in by.most_common()])
    yield Text("")
    yield Text(f"blocked: {len(blocked)}" + (f", by {causes}" if causes else ""), style="yellow")


def _usage(status: LaunchStatus) -> Iterator[RenderableType]:
    """What stages asked of Slurm and what they used, and what to ask for next time."""
    if not (found := usage(status.launch, status.seen.events)):
        return
    heads = ("time limit", "longest attempt", "memory asked", "peak", "CPUs asked")
    table = Table("stage", *(Column(head, justify="right") for head in heads), title="asked and used")
    for own in found:
        memory = (f"{size / 1024:.1f}G" if size else "–" for size in (own.memory, own.peak))
        table.add_row(own.kind, in_clock(own.time), clock(own.longest), *memory, str(own.cpus or "–"))
    yield from (Text(""), table, Text("for the site or the suite:"), Text("resources:"))
    yield from (Text(own.suggestion) for own in found)


def _line(status: StageStatus) -> Text:
    """A stage with its state, job, times and progress."""
    stage, known = status.stage, status.progress
    words = [f"{status.state:<8}", f"{stage.kind:<8}", stage.identity, f"{status.job or '-':<10}"]
    words.append(moment(status.started) if status.started else "-".ljust(19))
    words.append(f"{clock(status.seconds) if status.seconds is not None else '-':>8}")
    words.append(stage.title)
    if known and known["total"]:
        words.append(f"{known['done']}/{known['total']} {known['unit']} ({known['done'] / known['total']:.0%})")
    if status.left is not None:
        words.append(f"ETA {clock(status.left)}")
    if remark := "; ".join(filter(None, (status.remark, "will be tried again" if status.will_retry else ""))):
        words.append(f"({remark})")
    return Text("  ".join(words), style=STYLES.get(status.state, "") if status.state != "done" else "")

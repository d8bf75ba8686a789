"""What `status` shows of a launch, from top to bottom, and the words that it shares with `logs`."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bench.commands.display import clock
from bench.launch.failures import Group, grouped
from bench.launch.states import STATES, Standing, Survey
from bench.store.records import KINDS

RUNNING_SHOWN = 20  # stages; --stages lists all
NAMED = 5  # stages that are named where many are alike
TRACEBACK_LINES = 15  # without --full

STYLES = {"done": "green", "running": "cyan", "failed": "red", "blocked": "yellow", "lost": "red"}
HELD = ("JobHeldUser", "JobHeldAdmin", "launch failed requeued held", "job requeued in held state")


def picture(seen: Survey, every: bool, full: bool) -> list[RenderableType]:
    """All that `status` shows, from top to bottom."""
    cancelled = (seen.ended or {}).get("state") == "cancelled"
    told = [standing for standing in seen.stages if not (cancelled and standing.state == "lost")]
    failures = grouped(told, seen.launch.folder / "jobs", seen.facts.queue)
    parts: list[RenderableType] = [*_header(seen), _table(seen.stages), *_running(seen), *_waiting(seen)]
    for group in failures:
        parts += _failures(group, full)
    parts += _blocked(seen)
    if every:
        parts += [Text(""), *(_line(standing) for standing in seen.stages)]
    return parts


def _header(seen: Survey) -> Iterator[Text]:
    about = seen.launch.about
    where = "on Slurm, submitted" if seen.on_slurm else f"on {about['host']} (process {about['pid']}), started"
    ago = clock(max(0.0, seen.facts.time - about["created"]))
    yield Text(f"{about['suite']}: launch {seen.launch.name}", style="bold")
    yield Text(f"{where} {moment(about['created'])}, {ago} ago: ").append(*_outcome(seen))
    if seen.facts.silence:
        yield Text(f"{seen.facts.silence}: states by events and progress files alone", style="yellow")


def _outcome(seen: Survey) -> tuple[str, str]:
    """How the launch stands as a whole, and how that is coloured."""
    if seen.ended:
        state = f"{state_in_words(seen)} since {moment(seen.ended['time'])}"
        if seen.wrong:
            return state, "red"
        return state + ("" if state_in_words(seen) == "complete" else "; by now every stage has its record"), "green"
    if seen.going_on:
        told = "going on, but nothing will be tried again: no closing job is left"
        return (told, "red") if seen.wrong else ("going on", "green")
    if seen.complete:
        report = f"`report {seen.launch.about['suite']}`"
        return f"every stage has its record, but the launch did not come to its report ({report})", "yellow"
    return "gone: " + ("no job is left" if seen.on_slurm else "its process has ended without a word"), "red"


def state_in_words(seen: Survey) -> str:
    """How it stands in a word or two."""
    return str(seen.ended["state"]) if seen.ended else "going on" if seen.going_on else "gone"


def _table(standings: list[Standing]) -> Table:
    """Kinds of stages by state."""
    counts = Counter((standing.stage.kind, standing.state) for standing in standings)
    kinds = [kind for kind in KINDS if any((kind, state) in counts for state in STATES)]
    table = Table()
    table.add_column("stage")
    for state in STATES:
        table.add_column(state, justify="right", style=STYLES.get(state, ""))
    for kind in kinds:
        table.add_row(kind, *(str(counts[kind, state] or "") for state in STATES))
    if len(kinds) != 1:
        table.add_section()
        table.add_row("in all", *(str(sum(counts[kind, state] for kind in kinds) or "") for state in STATES))
    return table


def _running(seen: Survey) -> Iterator[Text]:
    """How far the running stages are, and about how long the launch takes."""
    running = [standing for standing in seen.stages if standing.state == "running"]
    for standing in running[:RUNNING_SHOWN]:
        yield _line(standing)
    if len(running) > RUNNING_SHOWN:
        yield Text(f"and {len(running) - RUNNING_SHOWN} more; --stages lists them")
    if seen.eta is not None:
        yield Text(f"ETA {clock(seen.eta)}, with {seen.at_once} at once as now")
    elif seen.work_left is not None and seen.going_on:
        yield Text(f"about {clock(seen.work_left)} of work is to come, one stage after the other")


def _waiting(seen: Survey) -> Iterator[Text]:
    """Why stages are queued, and which jobs somebody has to release."""
    reasons = Counter(s.remark.partition(":")[0] or "next" for s in seen.stages if s.state == "queued")
    if reasons:
        yield Text("queued: " + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()))
    held = [name for name in seen.active if (seen.facts.queue or {})[name].reason in HELD]
    if held:
        yield Text(f"held: `scontrol release {' '.join(held[:NAMED])}` lets {_them(len(held))} go on", style="yellow")
    if again := sum(standing.again for standing in seen.stages):
        yield Text(f"{again} will be tried again", style="yellow")


def _them(count: int) -> str:
    return "it" if count == 1 else f"the {count}" if count <= NAMED else f"the first {NAMED} of {count}"


def _failures(group: Group, full: bool) -> Iterator[Text]:
    """Failures that are alike: which stages, what to do, what the first of them said."""
    standings = [failure.standing for failure in group.failures]
    again = sum(standing.again for standing in standings)
    later = f" ({'' if again == len(standings) else f'{again} '}will be tried again)" if again else ""
    count = counted(len(standings), "stage")
    yield Text("")
    titles = named([standing.stage.title for standing in standings])
    yield Text(f"{group.cause.name}: {count}{later}: {titles}", style="red")
    yield Text(f"  what to do: {group.action}")
    example = group.example
    of = f", job {example.standing.job}" if example.standing.job else ""
    where = f" on {example.standing.host}" if example.standing.host else ""
    yield Text(f"  {example.standing.stage.title}, {moment(example.time)}{of}{where}:")
    lines = plain(example.text).splitlines() or ["nothing was said"]
    if len(lines) > TRACEBACK_LINES and not full:
        yield Text(f"    ... ({len(lines) - TRACEBACK_LINES} lines before; --full shows them)")
        lines = lines[-TRACEBACK_LINES:]
    for line in lines:
        yield Text(f"    {line}")


def _blocked(seen: Survey) -> Iterator[Text]:
    """How many stages wait for what has failed, and what that is."""
    blocked = [standing for standing in seen.stages if standing.state == "blocked"]
    if not blocked:
        return
    titles = {stage.key: stage.title for stage in seen.launch.stages}
    by = Counter(key for standing in blocked for key in standing.blockers)
    causes = named([f"{titles.get(key, ' '.join(key))} ({count})" for key, count in by.most_common()])
    yield Text("")
    yield Text(f"blocked: {len(blocked)}" + (f", by {causes}" if causes else ""), style="yellow")


def _line(standing: Standing) -> Text:
    """A stage with its state, job, times and how far it is."""
    stage, known = standing.stage, standing.progress
    words = [f"{standing.state:<8}", f"{stage.kind:<8}", stage.identity, f"{standing.job or '-':<10}"]
    words.append(moment(standing.started) if standing.started else "-".ljust(19))
    words.append(f"{clock(standing.seconds) if standing.seconds is not None else '-':>8}")
    words.append(stage.title)
    if known and known.total:
        words.append(f"{known.done}/{known.total} {known.unit} ({known.done / known.total:.0%})")
    if standing.left is not None:
        words.append(f"ETA {clock(standing.left)}")
    if remark := "; ".join(filter(None, (standing.remark, "will be tried again" if standing.again else ""))):
        words.append(f"({remark})")
    return Text("  ".join(words), style=STYLES.get(standing.state, "") if standing.state != "done" else "")


def named(names: list[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more  # titles have commas


def moment(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def counted(count: int, thing: str) -> str:
    return f"1 {thing}" if count == 1 else f"{count} {thing}s"


def plain(text: str) -> str:
    """Without what would command a terminal; of lines that overwrite each other, as bars do, the last."""
    text = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)", "", text)
    text = re.sub(r"[^\n\r]*\r(?!\n)(?=[^\n])", "", text)
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)

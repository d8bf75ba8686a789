"""Causes of failed stages and what to do about them, from the stage's error, its job's output and Slurm's state.

The stage's own error counts first. The job's output counts only if the stage left no error, or lost the connection to
its other processes, because stages that share a job share its output too.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import yaml
from pydantic import TypeAdapter

from bench.core.files import ASSETS
from bench.launch.scheduler import QueuedJob
from bench.launch.states import StageStatus

TAIL = 64 * 1024  # bytes at the end of a job's output that are searched


@dataclass(frozen=True)
class Cause:
    """A reason for failures (bench/assets/failures.yaml).

    `action` is what the user can do; `{kind}` in it stands for the kind of stage. Any of the `signs` is evidence in the
    texts that it is `looked_for_in`: a stage's error, the error output of its job.
    """

    name: str
    action: str
    signs: tuple[str, ...] = ()
    looked_for_in: tuple[Literal["errors", "outputs"], ...] = ()


CAUSES = TypeAdapter(dict[str, Cause]).validate_python(
    yaml.safe_load((ASSETS / "failures.yaml").read_text(encoding="utf-8"))
)
IN_ERRORS, IN_OUTPUTS = (
    tuple(own for own in CAUSES.values() if text in own.looked_for_in) for text in ("errors", "outputs")
)
LOST_PEER, KILLED, NO_START = (CAUSES[name] for name in ("lost_peer", "killed", "no_start"))
REFUSED, BUG, GONE, TIMEOUT = (CAUSES[name] for name in ("refused", "bug", "gone", "timeout"))


def cause(reason: str, output: str = "", state: str = "", *, began: bool = True, fatal: bool = False) -> Cause:
    """The cause of a failed attempt, from its own error, the end of its job's error output, and Slurm's state.

    `began`: the stage had started; `fatal`: its error says that another attempt would fail too.
    """
    own, ended = _sign(reason, IN_ERRORS), f"its job ended: {state}"
    if own is LOST_PEER:  # a consequence: the cause is what ended the other process
        return _sign(f"{ended}\n{output}", IN_OUTPUTS) or own
    if own or "Traceback" in reason:
        return own or BUG
    if fatal:
        return _sign(reason, (KILLED,)) or REFUSED
    found = _sign(f"{reason}\n{ended}\n{output}", IN_OUTPUTS)
    if not began and (found is None or found is KILLED) and _sign(output, (NO_START,)):
        return NO_START
    return found or (BUG if "Traceback" in output else GONE)


def _sign(text: str, causes: Iterable[Cause]) -> Cause | None:
    return next((each for each in causes if any(sign in text for sign in each.signs)), None)


# --- groups -----------------------------------------------------------------------------------------------------------


class StageFailure(NamedTuple):
    """A stage that failed. `text`: its traceback or message, or the end of its job's output."""

    status: StageStatus
    cause: Cause
    time: float
    text: str


@dataclass(frozen=True)
class FailureGroup:
    """Failures with the same cause, in order of time."""

    cause: Cause
    failures: tuple[StageFailure, ...]

    @property
    def example(self) -> StageFailure:
        """The first failure with a traceback, else the first with any text."""
        with_text = [failure for failure in self.failures if failure.text]
        return next((failure for failure in with_text if "Traceback" in failure.text), (*with_text, *self.failures)[0])

    @property
    def action(self) -> str:
        """The action for the kind of stage that failed."""
        kinds = {failure.status.stage.kind for failure in self.failures}
        return self.cause.action.replace("{kind}", kinds.pop() if len(kinds) == 1 else "all")


def grouped(
    stages: Sequence[StageStatus], jobs_folder: Path, queue: dict[str, QueuedJob] | None = None
) -> list[FailureGroup]:
    """The failed and lost stages by cause, the largest group first. Errors with different last lines are kept apart."""
    outputs, groups = job_outputs(jobs_folder), defaultdict[tuple[str, str], list[StageFailure]](list)
    begun = {"", *(status.job for status in stages if status.started)}
    for status in stages:
        if status.state in ("failed", "lost"):
            failure = _failure(status, outputs, queue or {})
            if not (status.failure or status.started) and status.job in begun:
                failure = StageFailure(status, CAUSES["not_started"], failure.time, "no job has begun it")
            error = _last_line(failure.text) if failure.cause in (BUG, REFUSED) else ""
            groups[failure.cause.name, error].append(failure)
    ordered = [sorted(failures, key=lambda failure: failure.time) for failures in groups.values()]
    return [FailureGroup(found[0].cause, tuple(found)) for found in sorted(ordered, key=lambda found: -len(found))]


def _failure(status: StageStatus, outputs: defaultdict[str, list[Path]], queue: dict[str, QueuedJob]) -> StageFailure:
    event = status.failure or {}
    reason, when = str(event.get("reason", "")), event.get("time", status.started or time.time())
    if event.get("event") == "death" and not reason:
        reason = "its process died"
    if event.get("event") == "interrupted":
        reason = f"interrupted: {reason}"
    unclear = not event or event["event"] in ("death", "interrupted") or _sign(reason, (LOST_PEER,)) is not None
    job = str(event.get("job") or status.job)
    output = "\n".join(tail(file) for file in outputs[job] if file.suffix == ".err") if unclear else ""
    state = queue[job].state if job in queue else ""
    found = cause(reason, output, state, began=status.started is not None, fatal=bool(event.get("final")))
    if event.get("event") == "interrupted" and found in (GONE, KILLED) and state != "CANCELLED":
        found = TIMEOUT
    return StageFailure(status, found, when, "\n".join(part.rstrip() for part in (reason, output) if part.strip()))


def _last_line(text: str) -> str:
    """The last line of a traceback without numbers, addresses, quoted names and paths, which differ between stages."""
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S+|\d+|0x[0-9a-f]+", "#", lines[-1]) if lines else ""


# --- outputs of jobs --------------------------------------------------------------------------------------------------


def job_outputs(folder: Path) -> defaultdict[str, list[Path]]:
    """The output files of jobs, `<job>_<task>_log.out` and `.err`, by job and in order of tasks."""
    found = defaultdict[str, list[Path]](list)
    for file in sorted(folder.glob("*_log.*")):
        if match := re.fullmatch(r"(\d+(?:_\d+)?)_\d+_log\.(?:out|err)", file.name):
            found[match[1]].append(file)
    return found


def out_of_memory(folder: Path, job: str, state: str) -> bool:
    """True if memory ran out in a job that has ended, which Slurm often says in its error output alone."""
    output = "\n".join(tail(file) for file in job_outputs(folder)[job] if file.suffix == ".err")
    return cause("", output, state) is CAUSES["memory"]


def tail(file: Path, size: int = TAIL) -> str:
    """The last whole lines of a file, at most `size` bytes; empty if it cannot be read."""
    try:
        with open(file, "rb") as opened:
            start = max(0, opened.seek(0, os.SEEK_END) - size)
            opened.seek(start)
            data = opened.read(size)
    except OSError:
        return ""
    return (data.partition(b"\n")[2] if start else data).decode(errors="replace")

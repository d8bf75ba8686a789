"""Slurm's commands apart from submitting: one squeue for all jobs, and no accounting."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from getpass import getuser
from typing import NamedTuple

from bench.core.errors import UserError

# States of jobs that will not run again. REQUEUED and the like are missing: such a job comes back.
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
}
TIMEOUT = 60.0  # seconds to wait for an answer
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)  # seconds between attempts at a request that a job makes: two minutes
AMBIGUOUS = ("not available", "are busy")  # said of nodes that are drained, and of more than any node has
AWAY = ("down", "drain", "drng", "fail", "maint", "resv", "unk")  # how the states of nodes begin that take no jobs
DEFAULT_MAX_ARRAY = 1001  # Slurm's own default of MaxArraySize


class QueuedJob(NamedTuple):
    """A job as squeue shows it."""

    state: str
    reason: str
    comment: str = ""

    @property
    def active(self) -> bool:
        """True while the job runs or will run."""
        return self.state not in ENDED


def jobs(users: Iterable[str] = ()) -> dict[str, QueuedJob]:
    """All jobs in the queue of the current user and of `users`, by id (`123`, or `123_4` in an array).

    Raises UserError without Slurm.
    """
    names = ",".join(sorted({getuser(), *users}))
    text = _ask("squeue", "--noheader", "--array", "--states=all", f"--user={names}", "--format=%i|%T|%k|%r")
    fields = (map(str.strip, line.split("|", 3)) for line in text.splitlines() if line.count("|") >= 3)
    return {identifier: QueuedJob(state, reason, comment) for identifier, state, comment, reason in fields}


def max_array() -> int:
    """The largest number of tasks that an array may have here."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"), re.MULTILINE)
    return int(found[1]) if found else DEFAULT_MAX_ARRAY


def partitions(columns: str, *options: str) -> str:
    """What sinfo prints of the partitions, in these columns; with --Node, of each node."""
    return _ask("sinfo", "--noheader", *options, f"--format={columns}")


def cancel(identifiers: Iterable[str]) -> None:
    """Cancel jobs. Jobs that have ended meanwhile are no error."""
    if names := sorted(set(identifiers)):
        _ask("scancel", "--quiet", *names)


def check(script: str) -> None:
    """Raise UserError with Slurm's own message if Slurm would refuse a batch script.

    A test does not tell nodes that are drained, for which a job would wait, from a request that no node can ever meet.
    Where nodes are away, a job is therefore submitted for later, and cancelled; unless no node is that large.
    """
    try:
        _ask("sbatch", "--test-only", given=script)
    except UserError as error:
        ambiguous = any(text in error.what for text in AMBIGUOUS)
        nodes = [line.split("|") for line in partitions("%t|%c|%m", "--Node").splitlines()] if ambiguous else []
        if not any(state.startswith(AWAY) for state, *_ in nodes):
            raise
        for option, column in (("cpus-per-task", 1), ("mem", 2)):
            asked, most = re.search(rf"--{option}=(\d+)", script), max(int(node[column]) for node in nodes)
            if asked and int(asked[1]) > most > 1:  # 1: Slurm does not count it
                raise UserError(f"no node has --{option}={asked[1]}: the largest has {most}") from error
        cancel([_ask("sbatch", "--parsable", "--begin=now+1hour", given=script).partition(";")[0].strip()])


def requeue(identifier: str) -> str | None:
    """Requeue a job under the same id; asked several times. Returns None if Slurm agreed, else its message."""
    for pause in (*PAUSES[:3], None):
        try:
            _ask("scontrol", "requeue", identifier)
            return None
        except UserError as error:
            said = error.what
        if pause:
            time.sleep(pause)
    return said


def mail_at_end(identifier: str, address: str) -> None:
    """Let Slurm send a mail when a job ends. Raises UserError if it does not agree."""
    _ask("scontrol", "update", f"JobId={identifier}", "MailType=END,FAIL", f"MailUser={address}")


@contextmanager
def outside() -> Iterator[None]:
    """Hide the environment variables of the current job, which the jobs that it submits would inherit."""
    kinds = ("SLURM_", "SLURMD_", "SBATCH_", "SUBMITIT_")
    names = [name for name in os.environ if name.startswith(kinds) and name != "SLURM_CONF"]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _ask(program: str, *arguments: str, given: str | None = None) -> str:
    """The output of one of Slurm's commands.

    It runs in a session of its own: when a job requeues itself, the signal that follows must not end the request.
    """
    command = [program, *arguments]
    try:
        with outside():
            run = subprocess.run(
                command, input=given, capture_output=True, text=True, timeout=TIMEOUT, start_new_session=True
            )
    except FileNotFoundError as error:
        hint = "run this on a machine that can submit jobs; --dry-run shows the scripts without Slurm"
        raise UserError(f"there is no {program} here, so no Slurm", hint=hint) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{program} did not answer within {TIMEOUT:.0f} s", hint="does slurmctld run?") from error
    if run.returncode:
        message = (run.stderr or run.stdout).strip() or f"exit code {run.returncode}"
        raise UserError(message, where=" ".join(command))
    return run.stdout

"""Slurm's commands apart from submitting: one squeue for all jobs, and no accounting."""

from __future__ import annotations

import os
import re
import subprocess
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
DEFAULT_MAX_ARRAY = 1001  # Slurm's own default of MaxArraySize


class QueuedJob(NamedTuple):
    """A job as squeue shows it."""

    state: str
    reason: str

    @property
    def active(self) -> bool:
        """True while the job runs or will run."""
        return self.state not in ENDED


def jobs(users: Iterable[str] = ()) -> dict[str, QueuedJob]:
    """All jobs in the queue of the current user and of `users`, by id (`123`, or `123_4` in an array).

    Raises UserError without Slurm.
    """
    names = ",".join(sorted({getuser(), *users}))
    text = _ask("squeue", "--noheader", "--array", "--states=all", f"--user={names}", "--format=%i|%T|%r")
    fields = (line.split("|", 2) for line in text.splitlines() if line.count("|") >= 2)
    return {identifier.strip(): QueuedJob(state.strip(), reason.strip()) for identifier, state, reason in fields}


def max_array() -> int:
    """The largest number of tasks that an array may have here."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"), re.MULTILINE)
    return int(found[1]) if found else DEFAULT_MAX_ARRAY


def cancel(identifiers: Iterable[str]) -> None:
    """Cancel jobs. Jobs that have ended meanwhile are no error."""
    if names := sorted(set(identifiers)):
        _ask("scancel", "--quiet", *names)


def check(script: str) -> None:
    """Raise UserError with Slurm's own message if Slurm would refuse a batch script."""
    _ask("sbatch", "--test-only", given=script)


def requeue(identifier: str) -> str | None:
    """Requeue a job under the same id. Returns None if Slurm agreed, else its message."""
    try:
        _ask("scontrol", "requeue", identifier)
    except UserError as error:
        return error.what
    return None


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

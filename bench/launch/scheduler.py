"""What is asked of Slurm and told to it, besides submitting: one query for all jobs, and none of accounting."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from getpass import getuser
from typing import NamedTuple

from bench.core.errors import UserError

# Of a job that will not run any more. REQUEUED and the like are not among them: such a job comes back.
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
}
TIMEOUT = 60.0  # seconds for any answer
DEFAULT_MAX_ARRAY = 1001  # Slurm's own default of MaxArraySize


class Job(NamedTuple):
    """A job as squeue shows it."""

    state: str
    reason: str

    @property
    def active(self) -> bool:
        """Whether it runs or will run."""
        return self.state not in ENDED


def jobs(users: Iterable[str] = ()) -> dict[str, Job]:
    """The jobs that Slurm remembers of these users and of one's own, by id (`123`, or `123_4` in an array).

    Raises UserError without Slurm.
    """
    names = ",".join(sorted({getuser(), *users}))
    text = _ask("squeue", "--noheader", "--array", "--states=all", f"--user={names}", "--format=%i|%T|%r")
    fields = (line.split("|", 2) for line in text.splitlines() if line.count("|") >= 2)
    return {identifier.strip(): Job(state.strip(), reason.strip()) for identifier, state, reason in fields}


def active(known: dict[str, Job], identifiers: Iterable[str]) -> list[str]:
    """Those of the jobs that run or will run."""
    return [identifier for identifier in identifiers if identifier in known and known[identifier].active]


def max_array() -> int:
    """The largest number of elements of an array here."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"), re.MULTILINE)
    return int(found[1]) if found else DEFAULT_MAX_ARRAY


def cancel(identifiers: Iterable[str]) -> None:
    """Cancel jobs; one that has ended meanwhile is no error."""
    if names := sorted(set(identifiers)):
        _ask("scancel", "--quiet", *names)


def check(script: str) -> None:
    """Raises UserError with Slurm's own words if it would refuse a batch script."""
    _ask("sbatch", "--test-only", given=script)


def requeue(identifier: str) -> str | None:
    """Have a job run again under the same id; None if Slurm agreed, else what it said."""
    try:
        _ask("scontrol", "requeue", identifier)
    except UserError as error:
        return error.what
    return None


@contextmanager
def outside() -> Iterator[None]:
    """Inside, no variable of a job is seen, which would end up in the jobs that it submits."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if _of_a_job(name)}
    try:
        yield
    finally:
        os.environ.update(kept)


def _of_a_job(name: str) -> bool:
    return name.startswith(("SLURM_", "SLURMD_", "SBATCH_", "SUBMITIT_")) and name != "SLURM_CONF"


def _ask(program: str, *arguments: str, given: str | None = None) -> str:
    """The output of one of Slurm's commands.

    In a session of its own: when a job has itself requeued, the signal that follows must not end the request.
    """
    environment = {name: value for name, value in os.environ.items() if not _of_a_job(name)}
    try:
        run = subprocess.run(
            [program, *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=environment,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        hint = "run this where jobs are submitted; to look at the scripts only: --dry-run"
        raise UserError(f"there is no {program} here, so no Slurm", hint=hint) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{program} did not answer within {TIMEOUT:.0f} s", hint="is slurmctld up?") from error
    if run.returncode:
        said = (run.stderr or run.stdout).strip() or f"exit code {run.returncode}"
        raise UserError(said, where=" ".join([program, *arguments]))
    return run.stdout

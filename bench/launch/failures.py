"""Why stages failed, and what to do about it: causes, read from what a stage, its job's output and Slurm have said.

What a stage itself says counts first. Only of one that ended without a word, or that lost touch with its other
processes, the job's output is looked at, because stages that share a job share its output too.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.launch.scheduler import Job
from bench.launch.states import Standing

TAIL = 64 * 1024  # bytes of a job's output that are looked at


@dataclass(frozen=True)
class Cause:
    """Why a stage failed. `action` is what its user can do; `{kind}` in it stands for the kind of stage."""

    name: str
    action: str
    signs: tuple[str, ...] = ()  # words any of which say so; plain ones, as they are looked for in long outputs


GPU_MEMORY = Cause(
    "out of GPU memory",
    "set recipe.accumulate: 2 (or 4), or recipe.checkpointing: true, or ask for a larger GPU: "
    "resources.{kind}.constraint or .partition; then launch again",
    (
        *("CUDA out of memory", "CUDA error: out of memory", "torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError"),
        "CUBLAS_STATUS_ALLOC_FAILED",
    ),
)
MEMORY = Cause(
    "out of memory",
    "raise resources.{kind}.memory, then launch again; a training needs less with recipe.accumulate or "
    "recipe.checkpointing, and with fewer --workers",
    (
        *("MemoryError", "xceeded memory limit", "xceeded job memory limit", "oom-kill", "oom_kill", "OUT_OF_MEMORY"),
        *("Out Of Memory", "DefaultCPUAllocator", "Cannot allocate memory", "std::bad_alloc"),
    ),
)
DISK = Cause(
    "disk full",
    "make room, or raise the quota (`gc` removes what nobody needs any more), then `retry`",
    ("No space left on device", "Disk quota exceeded", "[Errno 28]", "[Errno 122]"),
)
NOT_FINITE = Cause(
    "not finite",
    "lower recipe.lr, set recipe.clip_grad, or recipe.precision: fp32 or bf16; another attempt would end alike",
    ("loss is not finite",),
)
DECODE = Cause(
    "undecodable videos",
    "mend the files, or list them under the dataset's known_bad (`doctor DATASET` writes such a list); then launch "
    "again",
    ("cannot be decoded", "can be decoded"),
)
CHANGED_CODE = Cause(
    "changed code",
    "launch the suite again, or put the code back to what it was and `retry`",
    ("he code has changed",),
)
TIMEOUT = Cause(
    "out of time",
    "raise resources.{kind}.time; if the job was preempted before it had saved, lower --checkpoint-seconds; "
    "then `retry`, or launch again for another time",
    ("DUE TO TIME LIMIT", "ended: TIMEOUT", "times without getting further"),
)
NODE = Cause(
    "node",
    "`retry`; if it is the same node each time, keep away from it: resources.all.exclude of the site",
    (
        *("ended: NODE_FAIL", "ended: BOOT_FAIL", "DUE TO NODE FAILURE", "ECC error", "CUDA error: uncorrectable"),
        *("No CUDA GPUs are available", "no CUDA-capable device", "CUDA-capable device(s) is/are busy"),
        *("CUDA driver initialization failed", "Bus error", "SIGBUS", "tale file handle", "tale NFS file handle"),
        *("[Errno 5]", "[Errno 116]", "[Errno 121]", "Input/output error"),
    ),
)
LOST_PEER = Cause(
    NODE.name,
    NODE.action,
    (
        *("rank is gone or silent", "DistBackendError", "NCCL error", "NCCL communicator", "ncclSystemError"),
        *("ncclRemoteError", "ncclInternalError", "ncclUnhandledCudaError", "gloo/transport", "onnection reset by"),
        "onnection closed by",
    ),
)
KILLED = Cause(
    "killed",
    "`retry`; if nobody cancelled it, its output may say why (`logs`), or memory was short: resources.{kind}.memory",
    (
        *("Killed", "SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "Segmentation fault", "CANCELLED", "ended: PREEMPTED"),
        "rocess died",
    ),
)
NO_START = Cause(
    "job did not start",
    "its output says why (`logs`); look at `python` and `setup` of the site, then launch again",
    (
        *("command not found", "No such file or directory", "ModuleNotFoundError", "ImportError", "execve"),
        "cannot open shared object",
    ),
)
REFUSED = Cause("refused", "the message says what to change; another attempt would end alike")
BUG = Cause("error", "look at the traceback (`logs` shows each); when it is mended, `retry` or launch again")
GONE = Cause(
    "gone without a word", "`retry`; if that repeats, `sacct` or the cluster's staff may know what ended the job"
)

SAID = (GPU_MEMORY, MEMORY, DISK, NOT_FINITE, DECODE, CHANGED_CODE, TIMEOUT, NODE, LOST_PEER)
UNSAID = (GPU_MEMORY, MEMORY, DISK, TIMEOUT, NODE, LOST_PEER, KILLED)


def cause(reason: str, output: str = "", state: str = "", *, began: bool = True, final: bool = False) -> Cause:
    """Why an attempt ended, from what was said, the end of its job's error output, and Slurm's state of it.

    `began`: whether the stage had started; `final`: whether it said itself that another attempt would end alike.
    """
    said, ended = _sign(reason, SAID), f"its job ended: {state}"
    if said is LOST_PEER:  # from another process's end, and that is what counts
        return _sign(f"{ended}\n{output}", UNSAID) or said
    if said or "Traceback" in reason:
        return said or BUG
    if final:
        return _sign(reason, (KILLED,)) or REFUSED
    unsaid = _sign(f"{reason}\n{ended}\n{output}", UNSAID)
    if not began and (unsaid is None or unsaid is KILLED) and _sign(output, (NO_START,)):
        return NO_START
    return unsaid or (BUG if "Traceback" in output else GONE)


def _sign(text: str, causes: Iterable[Cause]) -> Cause | None:
    return next((cause for cause in causes if any(sign in text for sign in cause.signs)), None)


# --- together ---------------------------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """A stage that failed. `text`: its traceback or message, or what its job's output ended with."""

    standing: Standing
    cause: Cause
    time: float
    text: str


@dataclass(frozen=True)
class Group:
    """Failures that are alike, by time."""

    cause: Cause
    failures: tuple[Failure, ...]

    @property
    def example(self) -> Failure:
        """The first with a traceback, else the first that says anything."""
        told = [failure for failure in self.failures if failure.text]
        return next((failure for failure in told if "Traceback" in failure.text), (*told, *self.failures)[0])

    @property
    def action(self) -> str:
        """What to do, with the kind of stage that it is about."""
        kinds = {failure.standing.stage.kind for failure in self.failures}
        return self.cause.action.replace("{kind}", kinds.pop() if len(kinds) == 1 else "all")


def grouped(standings: Iterable[Standing], jobs_folder: Path, queue: dict[str, Job] | None = None) -> list[Group]:
    """The stages that failed or were lost, by cause; the largest group first. Errors differ if their last lines do."""
    outputs = Outputs(jobs_folder)
    groups: dict[tuple[str, str], list[Failure]] = {}
    for standing in standings:
        if standing.state in ("failed", "lost"):
            failure = _failure(standing, outputs, queue or {})
            alike = _last_line(failure.text) if failure.cause in (BUG, REFUSED) else ""
            groups.setdefault((failure.cause.name, alike), []).append(failure)
    ordered = [sorted(failures, key=lambda failure: failure.time) for failures in groups.values()]
    return [Group(found[0].cause, tuple(found)) for found in sorted(ordered, key=lambda found: -len(found))]


def _failure(standing: Standing, outputs: Outputs, queue: dict[str, Job]) -> Failure:
    event = standing.failure or {}
    reason, when = str(event.get("reason", "")), event.get("time", standing.started or time.time())
    if event.get("event") == "death" and not reason:
        reason = "its process died"
    if event.get("event") == "interrupted":
        reason = f"interrupted, and got no further than before: {reason}"
    silent = not event or event["event"] in ("death", "interrupted") or _sign(reason, (LOST_PEER,)) is not None
    job = str(event.get("job") or standing.job)
    output = outputs.errors(job) if silent else ""
    state = queue[job].state if job in queue else ""
    found = cause(reason, output, state, began=standing.started is not None, final=bool(event.get("final")))
    if event.get("event") == "interrupted" and found in (GONE, KILLED):
        found = TIMEOUT
    return Failure(standing, found, when, "\n".join(part.rstrip() for part in (reason, output) if part.strip()))


def _last_line(text: str) -> str:
    """What a traceback ends with, without what differs from stage to stage: numbers, addresses, quoted names, paths."""
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S+|\d+|0x[0-9a-f]+", "#", lines[-1]) if lines else ""


# --- what jobs printed ------------------------------------------------------------------------------------------------


class Outputs:
    """The files that jobs print into: `<job>_<task>_log.out` and `.err`. The folder is listed once."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, list[Path]] = {}
        names = sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []
        for name in names:
            if match := re.fullmatch(r"(\d+(?:_\d+)?)_\d+_log\.(?:out|err)", name):
                self._files.setdefault(match[1], []).append(folder / name)

    def files(self, job: str) -> Sequence[Path]:
        """What a job has printed into, task by task."""
        return self._files.get(job, [])

    def errors(self, job: str) -> str:
        """The ends of all that a job's tasks said to be wrong."""
        return "\n".join(tail(file) for file in self.files(job) if file.suffix == ".err")


def tail(file: Path, size: int = TAIL) -> str:
    """The last bytes of a file as text, from the beginning of a line on; nothing if it cannot be read."""
    try:
        with open(file, "rb") as opened:
            start = max(0, opened.seek(0, os.SEEK_END) - size)
            opened.seek(start)
            data = opened.read(size)
    except OSError:
        return ""
    return (data.partition(b"\n")[2] if start else data).decode(errors="replace")

"""Ranks: the processes of one training, how they start and what they tell each other.

`start` starts them on this machine and watches them; under a launcher that starts them itself, `Seat.of_environment`
says which one this is. Gradients are summed after the backward pass and not by DistributedDataParallel: parts of a
batch differ in size, and a parameter that no rank has used must stay without a gradient, as it does on one process.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from tempfile import TemporaryDirectory
from traceback import format_exc
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.core.errors import StageError
from bench.video.pool import end_with_parent, undisturbed

Task = TypeVar("Task")
Value = TypeVar("Value")

SILENCE = timedelta(minutes=10)  # how long a rank waits for the others before it gives up
BLAME_SECONDS = 5.0  # a rank that lost another one says so at once; the other's end may be noticed later


class LostRank(StageError):
    """Another rank is gone or silent. Its own end says why; this one only follows from it."""

    final = False


@dataclass(frozen=True)
class Seat:
    """Which of the processes of a training this is. `local` counts on its machine, and picks its device."""

    rank: int = 0
    size: int = 1
    local: int = 0
    meeting: str = "env://"  # where the ranks find each other, as torch.distributed takes it

    @classmethod
    def of_environment(cls) -> Seat | None:
        """The seat that a launcher gave this process, by torchrun's names; None if there is none."""
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        if not all(name in os.environ for name in names):
            return None
        rank = int(os.environ["RANK"])
        return cls(rank, int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", rank)))

    def device(self, device: str) -> str:
        """The device of this rank, for a stage's `device`. Raises StageError if there is not one for each."""
        if self.size == 1 or not device.startswith("cuda"):
            return device
        if device != "cuda" or self.local >= torch.cuda.device_count():
            raise StageError(
                f"{self.size} processes need a CUDA device each, but the device is '{device}' "
                f"and {torch.cuda.device_count()} are here; set recipe.processes, or recipe.accumulate in its place"
            )
        return f"cuda:{self.local}"


# --- what ranks tell each other ---------------------------------------------------------------------------------------


class Ranks:
    """All ranks as one of them sees them. A single one needs nobody. Raises LostRank if another one does not answer."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def gather(self, value: Value) -> list[Value]:
        """Everyone's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _others_expected():
            dist.all_gather_object(values, value)
        return values

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gradients become their sums over the ranks, a missing one counts as zero; missing on all, it stays so."""
        if self.size == 1:
            return
        found = self.gather([parameter.grad is not None for parameter in parameters])
        used = [parameter for parameter, ranks in zip(parameters, zip(*found, strict=True), strict=True) if any(ranks)]
        with _others_expected():
            sums = [dist.all_reduce(_gradient(parameter), async_op=True) for parameter in used]
            for each in sums:
                each.wait()


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


@contextmanager
def _others_expected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostRank(f"another rank is gone or silent: {str(error).splitlines()[0]}") from error


@contextmanager
def joined(seat: Seat, device: str) -> Iterator[Ranks]:
    """Inside, the ranks are connected. `device` is this rank's own."""
    if seat.size == 1:
        yield Ranks()
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    with _others_expected():
        dist.init_process_group(
            backend, init_method=seat.meeting, rank=seat.rank, world_size=seat.size, timeout=SILENCE
        )
    yield Ranks(seat.rank, seat.size)
    dist.destroy_process_group()  # not after an error: it could wait for a rank that is gone


# --- how they start on this machine -----------------------------------------------------------------------------------


def start(function: Callable[[Task, Seat], Value], task: Task, size: int) -> Value:
    """What `function` returns in rank 0 of `size` new processes. They end with this call, however it ends.

    This process only watches, so that a rank that dies is noticed whatever the others wait for. Raises StageError that
    names the rank that failed.
    """
    get_context("forkserver").set_forkserver_preload([function.__module__])  # so that they are there at once
    with TemporaryDirectory() as folder:
        seats = [Seat(rank, size, rank, f"file://{folder}/meeting") for rank in range(size)]
        processes: list[_Process] = []
        try:
            processes += (_Process(function, task, seat) for seat in seats)
            value: Value = _first(processes)
        except BaseException:
            for process in processes:
                process.process.kill()
            raise
        finally:
            for process in processes:
                process.end()
        return value


def _first(processes: list[_Process]) -> Any:
    """Rank 0's value, once all are done."""
    waiting: dict[object, _Process] = {process.pipe: process for process in processes}
    values, deadline = {}, inf
    lost: StageError | None = None
    while waiting and time.monotonic() < deadline:
        for pipe in wait([process.pipe for process in waiting.values()], timeout=1.0):
            process = waiting.pop(pipe)
            answer = process.answer()
            if not isinstance(answer, _Failure):
                values[process.seat.rank] = answer
            elif not answer.follows:
                raise StageError(answer.reason)
            elif lost is None:
                lost, deadline = StageError(answer.reason), time.monotonic() + BLAME_SECONDS
    if lost is not None:
        raise lost
    return values[0]


class _Failure(NamedTuple):
    reason: str
    follows: bool = False  # from another rank's failure


class _Process:
    """One rank as the process that started it sees it."""

    def __init__(self, function: Callable[[Task, Seat], object], task: Task, seat: Seat) -> None:
        context = get_context("forkserver")
        self.seat = seat
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_serve, args=(theirs, function, task, seat))
        with undisturbed():
            self.process.start()
        theirs.close()

    def answer(self) -> Any:
        """What it sent, or a _Failure if it ended without an answer."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            hint = " (was memory short?)" if code == -signal.SIGKILL else ""
            return _Failure(f"{_name(self.seat)} {how}{hint}")

    def end(self) -> None:
        self.process.join(10)
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, function: Callable[[Task, Seat], object], task: Task, seat: Seat) -> None:
    """The life of a rank."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the parent, which ends its ranks
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        answer: object = function(task, seat)
    except StageError as error:
        answer = _Failure(f"{_name(seat)}: {error}", isinstance(error, LostRank))
    except BaseException:
        answer = _Failure(f"{_name(seat)} failed:\n{format_exc()}")
    pipe.send(answer)
    pipe.close()
    if isinstance(answer, _Failure):
        os._exit(1)  # connections to other ranks are not taken down in order


def _name(seat: Seat) -> str:
    return f"rank {seat.rank} of {seat.size}"

"""Processes of one training on this machine: how they start, and how a rank that dies is noticed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from math import inf
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from tempfile import TemporaryDirectory
from traceback import format_exc
from typing import Any, NamedTuple, TypeVar

from bench.core.errors import Interrupted, StageError
from bench.core.processes import block_stop_signals, end_with_parent, preload
from bench.stages.training.ranks import LostRank, RankInfo

Task = TypeVar("Task")
Value = TypeVar("Value")

BLAME_SECONDS = 5.0  # a rank that lost another one says so at once; the other's end may be noticed later


def start(function: Callable[[Task, RankInfo], Value], task: Task, size: int) -> Value:
    """The value that `function` returns in rank 0 of `size` new processes. They end with this call, however it ends.

    This process only watches, so that a rank that dies is noticed whatever the others wait for. Raises StageError that
    names the rank that failed, and Interrupted if rank 0 did.
    """
    preload([function.__module__])  # so that they are there at once
    with TemporaryDirectory() as folder:
        infos = [RankInfo(rank, size, rank, f"file://{folder}/init") for rank in range(size)]
        processes: list[_Process] = []
        try:
            processes += (_Process(function, task, info) for info in infos)
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
            if not isinstance(answer, _RankFailure):
                values[process.info.rank] = answer
            elif not answer.follows:
                raise StageError(answer.reason)
            elif lost is None:
                lost, deadline = StageError(answer.reason), time.monotonic() + BLAME_SECONDS
    if lost is not None:
        raise lost
    if isinstance(values[0], Interrupted):
        raise values[0]
    return values[0]


class _RankFailure(NamedTuple):
    reason: str
    follows: bool = False  # from another rank's failure


class _Process:
    """A rank's process, from the view of the process that started it."""

    def __init__(self, function: Callable[[Task, RankInfo], object], task: Task, info: RankInfo) -> None:
        context = get_context("forkserver")
        self.info = info
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_serve, args=(theirs, {**os.environ}, function, task, info))
        with block_stop_signals():
            self.process.start()
        theirs.close()

    def answer(self) -> Any:
        """Its answer, or a _RankFailure if it ended without one."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            hint = " (was memory short?)" if code == -signal.SIGKILL else ""
            return _RankFailure(f"{_name(self.info)} {how}{hint}")

    def end(self) -> None:
        self.process.join(10)
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(
    pipe: Connection,
    environment: dict[str, str],
    function: Callable[[Task, RankInfo], object],
    task: Task,
    info: RankInfo,
) -> None:
    """Body of a rank's process, forked from a server that may be older than the environment: run, send the answer."""
    end_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    try:
        answer: object = function(task, info)
    except Interrupted as early:
        answer = early
    except StageError as error:
        answer = _RankFailure(f"{_name(info)}: {error}", isinstance(error, LostRank))
    except BaseException:
        answer = _RankFailure(f"{_name(info)} failed:\n{format_exc()}")
    pipe.send(answer)
    pipe.close()
    if isinstance(answer, _RankFailure | Interrupted):
        os._exit(1)  # connections to other ranks are not taken down in order


def _name(info: RankInfo) -> str:
    return f"rank {info.rank} of {info.size}"

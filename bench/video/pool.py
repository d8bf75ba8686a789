"""Worker pool with supervision: a task that hangs or crashes its process costs only that task.

Decoders are C code that damaged files can hang or crash. One thread of this process serves each worker: it sends a
task, waits for the result up to the time limit, and replaces the worker if none comes. Workers come from a fork server
that has opened no reader, and they end with this process, however it ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, count
from mmap import mmap
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from traceback import format_exc
from typing import Any, Generic, NamedTuple, TypeVar

from bench.core.processes import block_stop_signals, end_with_parent, preload

Task = TypeVar("Task")
Result = TypeVar("Result")

HEAVY = ("torch", "torchvision.transforms.v2")  # the fork server imports them once if this process uses them
START_SECONDS = 300.0  # limit for the start of a worker on a busy machine with a cold disk
KILLS = 3  # workers that something outside may kill at one task before the task is given up

_starting = threading.Lock()  # multiprocessing reaps children when it starts one, which is not thread-safe


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Decoding:
    """Settings of decoding; never part of an identity."""

    workers: int = 1  # processes; 0 decodes in this process without supervision, for debuggers
    seconds: float = 60.0  # time limit of one video
    cache_bytes: int = 0  # limit of the frame cache over all datasets; 0 switches it off
    note: Callable[[str], None] = to_stderr  # receives one line for each lost worker
    content: str = ""  # hash of the list and its videos, the key of their cached frames; without it none are cached


class WorkerLost(NamedTuple):
    """Replaces a result: the reason why the worker was lost, and whether something outside killed it."""

    reason: str
    killed: bool = False


class Finished(NamedTuple, Generic[Task, Result]):
    """A task and its result."""

    task: Task
    result: Result | WorkerLost


@dataclass(frozen=True)
class Pool:
    """`workers` processes with a time limit of `seconds` per task. `note` receives a line for each lost worker.

    Without workers, tasks run in this process without supervision.
    """

    workers: int
    seconds: float
    note: Callable[[str], None] = to_stderr

    def run(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        *,
        ahead: int = 0,
        ordered: bool = True,
        name: Callable[[Task], str] = str,
        replacement: Callable[[Task, Result | WorkerLost], Task | None] = lambda task, result: None,
        prepare: Callable[[], None] | None = None,
    ) -> Generator[Finished[Task, Result]]:
        """Results in the order of the tasks, or as they finish; closing the iterator ends all workers.

        `function`, `prepare` (called once by each worker), tasks and results are pickled; arrays in a result travel as
        raw bytes. Besides the running tasks, up to `ahead` results wait for the consumer, which bounds the memory.
        `replacement` can return a task that replaces one with this result. It, `name` (of a task in notes) and `note`
        are called in threads. Exceptions of these, of `function` and of `tasks` are raised here.
        """
        if self.workers == 0:
            yield from _run_here(function, tasks, replacement)
            return
        run = _PoolRun(self, function, prepare, tasks, name, replacement, self.workers + ahead)
        try:
            run.start()
            yield from run.results(ordered)
        finally:
            run.close()


def _run_here(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    replacement: Callable[[Task, Result | WorkerLost], Task | None],
) -> Iterator[Finished[Task, Result]]:
    for task in tasks:
        result = function(task)
        while (other := replacement(task, result)) is not None:
            task, result = other, function(other)
        yield Finished(task, result)


# --- this process -----------------------------------------------------------------------------------------------------


class _PoolRun(Generic[Task, Result]):
    """One run of a pool: its workers and the threads that serve them."""

    def __init__(
        self,
        pool: Pool,
        function: Callable[[Task], Result],
        prepare: Callable[[], None] | None,
        tasks: Iterable[Task],
        name: Callable[[Task], str],
        replacement: Callable[[Task, Result | WorkerLost], Task | None],
        room: int,
    ) -> None:
        self.seconds, self.note, self.name, self.replacement = pool.seconds, pool.note, name, replacement
        self.program = pickle.dumps((function, prepare))
        self.tasks = enumerate(tasks)
        self.taking = threading.Lock()
        self.room = threading.Semaphore(room)  # for running tasks and waiting results
        self.changed = threading.Condition()  # guards the attributes below
        self.finished: dict[int, Finished[Task, Result]] = {}
        self.error: BaseException | None = None
        self.closing = False
        self.workers: set[_Worker] = set()
        self.serving = pool.workers
        self.threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(pool.workers)]
        _preload(function)

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def results(self, ordered: bool) -> Iterator[Finished[Task, Result]]:
        """Finished tasks in their order, or as they finish."""
        for number in count():
            with self.changed:
                while not (self.error or not self.serving or (number in self.finished if ordered else self.finished)):
                    self.changed.wait()
                if self.error:
                    raise self.error
                if not self.finished:
                    return
                result = self.finished.pop(number if ordered else next(iter(self.finished)))
            self.room.release()
            yield result

    def close(self) -> None:
        """Kill all workers and wait until they have ended."""
        with self.changed:
            self.closing = True
            for worker in self.workers:
                worker.process.kill()
        self.room.release(len(self.threads))
        for thread in self.threads:
            if thread.ident is not None:
                thread.join()

    def _serve(self) -> None:
        """Run by one thread: send tasks to a worker, and start another if it is lost, until no tasks are left."""
        worker: _Worker | None = None
        try:
            while (taken := self._take()) is not None:
                number, task = taken
                kills = 0
                while True:
                    worker = worker or self._start_worker()
                    result = worker.result(task, self.seconds)
                    if isinstance(result, WorkerLost):
                        self._end_worker(worker)
                        worker = None
                    if self.closing:
                        return
                    if isinstance(result, WorkerLost):
                        self.note(f"{self.name(task)}: {result.reason}")
                        kills += result.killed
                        if result.killed and kills < KILLS:
                            continue  # the task may be innocent, and what it gives must not depend on the machine
                    if (other := self.replacement(task, result)) is None:
                        break
                    task = other
                with self.changed:
                    self.finished[number] = Finished(task, result)
                    self.changed.notify_all()
        except BaseException as error:
            with self.changed:
                self.error = self.error or error
        finally:
            if worker is not None:
                self._end_worker(worker)
            with self.changed:
                self.serving -= 1
                self.changed.notify_all()

    def _take(self) -> tuple[int, Task] | None:
        self.room.acquire()
        with self.taking:
            return None if self.closing or self.error else next(self.tasks, None)

    def _start_worker(self) -> _Worker:
        worker = _Worker(self.program)
        with self.changed:
            self.workers.add(worker)
            if self.closing:
                worker.process.kill()
        return worker

    def _end_worker(self, worker: _Worker) -> None:
        with self.changed:
            self.workers.discard(worker)
        worker.end()


class _Worker:
    """A worker process and the channel to it. Raises the exception of a failed start."""

    def __init__(self, program: bytes) -> None:
        context = get_context("forkserver")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, program), daemon=True)
        with _starting, block_stop_signals():
            self.process.start()
        theirs.close()
        self.channel = _ResultChannel(self.pipe)
        self.ready = False

    def result(self, task: Any, seconds: float) -> Any:
        """The function's result for the task, or WorkerLost. Raises the function's exception."""
        if not self.ready and isinstance(started := self._answer(START_SECONDS), WorkerLost):
            raise RuntimeError(f"a process for decoding does not start: {started.reason}")
        self.ready = True
        try:
            self.pipe.send(task)
        except OSError:
            return self._cause()
        return self._answer(seconds)

    def end(self) -> None:
        """Kill the process and wait until it has ended."""
        self.process.kill()
        self._wait()
        self.pipe.close()

    def _cause(self) -> WorkerLost:
        """Reason why the process ended."""
        self._wait()
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            killed = name == "SIGKILL"
            return WorkerLost(f"the decoder died of {name}" + (" (out of memory?)" if killed else ""), killed)
        return WorkerLost(f"the decoder ended its process with exit code {code}")

    def _wait(self) -> None:
        with _starting:
            self.process.join(5)  # a hanging file system can keep a killed process for ever

    def _answer(self, seconds: float) -> Any:
        if not self.pipe.poll(seconds):
            return WorkerLost(f"the decoder took longer than {seconds:g} s and was killed")
        try:
            answer = self.channel.receive()
        except (EOFError, OSError):
            return self._cause()
        if isinstance(answer, _Raised):
            raise answer.error
        return answer


def _preload(function: Callable[..., object]) -> None:
    """Let the fork server import modules that every worker needs; has no effect once it runs."""
    modules = [function.__module__, *(name for name in HEAVY if name in sys.modules)]
    preload(name for name in modules if name != "__main__")


# --- a worker ---------------------------------------------------------------------------------------------------------


class _Raised(NamedTuple):
    error: BaseException


def _work(pipe: Connection[Any, Any], program: bytes) -> None:
    """Main function of a worker: run tasks until the pipe is closed or the parent has ended."""
    end_with_parent()
    channel = _ResultChannel(pipe)
    try:
        function, prepare = pickle.loads(program)
        if prepare is not None:
            prepare()
        channel.send(None)
    except Exception as error:
        return channel.send(_raised(error))
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return None
        try:
            answer = function(task)
        except Exception as error:
            answer = _raised(error)
        channel.send(answer)


def _raised(error: Exception) -> _Raised:
    error.add_note(format_exc())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return _Raised(RuntimeError(format_exc()))
    return _Raised(error)


# --- between them -----------------------------------------------------------------------------------------------------


class _ResultChannel:
    """A pipe with shared memory for the arrays in a result, which stay there until the receiver has copied them.

    A worker has one task at a time, so there is one result at a time. Through a pipe alone, a clip of 8 frames takes
    four times as long.
    """

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self.pipe = pipe
        self.memory = mmap(-1, 1)

    def send(self, value: object) -> None:
        """Called by the worker."""
        buffers: list[pickle.PickleBuffer] = []
        aside = buffers.append if hasattr(os, "memfd_create") else None  # Linux; other systems use the pipe alone
        body = pickle.dumps(value, protocol=5, buffer_callback=aside)
        views = [buffer.raw() for buffer in buffers]
        sizes = [view.nbytes for view in views]
        larger = os.memfd_create("result") if sum(sizes) > len(self.memory) else None
        if larger is not None:
            os.ftruncate(larger, sum(sizes))
            self.memory = mmap(larger, 0)
        for view, start in zip(views, accumulate(sizes, initial=0), strict=False):
            self.memory[start : start + view.nbytes] = view
        self.pipe.send((body, sizes, larger is not None))
        if larger is not None:
            send_handle(self.pipe, larger, os.getppid())
            os.close(larger)

    def receive(self) -> Any:
        """Called by the process that sent the task."""
        body, sizes, larger = self.pipe.recv()
        if larger:
            file = recv_handle(self.pipe)
            self.memory = mmap(file, 0)
            os.close(file)
        memory = memoryview(self.memory)
        starts = accumulate(sizes, initial=0)
        buffers = [bytearray(memory[start : start + size]) for start, size in zip(starts, sizes, strict=False)]
        return pickle.loads(body, buffers=buffers)

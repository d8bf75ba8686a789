"""Worker processes that are watched: a task that hangs or kills its process costs that task and nothing else.

Decoders are C code that damaged files can hang or crash. Every worker is served by one thread of this process: it hands
out a task, waits for the answer up to the limit, and replaces the worker if none comes. The workers come from a fork
server that has opened no reader, and end with this process however it ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, count
from mmap import mmap
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from traceback import format_exc
from typing import Any, Generic, NamedTuple, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

HEAVY = ("torch", "torchvision.transforms.v2")  # imported once by the fork server where this process uses them
START_SECONDS = 300.0  # for a worker to come up, on a busy machine with a cold disk

_starting = threading.Lock()  # multiprocessing reaps children when it starts one, which is not safe between threads


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Decoding:
    """How videos are decoded; never part of an identity."""

    workers: int = 1  # processes; 0 decodes in this one, for debuggers: nothing is watched
    seconds: float = 60.0  # limit of one video
    cache_bytes: int = 0  # limit of the cache of decoded frames over all datasets; 0 keeps none
    note: Callable[[str], None] = to_stderr  # gets one line for every worker that was lost
    content: str = ""  # hash of the list and its videos, under which their frames are kept; none are without it


class Lost(NamedTuple):
    """In place of a result: why the process that worked on it is gone."""

    reason: str


class Done(NamedTuple, Generic[Task, Result]):
    """A task and its result, or why there is none."""

    task: Task
    result: Result | Lost


@dataclass(frozen=True)
class Pool:
    """`workers` processes; a task may take `seconds`. `note` gets one line, with the task's name, for each one lost.

    Without workers, tasks are carried out in this process and nothing is watched.
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
        instead: Callable[[Task, Result | Lost], Task | None] = lambda task, result: None,
        prepare: Callable[[], None] | None = None,
    ) -> Generator[Done[Task, Result]]:
        """Results of tasks in their order, or as they come; closing the iterator ends all workers.

        `function`, `prepare` (called once by each worker), tasks and results are pickled; arrays in a result travel as
        raw bytes. Up to `ahead` results wait for the consumer besides the tasks in work, so memory does not grow with
        their number. `instead` names the task to carry out in place of one with this result; it is called in threads.
        An exception of `function`, `tasks` or `instead` is raised here.
        """
        if self.workers == 0:
            return _in_process(function, tasks, instead)
        return self._watched(_Crew(self, function, prepare, tasks, instead, self.workers + ahead), ordered, name)

    def _watched(
        self, crew: _Crew[Task, Result], ordered: bool, name: Callable[[Task], str]
    ) -> Generator[Done[Task, Result]]:
        try:
            crew.start()
            for done, lost in crew.results(ordered):
                for task, why in lost:
                    self.note(f"{name(task)}: {why.reason}")
                yield done
        finally:
            crew.close()


def _in_process(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    instead: Callable[[Task, Result | Lost], Task | None],
) -> Generator[Done[Task, Result]]:
    for task in tasks:
        result = function(task)
        while (other := instead(task, result)) is not None:
            task, result = other, function(other)
        yield Done(task, result)


# --- this process -----------------------------------------------------------------------------------------------------


class _Crew(Generic[Task, Result]):
    """The workers of one run and the threads that serve them."""

    def __init__(
        self,
        pool: Pool,
        function: Callable[[Task], Result],
        prepare: Callable[[], None] | None,
        tasks: Iterable[Task],
        instead: Callable[[Task, Result | Lost], Task | None],
        room: int,
    ) -> None:
        self.seconds, self.instead = pool.seconds, instead
        self.order = pickle.dumps((function, prepare))
        self.tasks = enumerate(tasks)
        self.taking = threading.Lock()
        self.room = threading.Semaphore(room)  # for tasks in work and results that wait
        self.changed = threading.Condition()  # guards what follows
        self.finished: dict[int, tuple[Done[Task, Result], list[tuple[Task, Lost]]]] = {}
        self.error: BaseException | None = None
        self.closing = False
        self.workers: set[_Worker] = set()
        self.serving = pool.workers
        self.threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(pool.workers)]
        _preload(function)

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def results(self, ordered: bool) -> Iterator[tuple[Done[Task, Result], list[tuple[Task, Lost]]]]:
        """What was done, each with the tasks that were lost on the way to it."""
        for number in count():
            with self.changed:
                while (
                    not self.error and self.serving and (number not in self.finished if ordered else not self.finished)
                ):
                    self.changed.wait()
                if self.error:
                    raise self.error
                if not self.finished:
                    return
                result = self.finished.pop(number if ordered else next(iter(self.finished)))
            self.room.release()
            yield result

    def close(self) -> None:
        """End all workers at once and wait until they are gone."""
        with self.changed:
            self.closing = True
            for worker in self.workers:
                worker.process.kill()
        self.room.release(len(self.threads))
        for thread in self.threads:
            if thread.ident is not None:
                thread.join()

    def _serve(self) -> None:
        """One thread: tasks to one worker after the other, until there are none."""
        worker: _Worker | None = None
        try:
            while (taken := self._take()) is not None:
                number, task = taken
                lost: list[tuple[Task, Lost]] = []
                while True:
                    worker = worker or self._hired()
                    done = Done(task, worker.result(task, self.seconds))
                    if isinstance(done.result, Lost):
                        lost.append((task, done.result))
                        self._dismiss(worker)
                        worker = None
                    if self.closing:
                        return
                    if (other := self.instead(*done)) is None:
                        break
                    task = other
                with self.changed:
                    self.finished[number] = done, lost
                    self.changed.notify_all()
        except BaseException as error:
            with self.changed:
                self.error = self.error or error
        finally:
            if worker is not None:
                self._dismiss(worker)
            with self.changed:
                self.serving -= 1
                self.changed.notify_all()

    def _take(self) -> tuple[int, Task] | None:
        self.room.acquire()
        with self.taking:
            return None if self.closing or self.error else next(self.tasks, None)

    def _hired(self) -> _Worker:
        worker = _Worker(self.order)
        with self.changed:
            self.workers.add(worker)
            if self.closing:
                worker.process.kill()
        return worker

    def _dismiss(self, worker: _Worker) -> None:
        with self.changed:
            self.workers.discard(worker)
        worker.end()


class _Worker:
    """A process and the pipe to it. Raises what its start raised."""

    def __init__(self, order: bytes) -> None:
        context = get_context("forkserver")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, order), daemon=True)
        with _starting, undisturbed():
            self.process.start()
        theirs.close()
        self.desk = _Desk(self.pipe)
        self.ready = False

    def result(self, task: Any, seconds: float) -> Any:
        """What its function makes of the task, or Lost. Raises what the function raises."""
        if not self.ready and isinstance(started := self._answer(START_SECONDS), Lost):
            raise RuntimeError(f"a process for decoding does not start: {started.reason}")
        self.ready = True
        try:
            self.pipe.send(task)
        except OSError:
            return Lost(self._cause())
        return self._answer(seconds)

    def end(self) -> None:
        """Kill the process and wait until it is gone."""
        self.process.kill()
        self._wait()
        self.pipe.close()

    def _cause(self) -> str:
        """What ended the process."""
        self._wait()
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"the decoder died of {name}" + (" (was memory short?)" if name == "SIGKILL" else "")
        return f"the decoder ended its process with exit code {code}"

    def _wait(self) -> None:
        with _starting:
            self.process.join(5)  # a file system that hangs can keep a process for ever

    def _answer(self, seconds: float) -> Any:
        if not self.pipe.poll(seconds):
            return Lost(f"the decoder took longer than {seconds:g} s and was killed")
        try:
            answer = self.desk.take()
        except (EOFError, OSError):
            return Lost(self._cause())
        if isinstance(answer, _Raised):
            raise answer.error
        return answer


def _preload(function: Callable[..., object]) -> None:
    """Have the fork server import what every worker needs; it is too late, and only slower, once it runs."""
    modules = [function.__module__, *(name for name in HEAVY if name in sys.modules)]
    get_context("forkserver").set_forkserver_preload([name for name in modules if name != "__main__"])


# --- a worker ---------------------------------------------------------------------------------------------------------


class _Raised(NamedTuple):
    error: BaseException


def _work(pipe: Connection[Any, Any], order: bytes) -> None:
    """The life of a worker: tasks in, results out, until this pipe or the process at its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the parent, which ends its workers
    threading.Thread(target=end_with_parent, daemon=True).start()
    desk = _Desk(pipe)
    try:
        function, prepare = pickle.loads(order)
        if prepare is not None:
            prepare()
        desk.put(None)
    except Exception as error:
        return desk.put(_raised(error))
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return None
        try:
            answer = function(task)
        except Exception as error:
            answer = _raised(error)
        desk.put(answer)


@contextmanager
def undisturbed() -> Iterator[None]:
    """A process that starts inside never sees the signals by which a scheduler tells all processes of a job to stop.

    They are for its parent, which decides what to do. The fork server and all its later children inherit this.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """For a thread of a child process: ends the process when its parent is gone, however that ended."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _raised(error: Exception) -> _Raised:
    error.add_note(format_exc())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return _Raised(RuntimeError(format_exc()))
    return _Raised(error)


# --- between them -----------------------------------------------------------------------------------------------------


class _Desk:
    """A pipe, and memory that both its ends see. Arrays in a result lie there until the other end has copied them.

    A worker has one task at a time, so one result is there at a time. Through the pipe alone a clip of 8 frames takes
    four times as long.
    """

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self.pipe = pipe
        self.memory = mmap(-1, 1)

    def put(self, value: object) -> None:
        """In a worker."""
        buffers: list[pickle.PickleBuffer] = []
        aside = buffers.append if hasattr(os, "memfd_create") else None  # Linux; elsewhere all goes through the pipe
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

    def take(self) -> Any:
        """In the process that gave the task."""
        body, sizes, larger = self.pipe.recv()
        if larger:
            file = recv_handle(self.pipe)
            self.memory = mmap(file, 0)
            os.close(file)
        memory = memoryview(self.memory)
        starts = accumulate(sizes, initial=0)
        buffers = [bytearray(memory[start : start + size]) for start, size in zip(starts, sizes, strict=False)]
        return pickle.loads(body, buffers=buffers)

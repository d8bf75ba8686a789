"""Workers that hang, die, raise or are left behind."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.video.pool import KILLS, Pool, WorkerLost
from tests.errors import says

LIMIT = 2.0  # seconds; every test of a hang waits for it once


def work(task: Any) -> Any:
    """What the tests let workers do."""
    match task:
        case "hang":
            time.sleep(600)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(3)
        case "raise":
            raise UserError("path leads out", where="list.txt:7", hint="copy the videos")
        case "raise what cannot be sent":
            raise Unsendable(open(os.devnull))  # noqa: SIM115
        case "deaf":  # to Python's signal handling: C code that keeps the interpreter
            ctypes.PyDLL(None).sleep(600)
        case "pid":
            return os.getpid()
        case int():
            time.sleep(0.02 * (task % 3))  # so that workers overtake each other
            return np.full((2, 3), task), str(task)
    return None


def arrays(size: int) -> list[np.ndarray]:
    """Two that lie in one piece and one that does not."""
    filled = np.full((2, size), size % 251, np.uint8)
    return [filled[0], filled, filled.T]


class Unsendable(Exception):
    def __init__(self, file: object) -> None:
        super().__init__("odd")
        self.file = file


def pool(workers: int = 2, notes: list[str] | None = None, seconds: float = LIMIT) -> Pool:
    lines: list[str] = [] if notes is None else notes
    return Pool(workers, seconds, lines.append)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order_with_their_tasks(workers: int) -> None:
    done = list(pool(workers).run(work, range(20)))
    assert [task for task, _ in done] == list(range(20))
    for task, result in done:
        assert isinstance(result, tuple)
        assert (result[0] == task).all() and result[0].shape == (2, 3) and result[0].dtype == np.int64
        assert result[0].flags.writeable and result[1] == str(task)


def test_arrays_of_any_size_come_whole_and_stay() -> None:
    sizes = [3, 0, 5_000_000, 1000, 5_000_001, 2]
    done = list(pool(1).run(arrays, sizes))
    for size, result in done:
        assert isinstance(result, list) and all((array == size % 251).all() for array in result)
        assert [array.shape for array in result] == [(size,), (2, size), (size, 2)]


def test_results_may_come_as_they_are_ready() -> None:
    done = list(pool(3).run(work, range(20), ordered=False))
    assert sorted(task for task, _ in done if isinstance(task, int)) == list(range(20))


@pytest.mark.parametrize("task", ["hang", "deaf"])
def test_a_task_over_its_time_costs_itself_and_one_line(task: str) -> None:
    notes: list[str] = []
    tasks: list[int | str] = [0, task, 2, 3]
    began = time.monotonic()
    results = [result for _, result in pool(2, notes).run(work, tasks)]
    assert isinstance(results[1], WorkerLost)
    says(results[1].reason, f"longer than {LIMIT:g} s")
    assert [type(result) for result in results] == [tuple, WorkerLost, tuple, tuple]
    assert notes == [f"{task}: {results[1].reason}"]
    assert time.monotonic() - began < LIMIT + 20


@pytest.mark.parametrize(
    ("task", "reason"),
    [("segfault", "the decoder died of SIGSEGV"), ("exit", "the decoder ended its process with exit code 3")],
)
def test_a_task_that_ends_its_process_costs_itself_and_one_line(task: str, reason: str) -> None:
    notes: list[str] = []
    results = [result for _, result in pool(1, notes).run(work, [0, task, 2, task])]
    assert [type(result) for result in results] == [tuple, WorkerLost, tuple, WorkerLost]
    assert results[1] == WorkerLost(reason) and notes == 2 * [f"{task}: {reason}"]


def killed(marker: Path) -> int:
    """Of two attempts the first is killed; of all if the marker cannot be made."""
    if marker.exists():
        return 1
    if marker.parent.exists():
        marker.touch()
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_a_task_whose_worker_something_killed_is_tried_again(tmp_path: Path) -> None:
    notes: list[str] = []
    assert [result for _, result in pool(1, notes).run(killed, [tmp_path / "once"])] == [1]
    assert notes == [f"{tmp_path / 'once'}: the decoder died of SIGKILL (out of memory?)"]
    ((_, lost),) = pool(1, notes).run(killed, [tmp_path / "nowhere" / "always"])
    assert isinstance(lost, WorkerLost) and lost.killed and len(notes) == 1 + KILLS


@pytest.mark.parametrize("workers", [0, 2])
def test_another_task_can_stand_in(workers: int) -> None:
    def replacement(task: int, result: object) -> int | None:
        return task + 10 if task < 20 else None

    done = list(pool(workers).run(work, [1, 12, 25], replacement=replacement))
    assert [task for task, _ in done] == [21, 22, 25]


def test_a_lost_task_is_replaced_and_named() -> None:
    notes: list[str] = []
    run = pool(1, notes).run(work, ["exit", 1], replacement=lambda task, result: 7 if task == "exit" else None)
    assert [task for task, _ in run] == [7, 1] and len(notes) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_exceptions_come_through(workers: int) -> None:
    with pytest.raises(UserError, match=r"list\.txt:7: path leads out") as caught:
        list(pool(workers).run(work, [0, "raise", 2]))
    assert caught.value.hint == "copy the videos"

    def tasks() -> Iterator[int]:
        yield 1
        raise UserError("no such list")

    with pytest.raises(UserError, match="no such list"):
        list(pool(workers).run(work, tasks()))


def test_an_exception_that_cannot_be_sent_comes_as_text() -> None:
    with pytest.raises(RuntimeError, match="Unsendable: odd"):
        list(pool(1).run(work, ["raise what cannot be sent"]))


def unprepared() -> None:
    raise UserError("no such library")


def dying() -> None:
    os._exit(5)


def test_workers_that_cannot_start_are_no_failure_of_a_task() -> None:
    with pytest.raises(UserError, match="no such library"):
        list(pool(2).run(work, [1, 2], prepare=unprepared))
    with pytest.raises(RuntimeError, match=r"does not start: .* exit code 5"):
        list(pool(2).run(work, [1, 2], prepare=dying))


def test_workers_stay_for_many_tasks() -> None:
    assert len({pid for _, pid in pool(2).run(work, 30 * ["pid"])}) <= 2


def test_tasks_are_taken_only_as_far_ahead_as_asked() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    run = pool(2).run(work, tasks(), ahead=3)
    for _ in range(4):
        next(run)
    time.sleep(0.3)
    assert 4 <= len(taken) <= 4 + 2 + 3
    run.close()


@pytest.mark.parametrize("tasks", [["pid", "hang", "hang"], ["pid", "deaf", "hang"]])
def test_an_early_end_leaves_no_process(tasks: list[int | str]) -> None:
    run = pool(2, seconds=600).run(work, tasks)
    _, pid = next(run)
    began = time.monotonic()
    run.close()
    assert time.monotonic() - began < 5 and not active_children()
    assert isinstance(pid, int) and not running(pid)


def test_an_exception_of_the_consumer_leaves_no_process() -> None:
    def consume() -> None:
        for _ in pool(2, seconds=600).run(work, [0, "hang", "hang"]):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert not active_children()


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path: Path, kill: signal.Signals) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from bench.video.pool import Pool\n"
        "from tests.video.test_pool import work\n"
        "if __name__ == '__main__':\n"
        "    for _, pid in Pool(2, 600).run(work, ['pid', 'pid', 'hang', 'hang'], ordered=False):\n"
        "        print(pid, flush=True)\n"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    parent.send_signal(kill)
    parent.wait(20)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(map(running, pids)):
        time.sleep(0.05)
    assert not any(map(running, pids))


def running(pid: int) -> bool:
    """Whether the process works; not so if it has ended and waits for its parent to see that."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

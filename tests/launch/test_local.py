"""Local launches: two on one store, those that are killed or stopped, and what becomes of their processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.launch.claims import FRESH, OtherLaunches, holder, take
from bench.launch.launches import create, find_launch
from bench.launch.local import SAVES
from bench.store.records import Event, Store
from tests.launch import fake_suite
from tests.launch.scenes import TRAIN, rewritten

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LIMIT = 60.0  # seconds for whatever is waited for; a busy machine takes its time
LONG = 600.0  # seconds of a stage that is not to end by itself

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "runs")


@pytest.fixture
def start(store: Store) -> Iterator[Start]:
    """Starts a launch as a shell does, in a process group of its own."""
    started: list[subprocess.Popen[str]] = []

    def starting(seconds: float, *names: str, jobs: int = 2) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.launch.fake_suite", str(store.root), str(jobs), str(seconds), *names]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield starting
    for each in started:
        if each.poll() is None:
            os.killpg(each.pid, signal.SIGKILL)
        each.communicate()


def until(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def events(store: Store, event: str) -> list[Event]:
    return [each for each in store.events() if each["event"] == event]


def works(pid: int) -> bool:
    """Whether a process works; not so if it has ended and waits for its parent to see that."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- two launches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [0, 2])
def test_two_launches_share_the_stages(store: Store, start: Start, jobs: int) -> None:
    names = [str(number) for number in range(6)]
    both = start(0.1, *names, jobs=jobs), start(0.1, *names[2:], "own", jobs=jobs)
    assert [each.wait(LIMIT) for each in both] == [0, 0]
    starts = Counter(each["title"] for each in events(store, "start"))
    assert len(starts) == 14 and set(starts.values()) == {1}
    assert not list((store.root / "claims").iterdir())


def test_a_launch_takes_over_what_a_killed_one_leaves(store: Store, start: Start) -> None:
    first = start(LONG, "a")
    until(lambda: events(store, "start"))
    second = start(0.0, "a", "b")
    until(lambda: len(events(store, "end")) == 2)  # b and its probe; a is waited for
    assert second.poll() is None and len(events(store, "start")) == 3
    os.killpg(first.pid, signal.SIGKILL)
    assert second.wait(LIMIT) == 0 and len(events(store, "end")) == 4


def test_what_one_launch_failed_at_another_tries_once_itself(store: Store, start: Start) -> None:
    both = start(0.5, "broken"), start(0.5, "broken")
    assert [each.wait(LIMIT) for each in both] == [1, 1]
    order = [each["event"] for each in store.events()]
    assert order == ["start", "failure", "start", "failure"]  # one after the other


def test_a_launch_elsewhere_lives_as_long_as_it_gives_signs(store: Store) -> None:
    launch = rewritten(create(store, {"suite": "far", "on": "local"}, [TRAIN]), host="elsewhere")
    alive = launch.folder / "alive"
    for ago, holds in ((FRESH / 2, True), (FRESH * 2, False)):
        alive.touch()
        os.utime(alive, (time.time() - ago, time.time() - ago))
        assert (launch.name in OtherLaunches(store)) == holds
    alive.touch()
    launch.end("complete")
    assert launch.name not in OtherLaunches(store)
    assert "no such launch" not in OtherLaunches(store)


def test_a_local_launch_waits_for_one_on_slurm(store: Store, start: Start) -> None:
    training = fake_suite.stages(["a"])[0]
    other = create(store, {"suite": "far", "on": "slurm"}, [])
    (other.folder / "orders.jsonl").touch()  # it submits its jobs now
    assert take(store, training.key, other.name, ()) is None
    run = start(0.0, "a", "b")
    until(lambda: len(events(store, "end")) == 2)
    assert run.poll() is None and holder(store, training.key) == other.name
    other.end("cancelled")
    assert run.wait(LIMIT) == 0


# --- its end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jobs", "number", "code"), [(0, signal.SIGINT, 130), (2, signal.SIGINT, 130), (2, signal.SIGTERM, 143)]
)
def test_a_signal_lets_all_save(store: Store, start: Start, jobs: int, number: signal.Signals, code: int) -> None:
    run = start(LONG, "a", "b", jobs=jobs)
    until(lambda: len(events(store, "start")) == max(1, jobs))
    os.killpg(run.pid, number)  # as a terminal does
    assert run.wait(LIMIT) == code
    out, err = run.communicate()
    saved = ["train a saved", "train b saved"] if jobs else [f"{events(store, 'start')[0]['title']} saved"]
    assert (out, err) == (f"{saved} []\n", SAVES.decode())
    assert find_launch(store).ended()["state"] == "cancelled"  # type: ignore[index]
    assert not list((store.root / "claims").iterdir())


@pytest.mark.parametrize("jobs", [0, 2])
def test_what_cannot_save_is_not_waited_for(store: Store, start: Start, jobs: int) -> None:
    """The trainings have records, so their probes run."""
    for training in fake_suite.stages(["a", "b"])[:2]:
        with store.writing(*training.key, {}):
            pass
    run = start(LONG, "a", "b", jobs=jobs)
    until(lambda: len(events(store, "start")) == max(1, jobs))
    run.send_signal(signal.SIGINT)
    assert run.wait(10) == 130
    assert "probe" in run.communicate()[0]


@pytest.mark.parametrize(("jobs", "word"), [(0, "twice"), (2, "twice"), (2, "hasty")])
def test_a_second_signal_or_the_end_of_patience_ends_all(store: Store, start: Start, jobs: int, word: str) -> None:
    run = start(LONG, "deaf", word, jobs=jobs)
    until(lambda: len(events(store, "start")) == max(1, jobs))
    run.send_signal(signal.SIGINT)
    if word == "twice":
        time.sleep(1.0)
        assert run.poll() is None
        run.send_signal(signal.SIGINT)
    assert run.wait(10) == 130
    assert run.communicate()[0].startswith("[] ['train ")
    assert not any(works(each["pid"]) for each in events(store, "start"))


def test_slots_end_with_their_launch(store: Store, start: Start) -> None:
    run = start(LONG, "a", "b")
    until(lambda: len(events(store, "start")) == 2)
    slots = {each["pid"] for each in events(store, "start")}
    assert len(slots) == 2 and all(map(works, slots))
    run.kill()
    assert run.wait(LIMIT) == -signal.SIGKILL
    until(lambda: not any(map(works, slots)))


def test_a_slot_that_is_killed_is_replaced(store: Store, start: Start) -> None:
    run = start(1.0, "a", jobs=1)
    until(lambda: events(store, "start"))
    os.kill(events(store, "start")[0]["pid"], signal.SIGTERM)  # is for the launch to decide
    os.kill(events(store, "start")[0]["pid"], signal.SIGKILL)
    assert run.wait(LIMIT) == 0
    assert [each["event"] for each in store.events()][:4] == ["start", "death", "start", "end"]

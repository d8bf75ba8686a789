"""Jobs on Slurm, without one: which interrupted stages go on."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bench.launch import job
from bench.launch.failures import cause
from bench.launch.job import Room, StopSignals, _Job
from bench.launch.launches import JobArray
from bench.launch.schedule import Schedule
from bench.launch.slots import Slot
from bench.store.attempts import attempts_since
from bench.store.records import Store
from tests.errors import says
from tests.launch.launched import RESOURCES, finish, launched, stage


def test_what_follows_a_training_that_failed_is_left_and_what_lacks_another_input_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    train = stage("train")
    launch = launched(Store.create(tmp_path), train, stage("evaluate", train, kind="evaluate"))
    job = _Job(launch, StopSignals(), 0.0)
    for numbers, failed in (([0, 1], train), ([1], launch.stages[1])):
        before = len(launch.store.events())
        job.in_slots([launch.stages[number] for number in numbers], launch.orders(numbers).values())
        events = [(event["event"], event["identity"]) for event in launch.store.events()[before:]]
        assert events == [("start", failed.identity), ("failure", failed.identity)]


def test_stages_run_side_by_side_each_with_one_of_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs with two slots each. Their stages fail, since they have nothing to work with, and say where they ran."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    resources = {**RESOURCES, "cpus": 4, "gpus": 2, "slots": 2}
    launch = launched(Store.create(tmp_path), *(stage(f"{n}", resources=resources) for n in range(7)))
    seen, begin = list[str](), Slot.begin

    def beginning(slot: Slot, *given: Any) -> None:
        seen.append(slot.environment["CUDA_VISIBLE_DEVICES"])
        begin(slot, *given)

    monkeypatch.setattr(Slot, "begin", beginning)
    _Job(launch, StopSignals(), 0.0).in_slots(launch.stages, launch.orders(range(7)).values())
    starts = [event["pid"] for event in launch.store.events() if event["event"] == "start"]
    assert len(starts) == 7 and len(set(starts)) == 4
    assert seen[:4] == ["4", "6", "4", "6"]


def test_a_stage_whose_process_is_killed_dies_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    launch = launched(Store.create(tmp_path), stage("a", seconds=2.0), stage("b"))
    for lacks in (True, False):
        before = len(launch.store.events())
        monkeypatch.setattr(job, "out_of_memory_here", lambda lacks=lacks: lacks)
        monkeypatch.setattr(job, "_carry_out", killed)
        _Job(launch, StopSignals(), 0.0).in_slots(launch.stages, launch.orders(range(2)).values())
        deaths = launch.store.events()[before:]
        assert [event["identity"] for event in deaths] == ["a", "b"]
        assert all(event["event"] == "death" and "exit code -9 in job 7" in event["reason"] for event in deaths)
        assert [event.get("state") for event in deaths] == ["OUT_OF_MEMORY" if lacks else None] * 2
    assert attempts_since(launch.store)["a"].out_of_memory == 1


def killed(*given: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_no_more_stages_run_side_by_side_than_memory_suffices_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "8192")
    stages = [stage(f"{n}") for n in range(9)]
    launch = launched(Store.create(tmp_path), *stages)

    def started(**peaks: int) -> int:
        """How many of four slots have a stage at once, where one has used so much."""
        known: Any = {name: size * 2**30 for name, size in peaks.items()}
        launch.store.log("end", *stages[8].key, **known)
        state, room = Schedule(stages, launch.store), Room(launch, 4, 2)
        while len(state.running) < 4 and room.fits(state) and state.start():
            pass
        return len(state.running)

    assert started() == 4  # nothing is known
    assert started(memory=2) == 4
    assert started(overhead=1) == 3  # what the job itself uses
    assert started(memory=3) == 2
    assert started(memory=3, device_memory=30, device_total=80) == 2
    assert started(memory=5) == 1
    other = launched(Store.create(tmp_path / "other"), *stages)
    other.store.log("end", *stages[8].key, device_memory=50 * 2**30, device_total=80 * 2**30)
    state, room = Schedule(stages, other.store), Room(other, 4, 2)
    while len(state.running) < 4 and room.fits(state) and state.start():
        pass
    assert len(state.running) == 2  # one on each GPU


def test_a_requeued_job_leaves_alone_what_a_later_job_has_and_what_needs_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    died = stage("died")
    launch = launched(Store.create(tmp_path), died, stage("of it", died, kind="evaluate"), stage("other"))
    orders = launch.orders(range(3))
    orders[1].inputs["train"] = died.key
    launch.add(JobArray("7", "", [[0, 1, 2]], 0.0, 1.0))
    assert not any(map(_Job(launch, StopSignals(), 0.0).is_over, orders.values()))
    launch.add(JobArray("8", "", [[0]], 0.0, 2.0))
    assert [*map(_Job(launch, StopSignals(), 0.0).is_over, orders.values())] == [True, True, False]
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert not any(map(_Job(launch, StopSignals(), 0.0).is_over, orders.values()))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    finish(launch.store, died)
    assert not _Job(launch, StopSignals(), 0.0).is_over(orders[1])


@pytest.mark.parametrize(("limit", "suggested"), [(1, "0:10:00"), (60, "2:00:00")])
def test_a_time_limit_that_is_mostly_start_up_ends_with_a_better_one(
    limit: int, suggested: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt saves a step more, which alone would let it go on for ever."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    launch = launched(Store.create(tmp_path), stage("a", resources={"time": limit}))
    order, store = launch.orders([0])[0], launch.store
    for step in range(1, 4):
        job = _Job(launch, StopSignals.__new__(StopSignals), 0.0)
        assert not job.before[order.identity].over(3)
        store.log("start", *order.key)
        store.log("interrupted", *order.key, done=step, startup=90.0, compute=5.0)
        assert job.may_go_on(order) == (step < 3)
    failure = store.events()[-1]
    assert failure["event"] == "failure" and failure["final"]
    says(failure["reason"], "interrupted 3 times", "start-up of 90 s", f"resources.train.time: {suggested}")
    assert cause(failure["reason"], fatal=True).name == "out of time"

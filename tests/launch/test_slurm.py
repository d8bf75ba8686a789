from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bench.commands import driver as driver_command
from bench.commands.driver import Driver, drive, drive_here
from bench.core.errors import UserError
from bench.core.processes import Stopped
from bench.graph.stage import Stage
from bench.launch import claims, scheduler, slurm
from bench.launch.claims import holder
from bench.launch.launches import Launch, PlannedStage, jobs_of, stage_jobs
from bench.launch.scheduler import QueuedJob
from bench.launch.site import Site
from bench.launch.slurm import Dispatcher, Submission, arranged, begin, create_on_slurm, reopen, submit_drivers
from bench.models.weights import Resolved
from bench.store.attempts import attempts_since
from bench.store.records import Store
from tests.errors import refused, says
from tests.launch.launched import RESOURCES, finish, launched, stage

RUNNING, PENDING = QueuedJob("RUNNING", ""), QueuedJob("PENDING", "Resources")


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, QueuedJob]:
    """The queue that squeue shows; submitting adds to it."""
    known: dict[str, QueuedJob] = {}
    numbers = iter(range(1, 1000))

    def submit(launch: Launch, submission: Submission, *_: object) -> str:
        job, tasks = str(next(numbers)), len(submission.array_tasks)
        names = [f"{job}_{task}" for task in range(tasks)] if tasks > 1 else [job]
        known.update(dict.fromkeys(names, PENDING._replace(comment=launch.name)))
        return job

    monkeypatch.setattr(scheduler, "jobs", lambda users=(): dict(known))
    monkeypatch.setattr(scheduler, "check", lambda script: None)
    monkeypatch.setattr(scheduler, "cancel", lambda names: [known.pop(name, None) for name in names])
    monkeypatch.setattr(slurm, "_submit", submit)
    monkeypatch.setattr(slurm, "SETTLE", -1.0)
    monkeypatch.setattr(driver_command, "LOOK", 0.0)
    monkeypatch.setattr(driver_command, "report", lambda launch: None)
    return known


def grouped(launch: Launch, limit: int = 1000) -> list[tuple[str, list[list[int]]]]:
    """All stages of a launch as arrays: name and array tasks."""
    site = Site.model_validate({**launch.about["site"], "max_array": limit})
    return [(each.name, each.array_tasks) for each in arranged(launch, range(len(launch.stages)), site)]


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_stages_of_a_kind_with_the_same_resources_share_an_array(tmp_path: Path) -> None:
    large = {"time": 60, "gpus": 8}
    stages = (stage("t", kind="texts"), stage("a"), stage("b", resources=large), stage("c"), stage("d", tasks=2))
    assert grouped(launched(Store.create(tmp_path), *stages)) == [
        ("tiny-texts", [[0]]),
        ("tiny-train", [[1, 3]]),
        ("tiny-train", [[2]]),
        ("tiny-train", [[4]]),
    ]


def test_an_array_that_is_too_large_is_cut(tmp_path: Path) -> None:
    launch = launched(Store.create(tmp_path), *(stage(f"{n}", tasks=2) for n in range(7)))
    assert [len(tasks) for _, tasks in grouped(launch, limit=3)] == [3, 3, 1]


def test_small_stages_share_jobs_up_to_a_length_and_a_number(tmp_path: Path) -> None:
    launch = launched(Store.create(tmp_path), *(stage(f"{n}", seconds=100.0) for n in range(13)), pack_most=5)
    assert [len(task) for task in grouped(launch)[0][1]] == [5, 5, 3]
    short = launched(Store.create(tmp_path), *(stage(f"{n}", seconds=250.0) for n in range(5)))
    assert [len(task) for task in grouped(short)[0][1]] == [2, 2, 1]


def test_stages_of_many_tasks_and_what_failed_before_have_jobs_of_their_own(
    tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    launch = launched(
        Store.create(tmp_path), stage("a"), stage("b"), stage("c"), stage("d", tasks=2), stage("e", tasks=2)
    )
    launch.store.log("death", "train", "b", title="train b", reason="killed")
    submitted = Dispatcher(launch).submit()
    assert [sorted(map(tuple, each.array_tasks)) for each in submitted] == [[(0, 2), (1,)], [(3,), (4,)]]


# --- what starts ------------------------------------------------------------------------------------------------------


def test_a_stage_is_submitted_when_its_own_inputs_have_records(tmp_path: Path, queue: dict[str, QueuedJob]) -> None:
    slow, quick = stage("slow", seconds=9000.0), stage("quick", seconds=9000.0)
    of_quick = stage("of quick", quick, kind="evaluate")
    launch = launched(Store.create(tmp_path), slow, quick, of_quick, stage("of slow", slow, kind="evaluate"), pack=0)
    dispatcher = Dispatcher(launch)
    assert [each.array_tasks for each in dispatcher.submit()] == [[[0], [1]]]
    assert dispatcher.look(scheduler.jobs()) == [] and dispatcher.submit() == []
    finish(launch.store, quick)
    dispatcher.look(scheduler.jobs())
    assert [each.array_tasks for each in dispatcher.submit()] == [[[2]]]
    assert holder(launch.store, quick.key) is None and holder(launch.store, of_quick.key) == launch.name


# --- bundles ----------------------------------------------------------------------------------------------------------


def bundle(tmp_path: Path, **more: Any) -> Launch:
    """A training with an evaluation and a probe of it, and an evaluation that needs other features, too."""
    train, encode = stage("train", seconds=9000.0), stage("encode", kind="encode", seconds=9000.0)
    texts = stage("texts", kind="texts")
    return launched(
        Store.create(tmp_path), texts, encode, train, stage("evaluate", train, texts, kind="evaluate", **more),
        stage("probe", train, kind="probe"), stage("later", train, encode, kind="evaluate")
    )  # fmt: skip


def tasks(dispatcher: Dispatcher) -> list[list[int]]:
    """The array tasks that are submitted now."""
    return sorted(task for each in dispatcher.submit() for task in each.array_tasks)


def test_a_training_is_followed_in_its_job_by_what_needs_only_its_record(
    tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    launch = bundle(tmp_path)
    texts, encode, train, evaluate, probe, _ = launch.stages
    finish(launch.store, texts)
    dispatcher = Dispatcher(launch)
    assert tasks(dispatcher) == [[1], [2, 3, 4]]
    assert holder(launch.store, probe.key) == launch.name
    again = Dispatcher(launch)  # another driver
    finish(launch.store, encode)
    finish(launch.store, train)
    again.look(scheduler.jobs())
    assert tasks(again) == [[5]]
    finish(launch.store, evaluate)
    finish(launch.store, probe)
    again.look(scheduler.jobs())
    assert [own.identity for own in again.schedule.running.values()] == ["later"]


def test_followers_of_a_training_that_died_cost_nothing_and_come_after_it(
    tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    launch = bundle(tmp_path)
    texts, encode, train, *_ = launch.stages
    finish(launch.store, texts)
    finish(launch.store, encode)
    dispatcher = Dispatcher(launch)
    assert tasks(dispatcher) == [[2, 3, 4, 5]]
    launch.store.log("start", *train.key, title="", job="1")
    queue.clear()
    assert dispatcher.look({}) == ["train train: death, will be tried again"]
    assert tasks(dispatcher) == [[2]]  # alone, as it failed before
    finish(launch.store, train)
    dispatcher.look(scheduler.jobs())
    assert sorted(n for task in tasks(dispatcher) for n in task) == [3, 4, 5]
    assert not {e["identity"] for e in launch.store.events() if e["event"] == "death"} - {"train"}


def test_followers_of_a_job_that_dies_behind_the_training_are_submitted_again(
    tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    launch = bundle(tmp_path)
    for own in launch.stages[:2]:
        finish(launch.store, own)
    dispatcher = Dispatcher(launch)
    dispatcher.submit()
    launch.store.log("start", *launch.stages[2].key, title="", job="1")
    finish(launch.store, launch.stages[2])
    queue.clear()
    dispatcher.look({})
    assert sorted(n for task in tasks(dispatcher) for n in task) == [3, 4, 5]
    assert not [e for e in launch.store.events() if e["event"] == "death"]


@pytest.mark.parametrize(
    ("resources", "site"),
    [
        ({"partition": "other"}, {}),
        ({"gpus": 1}, {}),
        ({"memory": 4000}, {}),
        ({"memory": None}, {}),
        ({"cpus": 3}, {}),
        ({}, {"pack": 0}),
        ({}, {"pack_most": 1}),
    ],
)
def test_what_asks_for_other_nodes_or_a_job_of_its_own_does_not_follow(
    resources: dict[str, Any], site: dict[str, Any], tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    given = {**RESOURCES, "memory": 2000, "cpus": 2}
    train = stage("train", resources=given)
    other = stage("evaluate", train, kind="evaluate", resources={**given, **resources})
    dispatcher = Dispatcher(launched(Store.create(tmp_path), train, other, **site))
    assert tasks(dispatcher) == [[0]]


def test_less_of_everything_lets_it_follow_and_its_length_does_not(tmp_path: Path, queue: dict[str, QueuedJob]) -> None:
    train = stage("train", resources={**RESOURCES, "memory": 2000, "gpus": 1, "cpus": 2, "slots": 2})
    own = {**RESOURCES, "time": 5, "memory": 1000}
    short, long = (stage(f"{n}", train, kind="evaluate", seconds=n, resources=own) for n in (500.0, 700.0))
    profile = stage("profile", train, kind="profile")
    dispatcher = Dispatcher(launched(Store.create(tmp_path), train, short, long, profile))
    assert tasks(dispatcher) == [[0, 1]]


def test_a_bundle_that_finds_no_room_is_put_back_whole(tmp_path: Path, queue: dict[str, QueuedJob]) -> None:
    trainings = [stage(f"train{n}", seconds=9000.0) for n in range(2)]
    evaluations = [stage(f"evaluate{n}", own, kind="evaluate") for n, own in enumerate(trainings)]
    launch = launched(Store.create(tmp_path), *trainings, *evaluations, parallel=1)
    dispatcher = Dispatcher(launch)
    ((first, follower),) = tasks(dispatcher)
    assert follower == first + 2 and len([own for own in launch.stages if holder(launch.store, own.key)]) == 2
    finish(launch.store, launch.stages[first])
    finish(launch.store, launch.stages[follower])
    dispatcher.look(scheduler.jobs())
    assert tasks(dispatcher) == [[1 - first, 3 - first]]


def test_no_more_jobs_are_submitted_than_may_run_at_once(tmp_path: Path, queue: dict[str, QueuedJob]) -> None:
    launch = launched(Store.create(tmp_path), *(stage(f"{n}", seconds=9000.0) for n in range(5)), parallel=2)
    dispatcher = Dispatcher(launch)
    assert [len(each.array_tasks) for each in dispatcher.submit()] == [2]
    assert dispatcher.submit() == [] and not dispatcher.refused
    assert sum(holder(launch.store, each.key) is not None for each in launch.stages) == 2
    finish(launch.store, next(iter(dispatcher.schedule.running.values())))
    dispatcher.look(scheduler.jobs())
    assert [len(each.array_tasks) for each in dispatcher.submit()] == [1]


@pytest.mark.parametrize("count", [1, 3])
def test_when_all_jobs_that_may_run_at_once_die_their_places_are_free(
    count: int, tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    launch = launched(Store.create(tmp_path), *(stage(f"{n}") for n in range(count)), parallel=count, pack=0)
    dispatcher = Dispatcher(launch)
    for _ in range(2):
        assert len(tasks(dispatcher)) == count and dispatcher.going_on
        queue.clear()
        dispatcher.look({})
    claims.release_all(launch)
    launch.end("incomplete")
    assert len(tasks(Dispatcher(launch, reopen(launch)))) == count  # by a retry


def test_a_stage_of_another_launch_is_waited_for_and_not_submitted(tmp_path: Path, queue: dict[str, QueuedJob]) -> None:
    store, shared = Store.create(tmp_path), stage("shared")
    first = launched(store, shared)
    Dispatcher(first).submit()
    second = launched(store, shared, stage("own", shared, kind="evaluate"), suite="other")
    dispatcher = Dispatcher(second)
    assert dispatcher.submit() == [] and dispatcher.going_on
    finish(store, shared)
    dispatcher.look(scheduler.jobs())
    assert [each.array_tasks for each in dispatcher.submit()] == [[[1]]]


def test_claims_of_a_launch_whose_jobs_are_gone_are_outbid(tmp_path: Path, queue: dict[str, QueuedJob]) -> None:
    store, shared = Store.create(tmp_path), stage("shared")
    begin(launched(store, shared), drive)
    queue.clear()
    second = launched(store, shared, suite="other")
    assert Dispatcher(second).submit()[0].array_tasks == [[0]]
    assert holder(store, shared.key) == second.name


def test_a_launch_that_slurm_refuses_leaves_nothing(
    tmp_path: Path, queue: dict[str, QueuedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = launched(Store.create(tmp_path), stage("a"), stage("b", kind="texts"))
    working = slurm._submit

    def refuse(own: Launch, submission: Submission, *rest: Any) -> str:
        if submission.name == "tiny-train":
            raise UserError("QOSMaxSubmitJobPerUserLimit")
        return working(own, submission, *rest)

    monkeypatch.setattr(slurm, "_submit", refuse)
    with pytest.raises(UserError, match="QOSMaxSubmitJobPerUserLimit"):
        begin(launch, drive)
    assert queue == {} and not launch.folder.exists()
    assert [holder(launch.store, planned.key) for planned in launch.stages] == [None, None]


def test_a_refusal_names_the_stage_and_what_it_asks_for_before_anything_is_submitted(
    tmp_path: Path, queue: dict[str, QueuedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(script: str) -> None:
        if "--mem=204800M" in script:
            raise UserError("Memory specification can not be satisfied")

    monkeypatch.setattr(scheduler, "check", check)
    train, large = stage("a"), {**RESOURCES, "memory": 204800}
    evaluations = stage("b", train, kind="evaluate"), stage("c", train, kind="evaluate", resources=large)
    hint = "evaluate c asks for cpus: 1, memory: 204800M, time: 1:00:00"
    with refused("Slurm refuses jobs of evaluate: Memory", where="resources: evaluate", hint=hint):
        begin(launched(Store.create(tmp_path), train, *evaluations), drive)
    assert queue == {}


# --- what became of it ------------------------------------------------------------------------------------------------


def test_a_job_that_died_costs_the_stage_it_was_at_and_one_that_never_began_all_of_its(
    tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    launch = launched(Store.create(tmp_path), *(stage(f"{n}", seconds=250.0) for n in range(4)))
    dispatcher = Dispatcher(launch)
    ((_, first), (_, second)) = jobs_of(dispatcher.submit())
    assert (first, second) == ([0, 1], [2, 3])
    queue["1_0"] = QueuedJob("NODE_FAIL", "")
    del queue["1_1"]
    finish(launch.store, launch.stages[0])
    launch.store.log("start", *launch.stages[1].key, title="", job="1_0")
    dispatcher.look(scheduler.jobs())
    deaths = {e["identity"]: (e["reason"], e["state"]) for e in launch.store.events() if e["event"] == "death"}
    assert deaths == {
        "1": ("ended without an error in job 1_0 (NODE_FAIL)", "NODE_FAIL"),
        "2": ("ended without an error in job 1_1 (gone)", "gone"),
        "3": ("ended without an error in job 1_1 (gone)", "gone"),
    }
    assert sorted(dispatcher.submit()[0].array_tasks) == [[1], [2], [3]]


def test_a_death_while_the_store_was_away_costs_no_attempt(tmp_path: Path, queue: dict[str, QueuedJob]) -> None:
    for name, excused, spent in (("away", time.time() + 60.0, 0), ("there", 0.0, 1)):
        dispatcher = Dispatcher(launched(Store.create(tmp_path), stage(name)), 0.0, excused)
        dispatcher.submit()
        queue.clear()
        dispatcher.look(scheduler.jobs())
        assert attempts_since(dispatcher.store)[name].spent == spent


@pytest.mark.parametrize("event", ["failure", "death"])
def test_what_fails_or_dies_in_a_job_that_goes_on_is_submitted_again_at_once(
    event: str, tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    launch = launched(Store.create(tmp_path), stage("0"), stage("1"))
    dispatcher = Dispatcher(launch)
    dispatcher.submit()
    queue["1"] = RUNNING
    launch.store.log("start", *launch.stages[0].key, title="", job="1")
    launch.store.log(event, *launch.stages[0].key, title="", reason="no", final=False)
    dispatcher.look(scheduler.jobs())
    assert [each.array_tasks for each in dispatcher.submit()] == [[[0]]]


def test_a_job_that_was_interrupted_and_comes_back_is_left_alone(tmp_path: Path, queue: dict[str, QueuedJob]) -> None:
    launch = launched(Store.create(tmp_path), stage("0"))
    dispatcher = Dispatcher(launch)
    dispatcher.submit()
    launch.store.log("start", *launch.stages[0].key, title="", job="1")
    launch.store.log("interrupted", *launch.stages[0].key, title="", reason="", done=7)
    dispatcher.look(scheduler.jobs())
    assert dispatcher.submit() == [] and dispatcher.going_on
    queue["1"] = QueuedJob("TIMEOUT", "")
    dispatcher.look(scheduler.jobs())
    assert [each.array_tasks for each in dispatcher.submit()] == [[[0]]]


def test_a_new_dispatcher_knows_what_runs_and_what_has_no_attempts_left(
    tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    good, bad = stage("good", seconds=9000.0), stage("bad", seconds=9000.0)
    launch = launched(Store.create(tmp_path), good, bad, stage("of bad", bad, kind="evaluate"), stage("worn"))
    launch.store.log("failure", *bad.key, title="", reason="the loss is not finite", final=True)
    for _ in range(3):
        launch.store.log("death", *launch.stages[3].key, title="", reason="killed")
    assert [each.array_tasks for each in Dispatcher(launch).submit()] == [[[0]]]
    again = Dispatcher(launch)
    assert again.submit() == [] and list(again.schedule.running) == [good.identity]
    assert again.schedule.failed == {"bad": "the loss is not finite", "worn": "killed"}
    later = Dispatcher(launch, since=1e12)  # after a retry
    later.submit()
    assert not later.schedule.failed


def test_an_input_that_no_stage_makes_any_more_blocks_and_ends_the_launch(
    tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    lost = stage("lost", kind="encode")
    launch = launched(Store.create(tmp_path), stage("needs it", lost))
    Driver(launch, 0.0, "7", lambda: False).run()
    end = launch.ended()
    assert end and (end["state"], end["failed"], end["blocked"]) == ("incomplete", [], ["needs it"])


# --- the driver -------------------------------------------------------------------------------------------------------


def driven(launch: Launch, job: str, queue: dict[str, QueuedJob]) -> Driver:
    """A driver as it begins in its job."""
    queue[job] = RUNNING
    driver = Driver(launch, launch.since, job, lambda: False)
    assert driver.claimed()
    driver.arrange_successor()
    return driver


def test_a_driver_has_a_successor_and_takes_it_out_of_the_queue_at_the_end(
    tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    launch = launched(Store.create(tmp_path), stage("a"))
    submitted = begin(launch, drive)
    (train,) = stage_jobs(submitted)
    finish(launch.store, launch.stages[0])
    driver = driven(launch, submitted[-2].job, queue)
    own = [array.job for array in launch.arrays() if array.driver]
    assert len(own) == 2 and own[1] in queue
    driver.run()
    assert (launch.ended() or {})["state"] == "complete"
    assert set(queue) == {train.job, own[0]}
    assert not Driver(launch, 0.0, own[1], lambda: False).claimed()  # it has ended


def test_of_two_drivers_one_ends_and_a_dead_one_is_followed(tmp_path: Path, queue: dict[str, QueuedJob]) -> None:
    launch = launched(Store.create(tmp_path), stage("a"))
    begin(launch, drive)
    first = driven(launch, "50", queue)
    queue["51"] = RUNNING
    assert not Driver(launch, 0.0, "51", lambda: False).claimed()
    assert first.claimed()  # requeued under the same id
    queue["50"] = QueuedJob("OUT_OF_MEMORY", "")
    assert Driver(launch, 0.0, "51", lambda: False).claimed()


def test_the_successor_of_drivers_that_ran_out_of_memory_asks_for_more(
    tmp_path: Path, queue: dict[str, QueuedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = launched(Store.create(tmp_path), stage("a"))
    launch.about["driver"] = {**RESOURCES, "memory": 1000}
    memory = _memory_asked_for(monkeypatch)
    begin(launch, drive)
    for job in ("2", "3"):
        driven(launch, job, queue)
        queue[job] = QueuedJob("FAILED", "NonZeroExitCode")
        _say_that_memory_ran_out(launch, job)
    assert memory[1:] == ["1000M", "2000M", "4000M"]


def _memory_asked_for(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What jobs that are submitted from now on ask for."""
    memory, working = list[str](), slurm._submit

    def submit(launch: Launch, submission: Submission, since: float, drive: slurm.Drive | None = None) -> str:
        memory.append(submission.options["mem"])
        return working(launch, submission, since, drive)

    monkeypatch.setattr(slurm, "_submit", submit)
    return memory


def _say_that_memory_ran_out(launch: Launch, job: str) -> None:
    """Slurm calls a job FAILED in which a step ran out of memory, and says why in the step's output."""
    (launch.folder / "jobs").mkdir(exist_ok=True)
    (launch.folder / f"jobs/{job}_0_log.err").write_text("slurmstepd: error: Exceeded job memory limit\n")


def test_a_stage_whose_job_ran_out_of_memory_as_its_output_says_asks_for_more(
    tmp_path: Path, queue: dict[str, QueuedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = launched(Store.create(tmp_path), stage("a", resources={**RESOURCES, "memory": 1000}))
    dispatcher = Dispatcher(launch)
    (array,) = dispatcher.submit()
    queue[array.job] = QueuedJob("FAILED", "NonZeroExitCode")
    _say_that_memory_ran_out(launch, array.job)
    dispatcher.look(scheduler.jobs())
    memory = _memory_asked_for(monkeypatch)
    dispatcher.submit()
    assert memory == ["2000M"]


def test_a_successor_that_slurm_refuses_is_submitted_later(
    tmp_path: Path, queue: dict[str, QueuedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = launched(Store.create(tmp_path), stage("a"))
    (_, first, second), working = begin(launch, drive), slurm._submit
    queue[first.job] = QueuedJob("FAILED", "")

    def refuse(*_: object) -> str:
        raise UserError("out of order")

    monkeypatch.setattr(slurm, "_submit", refuse)
    driver = driven(launch, second.job, queue)
    assert sum(array.driver for array in launch.arrays()) == 2
    monkeypatch.setattr(slurm, "_submit", working)
    finish(launch.store, launch.stages[0])
    (launch.folder / "alive").write_text("out of order")
    driver.run()
    assert sum(array.driver for array in launch.arrays()) == 3 and claims.refused(launch) == ""


def test_a_job_that_a_driver_could_not_note_is_cancelled_by_the_next(
    tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    launch = launched(Store.create(tmp_path), stage("a"))
    begin(launch, drive)
    queue |= {"77": PENDING._replace(comment=launch.name), "78": PENDING._replace(comment="another")}
    driver = driven(launch, "2", queue)
    finish(launch.store, launch.stages[0])
    driver.run()
    assert "77" not in queue and "78" in queue


def test_a_slurm_that_refuses_all_jobs_ends_a_launch_with_its_words(
    tmp_path: Path, queue: dict[str, QueuedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = launched(Store.create(tmp_path), stage("a"))

    def refuse(*_: object) -> str:
        raise UserError("Invalid account")

    monkeypatch.setattr(slurm, "_submit", refuse)
    monkeypatch.setattr(driver_command, "REFUSING", 0.05)
    Driver(launch, 0.0, "7", lambda: False).run()
    end = launch.ended()
    assert claims.refused(launch) == "Invalid account"
    assert end and (end["state"], end["reason"], end["blocked"]) == ("incomplete", "Invalid account", ["a"])


def test_a_user_is_told_the_end_once_by_a_command(tmp_path: Path, queue: dict[str, QueuedJob]) -> None:
    told = tmp_path / "told"
    launch = launched(Store.create(tmp_path), stage("a"), notify=f'echo "$VTB_SUITE $VTB_STATE" >> {told}')
    finish(launch.store, launch.stages[0])
    Driver(launch, 0.0, "7", lambda: False).run()
    assert told.read_text() == "tiny complete\n"


def test_a_driver_that_is_no_job_sends_no_mail_and_says_so(
    tmp_path: Path, queue: dict[str, QueuedJob], capsys: pytest.CaptureFixture[str]
) -> None:
    launch = launched(Store.create(tmp_path), stage("a"), notify="me@lab.edu")
    finish(launch.store, launch.stages[0])
    assert drive_here(launch, 0.0)
    assert "nobody was notified: Slurm sends mails at the end of jobs" in capsys.readouterr().out


def test_a_store_whose_path_slurm_would_change_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has a % in it"):
        create_on_slurm({"suite": "tiny", "file": "tiny.yaml"}, [], [], Store.create(tmp_path / "100%j"))
    assert not list((tmp_path / "100%j").glob("launches/*"))


def test_a_retry_starts_a_driver_unless_one_goes_on(tmp_path: Path, queue: dict[str, QueuedJob]) -> None:
    launch = launched(Store.create(tmp_path), stage("a"))
    begin(launch, drive)
    with pytest.raises(UserError, match=r"its driver goes on: job 2 \(PENDING\)"):
        reopen(launch)
    queue.clear()
    first, _ = submit_drivers(launch, drive, reopen(launch))
    assert first.driver and first.since == launch.about["created"]  # the attempts so far count
    queue.clear()
    launch.end("incomplete")
    first, _ = submit_drivers(launch, drive, reopen(launch))
    assert first.since > launch.about["created"] and not launch.ended()


def test_a_retry_in_the_foreground_gives_new_attempts(
    tmp_path: Path, queue: dict[str, QueuedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = launched(Store.create(tmp_path), stage("a"))
    launch.store.log("failure", *launch.stages[0].key, title="", reason="a lack of luck", final=True)
    assert not drive_here(launch, launch.since)
    working = slurm._submit

    def submit(own: Launch, *rest: Any) -> str:
        finish(own.store, own.stages[0])
        return working(own, *rest)

    monkeypatch.setattr(slurm, "_submit", submit)
    assert drive_here(launch, reopen(launch))


def test_a_driver_in_the_foreground_that_is_stopped_says_how_to_go_on(
    tmp_path: Path, queue: dict[str, QueuedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(driver: Driver) -> None:
        raise Stopped(signal.SIGINT)

    launch = launched(Store.create(tmp_path), stage("a"))
    monkeypatch.setattr(Driver, "run", stop)
    with pytest.raises(Stopped) as stopped:
        drive_here(launch, 0.0)
    assert stopped.value.instead == ["retry", launch.name, "--here", "--store", str(tmp_path)]
    assert stopped.value.code == 130


# --- weights and environment ------------------------------------------------------------------------------------------


def test_class_features_from_a_file_are_submitted_without_weights(
    tmp_path: Path, queue: dict[str, QueuedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "resolved", lambda backbone, tag: Resolved(f"{tag}@/{backbone}", None))
    context = {"pretrained": "openai", "class_features": "rows.safetensors"}
    listed = Stage("texts", {"classes": "c1"}, {}, ("bench.stages.texts",), context, "class features", 0.0)
    encode = {"backbone": "ViT-B-16"}
    others = [Stage("encode", {**encode, "content": n}, {}, (), {"pretrained": "openai"}, "", 1.0) for n in "ab"]
    todo, about = [listed, *others], launched(Store.create(tmp_path), stage("a")).about
    about["file"] = str(tmp_path / "suite.yaml")
    Path(about["file"]).write_text("title: Listed\n", encoding="utf-8")
    stages = [replace(PlannedStage.of(each, 1.0), resources=RESOURCES) for each in todo]
    launch = create_on_slurm(about, stages, todo, Store.create(tmp_path))
    weights = [order.context["pretrained"] for order in launch.orders(range(3)).values()]
    assert sorted(weights) == ["openai", "openai@/ViT-B-16", "openai@/ViT-B-16"]
    assert launch.orders([0])[0].context["pretrained"] == "openai"


def test_variables_of_a_job_stay_out_of_the_jobs_it_submits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    with scheduler.outside():
        assert "SLURM_CPUS_PER_TASK" not in os.environ
        assert os.environ["SLURM_CONF"] == "/etc/slurm.conf"
    assert os.environ["SLURM_CPUS_PER_TASK"] == "4"


def test_without_slurm_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="there is no squeue here"):
        scheduler.jobs()


@pytest.mark.parametrize(
    ("asked", "nodes", "refusal"),
    [
        ("--cpus-per-task=64", "drain|8|16000\nidle|32|16000", "no node has --cpus-per-task=64: the largest has 32"),
        ("--cpus-per-task=8\n#SBATCH --mem=32000M", "drain|8|16000", "no node has --mem=32000: the largest has 16000"),
        ("--cpus-per-task=32", "idle|8|16000", "Requested node configuration is not available"),  # Slurm's words
        ("--cpus-per-task=32\n#SBATCH --mem=9000M", "idle|8|1\ndrain*|32|1", ""),
    ],
)
def test_a_launch_waits_for_nodes_that_are_away_unless_none_is_large_enough(
    asked: str, nodes: str, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = list[str]()

    def ask(program: str, *arguments: str, given: str | None = None) -> str:
        if "--test-only" in arguments:
            raise UserError("Requested node configuration is not available")
        cancelled.extend(arguments if program == "scancel" else ())
        return nodes if program == "sinfo" else "77\n"

    monkeypatch.setattr(scheduler, "_ask", ask)
    with refused(refusal) if refusal else nullcontext():
        scheduler.check(f"#!/bin/bash\n#SBATCH {asked}\n")
    assert cancelled == ([] if refusal else ["--quiet", "77"])


def test_a_report_waits_for_a_disk_that_is_full(
    tmp_path: Path, queue: dict[str, QueuedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = launched(Store.create(tmp_path), stage("a"))
    finish(launch.store, launch.stages[0])
    outcomes = iter([OSError(errno.ENOSPC, "No space left on device"), None])

    def report(launch: Launch) -> None:
        if error := next(outcomes):
            raise error

    monkeypatch.setattr(driver_command, "report", report)
    Driver(launch, 0.0, "7", lambda: False).run()
    assert (launch.ended() or {})["state"] == "complete" and next(outcomes, "both") == "both"


def test_while_the_store_is_away_no_job_is_cancelled_and_nothing_ends(
    tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    store, aside = Store.create(tmp_path / "store"), tmp_path / "aside"
    launch = launched(store, stage("a"))
    driver = driven(launch, begin(launch, drive)[-1].job, queue)
    before, looks = dict(queue), count()

    def stop() -> bool:
        if next(looks) == 10:
            assert queue == before and not store.root.exists()
            aside.rename(store.root)
            finish(store, launch.stages[0])
        return False

    driver.stop = stop
    store.root.rename(aside)
    driver.run()
    assert (launch.ended() or {})["state"] == "complete"


def test_where_memory_has_a_limit_that_limit_ends_attempts_without_memory(
    tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    """Two attempts are allowed; those that ran out of memory do not count."""
    growing = stage("0", resources={**RESOURCES, "memory": 1000, "memory_limit": 6000})
    launch = launched(Store.create(tmp_path), growing, attempts=2)
    dispatcher = Dispatcher(launch)
    asked = list[int]()
    for _ in range(9):
        if not (submitted := dispatcher.submit()):
            break
        attempts = attempts_since(launch.store)
        (each,) = arranged(launch, [0], dispatcher.site, attempts)
        asked.append(int(each.options["mem"].rstrip("M")))
        launch.store.log("start", *growing.key, title="", job=submitted[0].job)
        queue[submitted[0].job] = QueuedJob("OUT_OF_MEMORY", "")
        dispatcher.look(scheduler.jobs())
    assert asked == [1000, 2000, 4000, 6000]
    says(dispatcher.schedule.failed["0"], "memory ran out", "6000M", "resources.train.memory_limit")


@pytest.mark.parametrize(("limit", "asked"), [(None, [1000, 2000, 4000, 8000]), (3000, [1000, 2000, 3000, 3000])])
def test_after_a_retry_memory_goes_on_growing_from_where_it_was(
    limit: int | None, asked: list[int], tmp_path: Path, queue: dict[str, QueuedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = stage("0", resources={**RESOURCES, "memory": 1000, "memory_limit": limit})
    launch, memory = launched(Store.create(tmp_path), own, attempts=3), _memory_asked_for(monkeypatch)
    dispatcher = Dispatcher(launch)
    while submitted := dispatcher.submit():
        launch.store.log("start", *own.key, title="", job=submitted[0].job)
        queue[submitted[0].job] = QueuedJob("OUT_OF_MEMORY", "")
        dispatcher.look(scheduler.jobs())
    launch.end("incomplete")
    Dispatcher(launch, reopen(launch)).submit()
    assert memory == [f"{size}M" for size in asked]

"""The state of a launch's stages, from records, events, progress files and the queue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.core.processes import process_lives, this_process
from bench.launch import scheduler, states
from bench.launch.claims import take
from bench.launch.launches import PlannedStage
from bench.launch.local import ATTEMPTS
from bench.launch.scheduler import QueuedJob
from tests.launch.scenes import EVALUATE, OTHER, TEXTS, TRAIN, Scene, no_slurm, rewritten, stage

RUNNING, PENDING, WAITING = (
    QueuedJob("RUNNING", "None"),
    QueuedJob("PENDING", "Resources"),
    QueuedJob("PENDING", "Dependency"),
)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """The same stages on this machine, where nobody may ask Slurm. The process is this one."""
    scene = Scene(tmp_path, monkeypatch, TEXTS, TRAIN, OTHER, EVALUATE, on="local")
    monkeypatch.setattr(scheduler, "jobs", lambda users=(): pytest.fail("Slurm was asked"))
    return scene


def progress(scene: Scene, planned: PlannedStage, done: int, total: int, ago: float) -> None:
    known = {"title": planned.title, "done": done, "total": total, "unit": "steps", "started": scene.now - ago}
    scene.store.report_progress(*planned.key, known)


# --- under Slurm ------------------------------------------------------------------------------------------------------


def test_a_record_means_done_whatever_else_is_said(scene: Scene) -> None:
    scene.queue["1"] = RUNNING
    scene.log("start", TEXTS, 20.0, job="1")
    scene.log("failure", TEXTS, 10.0, reason="no", final=True)
    scene.record(TEXTS, seconds=5.0)
    assert (scene.state(TEXTS), scene.stage(TEXTS).seconds) == ("done", 5.0)


def test_a_stage_runs_if_its_job_does_and_has_started_it(scene: Scene) -> None:
    scene.queue["2_0"] = RUNNING
    scene.log("start", TRAIN, 60.0, job="2_0", host="node1")
    found = scene.stage(TRAIN)
    assert (found.state, found.job, found.host) == ("running", "2_0", "node1")
    assert found.seconds == pytest.approx(60.0, abs=5.0)


STARTED, FAILED = ("start", 60.0, {"job": "2_0"}), ("failure", 70.0, {"reason": "no", "final": False})
CASES: dict[str, tuple[dict[str, QueuedJob], list[tuple[str, float, dict[str, Any]]], str, str]] = {
    # the queue, events of a training with their age, its state, the event that explains it
    "its job was requeued": (
        {"2_0": PENDING},
        [STARTED, ("interrupted", 30.0, {"reason": "", "done": 7})],
        "queued",
        "",
    ),
    "its job is gone": ({}, [STARTED], "lost", ""),
    "its job has ended": ({"2_0": QueuedJob("FAILED", "NonZeroExitCode")}, [STARTED], "lost", ""),
    "it failed": ({}, [FAILED], "failed", "failure"),
    "its process died": ({}, [("death", 30.0, {"reason": "gone", "job": "2_0"})], "failed", "death"),
    "it was interrupted before it had saved": (
        {},
        [("interrupted", 30.0, {"reason": "", "done": 0})],
        "failed",
        "interrupted",
    ),
    "it started again after a failure, and is gone": ({}, [FAILED, STARTED], "failed", ""),
    "it failed before the attempts that count": (
        {},
        [("failure", 4000.0, {"reason": "no", "final": True})],
        "lost",
        "",
    ),
    "it started in an earlier job": ({"5": RUNNING}, [STARTED], "queued", ""),
    "it failed before it was submitted again": ({"5": RUNNING}, [("failure", 3599.0, {"reason": "no"})], "queued", ""),
}


@pytest.mark.parametrize(("queue", "events", "state", "reason"), CASES.values(), ids=CASES)
def test_the_state_of_a_training_in_the_second_job(
    scene: Scene, queue: dict[str, QueuedJob], events: list[tuple[str, float, dict[str, Any]]], state: str, reason: str
) -> None:
    if "5" in queue:
        scene.submit("5", [1, 2], wave=2)
    scene.queue |= queue
    for event, ago, details in events:
        scene.log(event, TRAIN, ago, **details)
    found = scene.stage(TRAIN)
    assert (found.state, (found.failure or {}).get("event", "")) == (state, reason)


@pytest.mark.parametrize(
    ("job", "remark"),
    [
        (PENDING, "Resources"),
        (QueuedJob("PENDING", "JobHeldUser"), "JobHeldUser"),
        (QueuedJob("PENDING", "None"), "pending"),
        (QueuedJob("CONFIGURING", "None"), "configuring"),
        (RUNNING, "its job has yet to begin it"),
    ],
)
def test_a_stage_of_an_active_job_is_queued_and_it_is_said_what_it_waits_for(
    scene: Scene, job: QueuedJob, remark: str
) -> None:
    scene.queue["3"] = job
    assert (scene.state(EVALUATE), scene.stage(EVALUATE).remark) == ("queued", remark)


@pytest.mark.parametrize("event", ["failure", "death"])
def test_a_stage_that_failed_or_died_in_a_job_that_goes_on_has_failed(event: str, scene: Scene) -> None:
    scene.submit("5", [1, 2], wave=2)
    scene.queue["5"] = RUNNING
    scene.log("start", TRAIN, 60.0, job="5")
    scene.log(event, TRAIN, 30.0, reason="no", final=False)
    assert (scene.state(TRAIN), scene.state(OTHER)) == ("failed", "queued")


def test_what_needs_a_failed_stage_is_blocked_by_it_at_any_distance(scene: Scene) -> None:
    scene.log("failure", TEXTS, 30.0, reason="no", final=True)
    assert [scene.state(planned) for planned in (TRAIN, EVALUATE)] == ["blocked", "blocked"]
    assert scene.stage(EVALUATE).blockers == (TEXTS.key,)


def test_a_stage_whose_input_no_stage_of_the_launch_makes_is_blocked_by_that(scene: Scene) -> None:
    lost = stage("encode", "lo")
    launch = scene.launched("mine", stage("train", "cl", lost))
    scene.submit("40", [], launch=launch, driver=True)
    scene.queue["40"] = RUNNING
    (found,) = states.launch_status(launch).stages
    assert (found.state, found.blockers, found.will_retry) == ("blocked", (lost.key,), False)
    scene.record(lost)
    (found,) = states.launch_status(launch).stages
    assert (found.state, found.remark) == ("queued", "will be submitted")


def test_a_stage_that_is_not_submitted_yet_waits_while_something_drives_the_launch(scene: Scene) -> None:
    first = stage("texts", "xx")
    launch = scene.launched("mine", first, stage("train", "cl", first))
    scene.submit("40", [], launch=launch, driver=True)
    scene.submit("41", [0], launch=launch)
    scene.queue |= {"40": RUNNING, "41": PENDING}
    status = states.launch_status(launch)
    assert [(each.state, each.remark) for each in status.stages][1] == ("queued", "waits for its inputs")
    assert (status.drivers, status.wrong) == (["40"], False)
    scene.queue["40"] = QueuedJob("OUT_OF_MEMORY", "OutOfMemory")
    status = states.launch_status(launch)
    assert (status.stages[1].state, status.last_driver, status.wrong) == ("lost", "job 40: OUT_OF_MEMORY", True)
    (launch.folder / "alive").touch()  # by the driver before its end
    take(launch.store, ("driver", launch.name), "40", ())
    assert states.launch_status(launch).wrong
    take(launch.store, ("driver", launch.name), json.dumps(this_process()), ())  # a driver in the foreground
    assert (states.launch_status(launch).stages[1].state, states.launch_status(launch).wrong) == ("queued", False)


def test_a_stage_that_needs_a_failed_one_is_queued_while_its_own_job_waits(scene: Scene) -> None:
    scene.log("failure", TRAIN, 30.0, reason="no", final=False)
    scene.queue["3"] = PENDING
    assert scene.state(EVALUATE) == "queued"


def test_a_job_that_was_submitted_after_the_queue_was_asked_is_not_lost(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: scene.created + 1.0)
    assert scene.state(TRAIN) == "queued"


@pytest.mark.parametrize(("failures", "final", "again"), [(1, False, True), (3, False, False), (1, True, False)])
def test_a_failed_stage_with_attempts_left_will_be_tried_again_while_a_driver_waits(
    scene: Scene, failures: int, final: bool, again: bool
) -> None:
    for number in range(failures):
        scene.log("failure", TRAIN, 30.0 - number, reason="no", final=final)
    assert not scene.stage(TRAIN).will_retry
    scene.queue["9"] = WAITING
    assert (scene.state(TRAIN), scene.stage(TRAIN).will_retry) == ("failed", again)
    assert scene.stage(EVALUATE).will_retry == again  # which it blocks
    assert scene.status().wrong is False


def test_an_attempt_that_is_gone_without_a_word_is_counted_among_those_spent(scene: Scene) -> None:
    scene.queue["9"] = WAITING
    for number in range(2):
        scene.log("failure", TRAIN, 60.0 - number, reason="no", final=False)
    scene.log("start", TRAIN, 30.0, job="2_0")
    assert not scene.stage(TRAIN).will_retry


def test_nothing_is_tried_again_after_the_end(scene: Scene) -> None:
    scene.queue["9"] = WAITING
    scene.launch.end("incomplete")
    assert not scene.stage(TRAIN).will_retry
    assert scene.status().wrong


# --- stages that other launches carry out -----------------------------------------------------------------------------


def test_a_stage_that_another_launch_carries_out_stands_as_it_does_there(scene: Scene) -> None:
    mine = stage("train", "cl")
    launch = scene.launched("mine", mine)
    other = scene.launched("other", stage("texts", "xx"), mine)
    scene.submit("40", [], launch=launch, driver=True)
    scene.submit("50", [0], [1], launch=other)
    assert take(scene.store, mine.key, other.name, ()) is None
    scene.queue |= {"40": PENDING, "50_1": RUNNING}
    scene.log("start", mine, 30.0, job="50_1")
    (found,) = states.launch_status(launch).stages
    assert (found.state, found.job, found.remark) == ("running", "50_1", f"by launch {other.name}")
    scene.queue["50_1"] = PENDING
    (found,) = states.launch_status(launch).stages
    assert (found.state, found.remark) == ("queued", f"waits for launch {other.name}: Resources")
    del scene.queue["50_1"]
    (found,) = states.launch_status(launch).stages
    assert (found.state, found.remark) == ("queued", f"waits for launch {other.name}: lost there")
    other.end("incomplete")
    (found,) = states.launch_status(launch).stages
    assert (found.state, found.remark) == ("queued", "will be submitted")  # the own driver will see to it


@pytest.mark.parametrize("on", ["slurm", "local"])
def test_a_stage_waits_for_another_launch_also_if_this_one_has_tried_it_or_it_has_failed_there(
    scene: Scene, on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = stage("train", "cl")
    launch = scene.launched("mine", mine, stage("evaluate", "xx", mine), on=on)
    other = scene.launched("other", mine)
    if on == "slurm":
        scene.submit("39", [0], [1], launch=launch)
        scene.submit("40", [], launch=launch, driver=True)
    scene.submit("50", [0], launch=other)
    scene.submit("51", [], launch=other, driver=True)
    assert take(scene.store, mine.key, other.name, ()) is None
    scene.queue |= {"40": RUNNING, "51": RUNNING}
    scene.log("failure", mine, 30.0, reason="no", final=False)
    found, after = states.launch_status(launch).stages
    assert (found.state, found.remark, found.will_retry) == (
        "queued",
        f"waits for launch {other.name}: failed there",
        False,
    )
    assert after.state == "queued"
    scene.queue["50"] = RUNNING
    scene.log("start", mine, 20.0, job="50")
    assert states.launch_status(launch).stages[0].remark == f"by launch {other.name}"


def test_a_claim_of_a_launch_that_is_gone_says_nothing(scene: Scene) -> None:
    mine = stage("train", "cl")
    launch = scene.launched("mine", mine)
    scene.submit("40", [], launch=launch, driver=True)
    take(scene.store, mine.key, "20200101-000000-gone-0000", ())
    (found,) = states.launch_status(launch).stages
    assert found.state == "lost"  # no driver is in the queue


def test_a_launch_that_is_just_being_submitted_goes_on(scene: Scene) -> None:
    launch = scene.launched("mine", stage("train", "cl"))
    status = states.launch_status(launch)
    assert (status.stages[0].state, status.stages[0].remark) == ("queued", "will be submitted")
    assert status.going_on and not status.wrong


# --- without Slurm ----------------------------------------------------------------------------------------------------


def test_where_slurm_cannot_be_asked_events_alone_tell(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "jobs", no_slurm)
    scene.log("start", TRAIN, 30.0, job="2_0")
    scene.log("failure", OTHER, 30.0, reason="no", final=False)
    status = scene.status()
    assert [stage.state for stage in status.stages] == ["queued", "running", "failed", "queued"]
    assert status.seen.silence.startswith("there is no squeue")
    assert status.going_on and not status.wrong
    scene.launch.end("incomplete")
    assert [stage.state for stage in scene.status().stages] == ["lost", "lost", "failed", "lost"]


# --- on this machine --------------------------------------------------------------------------------------------------


def test_stages_of_a_local_launch_whose_process_lives(local: Scene) -> None:
    local.record(TEXTS, seconds=3.0)
    local.log("start", TRAIN, 30.0)
    local.log("failure", OTHER, 20.0, reason="no", final=False)
    assert [stage.state for stage in local.status().stages] == ["done", "running", "failed", "queued"]
    assert local.status().going_on


def test_a_dead_process_of_a_local_launch_is_repeated_a_few_times(local: Scene) -> None:
    for number in range(ATTEMPTS):
        local.log("start", TRAIN, 50.0 - 2 * number)
        local.log("death", TRAIN, 49.0 - 2 * number, attempt=number + 1)
        assert local.state(TRAIN) == ("queued" if number + 1 < ATTEMPTS else "failed")
    assert local.state(EVALUATE) == "blocked"


def test_progress_that_a_dead_process_left_does_not_make_its_stage_run(local: Scene) -> None:
    local.log("start", TRAIN, 41.0)
    progress(local, TRAIN, 10, 100, ago=40.0)
    assert local.state(TRAIN) == "running"
    local.log("death", TRAIN, 20.0, attempt=1)
    assert local.state(TRAIN) == "queued"


def test_a_local_launch_whose_process_is_gone_has_lost_what_it_was_at(local: Scene) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    local.launch = rewritten(local.launch, pid=ended.pid)
    local.log("start", TRAIN, 30.0)
    local.log("failure", OTHER, 20.0, reason="no", final=False)
    status = local.status()
    assert [stage.state for stage in status.stages] == ["lost", "lost", "failed", "lost"]
    assert status.wrong and not status.going_on


@pytest.mark.parametrize(("ago", "alive"), [(60.0, True), (300.0, False)])
def test_a_process_on_another_machine_lives_as_long_as_it_gives_signs(local: Scene, ago: float, alive: bool) -> None:
    local.launch = rewritten(local.launch, host="elsewhere")
    local.log("start", TRAIN, ago)
    assert local.status().going_on == alive
    assert local.state(TRAIN) == ("running" if alive else "lost")


def test_progress_is_a_sign_of_life(local: Scene) -> None:
    local.launch = rewritten(local.launch, host="elsewhere")
    local.log("start", TRAIN, 1000.0)
    progress(local, TRAIN, 10, 100, ago=1000.0)
    assert local.state(TRAIN) == "running"
    file = local.store.root / "running" / f"{TRAIN.kind}-{TRAIN.identity}.json"
    os.utime(file, (local.now - 300.0, local.now - 300.0))
    assert local.state(TRAIN) == "lost"


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="tells zombies by /proc")
def test_a_process_that_ended_unnoticed_does_not_live(local: Scene) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert ended.stdout and ended.stdout.read() == b""  # it has closed its output
    about = {**local.launch.about, "pid": ended.pid, "born": None}
    deadline = time.monotonic() + 5.0
    while process_lives(about) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process_lives(about) is False
    ended.wait()


def test_an_id_that_now_belongs_to_another_process_is_not_that_process(local: Scene) -> None:
    assert process_lives(local.launch.about)
    assert not process_lives({**local.launch.about, "born": "1"})
    assert process_lives({**local.launch.about, "space": "another container"}) is None


# --- the time that is left --------------------------------------------------------------------------------------------


def test_a_running_stage_needs_as_long_as_its_progress_says(scene: Scene) -> None:
    scene.queue["2_0"] = RUNNING
    scene.log("start", TRAIN, 60.0, job="2_0")
    progress(scene, TRAIN, 25, 100, ago=58.0)
    found = scene.stage(TRAIN)
    assert found.progress and (found.progress["done"], found.progress["total"]) == (25, 100)
    assert found.left == pytest.approx(180.0, abs=20.0)


def test_what_an_earlier_attempt_saved_does_not_count_as_speed(scene: Scene) -> None:
    scene.queue["2_0"] = RUNNING
    scene.log("interrupted", TRAIN, 600.0, reason="saved", done=50)
    scene.log("start", TRAIN, 60.0, job="2_0")
    progress(scene, TRAIN, 75, 100, ago=58.0)
    assert scene.stage(TRAIN).left == pytest.approx(60.0, abs=10.0)


def test_progress_of_an_attempt_before_is_passed_over(scene: Scene) -> None:
    scene.queue["2_0"] = RUNNING
    progress(scene, TRAIN, 75, 100, ago=600.0)
    scene.log("start", TRAIN, 60.0, job="2_0")
    assert scene.stage(TRAIN).progress is None
    assert scene.stage(TRAIN).left == pytest.approx(40.0, abs=5.0)  # of its estimate


def test_estimates_are_corrected_by_how_they_came_true_and_divided_by_what_runs(scene: Scene) -> None:
    scene.record(TEXTS, seconds=200.0)  # twice the estimate
    scene.queue |= {"2_0": RUNNING, "2_1": RUNNING, "3": PENDING}
    scene.log("start", TRAIN, 50.0, job="2_0")
    scene.log("start", OTHER, 50.0, job="2_1")
    status = scene.status()
    assert status.at_once == 2
    assert status.work_left == pytest.approx(150.0 + 150.0 + 200.0, abs=15.0)
    assert status.eta == pytest.approx(250.0, abs=10.0)


def test_what_has_failed_for_good_takes_no_time(scene: Scene) -> None:
    for planned in (TEXTS, OTHER):
        scene.record(planned)
    scene.log("failure", TRAIN, 10.0, reason="no", final=True)
    assert (scene.status().work_left, scene.status().eta) == (None, None)


def test_nothing_is_said_of_a_time_while_nothing_runs(scene: Scene) -> None:
    scene.queue |= {"1": PENDING, "2_0": PENDING}
    assert (scene.status().work_left, scene.status().eta) == (200.0, None)


def test_no_file_of_a_single_stage_is_read(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.record(TEXTS)
    for planned in (TRAIN, OTHER):
        scene.log("failure", planned, 10.0, reason="no", final=False)
    read, whole = set(), Path.read_text

    def noted(path: Path, *arguments: str, **named: str) -> str:
        read.add(path.name)
        return whole(path, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", noted)
    assert len(scene.status().stages) == 4
    assert read == {"jobs.jsonl"}


def test_a_training_that_was_stopped_on_this_machine_has_not_failed(local: Scene) -> None:
    local.log("start", TRAIN, 60.0)
    local.log("interrupted", TRAIN, 5.0, reason="saved at step 1", done=0)
    assert local.state(TRAIN) == "queued"
    local.launch.end("cancelled")
    assert local.state(TRAIN) == "lost"
    local.log("failure", TRAIN, 4.0, reason="no")
    assert local.state(TRAIN) == "failed"

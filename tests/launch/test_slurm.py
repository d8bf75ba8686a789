from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from bench.commands.finalizer import _log_deaths, finalize, worth_repeating
from bench.core.errors import UserError
from bench.graph.stage import Stage
from bench.launch import scheduler, slurm
from bench.launch.claims import holder, take
from bench.launch.launches import JobArray, PlannedStage
from bench.launch.scheduler import QueuedJob
from bench.launch.slurm import plan_round, resubmit, submit_round
from bench.models.weights import Resolved
from bench.store.records import Store
from tests.launch.launched import RESOURCES, finish, launched, stage

RUNNING, GONE = QueuedJob("RUNNING", ""), QueuedJob("FAILED", "")


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, QueuedJob]:
    """The queue that squeue shows; submitting adds to it."""
    known: dict[str, QueuedJob] = {}
    numbers = iter(range(1, 1000))

    def submit(launch: object, submission: slurm.Submission, *_: object) -> str:
        job = str(next(numbers))
        array = JobArray(job, "", submission.array_tasks, 1, 0.0, 0.0)
        known.update(dict.fromkeys(array.jobs(), QueuedJob("PENDING", "Resources")))
        return job

    monkeypatch.setattr(scheduler, "jobs", lambda users=(): known)
    monkeypatch.setattr(scheduler, "check", lambda script: None)
    monkeypatch.setattr(scheduler, "cancel", lambda names: [known.pop(name, None) for name in names])
    monkeypatch.setattr(slurm, "_submit", submit)
    return known


def test_arrays_follow_depth_kind_and_resources(tmp_path: Path) -> None:
    texts, plain = stage("t", kind="texts"), stage("e", kind="encode")
    train = stage("a", texts, plain)
    large = stage("b", texts, plain, resources={"time": 60, "gpus": 8})
    tuned = stage("c", train, kind="encode")
    launch = launched(Store.create(tmp_path), texts, plain, train, large, tuned)
    submissions = plan_round(launch, list(range(5)), {})
    names = [(each.name, each.array_tasks, each.after) for each in submissions]
    assert names == [
        ("tiny-encode", [[1]], ()),
        ("tiny-texts", [[0]], ()),
        ("tiny-train", [[2]], (0, 1)),
        ("tiny-train", [[3]], (0, 1)),
        ("tiny-encode", [[4]], (2,)),
        ("tiny-report", [[]], (0, 1, 2, 3, 4)),
    ]
    assert [each.finalizer for each in submissions] == [False] * 5 + [True]


def test_an_array_that_is_too_large_is_cut(tmp_path: Path) -> None:
    trains = [stage(f"{n}", tasks=2) for n in range(7)]
    last = stage("last", trains[6], kind="evaluate")
    submissions = plan_round(launched(Store.create(tmp_path), *trains, last), list(range(8)), {}, limit=3)
    assert [len(each.array_tasks) for each in submissions] == [3, 3, 1, 1, 1]
    assert submissions[3].after == (2,)


def test_small_stages_share_jobs_up_to_a_length_and_a_number(tmp_path: Path) -> None:
    launch = launched(Store.create(tmp_path), *(stage(f"{n}", seconds=100.0) for n in range(13)), pack_most=5)
    assert [len(e) for e in plan_round(launch, list(range(13)), {})[0].array_tasks] == [5, 5, 3]
    short = launched(Store.create(tmp_path), *(stage(f"{n}", seconds=250.0) for n in range(5)))
    assert [len(e) for e in plan_round(short, list(range(5)), {})[0].array_tasks] == [2, 2, 1]


def test_stages_of_many_tasks_and_what_failed_before_have_jobs_of_their_own(tmp_path: Path) -> None:
    launch = launched(
        Store.create(tmp_path), stage("a"), stage("b"), stage("c"), stage("d", tasks=2), stage("e", tasks=2)
    )
    launch.store.log("death", "train", "b", title="train b", reason="killed")
    array_tasks = [sorted(map(tuple, each.array_tasks)) for each in plan_round(launch, list(range(5)), {})[:-1]]
    assert array_tasks == [[(0, 2), (1,)], [(3,), (4,)]]


def test_a_stage_of_another_launch_is_waited_for_and_not_submitted(tmp_path: Path, queue: dict[str, QueuedJob]) -> None:
    store, shared = Store.create(tmp_path), stage("shared")
    first = launched(store, shared)
    (first_job, _) = submit_round(first, [0], 1, 0.0, finalize)
    own = stage("own", shared, kind="evaluate")
    second = launched(store, shared, own, suite="other")
    jobs = submit_round(second, [0, 1], 1, 0.0, finalize)
    assert [entry.array_tasks for entry in jobs] == [[[1]], [[]]]
    _, others, _ = slurm._claim(second, [0])
    assert others == {0: first_job.job}
    assert plan_round(second, [1], others)[0].after == (first_job.job,)


def test_what_follows_from_a_launch_that_is_still_submitting_waits_for_the_next_round(
    tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    store, shared = Store.create(tmp_path), stage("shared")
    first = launched(store, shared)
    take(store, shared.key, first.name, ())
    second = launched(store, shared, stage("own", shared), stage("free"), suite="other")
    own, others, later = slurm._claim(second, [0, 1, 2])
    assert (own, others, later) == ([2], {}, [0, 1])
    assert holder(store, ("train", "own")) is None


def test_claims_of_a_launch_whose_jobs_are_gone_are_outbid(tmp_path: Path, queue: dict[str, QueuedJob]) -> None:
    store, shared = Store.create(tmp_path), stage("shared")
    for entry in submit_round(launched(store, shared), [0], 1, 0.0, finalize):
        queue.update(dict.fromkeys(entry.jobs(), GONE))
    second = launched(store, shared, suite="other")
    assert submit_round(second, [0], 1, 0.0, finalize)[0].array_tasks == [[0]]
    assert holder(store, shared.key) == second.name


def test_a_round_that_slurm_refuses_leaves_nothing(
    tmp_path: Path, queue: dict[str, QueuedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = launched(Store.create(tmp_path), stage("a"), stage("b", kind="texts"))
    working = slurm._submit

    def refuse(own: object, submission: slurm.Submission, *rest: object) -> str:
        if submission.name == "tiny-train":
            raise RuntimeError("QOSMaxSubmitJobPerUserLimit")
        return working(own, submission, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(slurm, "_submit", refuse)
    with pytest.raises(UserError, match="QOSMaxSubmitJobPerUserLimit"):
        submit_round(launch, [0, 1], 1, 0.0, finalize)
    ended = launch.ended()
    assert (queue, ended and ended["state"]) == ({}, "cancelled")
    assert [holder(launch.store, planned.key) for planned in launch.stages] == [None, None]


def test_only_what_can_still_succeed_is_repeated(tmp_path: Path) -> None:
    good, bad, done = stage("good"), stage("bad"), stage("done")
    stages = (good, bad, done, stage("after good", good), stage("after bad", bad), stage("worn"))
    launch = launched(Store.create(tmp_path), *stages)
    finish(launch.store, done)
    launch.store.log("failure", *bad.key, title="", reason="the loss is not finite", final=True)
    for _ in range(3):
        launch.store.log("death", *stages[5].key, title="", reason="killed")
    launch.store.log("death", *good.key, title="", reason="killed")
    assert worth_repeating(launch, 0.0) == [0, 3]
    assert worth_repeating(launch, 1e12) == [0, 1, 3, 4, 5]


def test_a_job_that_died_costs_the_stage_it_was_at_and_one_that_never_began_all_of_its(
    tmp_path: Path, queue: dict[str, QueuedJob]
) -> None:
    launch = launched(Store.create(tmp_path), *(stage(f"{n}") for n in range(4)))
    launch.add(JobArray("5", "tiny-train", [[0, 1], [2, 3]], 1, 0.0, 0.0))
    queue["5_0"] = QueuedJob("NODE_FAIL", "")
    finish(launch.store, launch.stages[0])
    launch.store.log("start", *launch.stages[1].key, title="", job="5_0")
    _log_deaths(launch, 1, 0.0)
    deaths = {e["identity"]: e["reason"] for e in launch.store.events() if e["event"] == "death"}
    assert deaths == {
        "1": "ended without an error in job 5_0 (NODE_FAIL)",
        "2": "ended without an error in job 5_1 (gone)",
        "3": "ended without an error in job 5_1 (gone)",
    }


def test_class_features_from_a_file_are_submitted_without_weights(
    tmp_path: Path, queue: dict[str, QueuedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "resolved", lambda backbone, tag: Resolved(f"{tag}@/{backbone}", None))
    context = {"pretrained": "openai", "class_features": "rows.safetensors"}
    listed = Stage("texts", {"classes": "c1"}, {}, ("bench.stages.texts",), context, "class features", 0.0)
    encode = {"backbone": "ViT-B-16"}
    others = [Stage("encode", {**encode, "content": n}, {}, (), {"pretrained": "openai"}, "", 1.0) for n in "ab"]
    todo, about = [listed, *others], launched(Store.create(tmp_path), stage("a")).about
    about["file"] = __file__
    stages = [replace(PlannedStage.of(each, 1.0), resources=RESOURCES) for each in todo]
    launch = slurm.launch_slurm(about, stages, todo, Store.create(tmp_path), finalize)
    weights = [order.context["pretrained"] for order in launch.orders(range(3)).values()]
    assert sorted(weights) == ["openai", "openai@/ViT-B-16", "openai@/ViT-B-16"]
    assert launch.orders([0])[0].context["pretrained"] == "openai"


def test_a_retry_needs_an_empty_queue_and_unchanged_code(tmp_path: Path, queue: dict[str, QueuedJob]) -> None:
    launch = launched(Store.create(tmp_path), stage("a"))
    submit_round(launch, [0], 1, 0.0, finalize)
    with pytest.raises(UserError, match="2 of its jobs run or will run"):
        resubmit(launch, finalize)
    queue.clear()
    with pytest.raises(UserError, match="the code has changed"):
        resubmit(launch, finalize)


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

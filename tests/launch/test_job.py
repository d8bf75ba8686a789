"""Jobs on Slurm, without one: which interrupted stages go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.launch.failures import cause
from bench.launch.job import StopSignals, _Job
from bench.store.records import Store
from tests.errors import says
from tests.launch.launched import launched, stage


def test_what_follows_a_training_that_failed_is_left_and_what_lacks_another_input_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    train = stage("train")
    launch = launched(Store.create(tmp_path), train, stage("evaluate", train, kind="evaluate"))
    order = replace(launch.orders([1])[1], inputs={"train": train.key})
    for own in ({train.key, order.key}, {order.key}):
        _Job(launch, StopSignals.__new__(StopSignals), 0.0, own).carry_out(order, 0)
        assert [event["event"] for event in launch.store.events()] == ([] if train.key in own else ["start", "failure"])


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

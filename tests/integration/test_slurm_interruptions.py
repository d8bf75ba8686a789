"""Trainings on Slurm that are interrupted in every way there is, and end with the bits of those that are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from bench.launch.launches import Launch, jobs_of
from bench.store.records import Event, Store
from tests.integration.cluster import DEADLINE, HEAD, Cluster, arrays, asked, command, events, results, until, weights

pytestmark = pytest.mark.slurm


EPOCHS = 500  # of three steps: some seconds on one core, so that a training can be caught in the act
SIGNAL = 20  # with it, Slurm tells a job of one minute to stop when it is 10 to 40 seconds old
LIMITED_SECONDS = 28.0

LONG = HEAD.replace("epochs: 2", f"epochs: {EPOCHS}")
SUITE = f"""\
{LONG}
rows:
  signalled: {{method: dense_temporal, config: {{layers: 1}}}}
  requeued: {{method: dense_temporal, config: {{layers: 1}}, recipe: {{lr: 2.0e-3}}}}
  killed: {{method: mote, config: {{layers: 1, num_experts: 2}}, recipe: {{epochs: 300}}}}
  preempted: {{method: dense_temporal, config: {{layers: 1}}, recipe: {{lr: 4.0e-3}},
              resources: {{train: {{partition: low, cpus: 2}}}}}}
  limited: {{method: dense_temporal, config: {{layers: 1}}, recipe: {{lr: 5.0e-3}},
            resources: {{train: {{time: 1}}}}}}
"""


MEASURED = f"""\
{HEAD}
rows:
  limited: {{method: dense_temporal, config: {{layers: 1}}, recipe: {{lr: 5.0e-3, epochs: 300}}}}
"""


@dataclass(frozen=True)
class Interrupted:
    """A launch whose trainings were interrupted, and a store in which they were not.

    `saved`: the step of the checkpoint when a training was killed; `seen`: the first step seen of each of its attempts.
    """

    launch: Launch
    whole: Store
    saved: int
    seen: list[int]

    def went(self, row: str) -> list[str]:
        """The events of a training in order."""
        (identity,) = (stage.identity for stage in self.launch.stages if stage.title == _title(row))
        return [each["event"] for each in self.launch.store.events() if each["identity"] == identity]

    def told(self, row: str, event: str) -> list[Event]:
        return events(self.launch.store, event).get(_title(row), [])

    def assert_went_on(self, row: str) -> None:
        """In the same job, from the step at which it was told to stop, to the bits of the whole training."""
        stops, starts = self.told(row, "interrupted"), self.told(row, "start")
        assert stops and all(stop["done"] > 0 for stop in stops)
        assert len(starts) == len(stops) + 1 and len({start["job"] for start in starts}) == 1
        self.assert_as_whole(row)

    def assert_as_whole(self, row: str) -> None:
        assert weights(self.launch.store, _title(row)) == weights(self.whole, _title(row))


def _title(row: str) -> str:
    return f"train {row} seed 0"


@pytest.fixture(scope="module")
def interrupted(cluster: Cluster) -> Interrupted:
    """All at once: each training gets what its row is named after, once it has done some steps."""
    measured = cluster.local(cluster.suite("measured", MEASURED), cluster.store("measured"))
    (identity,) = measured.known("train")
    seconds = min(measured.read("train", identity)["result"]["epoch_seconds"][10:])  # of an epoch, if nothing disturbs
    suite = cluster.suite("interrupted", SUITE)
    longer = f"rows.limited.recipe.epochs={round(LIMITED_SECONDS / seconds)}"
    store, whole = (cluster.store(name, like=measured) for name in ("interrupted", "whole"))
    # On a busy machine, attempts in a job of a minute may be mostly start-up, which counts.
    launch = cluster.submit(suite, store, longer, "--checkpoint-seconds", "1", pack=0, signal=SIGNAL, attempts=20)
    reference = cluster.start(command(suite, whole, "--jobs", "1", longer))
    acts = {"signalled": _signal, "requeued": _requeue, "killed": _kill, "preempted": _preempt(cluster)}
    keys = {stage.title: stage.key for stage in launch.stages}
    checkpoint = store.checkpoint(*keys[_title("killed")]) / "training.pt"
    saved, seen = 0, dict[float, int]()

    def act() -> dict[str, Any] | None:
        nonlocal saved
        for row in list(acts):
            progress = store.progress(*keys[_title(row)])
            if progress and progress["done"] > 10 and (row != "killed" or checkpoint.is_file()):
                acts.pop(row)(events(store, "start")[_title(row)][-1]["job"])
                saved = saved or (
                    torch.load(checkpoint, weights_only=True)["state"]["position"]["step"] if row == "killed" else 0
                )
        if progress := store.progress(*keys[_title("killed")]):
            seen.setdefault(progress["started"], progress["done"])
        return launch.ended()

    until(act, "end of the interrupted launch")
    said, _ = reference.communicate(timeout=DEADLINE)
    assert reference.returncode == 0, said
    return Interrupted(launch, whole, saved, list(seen.values()))


def _signal(job: str) -> None:
    asked("scancel", "--signal=USR2", job)


def _requeue(job: str) -> None:
    asked("scontrol", "requeue", job)


def _kill(job: str) -> None:
    asked("scancel", "--signal=KILL", f"{job}.0")  # its step: the job itself would be told to end


def _preempt(cluster: Cluster) -> Callable[[str], None]:
    """The job has a node of its own, and another one comes that wants it."""

    def preempt(job: str) -> None:
        node = asked("squeue", "--noheader", "--format=%N", f"--jobs={job}").strip()
        wanting = ("--partition=high", "--cpus-per-task=2", f"--nodelist={node}", "--output=/dev/null")
        cluster.started.append(asked("sbatch", "--parsable", *wanting, "--wrap=true").strip())

    return preempt


def test_a_launch_of_interrupted_trainings_is_complete(interrupted: Interrupted) -> None:
    assert interrupted.launch.ended() == {
        "time": pytest.approx(time.time(), abs=2 * DEADLINE),
        "state": "complete",
        "failed": [],
        "blocked": [],
        "reason": "",
    }
    assert results(interrupted.launch.store) == results(interrupted.whole)


def test_the_signal_before_the_end_of_a_job_costs_no_step(interrupted: Interrupted) -> None:
    interrupted.assert_went_on("signalled")


def test_a_preempted_training_goes_on(interrupted: Interrupted) -> None:
    interrupted.assert_went_on("preempted")


def test_a_training_that_is_requeued_from_outside_goes_on(interrupted: Interrupted) -> None:
    interrupted.assert_went_on("requeued")


def test_a_training_longer_than_its_job_goes_on_as_often_as_needed(interrupted: Interrupted) -> None:
    interrupted.assert_went_on("limited")
    done = [stop["done"] for stop in interrupted.told("limited", "interrupted")]
    assert done == sorted(set(done))


def test_a_killed_training_resumes_from_its_checkpoint_in_another_job(interrupted: Interrupted) -> None:
    assert interrupted.went("killed") == ["start", "death", "start", "end"]
    first, second = (start["job"] for start in interrupted.told("killed", "start"))
    assert first != second and {first, second} <= {job for job, _ in jobs_of(arrays(interrupted.launch))}
    assert interrupted.told("killed", "death")[0]["job"] == first
    assert interrupted.seen[0] < interrupted.saved < interrupted.seen[1]
    interrupted.assert_as_whole("killed")

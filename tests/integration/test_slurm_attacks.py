"""Attacks on launches of a real cluster, and how each ends: with the bits of an undisturbed run, or with advice.

`make attacks` carries them all out; `make slurm` the quick ones.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.commands.driver import drive
from bench.launch.launches import Launch, find_launch
from bench.launch.scheduler import jobs
from bench.launch.slurm import active_jobs_of, submit_driver
from bench.store.records import Store
from tests.integration.cluster import (
    HEAD,
    SITE,
    Cluster,
    arrays,
    asked,
    at_work,
    drivers,
    driving,
    ended,
    events,
    failing,
    on_launch,
    output,
    results,
    until,
)
from tests.launch.test_code import copied_project

quick, attack = pytest.mark.slurm, pytest.mark.attacks

LOGGING = "bench/stages/training/logs.py"
LATE = "train late seed 0"
ATTACKED = f"""\
{HEAD}
rows:
  early: {{method: dense_temporal, config: {{layers: 1}}}}
  late: {{method: dense_temporal, config: {{layers: 1}}, recipe: {{lr: 2.0e-3, epochs: 250}}}}
"""  # some seconds on one core, so that a training can be caught in the act


@pytest.fixture(scope="module")
def whole(cluster: Cluster) -> Store:
    """All of the suite, carried out on this machine."""
    return cluster.local(cluster.suite("attacked", ATTACKED), cluster.store("undisturbed"))


def _submit(cluster: Cluster, whole: Store, name: str, *options: str, **site: Any) -> Launch:
    """A launch of the trainings and evaluations, each in a job of its own."""
    suite = cluster.suite(name, ATTACKED)
    return cluster.submit(suite, cluster.store(name, whole), *options, **{"pack": 0, **site})


def _assert_complete(launch: Launch, whole: Store, once: bool = True) -> None:
    """The launch ends with a report, no claims, and the bits of the undisturbed run; no stage started twice."""
    end = ended(launch)
    assert (end["state"], end["failed"], end["blocked"], end["reason"]) == ("complete", [], [], ""), output(launch)
    assert results(launch.store) == results(whole)
    assert (launch.store.root / "reports" / launch.about["suite"] / "report.html").is_file()
    until(lambda: not list((launch.store.root / "claims").iterdir()) or None, "claims given up")
    if once:
        assert {title: len(starts) for title, starts in events(launch.store, "start").items()} == {
            stage.title: 1 for stage in launch.stages
        }


def _said(launch: Launch, text: str, *jobs: str) -> bool | None:
    return text in output(launch, *jobs) or None


# --- the driver -------------------------------------------------------------------------------------------------------

ENDINGS = {
    "cancelled": ("scancel", "{}"),
    "killed": ("scancel", "--signal=KILL", "{}.0"),
    "requeued": ("scontrol", "requeue", "{}"),
}


def _quick_only(*names: str, quickly: str) -> list[Any]:
    return [pytest.param(name, marks=quick if name == quickly else attack) for name in names]


@pytest.mark.parametrize("ending", _quick_only(*ENDINGS, quickly="cancelled"))
def test_a_driver_that_ends_is_followed_and_no_stage_starts_twice(cluster: Cluster, whole: Store, ending: str) -> None:
    launch = _submit(cluster, whole, ending)
    first = driving(launch)
    at_work(launch, LATE)
    asked(*(word.format(first) for word in ENDINGS[ending]))
    _assert_complete(launch, whole)
    assert len(drivers(launch)) > 2 or ending == "requeued"


@attack
def test_a_driver_without_memory_for_the_report_is_followed_by_one_with_more(cluster: Cluster, whole: Store) -> None:
    launch = _submit(cluster, whole, "small-driver", resources={"driver": {"memory": "100M"}})
    _assert_complete(launch, whole)
    memory = [_asked_for(job, "MinMemoryNode") for job in drivers(launch)]
    assert memory[:3] == ["100M", "200M", "400M"], memory


def _asked_for(job: str, field: str) -> str:
    return asked("scontrol", "show", "job", job).partition(f"{field}=")[2].split()[0]


@attack
def test_of_two_drivers_one_drives(cluster: Cluster, whole: Store) -> None:
    launch = _submit(cluster, whole, "twice")
    first = driving(launch)
    second = submit_driver(launch, drive, launch.since).job
    until(partial(_said, launch, f"driver {first} runs already", second), "the end of the second driver")
    _assert_complete(launch, whole)
    assert f"driver {second} runs already" not in output(launch, first)


@attack
def test_when_all_of_it_was_cancelled_status_says_so_and_retry_finishes_it(cluster: Cluster, whole: Store) -> None:
    launch = _submit(cluster, whole, "all")
    driving(launch)
    at_work(launch, LATE)
    asked("scancel", *(array.job for array in launch.arrays()))
    until(lambda: None if active_jobs_of(launch, jobs()) else True, "the end of all jobs")
    assert launch.ended() is None
    said = cluster.run(on_launch("status", launch), code=1)
    assert "its driver ended" in said and f"retry {launch.name}" in said, said
    cluster.run(on_launch("retry", launch))
    _assert_complete(launch, whole, once=False)


# --- Slurm ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", _quick_only("squeue-sbatch", "sbatch", "squeue", quickly="squeue-sbatch"))
def test_programs_of_slurm_that_fail_for_a_while_are_asked_again(cluster: Cluster, whole: Store, broken: str) -> None:
    """From before the driver has a successor until a minute after a stage could start, or a quarter of one."""
    setup, fails = failing(cluster.folder / f"{broken}-fails", *(programs := broken.split("-")))
    launch = _submit(cluster, whole, broken, setup=[setup])
    for program, file in zip(programs, fails, strict=True):
        until(partial(_said, launch, f"{program}: error: out of order"), f"no {program}")
        if file is fails[-1]:
            until(lambda: events(launch.store, "end").get(_key(launch, LATE)[1]), "a stage that can start")
            time.sleep(60 if len(programs) == 1 else 15)
        file.unlink()
    _assert_complete(launch, whole)
    assert len(drivers(launch)) == 2


@attack
def test_a_launch_waits_for_drained_nodes(cluster: Cluster, whole: Store) -> None:
    nodes = ",".join(sorted(set(asked("sinfo", "--noheader", "--Node", "--format=%N").split())))
    asked("scontrol", "update", f"nodename={nodes}", "state=drain", "reason=attack")
    try:
        launch = _submit(cluster, whole, "drained")
        time.sleep(10)
        assert {found.state for job, found in jobs().items() if job in active_jobs_of(launch, jobs())} == {"PENDING"}
        assert "going on" in cluster.run(on_launch("status", launch))
        suite, store = cluster.suite("large", ATTACKED), cluster.store("large", whole)
        large = cluster.arguments(suite, store, resources={"evaluate": {"cpus": 6400}})
        assert "jobs of evaluate: no node has --cpus-per-task=6400: the largest has" in cluster.run(large, code=2)
    finally:
        asked("scontrol", "update", f"nodename={nodes}", "state=resume")
    _assert_complete(launch, whole)


# --- the store --------------------------------------------------------------------------------------------------------


@attack
def test_a_store_that_is_away_for_a_while_is_waited_for_and_never_made_anew(cluster: Cluster, whole: Store) -> None:
    launch = _submit(cluster, whole, "away", "--checkpoint-seconds", "1")
    root, aside = launch.store.root, cluster.folder / "aside"
    driving(launch)
    at_work(launch, LATE)
    root.rename(aside)
    time.sleep(20)
    assert not root.exists()
    aside.rename(root)
    _assert_complete(launch, whole, once=False)
    assert "waits for the store" in output(launch) and "cancels" not in output(launch)


@attack
def test_a_full_disk_is_waited_for(cluster: Cluster, whole: Store) -> None:
    """SMALL_DISK names a folder on a file system of some 64 MB that all nodes see."""
    disk = os.environ.get("SMALL_DISK")
    if not disk or shutil.disk_usage(disk).total > 2**30:
        pytest.skip("SMALL_DISK names no small file system")
    place, filler = Path(disk, "store"), Path(disk, "filler")
    place.mkdir()
    try:
        (cluster.folder / "full").symlink_to(place)
        launch = _submit(cluster, whole, "full", "--checkpoint-seconds", "1")
        driving(launch)
        at_work(launch, LATE)
        _fill(filler)
        time.sleep(40)
        filler.unlink()
        _assert_complete(launch, whole, once=False)
    finally:
        shutil.rmtree(place)
        filler.unlink(missing_ok=True)


def _fill(path: Path) -> None:
    """Let a file take all room of its disk."""
    with open(path, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


# --- resources --------------------------------------------------------------------------------------------------------


@attack
def test_a_training_whose_time_allows_little_but_start_up_ends_with_advice(cluster: Cluster, whole: Store) -> None:
    """The test sends the signal before the end at the first step, because Slurm looks at limits twice a minute."""
    launch = _submit(cluster, whole, "hasty", resources={"train": {"time": 1}})
    signalled = set[float]()

    def act() -> dict[str, Any] | None:
        progress = launch.store.progress(*_key(launch, LATE))
        if progress and progress["started"] not in signalled:
            signalled.add(progress["started"])
            asked("scancel", "--signal=USR2", events(launch.store, "start")[LATE][-1]["job"])
        return launch.ended()

    assert until(act, "the end", pause=0.05)["state"] == "incomplete"
    assert len(events(launch.store, "start")[LATE]) == SITE["attempts"]
    assert "resources.train.time" in cluster.run(on_launch("status", launch), code=1)


GREEDY = ATTACKED.replace("config: {layers: 1}", "config: {layers: 1}, resources: {train: {memory: 200M}}", 1).replace(
    "epochs: 250}", "epochs: 250}, resources: {train: {memory: 200M, memory_limit: 250M}}"
)


@attack
def test_memory_grows_until_it_is_enough_or_its_limit_is_reached(cluster: Cluster, whole: Store) -> None:
    """Slurm kills what takes more than it asked for."""
    suite, store = cluster.suite("greedy", GREEDY), cluster.store("greedy", whole)
    launch = cluster.submit(suite, store, pack=0, attempts=6)
    assert ended(launch)["failed"] == [_key(launch, LATE)[1]]
    assert results(store).items() <= results(whole).items() and len(results(whole)) == len(results(store)) + 2
    assert "resources.train.memory_limit" in cluster.run(on_launch("status", launch), code=1)
    memory = [_asked_for(array.job, "MinMemoryNode") for array in arrays(launch) if array.name == "greedy-train"]
    assert memory[:2] == ["200M", "200M"] and {"250M", "400M"} <= set(memory), memory


# --- code and time ----------------------------------------------------------------------------------------------------


@quick
def test_a_launch_runs_the_code_that_it_was_planned_with(cluster: Cluster, whole: Store) -> None:
    """A line more in what trainings log with, and a file that is half saved, in the place that it was launched from."""
    root = copied_project(cluster.folder / "project")
    suite, store = cluster.suite("edited", ATTACKED), cluster.store("edited", whole)
    cluster.run([sys.executable, str(root / "run_suite.py"), *cluster.arguments(suite, store, pack=0)[2:]])
    logging, saving = root / LOGGING, root / "bench/commands/driver.py"
    logging.write_text(logging.read_text() + "\n\nEDITED = True\n")
    saving.write_text(saving.read_text()[:2000] + "\ndef half(")
    _assert_complete(find_launch(store), whole)


EVALUATED_WITHIN, RETRIED_WITHIN = 120.0, 240.0  # seconds on a busy machine


@attack
def test_evaluations_and_retries_start_soon(cluster: Cluster, whole: Store) -> None:
    """Slots are free for both. The second training is killed once."""
    launch = _submit(cluster, whole, "prompt", "--checkpoint-seconds", "1")
    driving(launch)
    asked("scancel", "--signal=KILL", f"{at_work(launch, LATE)}.0")
    killed = time.time()
    _assert_complete(launch, whole, once=False)
    starts, ends = events(launch.store, "start"), events(launch.store, "end")
    waits = {
        title: starts[f"{title.replace('train', 'evaluate')} on closed-set"][0]["time"]
        - ends[_key(launch, title)[1]][0]["time"]
        for title in ("train early seed 0", LATE)
    }
    retried = starts[LATE][1]["time"] - killed
    print(f"\nevaluations start after {waits}, a training that was killed after {retried:.1f} s")
    assert max(waits.values()) < EVALUATED_WITHIN and retried < RETRIED_WITHIN


def _key(launch: Launch, title: str) -> tuple[str, str]:
    return next(stage.key for stage in launch.stages if stage.title == title)

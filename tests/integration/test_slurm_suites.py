"""Suites on Slurm, from the command to the report: the same results as here, failures, packing, launches at once."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from bench.launch.launches import find_launch, launch_folders, launches, open_launch
from bench.store.records import Store
from tests.integration.cluster import HEAD, Cluster, arrays, asked, ended, events, identities, results, until, weights
from tests.suites import write_suite
from tests.videos import write_tiny_dataset

slurm = pytest.mark.slurm


TRAININGS = ("dense", "mote", "tuned")
WHOLE = f"""\
{HEAD}  zero-shot: {{role: zero-shot, dataset: tiny, views: {{clips: 2}}}}
rows:
  clip_mean: {{label: CLIP mean-pool, method: clip_mean}}
  dense: {{method: dense_temporal, config: {{layers: 1}}}}
  mote: {{method: mote, config: {{layers: 1, num_experts: 2}}, axes: {{inference.tfm: [true, false]}}}}
  tuned: {{method: clip_mean, config: {{tower: tuned}}, inference: {{clip_alpha: 0.5}},
          recipe: {{views: {{copies: 0}}}}}}
report: {{reference: clip_mean, experts: [mote], compare: [[dense, clip_mean]]}}
"""


@pytest.fixture(scope="module")
def whole(cluster: Cluster) -> Store:
    """All of the suite, carried out on this machine."""
    return cluster.local(cluster.suite("whole", WHOLE), cluster.store("local"))


# --- what a user is promised ------------------------------------------------------------------------------------------


@slurm
def test_a_suite_is_submitted_in_seconds_and_gives_the_results_of_this_machine(cluster: Cluster, whole: Store) -> None:
    store, began = cluster.store("suite"), time.monotonic()
    launch = cluster.submit(cluster.folder / "whole.yaml", store)
    assert time.monotonic() - began < 30 and not launch.ended()
    end = ended(launch)
    assert (end["state"], end["failed"], end["blocked"]) == ("complete", [], [])
    assert results(store) == results(whole)
    report, here = store.root / "reports/whole", whole.root / "reports/whole"
    assert (report / "table.csv").read_text() == (here / "table.csv").read_text()
    names = {path.name for path in report.iterdir()} - {f"cost-usage.{kind}" for kind in ("csv", "md", "tex")}
    assert names == {path.name for path in here.iterdir()}
    assert not list((store.root / "claims").iterdir()) and not list((store.root / "checkpoints").glob("*/*"))
    started, done = ({each["identity"]: each for each in store.events() if each["event"] == event}
                     for event in ("start", "end"))  # fmt: skip
    assert set(started) == set(done) == {stage.identity for stage in launch.stages}
    for stage in launch.stages:
        assert all(done[identity]["time"] <= started[stage.identity]["time"] for _, identity in stage.inputs)


@slurm
def test_slots_of_two_gpus_run_side_by_side_within_their_limits(cluster: Cluster, whole: Store) -> None:
    if "gpu" not in asked("sinfo", "--noheader", "--format=%G"):
        pytest.skip("the cluster has no GPUs, not even ones that only count")
    resources = {"all": {"cpus": 2, "gpus": 1, "slots": 2, "time": 5}}
    store = cluster.store("slots", whole)
    launch = cluster.submit(cluster.folder / "whole.yaml", store, resources=resources, parallel=2, pack=0)
    end = ended(launch)
    assert (end["state"], end["failed"], end["blocked"]) == ("complete", [], [])
    assert results(store) == results(whole)
    starts = [each for found in events(store, "start").values() for each in found]
    ends = {each["identity"]: each["time"] for each in store.events() if each["event"] == "end"}
    beside = {
        each["title"]: [
            other["title"]
            for other in starts
            if other["job"] == each["job"] and other["time"] <= each["time"] < ends[other["identity"]]
        ]
        for each in starts
    }
    assert max(map(len, beside.values())) == 2, beside
    trainings = {each["job"] for each in starts if each["title"].startswith("train")}
    assert len(trainings) == 2 and len({each["pid"] for each in starts if each["job"] in trainings}) > 2


FAILING = WHOLE.replace("{layers: 1}}\n", "{layers: 1}, recipe: {lr: 1.0e+30}}\n", 1).replace(
    "axes: {inference.tfm: [true, false]}}", "recipe: {views: {copies: 1}}}"
)


@slurm
def test_failures_block_only_what_needs_them_and_are_told(cluster: Cluster) -> None:
    """One training diverges; the features of another are damaged when it is queued. Neither is tried again."""
    suite = cluster.suite("failing", FAILING)
    store = cluster.local(cluster.suite("sound", FAILING.replace("1.0e+30", "1.0e-3")), cluster.store("failing"))
    damaged = identities(store, "train")["train mote seed 0"]
    (features,) = _inputs(store, damaged, "features")
    for kind in ("train", "evaluate", "probe", "weights", "maps"):
        shutil.rmtree(store.root / "records" / kind, ignore_errors=True)
    shutil.rmtree(store.root / "attempts")
    launch = cluster.submit(suite, store)
    os.truncate(store.folder(*features) / "features.safetensors", 100)  # before a job has imported what reads it
    end = ended(launch)
    stages = {stage.title: stage for stage in launch.stages}
    diverged, broken = (stages[f"train {row} seed 0"] for row in ("dense", "mote"))
    assert end["state"] == "incomplete" and set(end["failed"]) == {diverged.identity, broken.identity}
    failures = events(store, "failure")
    assert "the loss is not finite" in failures[diverged.title][0]["reason"]
    assert "no sound record" in failures[broken.title][0]["reason"]
    assert [[failure["final"] for failure in own] for own in failures.values()] == [[True], [True]]
    needing = {stage.identity for stage in launch.stages if {diverged.key, broken.key} & set(stage.inputs)}
    assert needing and set(end["blocked"]) == needing
    lacking = {launch.stages[number].identity for number in launch.missing()}
    assert lacking == needing | {diverged.identity, broken.identity} and len(lacking) < len(stages)
    assert "missing" in (store.root / "reports/failing/table.md").read_text()
    assert not list((store.root / "claims").iterdir())


def _inputs(store: Store, training: str, *names: str) -> list[tuple[str, str]]:
    inputs = store.read("train", training)["inputs"]
    return [(inputs[name][0], inputs[name][1]) for name in names]


# --- many stages ------------------------------------------------------------------------------------------------------

MANY = WHOLE[: WHOLE.index("report:")].replace(
    "inference.tfm: [true, false]", f"inference.merge_temperature: {list(range(1, 101))}"
)


@slurm
def test_small_stages_share_jobs_large_arrays_are_cut_and_what_is_there_is_not_submitted(
    cluster: Cluster, whole: Store
) -> None:
    suite = cluster.suite("many", MANY)
    store = cluster.store("many", whole, ("texts", "encode", "train", "probe", "weights"))
    launch = cluster.submit(suite, store, pack_most=25, max_array=3)
    assert {stage.kind for stage in launch.stages} == {"evaluate"} and len(launch.stages) > 200
    submitted = [len(array.array_tasks) for array in arrays(launch)]
    assert max(submitted) == 3 and 8 < sum(submitted) < 16
    assert ended(launch)["state"] == "complete"
    started = events(store, "start")
    assert all(store.done(*stage.key) and len(started[stage.title]) == 1 for stage in launch.stages)
    assert {each["job"] for (each,) in started.values()} == {job for array in arrays(launch) for job in array.jobs()}
    lost = launch.stages[::20]
    for stage in lost:
        shutil.rmtree(store.folder(*stage.key))
    again = cluster.submit(suite, store)
    assert {stage.key for stage in again.stages} == {stage.key for stage in lost} and again.about["cached"] > 200
    assert len(arrays(again)) == 1
    assert ended(again)["state"] == "complete"
    assert len(events(store, "start")[lost[0].title]) == 2 and len(events(store, "start")[launch.stages[1].title]) == 1


# --- launches at once -------------------------------------------------------------------------------------------------


@slurm
def test_two_launches_at_once_carry_out_each_stage_once(cluster: Cluster, whole: Store) -> None:
    store = cluster.store("both", whole)
    names = ("first", "second")
    rows = WHOLE[WHOLE.index("  tuned:") : WHOLE.index("report:")]
    second = WHOLE.replace(rows, "  text4vis: {method: text4vis}\n")
    suites = [cluster.suite(name, text) for name, text in zip(names, (WHOLE, second), strict=True)]
    commands = [cluster.start(cluster.arguments(suite, store)) for suite in suites]
    for each in commands:
        said, _ = each.communicate()
        assert each.returncode == 0, said
    launches = [open_launch(folder) for folder in launch_folders(store)]
    shared = set.intersection(*({stage.key for stage in launch.stages} for launch in launches))
    assert len(launches) == 2 and len(shared) > 5
    assert [ended(launch)["state"] for launch in launches] == ["complete", "complete"]
    started = [(each["kind"], each["identity"]) for each in store.events() if each["event"] == "start"]
    assert len(started) == len(set(started))
    assert set(started) == {stage.key for launch in launches for stage in launch.stages}
    for name in names:
        assert (store.root / "reports" / name / "report.html").is_file()
        assert "missing" not in (store.root / "reports" / name / "table.md").read_text()


@slurm
def test_launches_that_are_submitted_at_once_never_share_a_stage(cluster: Cluster) -> None:
    """Their jobs wait for a time that does not come, and are cancelled."""
    suite = cluster.suite("crowd", WHOLE)
    for attempt in range(4):
        store = cluster.store(f"crowd-{attempt}")
        arguments = cluster.arguments(suite, store, resources={"all": {"extra": {"begin": "now+3600"}}})
        crowd = [cluster.start(arguments) for _ in range(3)]
        said = [each.communicate()[0] for each in crowd]
        launches = [open_launch(folder) for folder in launch_folders(store)]
        asked("scancel", *(array.job for launch in launches for array in launch.arrays()))
        assert [each.returncode for each in crowd] == [0, 0, 0], said
        tasks = [(each, task) for each in launches for array in each.arrays() for task in array.array_tasks]
        submitted = [launch.stages[number].key for launch, task in tasks for number in task]
        first = [stage.key for stage in launches[0].stages if not stage.inputs]  # the others follow later
        assert len(launches) == 3 and len(first) > 2 and sorted(submitted) == sorted(first)


# --- several tasks ----------------------------------------------------------------------------------------------------

PAIR = f"""\
{HEAD}
rows:
  together: {{method: mote, config: {{layers: 1, num_experts: 2, routing_scope: step}}, recipe: {{eps: 1.0e-4}}}}
  apart: {{method: mote, config: {{layers: 1, num_experts: 2, routing_scope: step}}, recipe: {{epochs: 80}},
          resources: {{train: {{nodes: 2}}}}}}
"""


@slurm
def test_a_training_of_two_tasks_equals_that_of_one_also_over_nodes_and_when_interrupted(
    cluster: Cluster, whole: Store
) -> None:
    suite, pair = cluster.suite("pair", PAIR), "recipe.processes=2"
    store, one, two = (cluster.store(name, whole) for name in ("tasks", "one", "two"))
    launch = cluster.submit(suite, store, pair)
    keys = {stage.title: stage.key for stage in launch.stages}
    together, apart = (f"train {row} seed 0" for row in ("together", "apart"))
    assert {keys[title] for title in (together, apart)} <= {stage.key for stage in launch.stages if stage.tasks == 2}

    def signal() -> bool | None:
        progress = store.progress(*keys[apart])
        if progress is None or progress["done"] < 10:
            return None
        asked("scancel", "--signal=USR2", events(store, "start")[apart][0]["job"])
        return True

    until(signal, "steps of two tasks")
    cluster.local(suite, one)
    cluster.local(suite, two, pair)
    assert ended(launch)["state"] == "complete"
    assert [stopped["done"] > 0 for stopped in events(store, "interrupted")[apart]] == [True]
    assert len(events(store, "start")[apart]) == 2
    assert [found.read(*keys[together])["result"]["processes"] for found in (one, two, store)] == [1, 2, 2]
    assert all(weights(store, title) == weights(two, title) for title in (together, apart))
    torch.testing.assert_close(load(weights(store, together)), load(weights(one, together)), atol=2e-5, rtol=0)


# --- what is refused --------------------------------------------------------------------------------------------------


@slurm
def test_a_partition_that_does_not_exist_is_told_in_the_words_of_slurm(cluster: Cluster) -> None:
    suite, store = cluster.suite("nowhere", WHOLE), cluster.store("nowhere")
    said = cluster.run(cluster.arguments(suite, store, resources={"train": {"partition": "nowhere"}}), code=2)
    assert "invalid partition specified: nowhere" in said and not launch_folders(store)
    _assert_nothing_is_left(store)


@slurm
def test_a_submission_that_slurm_refuses_midway_leaves_nothing_in_the_queue(cluster: Cluster) -> None:
    suite, store, programs = cluster.suite("midway", WHOLE), cluster.store("midway"), cluster.folder / "programs"
    programs.mkdir()
    sbatch = programs / "sbatch"  # takes two jobs, and no third one
    sbatch.write_text(f"""#!/bin/sh
    case "$*" in *--test-only*) exec {shutil.which("sbatch")} "$@";; esac
    echo x >> {programs}/count
    if [ "$(wc -l < {programs}/count)" -gt 2 ]; then echo "sbatch: error: too many jobs of this user" >&2; exit 1; fi
    exec {shutil.which("sbatch")} "$@"
    """)
    sbatch.chmod(0o755)
    said = cluster.run(cluster.arguments(suite, store), code=2, PATH=f"{programs}:{os.environ['PATH']}")
    assert "too many jobs of this user" in said and "Traceback" not in said
    launch = find_launch(store)
    assert len(launch.arrays()) == 2
    _assert_nothing_is_left(store)


def _assert_nothing_is_left(store: Store) -> None:
    assert all((launch.ended() or {})["state"] == "cancelled" for launch in launches(store))
    assert not list(store.root.glob("claims/*"))
    names = asked("squeue", "--noheader", "--format=%j", "--states=PENDING,RUNNING,SUSPENDED,CONFIGURING")
    assert f"{store.root.name}-" not in names


def test_a_dry_run_prints_the_scripts_without_a_scheduler(tmp_path: Path) -> None:
    """On a machine without Slurm, where the videos are not made either."""
    without = Cluster(tmp_path)
    suite, store = write_suite(tmp_path), without.store("runs")
    arguments = without.arguments(suite, store, "--dry-run", resources={"train": {"time": 7}})
    said = without.run(arguments, PATH=str(tmp_path), SLURM_CONF="")
    scripts = said.split("#!/bin/bash")[1:]
    assert len(scripts) > 4 and all("submitit.core._submit" in script for script in scripts)
    (training,) = (script for script in scripts if "--job-name=small-train" in script)
    assert "#SBATCH --time=7\n" in training and "#SBATCH --signal=USR2@15\n" in training
    assert "--job-name=small-driver" in scripts[-1] and "small-driver: submits the others" in said
    assert not store.root.exists() and [own.name for own in (tmp_path / "cache").iterdir()] == ["sources"]


def test_a_submission_without_slurm_says_so_and_leaves_no_launch(tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path)
    without = Cluster(tmp_path)
    suite, store = without.suite("tiny", WHOLE), without.store("runs")
    said = without.run(without.arguments(suite, store), code=2, PATH=str(tmp_path), SLURM_CONF="")
    assert "so no Slurm" in said and "--dry-run" in said
    assert not launch_folders(store)

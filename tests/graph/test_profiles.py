"""Profiles in a suite's graph, and the order in which a launch carries them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.graph.build import Graph, build_graph
from bench.graph.kinds import profile_stage
from bench.launch.schedule import Schedule
from bench.launch.site import Site
from bench.launch.slurm import arranged
from bench.models.backbones import backbone
from bench.store.records import Store
from bench.suite.file import Measurement
from bench.suite.resolve import load_suite
from methods.registry import method
from tests.launch.launched import launched
from tests.launch.launched import stage as planned
from tests.suites import write_suite


def graph_with(folder: Path, profile: str, *changes: tuple[str, str]) -> Graph:
    suite = write_suite(folder, ("report:\n", f"report:\n  profile: {profile}\n"), *changes)
    return build_graph(load_suite(suite))


def test_rows_are_profiled_once_whatever_the_seed(tmp_path: Path) -> None:
    graph = graph_with(tmp_path, "{}")
    assert [cell.trial.row for cell in graph.profiles] == ["clip_mean", "dense", "mote", "mote_no_tfm"]
    assert {cell.protocol for cell in graph.profiles} == {"closed-set"}
    spec = graph.profiles[1].stage.spec
    assert (spec["frames"], spec["views"], spec["classes"]) == (4, 1, 32)
    assert spec["training"] == {"frames": 4, "cached": True, "checkpointing": False}
    assert {cell.stage.identity for cell in graph.profiles} <= set(graph.stages)


def test_no_profiles_unless_asked_for(tmp_path: Path) -> None:
    graph = build_graph(load_suite(write_suite(tmp_path)))
    assert not graph.profiles and "profile" not in {stage.kind for stage in graph.stages.values()}


def test_data_recipes_and_alphas_that_cost_nothing_share_a_profile(tmp_path: Path) -> None:
    axes = "config: {layers: 1}, axes: {recipe.lr: [1, 2], recipe.epochs: [1, 2], inference.clip_alpha: [0.5, 1]}}"
    graph = graph_with(tmp_path, "{rows: [dense]}", ("config: {layers: 1}}", axes))
    assert len(graph.profiles) == 8 and len({cell.stage.identity for cell in graph.profiles}) == 1


@pytest.mark.parametrize(
    "other", ["{frames: 8}", "{views: 3}", "{batches: [1, 4]}", "{precisions: [bf16]}", "{device: cpu}", "{seconds: 1}"]
)
def test_another_measurement_is_another_profile(tmp_path: Path, other: str) -> None:
    first, second = (graph_with(tmp_path, profile).profiles for profile in ("{}", other))
    assert not {cell.stage.identity for cell in first} & {cell.stage.identity for cell in second}


@pytest.mark.parametrize(
    ("profile", "message"),
    [("{rows: [dens]}", "did you mean 'dense'"), ("{precisions: [fp64]}", "fp32"), ("{seconds: 0}", "greater than 0")],
)
def test_mistakes(tmp_path: Path, profile: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        graph_with(tmp_path, profile)


def test_a_command_and_a_suite_share_a_profile(tmp_path: Path) -> None:
    cell = graph_with(tmp_path, "{rows: [dense]}").profiles[0]
    kind, spec = method("dense_temporal"), cell.stage.spec
    shown = {name: spec[name] for name in ("frames", "views", "classes")}
    config, training = kind.config.model_validate({"layers": 1}), {**spec["training"], "texts": 5, "batch": 7}
    shape = backbone("glyph-vit")
    stage = profile_stage("dense_temporal", config, kind.inference(), shape, shown, training, Measurement(), "another")
    assert stage.identity == cell.stage.identity


def test_profiles_wait_for_all_others_and_go_one_by_one(tmp_path: Path) -> None:
    train = planned("train")
    profiles = (planned("p", kind="profile", seconds=9.0), planned("q", kind="profile", seconds=8.0))
    later = planned("later", train, kind="evaluate")
    schedule = Schedule([*profiles, train, later], Store.create(tmp_path))
    assert schedule.start() is train and schedule.start() is None  # nothing beside it, though a profile could start
    schedule.finish(train, None)
    assert schedule.start() is later and schedule.start() is None
    schedule.finish(later, None)
    assert schedule.start() is profiles[0] and schedule.start() is None
    schedule.finish(profiles[0], "failed")
    assert schedule.start() is profiles[1]


def test_profiles_have_slurm_jobs_of_their_own(tmp_path: Path) -> None:
    launch = launched(
        Store.create(tmp_path), *(planned(f"{n}", kind="profile") for n in range(2)), planned("a"), planned("b")
    )
    array_tasks = {
        each.name: each.array_tasks for each in arranged(launch, range(4), Site.model_validate(launch.about["site"]))
    }
    assert array_tasks == {"tiny-profile": [[0], [1]], "tiny-train": [[2, 3]]}

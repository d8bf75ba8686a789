"""The graph of a suite: which stages rows share, and their order."""

from __future__ import annotations

from pathlib import Path

from bench.graph.build import build_graph
from bench.suite.resolve import load_suite
from tests.suites import write_suite


def test_rows_that_differ_in_inference_share_a_training(tmp_path: Path) -> None:
    graph = build_graph(load_suite(write_suite(tmp_path)))
    trained = [stage.title for stage in graph.stages.values() if stage.kind == "train"]
    assert sorted(trained) == ["train dense seed 0", "train dense seed 1", "train mote seed 0", "train mote seed 1"]
    encoded = [stage.title for stage in graph.stages.values() if stage.kind == "encode"]
    assert len(encoded) == 3  # training views, validation, one target: one frozen tower serves all


def test_a_tuned_tower_is_encoded_once_per_alpha_and_not_at_0(tmp_path: Path) -> None:
    tuned = "config: {layers: 1, tower: tuned}, axes: {inference.clip_alpha: [0, 0.5, 1]}}"
    graph = build_graph(load_suite(write_suite(tmp_path, ("config: {layers: 1}}", tuned))))
    own = [stage for stage in graph.stages.values() if stage.kind == "encode" and "train" in stage.inputs]
    assert len([stage for stage in graph.stages.values() if stage.title.startswith("train dense")]) == 2
    assert len(own) == 2 * 2 * 2  # seeds x alphas that leave something of the tower x protocols


def test_alpha_means_nothing_to_a_frozen_tower(tmp_path: Path) -> None:
    changed = write_suite(
        tmp_path, ("config: {layers: 1}}", "config: {layers: 1}, axes: {inference.clip_alpha: [0.5, 1]}}")
    )
    stages = build_graph(load_suite(changed)).stages.values()
    assert (
        len([stage for stage in stages if stage.kind == "evaluate" and stage.spec["method"] == "dense_temporal"])
        == 2 * 2
    )


def test_a_training_that_begins_with_another_needs_it_and_is_not_the_same_without(tmp_path: Path) -> None:
    row = "{method: dense_temporal, config: {layers: 1}, recipe: {classes: base}"
    rows = f"  alone: {row}}}\n  more: {row}, init_from: dense}}\n  mote:"
    stages = build_graph(load_suite(write_suite(tmp_path, ("  mote:", rows)))).stages.values()
    train = {stage.title: stage for stage in stages if stage.kind == "train"}
    assert train["train more seed 1"].inputs["init_from"] is train["train dense seed 1"]
    assert train["train more seed 1"].identity != train["train alone seed 1"].identity
    assert "init_from" not in train["train alone seed 1"].inputs


def test_inputs_come_before_what_needs_them(tmp_path: Path) -> None:
    seen: set[str] = set()
    for identity, stage in build_graph(load_suite(write_suite(tmp_path))).stages.items():
        assert all(other.identity in seen for other in stage.inputs.values())
        seen.add(identity)

"""Presets of fidelity and another world, written out before anything is resolved."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.suite.resolve import SUITES, load_suite
from bench.suite.trial import Suite
from bench.suite.worlds import worlds
from tests.errors import refused
from tests.suites import write_suite


def shipped(name: str, *overrides: str) -> Suite:
    return load_suite(SUITES / f"{name}.yaml", overrides)


def test_the_official_preset_is_written_out_before_hashing() -> None:
    suite = shipped("mote-table1", "seeds=[0]")
    by_row = {trial.row: trial for trial in suite.trials}
    assert {trial.config.tower for trial in suite.trials} == {"tuned"}
    assert {trial.inference.clip_alpha for trial in suite.trials} == {0.99}
    clean = shipped("mote-table1", "seeds=[0]", "fidelity=clean")
    assert {trial.inference.clip_alpha for trial in clean.trials} == {1.0}
    assert by_row["tfm"].recipe.epochs == 20


def test_overrides_win_over_the_world() -> None:
    suite = shipped("mote-table2b", "world=glyphs", "recipe.epochs=2", "seeds=[0]")
    assert {(trial.recipe.epochs, trial.recipe.source) for trial in suite.trials} == {(2, "glyphs-narrow")}


def test_names_of_worlds_and_presets_are_checked(tmp_path: Path) -> None:
    with refused("'glyph'", where="world", allowed=["glyphs"], hint="'glyphs'"):
        load_suite(write_suite(tmp_path, ("title: Small", "title: Small\nworld: glyph")))
    with refused("'mote'", "'log'", where="rows.mote", allowed=["official", "clean"]):
        load_suite(write_suite(tmp_path, ("  mote: {method: mote,", "  mote: {method: mote, fidelity: log,")))


def test_data_without_a_counterpart_in_the_world_are_named(tmp_path: Path) -> None:
    moved = ("title: Small", "title: Small\nworld: glyphs")
    with refused("'glyphs-narrow'", where="recipe.source", hint="`world`"):
        load_suite(write_suite(tmp_path, moved))
    real = [
        ("source: glyphs-narrow", "source: kinetics-400"),
        ("dataset: glyphs-narrow, split: validation", "dataset: kinetics-400"),
        ("dataset: glyphs-narrow-verbs", "dataset: ucf"),
    ]
    with refused("'ucf'", "'glyphs'", where="protocols.new-verbs.dataset", allowed=["ucf101"], hint="'ucf101'"):
        load_suite(write_suite(tmp_path, moved, *real))


def test_a_protocol_without_a_dataset_of_its_own_is_no_traceback(tmp_path: Path) -> None:
    with refused("'glyphs-narrow'", where="depth.yaml:32: axes.world", hint="`world`"):
        shipped("depth", "world=glyphs")
    moved = [
        ("title: Small", "title: Small\nworld: glyphs"),
        ("source: glyphs-narrow", "source: kinetics-400"),
        ("dataset: glyphs-narrow, split: validation", "dataset: kinetics-400"),
    ]
    for given, missing in (("role: zero-shot", "dataset"), ("dataset: ucf101", "role")):
        with refused(f"'{missing}'", where="protocols.new-verbs"):
            load_suite(write_suite(tmp_path, *moved, ("role: zero-shot, dataset: glyphs-narrow-verbs", given)))


def test_an_axis_moves_fields_of_training_and_test_alike(tmp_path: Path) -> None:
    """What a world replaces in the one, it replaces in the other."""
    for name in ("mote-table4", "text4vis-kinetics", "vidprism-k400"):
        for trial in shipped(name, "world=glyphs").trials:
            assert {own.views.frames for _, own in trial.protocols} == {trial.recipe.views.frames} == {8}


def test_a_suite_and_its_rows_may_say_what_they_are_at_toy_scale() -> None:
    suite = shipped("mote-table3", "world=glyphs", "seeds=[0]")
    recipes = {trial.row: trial.recipe for trial in suite.trials}
    assert (recipes["mote"].epochs, recipes["open_vclip"].epochs, recipes["open_vclip"].tower_lr_ratio) == (
        30,
        12,
        0.06,
    )
    real = {trial.row: trial.recipe for trial in shipped("mote-table3", "seeds=[0]").trials}
    assert (real["open_vclip"].epochs, real["open_vclip"].tower_lr_ratio) == (22, 1.0)
    small = shipped("main-table", "world=glyphs", "seeds=[0]")
    assert {(trial.recipe.epochs, trial.recipe.views.frames) for trial in small.trials} == {(12, 4)}
    assert {own.views.frames for own in small.columns.values()} == {4}


def test_what_depends_on_the_frames_of_toy_scale_is_at_most_those(tmp_path: Path) -> None:
    trials = shipped("aim-parts", "world=glyphs", "seeds=[0]").trials
    assert {(trial.recipe.views.frames, trial.config.model_dump()["frames"]) for trial in trials} == {(4, 4), (4, 0)}
    text = (SUITES / "aim-parts.yaml").read_text()
    (tmp_path / "larger.yaml").write_text(text.replace("{config.frames: 4}", "{config.frames: 8}"))
    with refused("clips of 4 frames, but config.frames 8"):
        load_suite(tmp_path / "larger.yaml", ("world=glyphs",))


def test_what_is_said_for_toy_scale_has_the_parts_of_a_world(tmp_path: Path) -> None:
    with refused(where="at_toy_scale", allowed=["recipe", "config", "protocol", "at_most", "points"]):
        load_suite(write_suite(tmp_path, ("title: Small", "title: Small\nat_toy_scale: {recipes: {epochs: 1}}")))


def test_a_suite_may_say_which_points_of_its_axes_it_has_at_toy_scale() -> None:
    """Also of an axis that a row has anew."""
    points = {trial.point for trial in shipped("main-table", "world=glyphs", "seeds=[0]").trials}
    assert points == {(("model", "B/16"),)}
    few = shipped("few-shot-table", "world=glyphs", "seeds=[0]")
    assert {dict(trial.point)["shots"] for trial in few.trials if trial.config.trains} == {2, 16}
    assert {dict(trial.point)["shots"] for trial in shipped("few-shot-table", "seeds=[0]").trials} >= {2, 4, 8, 16}
    assert {dict(trial.point)["target"] for trial in few.trials} == {"HMDB-51"}


@pytest.mark.parametrize(
    ("overrides", "left"),
    [
        (("at_toy_scale.points={recipe.shots: [4]}",), {4}),
        (("at_toy_scale.points={recipe.shots: ['4', 16]}",), {4, 16}),
        (("at_toy_scale.points={recipe.shots: null}",), {2, 4, 8, 16}),
        (("axes.recipe.shots=[4, 8]",), {4, 8}),
        (("axes.recipe.shots=[4, 8]", "at_toy_scale.points={recipe.shots: [4]}"), {4}),
    ],
)
def test_points_of_toy_scale_as_overrides(overrides: tuple[str, ...], left: set[int]) -> None:
    trials = shipped("few-shot-table", "world=glyphs", "seeds=[0]", *overrides).trials
    assert {dict(trial.point)["shots"] for trial in trials if trial.config.trains} == left


@pytest.mark.parametrize(
    ("points", "message", "where"),
    [
        ("{modle: [B/16]}", "axis 'modle'", "at_toy_scale.points.modle"),
        ("{model: [B/61]}", "got ['B/61']", "at_toy_scale.points.model"),
        ("{model: B/16}", "got 'B/16'", "at_toy_scale.points.model"),
        ("{model: []}", "got []", "at_toy_scale.points.model"),
        ("{model: [L/14]}", "has none of L/14", "rows.msta_viclip.axes.model"),
    ],
)
def test_points_of_toy_scale_are_points_of_an_axis(points: str, message: str, where: str) -> None:
    with refused(message, where=where):
        shipped("main-table", "world=glyphs", f"at_toy_scale.points={points}")


@pytest.mark.parametrize(
    ("override", "message", "where"),
    [
        ("at_toy_scale.recipe.epoch=1", "unknown key 'epoch'", "at_toy_scale.recipe.epoch"),
        ("at_toy_scale.protocol.view=1", "unknown key 'view'", "at_toy_scale.protocol.view"),
        ("rows.mote.at_toy_scale.recipe.epochs=1", "unknown key 'recipe'", "rows.mote.at_toy_scale.recipe"),
        ("at_toy_scale.at_most.config.frames=abc", "whole number, got 'abc'", "at_toy_scale.at_most.config.frames"),
    ],
)
def test_what_is_said_for_toy_scale_is_refused_where_it_stands(override: str, message: str, where: str) -> None:
    with refused(message, where=where):
        shipped("main-table", "world=glyphs", override)


def test_an_override_for_toy_scale_needs_a_world() -> None:
    with refused("has no effect without a world", where="override at_toy_scale.recipe.epochs=1", hint="world=glyphs"):
        shipped("main-table", "at_toy_scale.recipe.epochs=1")


TOWERS = """
axes:
  model:
    image: {recipe.backbone: ViT-B-16, recipe.pretrained: openai}
    video: {recipe.backbone: ViCLIP-B-16, recipe.pretrained: 'random:0'}
"""


@pytest.mark.parametrize("below", ["ViT-B-32", "ViCLIP-L-14", ""])
def test_a_video_tower_is_one_in_the_world_as_well(tmp_path: Path, below: str) -> None:
    """Whether the suite, a row or an axis names it."""
    named = f"\n  backbone: {below}" if below else ""
    real = [
        ("title: Small", "title: Small\nworld: glyphs"),
        ("source: glyphs-narrow", f"source: kinetics-400{named}"),
        ("dataset: glyphs-narrow, split: validation", "dataset: kinetics-400"),
        ("dataset: glyphs-narrow-verbs", "dataset: ucf101"),
    ]
    rows = {"clip": "", "image": ", recipe: {backbone: ViT-L-14}", "video": ", recipe: {backbone: ViCLIP-B-16}"}
    file = write_suite(tmp_path, *real)
    head, _, _ = file.read_text().partition("rows:")
    text = "".join(f"  {name}: {{method: clip_mean{recipe}}}\n" for name, recipe in rows.items())
    file.write_text(f"{head}rows:\n{text}")
    image, video = ("glyph-vit", "builtin"), tuple(worlds()["glyphs"]["video"].values())
    found = {trial.row: (trial.recipe.backbone, trial.recipe.pretrained) for trial in load_suite(file).trials}
    assert found == {"clip": video if below == "ViCLIP-L-14" else image, "image": image, "video": video}
    file.write_text(f"{head}{TOWERS}rows:\n  clip: {{method: clip_mean}}\n")
    moved = {dict(trial.point)["model"]: trial.recipe for trial in load_suite(file).trials}
    assert {name: (recipe.backbone, recipe.pretrained) for name, recipe in moved.items()} == {
        "image": image,
        "video": video,
    }

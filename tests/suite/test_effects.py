"""Settings that nothing reads are named in the plan; overrides that nothing reads are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.commands.app import main
from bench.suite.resolve import SUITES, load_suite
from tests.errors import refused
from tests.suites import write_suite

USED = ("dataset: glyphs-narrow-verbs}", "dataset: glyphs-narrow-verbs, split: test, use: mote/ucf101-full}")
DENSE = "config: {layers: 1}}"
SWEEP = (DENSE, "config: {layers: 1}, recipe: {lr: 0.1}, axes: {config.layers: [1, 2], recipe.lr: [1, 2]}}")


def notes(folder: Path, *changes: tuple[str, str], overrides: tuple[str, ...] = ()) -> list[str]:
    return [
        note.partition("small.yaml:")[2] or note for note in load_suite(write_suite(folder, *changes), overrides).notes
    ]


def test_a_default_that_a_named_protocol_beats_is_named(tmp_path: Path) -> None:
    found = notes(tmp_path, USED)
    assert found == [
        "12: protocol.templates: has no effect where protocols.new-verbs.use is in its place",
        "13: protocol.views.frames: has no effect where protocols.new-verbs.use is in its place",
    ]
    # The same value, and one that the protocol has itself, are not lost in silence.
    own = USED[1].replace("use:", "templates: glyphs, use:")
    assert len(notes(tmp_path, (USED[0], own))) == 1
    same = (
        "  templates: glyphs\n  views: {frames: 4}\nprotocols",
        "  templates: mote28\n  views: {frames: 8}\nprotocols",
    )
    assert not [note for note in notes(tmp_path, same, USED) if "no effect" in note]


def test_a_fixed_value_under_an_axis_is_named(tmp_path: Path) -> None:
    assert notes(tmp_path, SWEEP) == [
        "19: rows.dense.config.layers: has no effect where rows.dense.axes.config.layers is in its place",
        "19: rows.dense.recipe.lr: has no effect where rows.dense.axes.recipe.lr is in its place",
    ]


def test_a_share_of_weights_that_are_clips_is_named(tmp_path: Path) -> None:
    row = ("{method: mote, config: {layers: 1, num_experts: 2}, inference: {tfm: false}}", "{method: xclip, %s}")
    frozen, tuned = (
        notes(tmp_path, (row[0], row[1] % f"config: {{tower: {own}}}, inference: {{clip_alpha: 0.5}}"))
        for own in ("frozen", "tuned")
    )
    said = "21: rows.mote_no_tfm.inference.clip_alpha: has no effect: no tensor that CLIP has is trained"
    assert frozen == [said] and not tuned


@pytest.mark.parametrize(
    "row",
    [
        "method: vita_clip, config: {context: generic, context_vectors: 4, frames: 4}",
        "method: tc_clip",
        "method: text4vis, config: {head: none, classifier: coop, context: 4}",
    ],
)
def test_templates_with_words_beside_learnt_ones_are_named(row: str, tmp_path: Path) -> None:
    own = ("report:", f"  own: {{{row}}}\nreport:")
    (note,) = notes(tmp_path, own)
    assert "rows.own learns the words beside class names, and the words of templates 'glyphs'" in note
    assert not notes(tmp_path, own, ("templates: glyphs", "templates: name"))


@pytest.mark.parametrize(
    ("axis", "idle"),
    [
        ("recipe.lr: [0.1, 0.2]", ["recipe.lr"]),
        ("over: {a: {recipe.views: {frames: 4}}}", ["recipe.views.frames", "recipe.views.copies"]),  # above it
        ("both: {a: {recipe.lr: 1, recipe.epochs: 2}, b: {recipe.lr: 2}}", ["recipe.lr"]),  # epochs at one point only
        ("data: {a: {protocols.new-verbs.dataset: glyphs-narrow-verbs}}", ["protocols.new-verbs.dataset"]),
        ("inference.clip_alpha: [0.5, 1.0]", []),
    ],
)
def test_axes_over_the_field_above_it_and_bundles_count(tmp_path: Path, axis: str, idle: list[str]) -> None:
    found = [note.split(": ")[1] for note in notes(tmp_path, ("report:", f"axes: {{{axis}}}\nreport:"))]
    assert [field for field in found if field.startswith(("recipe", "protocols"))] == idle


def test_an_override_without_effect_is_refused_and_one_that_misses_a_row_named(tmp_path: Path) -> None:
    path = write_suite(tmp_path, ("report:", "axes: {recipe.lr: [1, 2]}\nreport:"))
    with refused("axes.recipe.lr", where="override recipe.lr=3", hint="axes.recipe.lr"):
        load_suite(path, ("recipe.lr=3",))
    assert {trial.recipe.lr for trial in load_suite(path, ("axes.recipe.lr=[3]",)).trials} == {3}
    with refused("a later one", where="override recipe.epochs=2", hint="recipe.epochs=3"):
        load_suite(path, ("recipe.epochs=2", "recipe.epochs=3"))
    row = (DENSE, "config: {layers: 1}, recipe: {epochs: 2}}")
    assert notes(tmp_path, row, overrides=("recipe.epochs=3",)) == [
        "override recipe.epochs=3: recipe.epochs: has no effect where rows.dense.recipe.epochs is in its place"
    ]
    assert notes(tmp_path, row, overrides=("recipe.epochs=2",)) == []  # what the row has
    assert notes(tmp_path, row, overrides=("rows.dense.recipe.epochs=3",)) == []  # over the file's own is meant


def test_an_override_of_what_a_preset_or_world_says_counts_or_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    suite = load_suite(SUITES / "mote-table1.yaml", ("recipe.batch=96", "recipe.views.sampler=ticks"))
    assert {(trial.recipe.batch, trial.recipe.views.sampler) for trial in suite.trials} == {(96, "ticks")}
    assert {trial.recipe.views.augmentation for trial in suite.trials} == {"mote"}  # the rest of the preset stays
    with refused("protocols.K400.views.frames", where="override protocol.views.frames=4"):
        load_suite(SUITES / "mote-table1.yaml", ("world=glyphs", "protocol.views.frames=4"))
    one = load_suite(SUITES / "mote-table1.yaml", ("world=glyphs", "protocols.K400.views.frames=4"))
    assert {name: own.views.frames for name, own in one.columns.items()} == {"K400": 4, "UCF": 8, "HMDB": 8, "K600": 8}
    later = load_suite(SUITES / "mote-table1.yaml", ("world=glyphs",))
    assert {own.views.frames for own in later.columns.values()} == {8}
    assert main(["plan", "mote-table1", "fidelity=official", "recipe.epochs=3", "recipe.epochs=4"]) == 2
    assert "has no effect" in capsys.readouterr().err


def test_settings_of_a_training_are_named_or_refused_where_nothing_is_trained(tmp_path: Path) -> None:
    row = ("method: clip_mean}", "method: clip_mean, recipe: {lr: 1, views: {copies: 2}, backbone: glyph-vit}}")
    assert notes(tmp_path, row) == [
        f"18: rows.clip_mean.recipe.{key}: has no effect: nothing is trained" for key in ("lr", "views.copies")
    ]
    assert notes(tmp_path, row, ("report:\n", "report:\n  profile: {}\n")) == []  # which has the views of a training
    path = write_suite(tmp_path)
    with refused("nothing is trained", where="override rows.clip_mean.recipe.lr=3"):
        load_suite(path, ("rows.clip_mean.recipe.lr=3",))
    with refused("descriptions", where="override recipe.descriptions=glyphs"):
        load_suite(path, ("recipe.descriptions=glyphs",))
    alone = tmp_path / "alone.yaml"
    text = path.read_text()
    alone.write_text(f"{text[: text.index('recipe:')]}{text[text.index('protocol:') : text.index('  dense:')]}")
    for override in ("recipe.epochs=3", "recipe.views.frames=2", "seeds=[3]", "recipe={lr: 3}"):
        with refused("nothing is trained", where=f"override {override}"):
            load_suite(alone, (override,))
    load_suite(alone, ("recipe.backbone=glyph-vit", "recipe.pretrained=random:1"))


def test_settings_of_views_and_draws_that_others_switch_off_are_named(tmp_path: Path) -> None:
    changes = (
        ("  views: {frames: 4, copies: 1}\n", "  views: {frames: 4, copies: 1, stride: 2}\n  repeat: true\n"),
        ("  views: {frames: 4}\nprotocols", "  views: {frames: 4, rate: 30, short_clip: wrap}\nprotocols"),
    )
    found = [note.split(": ")[1] for note in notes(tmp_path, *changes)]
    idle = ["recipe.views.stride", "recipe.repeat", "protocol.views.rate", "protocol.views.short_clip"]
    assert found == idle
    read = ("recipe.views.sampler=strided", "recipe.shots=2", "protocol.views.clips=2")
    assert [note.split(": ")[1] for note in notes(tmp_path, *changes, overrides=read)] == ["protocol.views.rate"]
    with refused("validation", where="override recipe.validate_every=3"):
        load_suite(write_suite(tmp_path), ("recipe.validate_every=3",))


@pytest.mark.parametrize("name", ["seed", "label", "identity"])
def test_an_axis_with_the_name_of_a_column_of_the_results_is_refused(name: str, tmp_path: Path) -> None:
    path = write_suite(
        tmp_path, ("report:", f"axes: {{{name}: {{a: {{recipe.lr: 1}}, b: {{recipe.lr: 2}}}}}}\nreport:")
    )
    with refused(f"axis '{name}' has the name of a column", hint="another name"):
        load_suite(path)

"""Suites: expansion, overrides, and one clear message for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.commands.app import main
from bench.core.errors import UserError
from bench.graph.build import build_graph
from bench.suite.resolve import load_suite
from tests.errors import refused
from tests.suites import write_suite


def test_an_override_is_validated_like_the_file(tmp_path: Path) -> None:
    with refused("recipe.epoch", where="override recipe.epoch=3", hint="'epochs'"):
        load_suite(write_suite(tmp_path), ("recipe.epoch=3",))
    with pytest.raises(UserError, match="written key=value"):
        load_suite(write_suite(tmp_path), ("recipe.epochs",))


def test_a_misspelt_key_that_leaves_a_required_one_out_is_one_mistake(tmp_path: Path) -> None:
    for method in ("method", "fidelity: official, method"):
        file = write_suite(tmp_path, ("dense: {method:", f"dense: {{{method.replace('method', 'metod')}:"))
        with refused("metod", where="small.yaml:19: rows.dense.metod", hint="'method'") as caught:
            load_suite(file)
        assert "required" not in str(caught.value)


def test_an_override_of_a_protocol_that_is_not_there_says_which_was_meant(tmp_path: Path) -> None:
    with refused("new-verb", where="override protocols.new-verb.views.frames=4", hint="'new-verbs'"):
        load_suite(write_suite(tmp_path), ("protocols.new-verb.views.frames=4",))
    added = "protocols.new-verb={role: zero-shot, dataset: glyphs-narrow-verbs, split: test, fusion: cos_mean}"
    assert "new-verb" in load_suite(write_suite(tmp_path), (added,)).file.protocols


def test_overrides_reach_every_level(tmp_path: Path) -> None:
    suite = load_suite(
        write_suite(tmp_path),
        ("recipe.epochs=3", "seeds=[7]", "rows.dense.config.layers=2", "protocols.closed-set.views.clips=3"),
    )
    dense = next(trial for trial in suite.trials if trial.row == "dense")
    assert (dense.recipe.epochs, dense.seed, dense.config.layers) == (3, 7, 2)  # type: ignore[attr-defined]
    assert {name: protocol.views.clips for name, protocol in dense.protocols} == {"closed-set": 3, "new-verbs": 1}


def test_axes_multiply_and_an_untrained_method_has_one_seed(tmp_path: Path) -> None:
    suite = load_suite(
        write_suite(tmp_path, ("config: {layers: 1}}", "axes: {config.layers: [1, 2], recipe.lr: [1, 2, 3]}}"))
    )
    assert len([trial for trial in suite.trials if trial.row == "dense"]) == 2 * 3 * 2
    assert len([trial for trial in suite.trials if trial.row == "clip_mean"]) == 1
    assert suite.axes == {"layers": "config.layers", "lr": "recipe.lr"}


def test_a_bundle_moves_several_fields(tmp_path: Path) -> None:
    suite = load_suite(
        write_suite(
            tmp_path,
            (
                "report:",
                (
                    "axes:\n  world:\n    narrow: {recipe.source: glyphs-narrow}\n"
                    "    broad: {recipe.source: glyphs-broad, protocols.closed-set.dataset: glyphs-broad}\nreport:"
                ),
            ),
        )
    )
    found = {
        dict(trial.point)["world"]: (trial.recipe.source, dict(trial.protocols)["closed-set"].dataset)
        for trial in suite.trials
    }
    assert found == {"narrow": ("glyphs-narrow", "glyphs-narrow"), "broad": ("glyphs-broad", "glyphs-broad")}


def test_a_row_and_an_axis_over_all_protocols_win_over_each_protocols_own(tmp_path: Path) -> None:
    suite = load_suite(
        write_suite(
            tmp_path,
            ("dataset: glyphs-narrow-verbs}", "dataset: glyphs-narrow-verbs, views: {clips: 2}, fusion: cos_mean}"),
            (
                "config: {layers: 1}}",
                "config: {layers: 1}, protocol: {fusion: logit_sum}, axes: {protocol.views.clips: [3]}}",
            ),
        )
    )
    found = {
        (trial.row, name): (protocol.views.clips, protocol.fusion)
        for trial in suite.trials
        for name, protocol in trial.protocols
    }
    assert found["clip_mean", "new-verbs"] == (2, "cos_mean")
    assert found["dense", "new-verbs"] == found["dense", "closed-set"] == (3, "logit_sum")


def test_a_row_is_measured_under_the_protocols_that_it_names(tmp_path: Path) -> None:
    bound = "method: text4vis, config: {classifier: linear}, protocols: [closed-set], protocol: {views: {clips: 2}}"
    suite = load_suite(write_suite(tmp_path, ("method: dense_temporal, config: {layers: 1}", bound)))
    assert list(suite.columns) == ["closed-set", "new-verbs"]
    measured = {trial.row: [name for name, _ in trial.protocols] for trial in suite.trials}
    assert measured.pop("dense") == ["closed-set"]
    assert list(measured.values()) == [[*suite.columns]] * 3
    assert {trial.row for trial in suite.trials if trial.deviations} == {"dense"}
    cells = [(cell.trial.row, cell.protocol) for cell in build_graph(suite).cells if cell.trial.seed == 0]
    assert ("dense", "closed-set") in cells and ("dense", "new-verbs") not in cells


def test_a_training_begins_with_that_of_the_same_seed_and_values(tmp_path: Path) -> None:
    axis = "config: {layers: 1}, axes: {recipe.lr: [0.001, 0.002]}"
    more = f"  more: {{method: dense_temporal, {axis}, init_from: dense, recipe: {{classes: base}}}}\n  mote:"
    suite = load_suite(write_suite(tmp_path, ("config: {layers: 1}", axis), ("  mote:", more)))
    trials = [trial for trial in suite.trials if trial.row == "more"]
    assert len(trials) == 4
    for trial in trials:
        assert trial.init_from and trial.init_from.row == "dense"
        assert (trial.init_from.seed, trial.init_from.point) == (trial.seed, trial.point)


def test_a_column_is_there_if_the_first_row_is_not_measured_under_it(tmp_path: Path) -> None:
    suite = load_suite(write_suite(tmp_path, ("method: clip_mean}", "method: clip_mean, protocols: [new-verbs]}")))
    assert list(suite.columns) == list(build_graph(suite).protocols) == ["closed-set", "new-verbs"]


def test_views_take_the_backbones_size(tmp_path: Path) -> None:
    trial = load_suite(write_suite(tmp_path)).trials[0]
    assert (trial.recipe.views.size, trial.recipe.views.resize) == (64, 73)
    assert {(protocol.views.size, protocol.views.resize) for _, protocol in trial.protocols} == {(64, 64)}


def test_frames_may_stay_as_they_are_until_they_are_cropped(tmp_path: Path) -> None:
    views = "recipe.views={frames: 4, resize: null, augmentation: short_side, copies: 1}"
    recipe = load_suite(write_suite(tmp_path), (views,)).trials[0].recipe
    assert (recipe.views.resize, recipe.views.size) == (None, 64)


def test_an_unknown_suite_says_which_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstar"]) == 2
    assert "did you mean the suite 'quickstart'?" in capsys.readouterr().err


def test_an_earlier_name_of_a_key_is_accepted_and_named_with_its_successor(tmp_path: Path) -> None:
    more = "  more: {method: dense_temporal, config: {layers: 1}, start: dense}\n  mote:"
    suite = load_suite(write_suite(tmp_path, ("  mote:", more)))
    assert any(trial.init_from for trial in suite.trials if trial.row == "more")
    (note,) = suite.notes
    assert note.endswith("small.yaml:20: rows.more.start is now called init_from")
    overridden = load_suite(write_suite(tmp_path), ("rows.mote_no_tfm.start=mote",))
    assert [note.partition(":")[0] for note in overridden.notes] == ["override rows.mote_no_tfm.start=mote"]
    both = more.replace("start: dense", "start: dense, init_from: dense")
    with refused("'init_from'", where="small.yaml:20: rows.more.start"):
        load_suite(write_suite(tmp_path, ("  mote:", both)))


def test_a_row_s_own_axis_over_a_protocol_that_it_is_not_measured_under_is_refused(tmp_path: Path) -> None:
    only, axis = "config: {layers: 1}, protocols: [closed-set]", "{protocols.new-verbs.views.clips: [1, 2]}"
    dense = "dense: {method: dense_temporal, config: {layers: 1}"
    with refused("clips=1", where="rows.dense.axes"):
        load_suite(write_suite(tmp_path, (dense, f"dense: {{method: dense_temporal, {only}, axes: {axis}")))
    suites = write_suite(
        tmp_path, (dense, f"dense: {{method: dense_temporal, {only}"), ("report:", f"axes: {axis}\nreport:")
    )
    assert sum(trial.row == "dense" for trial in load_suite(suites).trials) == 4  # of the suite's axis: two seeds each


def test_an_axis_over_one_protocol_leaves_others_of_the_same_defaults_alone(tmp_path: Path) -> None:
    suite = load_suite(write_suite(tmp_path, ("report:", "axes: {protocols.new-verbs.views.clips: [1, 2]}\nreport:")))
    found = {(dict(trial.point)["clips"], name, p.views.clips) for trial in suite.trials for name, p in trial.protocols}
    assert found == {(1, "closed-set", 1), (2, "closed-set", 1), (1, "new-verbs", 1), (2, "new-verbs", 2)}


@pytest.mark.parametrize("there", ["", "axes: {recipe.batch: [48], both: {a: {recipe.lr: 1}}}\n"])
def test_an_override_adds_an_axis_or_a_field_of_a_bundle(there: str, tmp_path: Path) -> None:
    path = write_suite(tmp_path, ("report:", f"{there}report:"))
    for axis in ("axes", "rows.dense.axes"):
        suite = load_suite(path, (f"{axis}.recipe.epochs=[1, 2]", f"{axis}.config.tower=[frozen]"))
        assert {trial.recipe.epochs for trial in suite.trials if trial.row == "dense"} == {1, 2}
    suite = load_suite(path, ("axes.both.a.recipe.epochs=3", "axes.both.b={recipe.epochs: 2, recipe.lr: 2}"))
    assert {(trial.recipe.epochs, dict(trial.point)["both"]) for trial in suite.trials} == {(3, "a"), (2, "b")}
    with refused("recipe.epoch", where="override axes.recipe.epoch=[1]", hint="'epochs'"):
        load_suite(path, ("axes.recipe.epoch=[1]",))


# ---------------------------------------------------------------------------------------------------------------------
# Trainings that cannot be


def test_soft_targets_are_refused_where_the_loss_needs_labels(tmp_path: Path) -> None:
    contrast = "rows.dense={method: text4vis, config: {loss: nce}}"
    with refused("recipe.smoothing", "row 'dense'", where="recipe.smoothing", hint="smoothing: 0"):
        load_suite(write_suite(tmp_path), (contrast, "recipe.smoothing=0.1"))
    suite = load_suite(write_suite(tmp_path), (contrast, "recipe.smoothing=0.1", "rows.dense.recipe.smoothing=0"))
    assert {trial.row: trial.recipe.soft_targets for trial in suite.trials} == {
        "clip_mean": True,
        "dense": False,
        "mote": True,
        "mote_no_tfm": True,
    }


def test_blends_of_features_that_were_encoded_once_are_refused(tmp_path: Path) -> None:
    mixed = "recipe.mix={group: 4}"
    with refused("row 'dense'", where="recipe.mix", hint="copies: 0"):
        load_suite(write_suite(tmp_path), (mixed,))
    suite = load_suite(write_suite(tmp_path), (mixed, "recipe.views.copies=0"))
    assert suite.trials[0].recipe.mix is not None


def test_a_setting_that_the_schedule_does_not_read_has_no_effect(tmp_path: Path) -> None:
    with refused("no effect", "vifi"):
        load_suite(write_suite(tmp_path), ("recipe.micro_steps=8",))
    with refused("no effect", "floor is 0"):
        load_suite(write_suite(tmp_path), ("recipe.floor_of=tower",))
    load_suite(write_suite(tmp_path), ("recipe.micro_steps=8", "recipe.floor_of=tower", "recipe.schedule=vifi"))


def test_blends_depend_on_the_parts_of_a_batch(tmp_path: Path) -> None:
    def training(*changes: str) -> str:
        suite = load_suite(write_suite(tmp_path), ("seeds=[0]", "recipe.views.copies=0", *changes))
        stages = build_graph(suite).stages.values()
        (dense,) = (each for each in stages if each.kind == "train" and each.spec["method"] == "dense_temporal")
        return dense.identity

    assert training() == training("recipe.accumulate=2")
    assert training("recipe.mix={group: 4}") != training("recipe.mix={group: 4}", "recipe.accumulate=2")

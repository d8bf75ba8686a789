"""Suites: expansion, overrides, and one clear message for every mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.commands.app import main
from bench.core.errors import UserError
from bench.graph.build import build_graph
from bench.suite.resolve import SUITES, load_suite
from tests.errors import refused
from tests.suites import write_suite

MISTAKES = {
    "unknown key": (
        (("  epochs: 1", "  epoch: 1"),),
        ["small.yaml:8: recipe.epoch", "unknown key 'epoch'", "warmup_epochs", "did you mean 'epochs'?"],
    ),
    "unknown key at the top": ((("seeds:", "seed:"),), ["small.yaml:2: seed", "did you mean 'seeds'?"]),
    "unknown key of a method": (
        (("{layers: 1}", "{layer: 1}"),),
        ["small.yaml:19: rows.dense.config.layer", "did you mean 'layers'?"],
    ),
    "unknown key in views": (
        (("views: {frames: 4}", "views: {frame: 4}"),),
        ["unknown key 'frame'", "did you mean 'frames'?"],
    ),
    "wrong type": ((("  batch: 48", "  batch: many"),), ["small.yaml:7: recipe.batch", "valid integer", "'many'"]),
    "out of range": ((("  epochs: 1", "  epochs: -1"),), ["small.yaml:8: recipe.epochs", "greater than 0"]),
    "unknown value": (
        (("role: zero-shot", "role: zeroshot"),),
        ["small.yaml:16: protocols.new-verbs.role", "base, closed-set, novel, zero-shot", "did you mean 'zero-shot'?"],
    ),
    "unknown method": (
        (("method: mote, config: {layers: 1, num_experts: 2}}", "method: motte}"),),
        ["small.yaml:20: rows.mote.method", "unknown method 'motte'", "did you mean 'mote'?"],
    ),
    "duplicate key": (
        (("  lr: 1.0e-3", "  lr: 1.0e-3\n  lr: 2.0e-3"),),
        ["small.yaml:11", "key 'lr' appears twice", "line 10"],
    ),
    "alias": (
        (("seeds: [0, 1]", "seeds: &s [0, 1]"), ("report:\n", "report:\n  compare: *s\n")),
        ["small.yaml:23", "aliases"],
    ),
    "unknown protocol of a row": (
        (("config: {layers: 1}}", "protocols: [closed, new-verbs]}"),),
        ["small.yaml:19: rows.dense.protocols", "unknown protocol 'closed'", "did you mean 'closed-set'?"],
    ),
    "experts under a protocol that their row has not": (
        (
            ("num_experts: 2}", "num_experts: 2}, protocols: [closed-set]"),
            ("experts: [mote]", "experts: [mote]\n  experts_protocol: new-verbs"),
        ),
        ["report.experts_protocol", "unknown protocol 'new-verbs'", "closed-set"],
    ),
    "protocol of no row": (
        (
            ("method: clip_mean}", "method: clip_mean, protocols: [closed-set]}"),
            ("config: {layers: 1}}", "protocols: [closed-set]}"),
            ("num_experts: 2}", "num_experts: 2}, protocols: [closed-set]"),
        ),
        ["small.yaml:16: protocols.new-verbs", "no row is measured under this protocol"],
    ),
    "more frames than positions": (
        (("views: {frames: 4}", "views: {frames: 78}"),),
        ["small.yaml:19: rows.dense", "78 frames, but there are 77 positions in time", "allowed: up to 77"],
    ),
    "frames that do not fit the rates": (
        (
            ("method: dense_temporal", "method: vidprism"),
            ("{layers: 1}}\n  mote", "{classifier: text, rates: [2, 4, 8], keep: 2}}\n  mote"),
        ),
        ["small.yaml:19: rows.dense", "4 frames at rates [2, 4, 8]", "allowed: frames that the slowest rate divides"],
    ),
    "start from a row further down": (
        (("config: {layers: 1}}", "config: {layers: 1}, start: mote}"),),
        ["small.yaml:19: rows.dense.start", "unknown row further up 'mote'", "clip_mean"],
    ),
    "start from another method": (
        (("method: mote, config: {layers: 1, num_experts: 2}}", "method: mote, start: dense}"),),
        ["small.yaml:20: rows.mote.start", "row 'mote' cannot begin with the training of row 'dense'", "same method"],
    ),
    "start from one of several": (
        (
            ("config: {layers: 1}}", "config: {layers: 1}, axes: {recipe.lr: [0.001, 0.002]}}"),
            ("  mote:", "  more: {method: dense_temporal, config: {layers: 1}, start: dense}\n  mote:"),
        ),
        ["small.yaml:20: rows.more.start", "row 'dense' has 2 trainings that could be meant"],
    ),
    "head bound to its classes": (
        (("method: dense_temporal, config: {layers: 1}", "method: text4vis, config: {classifier: linear}"),),
        ["protocols.new-verbs", "row 'dense' has a head bound to its classes", "rows.dense.protocols"],
    ),
    "not YAML": ((("seeds: [0, 1]", "seeds: [0, 1"),), ["small.yaml:3", "not valid YAML"]),
    "empty axis": (
        (("config: {layers: 1}}", "axes: {config.layers: []}}"),),
        ["small.yaml:19: rows.dense.axes", "at least 1 item"],
    ),
    "axis of nothing": (
        (("config: {layers: 1}}", "axes: {layers: [1]}}"),),
        ["rows.dense.axes.layers", "config.<field>"],
    ),
    "wrong value in an axis": (
        (("config: {layers: 1}}", "axes: {config.layers: [0]}}"),),
        ["rows.dense.axes.config.layers", "greater than or equal to 1"],
    ),
    "unknown dataset": (
        (("source: glyphs-narrow", "source: glyph-narrow"),),
        ["small.yaml:4: recipe.source", "did you mean 'glyphs-narrow'?"],
    ),
    "unknown split": (
        (("split: validation", "split: valid"),),
        ["small.yaml:15: protocols.closed-set.split", "did you mean 'validation'?"],
    ),
    "unknown templates": (
        (("  templates: glyphs\n  views: {frames: 4, copies: 1}", "  templates: glyph"),),
        ["small.yaml:5: recipe.templates", "did you mean 'glyphs'?"],
    ),
    "unknown backbone": (
        (("recipe:\n", "recipe:\n  backbone: ViT-B16\n"),),
        ["recipe.backbone", "did you mean 'ViT-B-16'?"],
    ),
    "expert out of range": ((("{tfm: false}", "{expert: 2}"),), ["rows.mote_no_tfm.inference", "expert"]),
    "row of a report": (
        (("reference: clip_mean", "reference: clip"),),
        ["small.yaml:23: report.reference", "did you mean 'clip_mean'?"],
    ),
    "join along no axis": ((("report:\n", "report:\n  join: layers\n"),), ["report.join", "unknown axis 'layers'"]),
    "no protocols": (
        (
            (
                "  closed-set: {role: closed-set, dataset: glyphs-narrow, split: validation}\n"
                "  new-verbs: {role: zero-shot, dataset: glyphs-narrow-verbs}\n",
                "  {}\n",
            ),
        ),
        ["at least 1 item"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gives_one_clear_message_and_exit_code_2(
    mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, expected = MISTAKES[mistake]
    assert main(["plan", str(write_suite(tmp_path, *changes)), "--store", str(tmp_path / "runs")]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    for part in expected:
        assert part in message
    assert not (tmp_path / "runs").exists()


def test_an_override_is_validated_like_the_file(tmp_path: Path) -> None:
    with refused("recipe.epoch", where="override recipe.epoch=3", hint="'epochs'"):
        load_suite(write_suite(tmp_path), ("recipe.epoch=3",))
    with pytest.raises(UserError, match="written key=value"):
        load_suite(write_suite(tmp_path), ("recipe.epochs",))


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
    more = f"  more: {{method: dense_temporal, {axis}, start: dense, recipe: {{classes: base}}}}\n  mote:"
    suite = load_suite(write_suite(tmp_path, ("config: {layers: 1}", axis), ("  mote:", more)))
    trials = [trial for trial in suite.trials if trial.row == "more"]
    assert len(trials) == 4
    for trial in trials:
        assert trial.start and trial.start.row == "dense"
        assert (trial.start.seed, trial.start.point) == (trial.seed, trial.point)


def test_a_column_is_there_if_the_first_row_is_not_measured_under_it(tmp_path: Path) -> None:
    suite = load_suite(write_suite(tmp_path, ("method: clip_mean}", "method: clip_mean, protocols: [new-verbs]}")))
    assert list(suite.columns) == list(build_graph(suite).protocols) == ["closed-set", "new-verbs"]


def test_views_take_the_backbones_size(tmp_path: Path) -> None:
    trial = load_suite(write_suite(tmp_path)).trials[0]
    assert (trial.recipe.views.size, trial.recipe.views.resize) == (64, 73)
    assert {(protocol.views.size, protocol.views.resize) for _, protocol in trial.protocols} == {(64, 64)}


def test_an_unknown_suite_says_which_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstar"]) == 2
    assert "did you mean 'quickstart'?" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_suites_are_valid_and_say_what_they_are(path: Path) -> None:
    assert load_suite(path).trials
    header = [line for line in path.read_text().splitlines() if line.startswith("# ") and not line.startswith("#  ")]
    said = [line.split()[1] for line in header]
    assert [name for name in said if name != "Needs"] == ["Paper", "Expected", "Hardware", "Time", "Command"]


@pytest.mark.parametrize("page", ["README.md", "docs/add_a_dataset.md"])
def test_the_suite_in_the_documents_is_valid(page: str, tmp_path: Path) -> None:
    for text in re.findall(r"```yaml\n(.*?)```", (SUITES.parent / page).read_text(), re.DOTALL):
        part = "" if "rows:" in text else "title: A part of a suite\nrows: {mean: {method: clip_mean}}\n"
        assert load_suite(write_suite(tmp_path, text=part + text)).trials

"""Training and test of one dataset agree, or the suite says that they are meant to differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.commands.app import main
from bench.suite.resolve import SUITES, load_suite
from tests.errors import refused
from tests.suites import SMALL, write_suite

EMBEDDED = {"quickstart", "depth", "interpolation", "tuned"}  # they have no counterpart in a world
SHIPPED: list[tuple[Path, tuple[str, ...]]] = [(path, ()) for path in sorted(SUITES.glob("*.yaml"))]
MOVED: list[tuple[Path, tuple[str, ...]]] = [
    (path, ("world=glyphs",)) for path, _ in SHIPPED if path.stem not in EMBEDDED
]

SUPERVISED = """\
title: Supervised
datasets: {mine: {like: ucf101, root: .}}
recipe:
  {source: ucf101, split: train1, templates: text4vis, backbone: ViT-B-16, pretrained: random:0, views: {frames: 16}}
protocols:
  UCF: {use: text4vis/ucf101}
rows:
  k: {method: text4vis}
  more: {method: text4vis, config: {layers: 1}}
  clip: {method: clip_mean}
"""


@pytest.mark.parametrize(("path", "overrides"), SHIPPED + MOVED, ids=lambda each: getattr(each, "stem", str(each)))
def test_a_shipped_suite_has_no_undeclared_difference_and_no_idle_setting(
    path: Path, overrides: tuple[str, ...]
) -> None:
    notes = load_suite(path, overrides).notes
    assert [note for note in notes if not ("matched" in path.stem and "rows.tc_clip learns the words" in note)] == []


def test_another_spelling_in_the_test_is_named_with_place_rows_and_both_values(tmp_path: Path) -> None:
    (note,) = load_suite(write_suite(tmp_path, text=SUPERVISED)).notes
    assert "small.yaml:8: rows.k trains with labels '' (Apply Eye Makeup) (as more), but protocols.UCF" in note
    assert "'camel' (ApplyEyeMakeup)" in note and note.endswith("protocols.UCF says unlike_training: [labels]")
    assert load_suite(write_suite(tmp_path, text=SUPERVISED), ("recipe.labels=camel",)).notes == ()


def test_a_declared_difference_is_not_named(tmp_path: Path) -> None:
    declared = ("text4vis/ucf101}", "text4vis/ucf101, unlike_training: [labels]}")
    suite = load_suite(write_suite(tmp_path, declared, text=SUPERVISED))
    assert suite.notes == ()
    plain = load_suite(write_suite(tmp_path, text=SUPERVISED))
    assert suite.columns["UCF"].fields() == plain.columns["UCF"].fields()  # it is no part of what is measured
    (note,) = load_suite(write_suite(tmp_path, declared, text=SUPERVISED), ("recipe.labels=camel",)).notes
    assert "small.yaml:6: protocols.UCF.unlike_training: has no effect" in note and "in labels" in note
    with refused("'label'", where="small.yaml:6: protocols.UCF.unlike_training", allowed=["labels"], hint="'labels'"):
        load_suite(write_suite(tmp_path, ("[labels]", "[label]"), text=SUPERVISED.replace(*declared)))


@pytest.mark.parametrize(
    ("override", "field", "values"),
    [
        ("protocols.UCF.views.frames=8", "frames", ("16", "8")),
        ("protocols.UCF.templates=mote28", "templates", ("text4vis", "mote28")),
        ("protocols.UCF.views.normalise=imagenet", "normalise", ("model", "imagenet")),
        ("protocols.UCF.views.size=196", "size", ("224", "196")),
    ],
)
def test_every_compared_setting_is_named(tmp_path: Path, override: str, field: str, values: tuple[str, str]) -> None:
    suite = load_suite(write_suite(tmp_path, text=SUPERVISED), ("recipe.labels=camel", override))
    (note,) = suite.notes
    assert f"trains with {field} {values[0]} (as more)" in note and f"tests with {values[1]} on" in note


def test_a_copy_under_another_name_is_the_same_dataset_and_another_dataset_is_not(tmp_path: Path) -> None:
    copied = load_suite(write_suite(tmp_path, text=SUPERVISED), ("protocols.UCF.dataset=mine",))
    assert len(copied.notes) == 1
    other = ("protocols.UCF.dataset=hmdb51", "protocols.UCF.labels=''", "protocols.UCF.views.frames=8")
    assert load_suite(write_suite(tmp_path, text=SUPERVISED), other).notes == ()


OWN = """\
title: Own
datasets:
  mine: {root: videos, classes: names.txt, variants: {ing: ing.txt}, splits: {train: a.txt, test: b.txt}}
  copy: {root: ./videos, classes: ing.txt, splits: {test: b.txt}}
  other: {root: videos, classes: more.txt, splits: {test: c.txt}}
recipe: {source: mine, views: {frames: 4}}
protocols:
  same: {role: closed-set, dataset: mine, views: {frames: 4}}
rows: {dense: {method: dense_temporal}}
"""


def own_notes(folder: Path, *overrides: str) -> list[str]:
    (folder / "names.txt").write_text("ride bike\nshoot ball\n")
    (folder / "ing.txt").write_text("riding a bike\nshooting a ball\n")
    (folder / "more.txt").write_text("swim\nrun\n")
    return list(load_suite(write_suite(folder, text=OWN), overrides).notes)


def test_other_words_for_the_classes_of_one_dataset_are_named(tmp_path: Path) -> None:
    assert own_notes(tmp_path) == []
    (note,) = own_notes(tmp_path, "protocols.same.labels=ing")
    assert "labels '' (ride bike), but" in note and "tests with 'ing' (riding a bike)" in note
    assert own_notes(tmp_path, "protocols.same.labels=ing", "recipe.labels=ing") == []


def test_a_dataset_of_the_same_videos_is_the_same_and_one_of_other_classes_beside_them_is_not(tmp_path: Path) -> None:
    (note,) = own_notes(tmp_path, "protocols.same.dataset=copy")
    assert "'' (ride bike)" in note and "'' (riding a bike)" in note
    assert own_notes(tmp_path, "protocols.same.dataset=copy", "recipe.labels=ing") == []
    (note,) = own_notes(tmp_path, "protocols.same.dataset=copy", "recipe.labels=ing", "protocols.same.views.frames=8")
    assert "frames 4" in note
    assert own_notes(tmp_path, "protocols.same.dataset=other", "protocols.same.views.frames=8") == []


def test_clips_crops_and_the_short_side_may_differ(tmp_path: Path) -> None:
    more = ("protocols.closed-set.views.clips=3", "protocols.closed-set.views.resize=70")
    assert load_suite(write_suite(tmp_path, text=SMALL), more).notes == ()


def test_the_plan_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(write_suite(tmp_path, text=SUPERVISED)), "--store", str(tmp_path)]) == 0
    printed = "".join(capsys.readouterr())
    assert "note: " in printed and "unlike_training: [labels]" in printed

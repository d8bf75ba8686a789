"""Rows on features from elsewhere: which are planned, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.commands.app import main
from bench.graph.build import build_graph
from bench.suite.resolve import load_suite
from tests.data.test_features import FEATURES, NAMES, write
from tests.errors import refused, says
from tests.suites import write_suite

SUITE = """title: Stored
datasets:
  own:
    root: .
    classes: classes.csv
    features:
      backbone: glyph-vit
      pretrained: builtin
      splits:
        train: {files: f.npz, views: {frames: 4, copies: 1}}
        fixed: {files: f.npz, views: {frames: 4}}
        test: {files: f.npz, views: {frames: 4}}
recipe: {source: own, templates: glyphs, views: {frames: 4, copies: 1}}
protocol: {templates: glyphs, views: {frames: 4}}
protocols:
  closed-set: {role: closed-set, dataset: own}
rows:
  row: {method: dense_temporal}
"""
ROW = "{method: dense_temporal}"
TEST = "test: {files: f.npz, views: {frames: 4"
ASKS = "protocol: {templates: glyphs, views: {frames: 4"
SOURCE = "recipe: {source: own, templates: glyphs, views: {frames: 4, copies: 1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "classes.csv").write_text("id,name\n0,one\n1,two\n2,three\n")
    write(tmp_path / "f.npz", labels=[0, 1, 2])
    return tmp_path


def test_frozen_rows_are_planned_without_decoding(folder: Path) -> None:
    graph = build_graph(load_suite(write_suite(folder, text=SUITE)))
    stages = {stage.title: stage for stage in graph.stages.values()}
    taken = [own for title, own in stages.items() if title.startswith("take over features of own/")]
    assert len(taken) == 2 and not graph.missing
    assert all(own.modules == ("bench.stages.stored_features",) and not own.frames and not own.flops for own in taken)
    assert [own for own in graph.notes["own", "test"] if "claimed to be those of glyph-vit (builtin), 4 frames" in own]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{method: clip_mean, config: {tower: tuned}}", "tunes the visual tower"),
        ("{method: mote, config: {tower: tuned}}", "tunes the visual tower"),
        ("{method: adaptformer}", "has a tower of its own"),
        ("{method: dense_temporal, recipe: {pretrained: 'random:0'}}", "recipe.pretrained is random:0"),
        ("{method: dense_temporal, recipe: {validation: test}}", "recipe.validation"),
        ("{method: dense_temporal, recipe: {views: {copies: 0}}}", "recipe.views.copies is 0"),
        ("{method: dense_temporal, recipe: {views: {copies: 2}}}", "recipe.views.copies is 2"),
        ("{method: dense_temporal, recipe: {views: {frames: 2}}}", "recipe.views.frames is 2"),
        ("{method: dense_temporal, recipe: {views: {augmentation: mote}}}", "recipe.views.augmentation is mote"),
        ("{method: dense_temporal, recipe: {split: other}}", "split of dataset 'own' 'other'"),
    ],
)
def test_other_rows_are_refused_with_their_line(folder: Path, row: str, said: str) -> None:
    with refused(said) as caught:
        load_suite(write_suite(folder, (ROW, row), text=SUITE))
    if "split of" not in said and "validation" not in said:
        says(
            str(caught.value),
            "small.yaml:18: rows.row: row 'row' is",
            "features from f.npz, claimed to be those of glyph-vit",
        )
        assert "allowed: " in str(caught.value)


@pytest.mark.parametrize(
    ("claimed", "asked", "said", "allowed"),
    [
        ("", ", clips: 2", "views.clips is 2", "1"),
        ("", ", crops: 3", "views.crops is 3", "1"),
        (", clips: 2", "", "views.clips is 1", "2"),
        ("", ", resize: 72", "views.resize is 72", "64"),
        (", size: 60, resize: 64", "", "views.size is 64", "60"),
        ("", ", normalise: imagenet", "views.normalise is imagenet", "model"),
        ("", ", sampler: dense", "views.sampler is dense", "segment_start"),
    ],
)
def test_other_views_are_refused(folder: Path, claimed: str, asked: str, said: str, allowed: str) -> None:
    changes = (TEST, TEST + claimed), (ASKS, ASKS + asked)
    with refused("is measured under 'closed-set' on 'own/test', features from f.npz", said, allowed=[allowed]):
        load_suite(write_suite(folder, *changes, text=SUITE))


def test_more_frames_are_refused_and_fewer_taken_where_they_are_exact(folder: Path) -> None:
    for frames in (8, 3):
        with refused(f"views.frames is {frames}", where="rows.row", allowed=["4", "2", "1"]):
            load_suite(write_suite(folder, (ASKS, ASKS.replace("4", str(frames))), text=SUITE))
    load_suite(write_suite(folder, (ASKS, ASKS.replace("4", "2")), text=SUITE))
    centre = ", sampler: segment_centre"
    with refused("views.frames is 2", allowed=["4"]) as caught:
        load_suite(write_suite(folder, (TEST, TEST + centre), (ASKS, ASKS.replace("4", "2") + centre), text=SUITE))
    assert "4, 2" not in str(caught.value)


def test_another_backbone_is_refused(folder: Path) -> None:
    changes = ("backbone: glyph-vit", "backbone: ViT-B-16"), ("pretrained: builtin", "pretrained: openai")
    with refused("recipe.backbone is glyph-vit", "allowed: ViT-B-16", where="rows.row") as caught:
        load_suite(write_suite(folder, *changes, text=SUITE))
    assert "views.size" not in str(caught.value)  # which follows from the backbone


def test_training_views_are_no_test(folder: Path) -> None:
    with refused("random views of a training", allowed=["features without `copies`"]):
        load_suite(write_suite(folder, (TEST, TEST + ", copies: 1"), text=SUITE))


def test_trainings_take_deterministic_views_as_they_are(folder: Path) -> None:
    fixed = SOURCE.replace("own,", "own, split: fixed,")
    with refused("recipe.views.resize is 73", allowed=["64"]):
        load_suite(write_suite(folder, (SOURCE, fixed), text=SUITE))
    load_suite(write_suite(folder, (SOURCE, fixed + ", resize: 64"), text=SUITE))
    with refused("recipe.views.augmentation is mote", allowed=["none"]):
        load_suite(write_suite(folder, (SOURCE, fixed + ", resize: 64, augmentation: mote"), text=SUITE))
    crops = ("fixed: {files: f.npz, views: {frames: 4", "fixed: {files: f.npz, views: {frames: 4, crops: 3")
    with refused("3 crops", allowed=["features of one crop"]):
        load_suite(write_suite(folder, (SOURCE, fixed + ", resize: 64"), crops, text=SUITE))


def test_a_look_at_the_source_needs_a_deterministic_view(folder: Path) -> None:
    row = "{method: text4vis, config: {classifier: lda}}"
    with refused("random views of a training"):
        load_suite(write_suite(folder, (ROW, row), text=SUITE))
    fixed = SOURCE.replace("own,", "own, split: fixed,") + ", resize: 64"
    load_suite(write_suite(folder, (ROW, row), (SOURCE, fixed), text=SUITE))


def test_normalised_features_and_maps_are_refused(folder: Path) -> None:
    with refused("need the lengths of features", "allowed: features before normalisation, with normalised: false"):
        load_suite(
            write_suite(folder, ("pretrained: builtin\n", "pretrained: builtin\n      normalised: true\n"), text=SUITE)
        )
    expert = "{method: mote, config: {num_experts: 2}}\nreport: {experts: [row], maps: 2}"
    with refused("maps need frames", allowed=["report.maps: 0"]):
        load_suite(write_suite(folder, (ROW, expert), text=SUITE))


@pytest.mark.parametrize(
    ("old", "new", "said", "line"),
    [
        ("backbone: glyph-vit", "backbone: ViT-B-61", "did you mean 'ViT-B-16'", 7),
        ("test: {files: f.npz", "test: {files: f.pt", "allowed: .safetensors, .npz, .parquet", 12),
        (TEST, TEST.replace("frames", "frame"), "did you mean 'frames'", 12),
        (TEST, TEST + ", copies: 0", "copies is the number of stored views", 12),
        ("pretrained: builtin\n", "normalized: true\n", "did you mean 'normalised'", 8),
    ],
)
def test_mistakes_in_a_declaration_have_a_line(folder: Path, old: str, new: str, said: str, line: int) -> None:
    with refused(said, where=f"small.yaml:{line}:"):
        load_suite(write_suite(folder, (old, new), text=SUITE))


def test_plan_and_run_refuse_features_of_another_width_before_any_work(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, store = write_suite(folder, text=SUITE), folder / "runs"
    write(folder / "f.npz", FEATURES[..., :64].copy(), NAMES, [0, 1, 2])
    assert main(["plan", str(suite), "--store", str(store)]) == 2
    said = (
        "3 of 3 videos of own/train cannot be read, such as 'a/x.mp4' (f.npz: 'a/x.mp4' has shape [4, 64], and [4, 128]"
    )
    says(capsys.readouterr().out, said)
    assert main(["run", str(suite), "--store", str(store), "--jobs", "0"]) == 2
    says(capsys.readouterr().err, said)
    assert not store.exists()


def test_a_stage_ends_with_the_entries_that_are_not_finite(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = write_suite(folder, (ROW, "{method: clip_mean}"), text=SUITE)
    features = FEATURES.copy()
    features[1, 0, 0] = float("nan")
    write(folder / "f.npz", features, NAMES, [0, 1, 2])
    command = ["run", str(suite), "--store", str(folder / "runs"), "--jobs", "0"]
    assert main(command) == 1
    says(capsys.readouterr().err, "features of 1 videos of 'own'", "f.npz: 'b/y.mp4' has numbers that are not finite")
    suite.write_text(suite.read_text().replace("    root: .\n", "    root: .\n    known_bad: [b/y.mp4]\n"))
    assert main(command) == 0
    features = FEATURES / (FEATURES**2).sum(axis=-1, keepdims=True) ** 0.5
    write(folder / "f.npz", features, NAMES, [0, 1, 2])
    assert main(command) == 1
    says(capsys.readouterr().err, "all features of 'own' have length 1", "features from f.npz")

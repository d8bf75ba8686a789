"""Suites on backbones that give one feature a clip: who is refused, and what the plan says."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.commands.app import app
from bench.graph.build import build_graph
from bench.models.backbones import backbone
from bench.suite.resolve import load_suite
from methods.mote.config import Config as MoteConfig
from tests.errors import refused, says
from tests.suites import write_suite

SUITE = """title: Video tower
seeds: [0]
recipe: {source: glyphs-narrow, backbone: glyph-viclip, pretrained: 'random:0', templates: glyphs, views: {frames: 4}}
protocol: {templates: glyphs, views: {frames: 4}}
protocols:
  closed-set: {role: closed-set, dataset: glyphs-narrow, split: validation}
rows:
  row: {method: clip_mean}
"""
CLIP = "{method: clip_mean}"
ALLOWED = ["clip_mean", "msta", "text4vis with head: none and inside: none"]


@pytest.mark.parametrize(
    "row",
    [
        "{method: mote}",
        "{method: dense_temporal}",
        "{method: vidprism}",
        "{method: text4vis}",
        "{method: text4vis, config: {head: none, inside: joint_st}}",
    ],
)
def test_methods_that_need_frames_are_refused(tmp_path: Path, row: str) -> None:
    said = "works on features of single frames; backbone 'glyph-viclip' gives one feature a clip"
    with refused(said, where="rows.row", allowed=ALLOWED):
        load_suite(write_suite(tmp_path, (CLIP, row), text=SUITE))


@pytest.mark.parametrize(
    "row",
    [
        "{method: clip_mean, config: {tower: tuned}}",
        "{method: text4vis, config: {head: none, tower: tuned}}",
        "{method: msta, config: {branches: text, middle: none, cc_weight: 0}}",
        "{method: msta, config: {temporal_cls: false}, recipe: {descriptions: glyphs}}",
        "{method: msta, config: {up: spatial}, recipe: {descriptions: glyphs}}",
    ],
)
def test_the_others_are_planned_with_one_feature_a_clip(tmp_path: Path, row: str) -> None:
    suite = load_suite(write_suite(tmp_path, (CLIP, row), text=SUITE))
    graph, shape = build_graph(suite), backbone("glyph-viclip")
    encode = next(stage for stage in graph.stages.values() if stage.kind == "encode")
    videos = round(encode.flops / shape.view_flops(4))
    assert encode.flops == videos * shape.view_flops(4) and encode.disk == 4 * videos * shape.embed_dim
    assert not [note for note in suite.notes if "positions in time" in note]


@pytest.mark.parametrize("up", ["both", "temporal"])
def test_msta_mixes_no_class_tokens_over_time_where_a_clip_has_one(tmp_path: Path, up: str) -> None:
    row = f"{{method: msta, config: {{up: {up}}}, recipe: {{descriptions: glyphs}}}}"
    with refused("temporal_cls: true, but 'glyph-viclip' has one class token a clip", where="rows.row") as told:
        load_suite(write_suite(tmp_path, (CLIP, row), text=SUITE))
    says(str(told.value), "allowed: temporal_cls: false with up: both, or up: spatial")


@pytest.mark.parametrize(
    ("frames", "how"), [(1, "their mean is"), (3, "the first 3 are"), (8, "interpolated ones are")]
)
def test_the_plan_says_how_other_numbers_of_frames_are_read(tmp_path: Path, frames: int, how: str) -> None:
    changed = ("split: validation}", f"split: validation, views: {{frames: {frames}}}}}")
    notes = load_suite(write_suite(tmp_path, changed, text=SUITE)).notes
    said = f"reads {frames} frames, and glyph-viclip has 4 positions in time: {how} used"
    says("\n".join(notes), f"protocols.closed-set {said}")


def test_maps_of_a_video_tower_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MoteConfig, "without_frames", {})
    text = write_suite(tmp_path, (CLIP, "{method: mote}"), text=SUITE + "report: {experts: [row], maps: 2}\n")
    (problem,) = load_suite(text).problems
    says(str(problem), "report.maps", "glyph-viclip reads a clip as one sequence")
    assert not load_suite(text, ("report.maps=0",)).problems


def test_a_profile_is_refused_alike(tmp_path: Path) -> None:
    asked = ["profile", "mote", "--backbone", "glyph-viclip", "--counts-only", "--store", str(tmp_path)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code and "works on features of single frames" in str(result.exception)
    asked[1] = "msta"
    assert "allowed: temporal_cls: false" in str(CliRunner().invoke(app, asked).exception)

"""Class features from a file: by name and by content, the same as those of the text tower where they are the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from bench.commands.app import main
from bench.core.errors import UserError
from bench.glyphs.world import class_names
from bench.graph.build import Graph, build_graph
from bench.models.class_features import class_features
from bench.suite.resolve import load_suite
from tests.errors import refused, says
from tests.suites import write_suite
from tests.videos import write_tiny_dataset

D = 4
NAMES = ["a star", "a heart", "a flag"]
TINY = """\
title: Tiny
datasets:
  tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}
recipe: {source: tiny, templates: glyphs}
protocol: {templates: glyphs, views: {frames: 2}}
protocols:
  closed-set: {role: closed-set, dataset: tiny}
rows:
  clip: {method: clip_mean}
"""
WITH = ("  epochs: 1\n", "  epochs: 1\n  class_features: $FEATURES\n")


def write(path: Path, names: list[str] = NAMES, rows: np.ndarray | None = None, key: str = "classes") -> Path:
    rows_CD = np.random.default_rng(0).normal(size=(len(names), D)) if rows is None else rows
    save_file({key: rows_CD.astype(np.float32)}, path, metadata={"names": json.dumps(names)})
    return path


def test_features_come_by_name_and_have_unit_norm(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.safetensors")
    rows_CD = load_file(path)["classes"]
    found = class_features(str(path), ["a flag", "a star"], D)
    np.testing.assert_allclose(found, rows_CD[[2, 0]] / np.linalg.norm(rows_CD[[2, 0]], axis=1, keepdims=True), 1e-6)
    assert found.dtype == np.float32


def test_a_file_that_does_not_fit_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.safetensors")
    with refused("'a king', 'a die'", where=str(path)):
        class_features(str(path), ["a star", "a king", "a die"], D)
    with refused("3 x 4", "3 x 512", where=str(path)):
        class_features(str(path), NAMES, 512)
    other = write(tmp_path / "other.safetensors", key="rows")
    with pytest.raises(UserError, match="not a file of class features"):
        class_features(str(other), NAMES, D)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(UserError, match="not a file of class features"):
        class_features(str(tmp_path / "text.safetensors"), NAMES, D)
    twice = write(tmp_path / "twice.safetensors", [*NAMES, NAMES[0]])
    with pytest.raises(UserError, match="a name twice"):
        class_features(str(twice), NAMES, D)
    zeros = write(tmp_path / "zeros.safetensors", rows=np.zeros((3, D)))
    with pytest.raises(UserError, match=f"'{NAMES[0]}', '{NAMES[1]}'.* are zero or not finite"):
        class_features(str(zeros), NAMES, D)
    rows = np.ones((3, D))
    rows[1, 2] = np.nan
    with pytest.raises(UserError, match=f"features of '{NAMES[1]}' are zero or not finite"):
        class_features(str(write(tmp_path / "nan.safetensors", rows=rows)), NAMES, D)


def _graph(folder: Path, *changes: tuple[str, str]) -> Graph:
    return build_graph(load_suite(write_suite(folder, *changes)))


def test_a_file_counts_by_content_and_one_that_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FEATURES", raising=False)
    says(_graph(tmp_path, WITH).missing["$FEATURES"], "$FEATURES is not set")
    assert main(["run", str(tmp_path / "small.yaml"), "--store", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    says(error, "recipe: class features: ", "$FEATURES")
    assert "dataset" not in error
    names = [*class_names("narrow", "source"), *class_names("narrow", "verbs")]
    identities = []
    for number, width in enumerate((128, 128, 128)):
        rows_CD = np.random.default_rng(number // 2).normal(size=(len(names), width))
        monkeypatch.setenv("FEATURES", str(write(tmp_path / f"{number}.safetensors", names, rows_CD)))
        graph = _graph(tmp_path, WITH)
        assert not graph.missing
        identities.append({stage.title: stage.identity for stage in graph.stages.values()})
    assert identities[0] == identities[1]
    assert identities[0]["train dense seed 0"] != identities[2]["train dense seed 0"]


def test_a_method_that_adapts_the_text_tower_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    msta = ("method: dense_temporal, config: {layers: 1}", "method: msta")
    guided = ("  epochs: 1\n", "  epochs: 1\n  descriptions: glyphs\n  class_features: file\n")
    assert main(["plan", str(write_suite(tmp_path, msta, guided))]) == 2
    says(capsys.readouterr().err, "row 'dense'", "text tower")


def test_the_text_towers_own_features_from_a_file_give_its_own_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_dataset(tmp_path)
    store, suite = tmp_path / "runs", tmp_path / "tiny.yaml"
    arguments = ["--store", str(store), "--jobs", "0", "--workers", "0", "--device", "cpu"]
    suite.write_text(TINY)
    assert main(["run", str(suite), *arguments]) == 0
    (record,) = store.glob("records/texts/*/record.json")
    names = json.loads(record.read_text())["context"]["class_names"]
    rows_CD = 3 * load_file(record.parent / "classes.safetensors")["classes"]
    monkeypatch.setenv("FEATURES", str(write(tmp_path / "own.safetensors", names[::-1], rows_CD[::-1].copy())))
    suite.write_text(f"{TINY}  file: {{method: clip_mean, recipe: {{class_features: $FEATURES}}}}\n")
    assert main(["run", str(suite), *arguments]) == 0
    table = pd.read_csv(store / "reports/tiny/table.csv").set_index("row")
    assert table["closed-set_mean"]["clip"] == table["closed-set_mean"]["file"]

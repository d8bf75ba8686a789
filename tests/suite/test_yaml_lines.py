"""YAML whose keys know their lines: what is refused, and where errors of a model are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict

from bench.suite.yaml_lines import KeyPath, load_value, load_yaml, validate
from tests.errors import refused

TEXT = """\
title: A
rows:
  one: {method: mean}
  two:
    axes: [1, 2]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text)
    return path


def test_every_key_and_item_has_its_line(tmp_path: Path) -> None:
    data, lines = load_yaml(written(tmp_path, TEXT))
    assert data == {"title": "A", "rows": {"one": {"method": "mean"}, "two": {"axes": [1, 2]}}}
    assert lines["title",] == 1 and lines["rows", "one", "method"] == 3 and lines["rows", "two"] == 4
    assert lines["rows", "two", "axes", 1] == 5


@pytest.mark.parametrize(
    ("text", "line", "named", "hint"),
    [
        ("a: 1\nb: 2\na: 3\n", "file.yaml:3", "'a'", "line 1"),
        ("a: &x 1\nb: *x\n", "file.yaml:2", "*name", "axis"),
        ("a: [1\nb: 2\n", "file.yaml:2", "YAML", ""),
        ("- a\n- b\n", "file.yaml", "mapping", ""),
        ("", "file.yaml", "mapping", ""),
    ],
)
def test_a_file_that_cannot_be_is_refused_at_its_line(
    text: str, line: str, named: str, hint: str, tmp_path: Path
) -> None:
    with refused(named, where=line, hint=hint):
        load_yaml(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "value"), [("1:30:00", "1:30:00"), ("1:30", "1:30"), ("3", 3), ("1.0e-3", 0.001), ("[a, 1]", ["a", 1])]
)
def test_hours_are_text_and_numbers_are_numbers(text: str, value: object) -> None:
    assert load_value(text) == value


class Views(BaseModel):
    model_config = ConfigDict(extra="forbid")
    frames: int = 8
    crop: Literal["centre", "quarters"] = "centre"


class Suite(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str
    views: Views = Views()
    rows: dict[str, Views] = {}


@pytest.mark.parametrize(
    ("data", "where", "named", "allowed", "hint"),
    [
        ({"title": "A", "view": {}}, "view", "key 'view'", ["views"], "'views'"),
        ({"title": "A", "views": {"frame": 1}}, "views.frame", "key 'frame'", ["frames", "crop"], "'frames'"),
        ({"title": "A", "rows": {"one": {"frame": 1}}}, "rows.one.frame", "'frame'", ["frames"], "'frames'"),
        ({"title": "A", "views": {"crop": "center"}}, "views.crop", "'center'", ["centre", "quarters"], "'centre'"),
        ({"title": "A", "views": {"frames": "many"}}, "views.frames", "'many'", [], ""),
        ({}, "", "'title'", [], ""),
    ],
)
def test_the_first_mistake_is_reported_at_its_key_with_the_choices(
    data: dict[str, Any], where: str, named: str, allowed: list[str], hint: str
) -> None:
    def place(path: KeyPath) -> str:
        return ".".join(map(str, path))

    with refused(named, where=where, allowed=allowed, hint=hint):
        validate(Suite, data, place)
    assert validate(Suite, {"title": "A"}, place) == Suite(title="A")

"""YAML whose keys know their lines: what is refused, and where errors of a model are found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, MaxLen, MinLen
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
    ("content", "line", "named"),
    [
        ("title: na\u00efve".encode("latin-1"), 1, "UTF-8"),
        (b"a: 1\nb: \xff\n", 2, "UTF-8"),
        ("a: 1\n".encode("utf-16"), 1, "UTF-8"),
        (b"a: 1\nb: x\0y\n", 2, "U+0000"),
        (b'a: 1\nb: "x\\0y"\n', 2, "U+0000"),
        (b'a: 1\nb: "\\ud800"\n', 2, "U+D800"),
        (b"a: 1\n? {b: c}\n: 1\n", 2, "{'b': 'c'}"),
        (b"a: 1\n? [b]\n: 1\n", 2, "['b']"),
        (b"a: 1\n2: 1\n", 2, "key 2"),
        (b"a: 1\nyes: 1\n", 2, "key true"),
        (b"a: 1\nnull: 1\n", 2, "key nothing"),
        (b"a: 1\nb: !!python/object/apply:os.getcwd []\n", 2, "!!python/object/apply:os.getcwd"),
        (b"a: 1\nb: !!binary aGk=\n", 2, "!!binary"),
        (b"a: 1\nb: !!int ''\n", 2, "int"),
        (b"a: 1\nb: !!map [1]\n", 2, "!!map"),
        (b"a: 1\nb: !own x\n", 2, "!own"),
        (b"a: 1\nb: " + b"9" * 5000, 2, "int"),
        (b"a: 1\nb: 0x" + b"f" * 9000, 2, "too large"),
        (b"a: 1\nb: " + b"[" * 100 + b"]" * 100, 2, "in each other"),
        (b"a: 1\nb: " + b"{" * 500, 2, "in each other"),
        (b"a: 1\nb:\t- 1\n\t- 2\n", 2, "YAML"),
        (b"a: 1\n---\nb: 1\n", 2, "another document"),
        (b"- a\n", 1, "mapping"),
        (b"text", 1, "mapping"),
        (b"", 1, "mapping"),
    ],
)
def test_what_is_no_mapping_of_plain_values_is_refused_at_its_line(
    content: bytes, line: int, named: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    with refused(named, where=f"{path}:{line}: "):
        load_yaml(path)


def test_only_regular_files_of_a_limited_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(10**12)
    for name, named in {
        "pipe": "regular",
        "zero": "regular",
        ".": "regular",
        "large": "bytes",
        "none": "no such",
    }.items():
        with refused(named, where=str(tmp_path / name)):
            load_yaml(tmp_path / name)


@pytest.mark.parametrize("text", ["2024-05-01", "<<", "=", "010", "1:30"])
def test_dates_and_other_signs_are_text(text: str) -> None:
    assert load_value(text) == text
    assert load_value(f"{text}: 1") == {text: 1}


@pytest.mark.parametrize("text", ["[1", "\0", "[" * 300, "!!set {a}", "{1: 2}"])
def test_a_value_that_cannot_be_read_is_refused_at_its_place(text: str) -> None:
    with refused(where="override x"):
        load_value(text, "override x")


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
    title: Annotated[str, MaxLen(100)]
    either: Annotated[list[Any], MinLen(1)] | Annotated[dict[str, dict[str, Any]], MinLen(1)] = [1]
    drawn: Annotated[int, Ge(0)] | Literal["trial"] = "trial"
    pair: tuple[int, int] = (1, 2)
    on: bool = True
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
        ({"title": 5}, "title", "expected text, got 5", [], ""),
        ({"title": None}, "title", "expected text, got nothing", [], ""),
        ({"title": "A", "views": [1]}, "views", "expected a mapping of keys to values, got [1]", [], ""),
        ({"title": "A", "views": {"frames": 1.5}}, "views.frames", "expected a whole number, got 1.5", [], ""),
        ({"title": "A", "either": 5}, "either", "expected a list or a mapping of keys to values, got 5", [], ""),
        ({"title": "A", "either": {"x": 5}}, "either.x", "expected a mapping of keys to values, got 5", [], ""),
        ({"title": "A", "either": []}, "either", "at least 1 item", [], ""),
        ({"title": "A", "drawn": "often"}, "drawn", "expected a whole number or 'trial', got 'often'", [], ""),
        ({"title": "A", "drawn": -1}, "drawn", "greater than or equal to 0", [], ""),
        ({"title": "A" * 500}, "title", "at most 100 characters", [], ""),
        ({"title": "A", "pair": [1]}, "pair", "expected more than 1 items", [], ""),
        ({"title": "A", "drawn": True}, "drawn", "expected a number, got true", [], ""),
        ({"title": "A", "pair": [1, False]}, "pair.1", "expected a number, got false", [], ""),
        ({"title": "A", "rows": {"one": {"frames": True}}}, "rows.one.frames", "a number, got true", [], ""),
        ({"title": "A", "on": "maybe"}, "on", "expected true or false, got 'maybe'", [], ""),
    ],
)
def test_the_first_mistake_is_reported_at_its_key_with_the_choices(
    data: dict[str, Any], where: str, named: str, allowed: list[str], hint: str
) -> None:
    def place(path: KeyPath) -> str:
        return ".".join(map(str, path))

    with refused(f"{where}: " if where else "", named, allowed=allowed, hint=hint) as caught:
        validate(Suite, data, place)
    assert "Input should" not in str(caught.value) and len(str(caught.value)) < 400
    assert validate(Suite, {"title": "A"}, place) == Suite(title="A")
    truths = {"title": "A", "either": [True, {"x": False}], "on": False}
    assert validate(Suite, truths, place).model_dump(exclude_unset=True) == truths

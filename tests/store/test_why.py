"""Which fields make two records differ: settings, data, code, inputs at any depth; how a record is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.commands.app import main
from bench.core.errors import UserError
from bench.store.records import Store
from bench.store.why import Difference, differences, find_record

CODE = {"bench.models.clip": "c1c1c1c1c1c1", "methods.mote.model": "m1m1m1m1m1m1"}
TEXTS: dict[str, Any] = {
    "kind": "texts",
    "spec": {"backbone": "glyph-vit", "weights": "sha256:aaaaaaaaaaaa", "prompts": "p1p1p1p1p1p1"},
    "context": {"pretrained": "builtin", "templates": "glyphs", "class_names": ["star", "heart"]},
    "inputs": {},
}
TRAIN: dict[str, Any] = {
    "kind": "train",
    "spec": {"method": "mote", "config": {"layers": 4}, "content": "d1d1d1d1d1d1", "recipe": {"lr": 1e-3}, "seed": 0},
    "context": {"pretrained": "builtin", "selection": ["narrow", "train", "all", None, 0]},
}


class Records:
    """A store whose records are made of a base and dotted changes."""

    def __init__(self, root: Path) -> None:
        self.store, self.made = Store.create(root), 0

    def add(self, base: dict[str, Any], changes: dict[str, Any] | None = None, **inputs: tuple[str, str]) -> str:
        """The identity of a record that is `base` but for `changes`; a change to None takes the field out."""
        record = json.loads(json.dumps({"title": f"{base['kind']} it", "source": CODE, **base, "inputs": inputs}))
        for path, value in (changes or {}).items():
            *folders, name = path.split("/")
            part = record
            for folder in folders:
                part = part[folder]
            part.pop(name) if value is None else part.update({name: value})
        self.made += 1
        identity = f"{self.made:08x}" * 4
        with self.store.writing(record.pop("kind"), identity, record):
            pass
        return identity

    def difference(self, a: str, b: str) -> tuple[list[Difference], str, list[str]]:
        found = find_record(self.store, a), find_record(self.store, b)
        answer = differences(*found)
        return answer.fields, answer.verdict(*found), answer.notes


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "store")


@pytest.mark.parametrize(
    ("base", "changes", "expected"),
    [
        (TRAIN, {"spec/config/layers": 6}, [("config.layers", "4", "6")]),
        (
            TRAIN,
            {"spec/recipe/lr": None, "spec/recipe/batch": 8},
            [("recipe.lr", "0.001", "–"), ("recipe.batch", "–", "8")],
        ),
        (TRAIN, {"spec/seed": 0.0}, [("seed", "0", "0.0")]),
        (
            TRAIN,
            {"spec/content": "d2d2d2d2d2d2", "context/selection": ["broad", "test", "base", 16, 2]},
            [("content", "narrow/train (d1d1d1d1)", "broad/test base classes 16-shot draw 2 (d2d2d2d2)")],
        ),
        (
            TEXTS,
            {"spec/prompts": "p2p2p2p2p2p2", "context/class_names": ["star", "flag", "king", "die", "cup"]},
            [
                ("prompts", "glyphs, 2 classes (p1p1p1p1)", "glyphs, 5 classes (p2p2p2p2)"),
                ("class names", "also heart", "also flag, king, die and 1 more"),
            ],
        ),
        (
            TEXTS,
            {"spec/weights": "sha256:bbbbbbbbbbbb", "context/pretrained": "openai"},
            [("weights", "builtin (aaaaaaaa)", "openai (bbbbbbbb)")],
        ),
        (
            {**TRAIN, "spec": {"choices": [["merged", {"expert": None}], ["one", {"expert": 1}]]}},
            {"spec/choices": [["merged", {"expert": None}], ["one", {"expert": 2}]]},
            [("choices.one.expert", "1", "2")],
        ),
        (TRAIN, {"kind": "evaluate", "spec/seed": 9}, [("kind", "train", "evaluate")]),
    ],
)
def test_fields(
    records: Records, base: dict[str, Any], changes: dict[str, Any], expected: list[tuple[str, ...]]
) -> None:
    differences, verdict, notes = records.difference(records.add(base), records.add(base, changes))
    assert [tuple(difference) for difference in differences] == expected
    assert verdict in ("1 field differs.", "2 fields differ.", "They are records of different kinds.")
    assert notes == []


def test_videos_that_changed_under_the_same_name_are_told(records: Records) -> None:
    _, _, notes = records.difference(records.add(TRAIN), records.add(TRAIN, {"spec/content": "other"}))
    assert notes == ["content: both are narrow/train, but the list or its videos differ."]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({**CODE, "methods.mote.model": "m2"}, [("code of methods.mote.model", "m1m1m1m1", "m2")]),
        ({"bench.models.clip": CODE["bench.models.clip"]}, [("code of methods.mote.model", "m1m1m1m1", "–")]),
    ],
)
def test_code(records: Records, source: dict[str, str], expected: list[tuple[str, ...]]) -> None:
    differences, verdict, _ = records.difference(records.add(TRAIN), records.add(TRAIN, {"source": source}))
    assert [tuple(difference) for difference in differences] == expected
    assert verdict == "Only code differs: methods.mote.model."


@pytest.mark.parametrize("changes", [{}, {"spec/seed": 1}])
def test_records_that_do_not_say_which_code_they_ran(records: Records, changes: dict[str, Any]) -> None:
    older = records.add(TRAIN, {"source": None, **changes})
    differences, verdict, notes = records.difference(older, records.add(TRAIN))
    assert notes == ["Records of A do not say which code they ran: more of it may differ."]
    if changes:
        assert [difference.field for difference in differences] == ["seed"] and verdict == "1 field differs."
    else:
        assert differences == [("code", "not recorded", "recorded")]
        assert verdict == "Only code differs, but which modules is not recorded."


def evaluations(records: Records, changed: str, changes: dict[str, Any]) -> tuple[str, str]:
    """Two evaluations of a training on texts, which it has learnt as well, one of them with an input that differs."""

    def chain(inputs: dict[str, dict[str, Any]], shared: tuple[str, str] | None) -> tuple[str, tuple[str, str]]:
        texts = shared or ("texts", records.add(TEXTS, inputs.get("texts")))
        train = ("train", records.add(TRAIN, inputs.get("train"), source_texts=texts))
        evaluated = {"kind": "evaluate", "spec": {"method": "mote", "config": {"layers": 4}}, "context": {}}
        own = inputs.get("train", {}).get("spec/config/layers")
        changes = {"spec/config/layers": own} if own else None
        return records.add(evaluated, changes, train=train, source_texts=texts), texts

    a, texts = chain({}, None)
    return a, chain({changed: changes}, texts if changed == "train" else None)[0]


def test_inputs_are_compared_to_the_bottom_and_once(records: Records) -> None:
    a, b = evaluations(records, "texts", {"spec/prompts": "p2", "context/templates": "mote28"})
    differences, _, _ = records.difference(a, b)
    assert differences == [("train: source_texts: prompts", "glyphs, 2 classes (p1p1p1p1)", "mote28, 2 classes (p2)")]


def test_what_an_input_repeats_is_told_once(records: Records) -> None:
    a, b = evaluations(records, "train", {"spec/config/layers": 6, "spec/recipe/lr": 2})
    differences, _, _ = records.difference(a, b)
    assert differences == [("config.layers", "4", "6"), ("train: recipe.lr", "0.001", "2")]


def test_inputs_that_are_gone_and_that_one_side_lacks(records: Records) -> None:
    evaluated = {"kind": "evaluate", "spec": {}, "context": {}}
    kept = ("train", records.add(TRAIN))
    a = records.add(evaluated, train=("train", "dead" * 8), features=kept)
    differences, _, notes = records.difference(a, records.add(evaluated, train=kept))
    assert differences == [("train", "train deaddead", "train 00000001"), ("features", "train 00000001", "–")]
    assert notes == ["train: a record is no longer in the store, so its differences are not known."]


def test_a_record_is_named_by_its_start_or_its_folder(records: Records, tmp_path: Path) -> None:
    identity, other = records.add(TRAIN), Records(tmp_path / "other").add(TRAIN, {"spec/seed": 5})
    folder = tmp_path / "other" / "records" / "train" / other
    assert find_record(records.store, identity[:8]).record["identity"] == identity
    assert find_record(records.store, str(folder)).record["spec"]["seed"] == 5
    same = find_record(records.store, identity)
    assert differences(same, same).verdict(same, same) == f"The same record: train it (train {identity})."


@pytest.mark.parametrize(
    ("key", "said"),
    [("0000", "'0000' names 2 records"), ("000", "'000' names 2 records"), ("beef", "no record starts with 'beef'")],
)
def test_names_that_are_not_clear_are_refused_with_candidates(records: Records, key: str, said: str) -> None:
    made = {records.add(TRAIN), records.add(TEXTS)}
    with pytest.raises(UserError, match=said) as caught:
        find_record(records.store, key)
    assert set(caught.value.allowed) == {
        f"{made_} ({kind} it)" for made_, kind in zip(sorted(made), ("train", "texts"), strict=True)
    }


def test_the_command(records: Records, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    a, b = records.add(TRAIN), records.add(TRAIN, {"spec/config/layers": 6})
    assert main(["why", a[:8], b[:8], "--store", str(records.store.root)]) == 0
    printed = capsys.readouterr().out
    assert "config.layers" in printed and "A: train it" in printed and "1 field differs." in printed
    assert main(["why", a, "nothing", "--store", str(records.store.root)]) == 2

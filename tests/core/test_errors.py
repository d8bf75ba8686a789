"""Errors that users read: place, allowed values and suggestion, in this order."""

from __future__ import annotations

import pytest

from bench.core.errors import UserError, closest, unknown


def test_a_message_has_place_allowed_values_and_hint_in_lines() -> None:
    error = UserError("wrong", where="suite.yaml:3", allowed=[1, "two"], hint="leave it out")
    assert str(error).splitlines() == ["suite.yaml:3: wrong", "  allowed: 1, two", "  hint: leave it out"]
    assert str(UserError("wrong")) == "wrong"


def test_the_same_mistake_at_another_place() -> None:
    moved = UserError("wrong", where="here", allowed=["a"], hint="b").at("there")
    assert (moved.what, moved.where, moved.allowed, moved.hint) == ("wrong", "there", ["a"], "b")


def test_an_unknown_name_is_answered_with_the_sorted_names_and_the_closest() -> None:
    error = unknown("fruit", "aple", ["pear", "apple"], where="recipe.fruit")
    assert (error.where, error.allowed, error.hint) == ("recipe.fruit", ["apple", "pear"], "did you mean 'apple'?")
    assert "fruit 'aple'" in error.what
    assert unknown("fruit", "zzz", ["apple"]).hint == ""


@pytest.mark.parametrize(("name", "meant"), [("val", "validation"), ("tset", "test"), ("v", ""), ("xyz", "")])
def test_what_was_meant_is_alike_or_begins_so(name: str, meant: str) -> None:
    assert closest(name, ["train", "validation", "test"]) == meant

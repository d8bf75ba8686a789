"""Protocols as values: what they are made of, their parts, and how two differ."""

from __future__ import annotations

from typing import Any

import pytest

from bench.suite.protocol import Protocol
from bench.video.views import TestViews


def protocol(**fields: Any) -> Protocol:
    return Protocol.model_validate({"role": "zero-shot", "dataset": "ucf101", **fields})


@pytest.mark.parametrize(
    ("role", "classes"), [("closed-set", "all"), ("zero-shot", "all"), ("base", "base"), ("novel", "novel")]
)
def test_halves_of_the_classes_follow_from_the_role(role: str, classes: str) -> None:
    assert protocol(role=role).classes == classes


def test_parts_are_protocols_of_their_own_with_the_rest_in_common() -> None:
    whole = protocol(over=[{"split": "test1"}, {"dataset": "hmdb51", "split": "test2"}], fusion="cos_mean")
    parts = whole.parts()
    assert list(parts) == ["test1", "hmdb51/test2"]
    assert [(part.dataset, part.split) for part in parts.values()] == [("ucf101", "test1"), ("hmdb51", "test2")]
    assert all(part.over == () and part.fusion == "cos_mean" for part in parts.values())
    single = protocol()
    assert single.parts() == {"": single}


def test_differences_are_named_by_key_with_both_values() -> None:
    one, other = protocol(), protocol(views=TestViews(clips=3), half="text4vis")
    assert one.differences(one) == ""
    assert one.differences(other) == "half none instead of text4vis, views.clips 1 instead of 3"
    assert one.fields()["views.clips"] == 1 and one.fields()["role"] == "zero-shot"

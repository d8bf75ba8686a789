"""Numbers with their nouns, and texts without the places of one machine."""

from __future__ import annotations

import pytest

from bench.core.words import counted, portable


@pytest.mark.parametrize(("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1200, "1,200 rows")])
def test_a_number_with_its_noun(count: int, text: str) -> None:
    assert counted(count, "row") == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("my /home/me/my.yaml --store=/runs x=/w/a.pt", "my …/my.yaml --store=…/runs x=…/a.pt"),
        ("No such file: '/home/my user/x y.mp4'", "No such file: '…/x y.mp4'"),
        ("/home/a/x.yaml:3: rows.a", "…/x.yaml:3: rows.a"),
        ("A=/a/b:/c/d, file:///e/f", "A=…/b:…/d, …/f"),
        ("//net/x (/a/b/)", "…/x (…/b)"),
        *((same, same) for same in ("https://a.b/c/d", "ViT-B/16 and/or 1/2", "…/x", "~/x", "${DATA}/x", "a / b")),
    ],
)  # fmt: skip
def test_absolute_paths_are_cut(text: str, shown: str) -> None:
    assert portable(text) == shown and portable(shown) == shown
    assert portable({"a": [text, 1, None]}) == {"a": [shown, 1, None]}

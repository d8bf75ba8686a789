"""BibTeX entries agree with what the methods say of their papers."""

from __future__ import annotations

import re

import pytest

from bench.published.references import SAME, known, references
from methods.registry import BUILT_IN, method


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_method_has_the_entry_of_its_paper(name: str) -> None:
    (entry,) = (known()[SAME.get(name, name)],)
    said = method(name).declared.__doc__ or ""
    title = re.sub(r"[{}]", "", re.search(r"title += \{(.*)\},\n", entry)[1])  # type: ignore[index]
    assert title in " ".join(said.split())
    assert re.search(r"eprint += \{(\d{4}\.\d{5})\}", entry)[1] in said  # type: ignore[index]


def test_names_that_are_not_known_have_none_and_splits_that_of_their_data() -> None:
    found = references(["mote", "dense_temporal", "mine"], ["kinetics-600-split2", "glyphs"], ["ViCLIP-B-16"])
    assert list(found) == ["clip_mean", "mote", "viclip", "kinetics-600"]
    assert all(entry.count("{") == entry.count("}") for entry in known().values())

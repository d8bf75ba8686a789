"""Modules that decide a stage's result: pinned for each kind, so that nobody adds one without seeing it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.core import identity
from bench.core.identity import source_hashes
from bench.graph.stage import CARRIERS
from bench.store.records import KINDS
from methods.registry import method
from tools.neutral import lacking

PINNED: dict[str, list[str]] = json.loads((Path(__file__).parent / "sources.json").read_text(encoding="utf-8"))
OF_A_METHOD = ("encode", "train", "evaluate", "probe", "maps", "weights", "profile")


def sources(kind: str) -> list[str]:
    """The modules that count for a stage of MoTE; texts belong to no method."""
    modules = method("mote").modules if kind in OF_A_METHOD else ()
    return sorted(source_hashes(f"bench.stages.{kind}", *modules, without=CARRIERS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_modules_that_count_are_pinned(kind: str) -> None:
    found = set(sources(kind))
    added, removed = sorted(found - set(PINNED[kind])), sorted(set(PINNED[kind]) - found)
    message = f"{kind}: added {added}, removed {removed}; if that is wanted, change tests/graph/sources.json"
    assert not added and not removed, message


def test_a_training_on_real_videos_depends_on_little() -> None:
    found = sources("train")
    files = [identity._file(name) for name in found]
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files if file)
    assert len(found) <= 32 and lines <= 5_500
    assert not [name for name in found if "glyph" in name]


@pytest.mark.parametrize("kind", KINDS)
def test_modules_that_only_carry_a_stage_out_exist(kind: str) -> None:
    assert all(identity._file(name) for name in CARRIERS[kind])


def test_every_default_of_identified_settings_is_recorded() -> None:
    assert not lacking(), "a later change of these defaults would be missed: run python -m tools.neutral"

"""Selections of a list: halves of the classes, few shots, and the videos that a stage opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import StageError
from bench.data.datasets import Dataset
from bench.data.selection import Selection, class_ids, select
from bench.data.videos import opened
from tests.errors import refused
from tests.video.clips import small_videos


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Seven videos of two classes in turn, so that the first class has one more."""
    return small_videos(tmp_path_factory.mktemp("small"), videos=7).dataset


def context(data: Dataset, selection: Selection, **more: Any) -> dict[str, Any]:
    return {"declared": {data.name: data.model_dump(mode="json")}, "selection": list(selection), **more}


def test_a_selection_is_named_by_what_it_leaves_out() -> None:
    assert str(Selection("ucf101", "train1")) == "ucf101/train1"
    assert str(Selection("ucf101", "train1", "base", 16, 3)) == "ucf101/train1 base classes 16-shot draw 3"


def test_the_class_with_more_videos_is_base_and_labels_count_within_the_half(data: Dataset) -> None:
    assert [class_ids(data, half) for half in ("all", "base", "novel")] == [(0, 1), (0,), (1,)]
    novel = select(data, Selection("small", "test", "novel"))
    assert [(entry.path, entry.label) for entry in novel] == [("1.mp4", 0), ("3.mp4", 0), ("5.mp4", 0)]


def test_shots_are_drawn_of_each_class(data: Dataset) -> None:
    chosen = select(data, Selection("small", "train", shots=2, draw=1))
    assert sorted(entry.label for entry in chosen) == [0, 0, 1, 1]
    assert set(chosen) < set(select(data, Selection("small", "train")))
    with refused("class 1", "3 videos", "4 shots"):
        select(data, Selection("small", "train", shots=4))


def test_a_stage_opens_what_its_context_names_repeated_to_a_length(data: Dataset) -> None:
    videos = opened(context(data, Selection("small", "test", "base"), length=10))
    assert len(videos) == 10 and videos.entries[:4] == videos.entries[4:8]
    assert videos[0].source.path.name == "0.mp4"


def test_data_that_are_gone_are_the_stages_failure(data: Dataset, tmp_path: Path) -> None:
    moved = data.model_copy(update={"root": str(tmp_path / "nowhere")})
    with refused("nowhere", kind=StageError):
        opened(context(moved, Selection("small", "test")))

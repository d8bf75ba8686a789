"""The cache changes no bit, keeps to its limit, and survives whatever ends its writers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.core.files import appended_json
from bench.data.videos import Videos
from bench.video import frame_cache as module
from bench.video.frame_cache import estimate, frame_cache
from bench.video.loader import copies_loader, test_loader, train_loader
from bench.video.pool import Decoding
from bench.video.reader import Video
from bench.video.source import VideoError
from bench.video.views import TestViews, TrainViews
from tests.video.clips import small_videos

TEST = TestViews(frames=4, clips=2, crops=3, resize=32, size=16)
COPIES = TrainViews(frames=4, augmentation="mote", resize=32, size=16, copies=2)
FRESH = TrainViews(frames=4, augmentation="mote", resize=(20, 30), size=16)

Load = Callable[[Videos, Decoding], list[Any]]


def test_views(videos: Videos, decoding: Decoding) -> list[Any]:
    return list(test_loader(videos, TEST, decoding, 4))


test_views.__test__ = False  # type: ignore[attr-defined]


def copies(videos: Videos, decoding: Decoding) -> list[Any]:
    return list(copies_loader(videos, COPIES, decoding, 4))


def epoch(videos: Videos, decoding: Decoding, number: int = 0) -> list[Any]:
    return list(train_loader(videos, FRESH, 0, number, [3, 1, 5, 0, 2], 2, decoding))


LOADS: list[Load] = [test_views, copies, epoch]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VTB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Videos:
    return small_videos(tmp_path_factory.mktemp("videos"), bad=(4,))


def cached(workers: int = 0, limit: int = 10**9, content: str = "list") -> Decoding:
    return Decoding(workers, cache_bytes=limit, content=content)


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(mine, its) if isinstance(mine, torch.Tensor) else mine == its
        for first, second in zip(one, other, strict=True)
        for mine, its in zip(first, second, strict=True)
    )


def refuse_to_open(*arguments: object) -> Video:
    raise AssertionError("a video was opened whose frames are kept")


def shards(cache: Path) -> list[Path]:
    return sorted(cache.glob("frames/*/*.frames"))


@pytest.mark.parametrize("load", LOADS)
def test_bits_are_the_same_with_and_without(videos: Videos, load: Load) -> None:
    wanted = load(videos, Decoding(0))
    for decoding in (cached(0), cached(0), cached(2)):  # while it is filled, when it is full, in other processes
        assert same(load(videos, decoding), wanted)


def test_workers_fill_one_cache_together(videos: Videos, cache: Path) -> None:
    wanted = test_views(videos, Decoding(0))
    assert same(test_views(videos, cached(2)), wanted) and same(test_views(videos, cached(1)), wanted)
    names = [line["name"] for index in cache.glob("frames/*/*.jsonl") for line in appended_json(index)]
    assert sorted(names) == ["0.mp4", "1.mp4", "2.mp4", "3.mp4", "5.mp4"]


def test_kept_videos_are_not_opened(videos: Videos, monkeypatch: pytest.MonkeyPatch) -> None:
    good = Videos(videos.dataset, videos.entries[:4])
    wanted = test_views(good, cached())
    monkeypatch.setattr("bench.video.loader.Video", refuse_to_open)
    assert same(test_views(good, cached()), wanted)


def test_a_video_kept_whole_serves_every_epoch(videos: Videos, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = epoch(videos, Decoding(0), 1)
    epoch(videos, cached(), 0)
    monkeypatch.setattr("bench.video.loader.Video", refuse_to_open)
    assert same(epoch(videos, cached(), 1), wanted)


def test_frames_that_are_not_kept_are_decoded_and_join_them(videos: Videos, monkeypatch: pytest.MonkeyPatch) -> None:
    other = TEST.model_copy(update={"sampler": "segment_centre"})
    wanted = list(test_loader(videos, other, Decoding(0), 4))
    test_views(videos, cached())
    assert same(list(test_loader(videos, other, cached(), 4)), wanted)
    good = Videos(videos.dataset, videos.entries[:4])
    monkeypatch.setattr("bench.video.loader.Video", refuse_to_open)
    assert test_views(good, cached()) and list(test_loader(good, other, cached(), 4))


def test_long_videos_are_kept_as_far_as_they_are_shown(
    videos: Videos, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = epoch(videos, Decoding(0))
    monkeypatch.setattr(module, "LONGEST", 0)
    assert same(epoch(videos, cached()), wanted) and not shards(cache)


@pytest.mark.parametrize("change", [{"content": "another list"}, {"resize": 24}, {"decoder": "pyav"}, {"code": True}])
def test_another_content_resize_decoder_or_code_has_frames_of_its_own(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder(content: str = "list", code: bool = False, **fields: object) -> Path:
        if code:
            monkeypatch.setattr(module, "source_fingerprint", lambda *modules: "another")
        found = frame_cache(TEST.model_copy(update=fields), cached(content=content))
        assert found is not None
        return found.folder

    assert folder() == folder(crops=5, clips=1, sampler="dense")
    assert folder() != folder(**change)


def test_there_is_none_without_a_limit_or_a_content() -> None:
    assert frame_cache(TEST, cached(limit=0)) is None and frame_cache(TEST, cached(content="")) is None


@pytest.mark.parametrize("workers", [0, 2])
def test_the_limit_holds_over_all_lists(videos: Videos, cache: Path, workers: int) -> None:
    wanted = test_views(videos, Decoding(0))
    one = 8 * 32 * 43 * 3
    for content in ("first", "second"):
        assert same(test_views(videos, cached(workers, 3 * one, content)), wanted)
    total = sum(shard.stat().st_size for shard in shards(cache))
    assert one < total <= 3 * one


def test_a_full_disk_is_no_failure(videos: Videos, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    wanted = test_views(videos, Decoding(0))
    monkeypatch.setattr(module.os, "fsync", full)
    assert same(test_views(videos, cached()), wanted)
    assert not sum(shard.stat().st_size for shard in shards(cache))


def tear_the_index(shard: Path) -> None:
    index = shard.with_suffix(".jsonl")
    index.write_bytes(index.read_bytes()[:-7])


def garble_the_index(shard: Path) -> None:
    index = shard.with_suffix(".jsonl")
    index.write_bytes(b'\xff\x00{"name": 7}\n[]\n{}\n' + index.read_bytes())


def cut_the_shard(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-7])


def lose_the_shard(shard: Path) -> None:
    shard.unlink()


def lose_the_index(shard: Path) -> None:
    shard.with_suffix(".jsonl").unlink()


@pytest.mark.parametrize("damage", [tear_the_index, garble_the_index, cut_the_shard, lose_the_shard, lose_the_index])
def test_what_a_killed_writer_leaves_is_passed_over(
    videos: Videos, cache: Path, damage: Callable[[Path], None]
) -> None:
    wanted = test_views(videos, cached())
    (shard,) = shards(cache)
    damage(shard)
    assert same(test_views(videos, cached()), wanted)


def test_a_video_with_a_bad_end_shows_what_it_can(videos: Videos, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Video.frames

    def frames(video: Video, indices: np.ndarray) -> np.ndarray:
        if max(indices) == len(video) - 1:
            raise VideoError(video.path, "damaged")
        return decode(video, indices)

    monkeypatch.setattr(Video, "frames", frames)
    wanted = epoch(videos, Decoding(0))
    assert same(epoch(videos, cached()), wanted) and not sum(shard.stat().st_size for shard in shards(cache))


def test_the_estimate_is_of_what_is_kept(videos: Videos, cache: Path) -> None:
    good = Videos(videos.dataset, videos.entries[:4])
    test_views(good, cached())
    (shard,) = shards(cache)
    assert estimate(TEST, 4) == pytest.approx(4 * 8 * 32 * 43 * 3, rel=0.01)
    assert 0 < shard.stat().st_size <= estimate(TEST, 4)
    assert estimate(COPIES, 10) == 10 * 8 * round(32 * 32 * 4 / 3) * 3
    assert estimate(FRESH, 10) == 10 * 300 * 20 * 30 * 3

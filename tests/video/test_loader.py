import os
import signal
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.core.errors import StageError, UserError
from bench.data.videos import Videos
from bench.video import loader
from bench.video.decoders import Pyav
from bench.video.loader import TrainBatch, ViewBatch, copies_loader, test_loader, train_loader
from bench.video.pool import Decoding
from bench.video.reader import Video
from bench.video.source import Source, VideoError
from bench.video.views import TestViews, TrainViews
from tests.errors import refused
from tests.video.clips import shown, small_videos

TEST = TestViews(frames=4, clips=2, crops=3, resize=32, size=16)
COPIES = TrainViews(frames=4, augmentation="mote", resize=32, size=16, copies=3)
FRESH = TrainViews(frames=4, augmentation="mote", resize=32, size=16)


HERE = Decoding(workers=0)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Videos:
    return small_videos(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def flawed(tmp_path_factory: pytest.TempPathFactory) -> Videos:
    return small_videos(tmp_path_factory.mktemp("flawed"), bad=(1, 4))


def views(videos: Videos, workers: int = 0, batch: int = 4) -> list[ViewBatch]:
    return list(test_loader(videos, TEST, Decoding(workers), batch))


def epoch(
    videos: Videos, order: list[int], number: int = 0, seed: int = 0, workers: int = 0, train: TrainViews = FRESH
) -> list[TrainBatch]:
    return list(train_loader(videos, train, seed, number, order, 2, Decoding(workers)))


def pixels(batches: list[TrainBatch]) -> torch.Tensor:
    return torch.cat([batch.pixels_bT3SS for batch in batches])


def test_test_views_are_crop_outermost_then_clip_then_frame(good: Videos) -> None:
    batches = views(good)
    assert [batch.indices for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    clips_VT3SS = batches[0].pixels_bVT3SS[3]  # video 3 has 8 frames: clips start at 0 and 1
    assert clips_VT3SS.shape == (6, 4, 3, 16, 16) and clips_VT3SS.dtype == torch.uint8
    frames = clips_VT3SS.flatten(0, 1).permute(0, 2, 3, 1).numpy()
    assert shown(frames) == 3 * [0, 2, 4, 6, 1, 3, 5, 7]


def test_views_of_a_part_are_the_same(good: Videos) -> None:
    (part,) = test_loader(good, TEST, HERE, 8, [5, 2])
    assert part.indices == [5, 2]
    assert torch.equal(part.pixels_bVT3SS[1], views(good)[0].pixels_bVT3SS[2])


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_bits(flawed: Videos, workers: int) -> None:
    for one, other in zip(views(flawed), views(flawed, workers), strict=True):
        assert one.indices == other.indices and one.failures == other.failures
        assert torch.equal(one.pixels_bVT3SS, other.pixels_bVT3SS)
    order = [3, 1, 5, 0, 2]
    for first, second in zip(epoch(flawed, order), epoch(flawed, order, workers=workers), strict=True):
        assert first.indices == second.indices and first.resampled == second.resampled
        assert torch.equal(first.pixels_bT3SS, second.pixels_bT3SS) and torch.equal(first.labels_b, second.labels_b)


def test_failures_are_named_and_never_replaced_in_test_views(flawed: Videos) -> None:
    failures = dict(failure for batch in views(flawed) for failure in batch.failures)
    assert set(failures) == {1, 4} and all(failures.values())
    every = torch.cat([batch.pixels_bVT3SS for batch in views(flawed)])
    assert [index for index in range(6) if not every[index].any()] == [1, 4]


def test_a_failure_that_passes_is_tried_again(good: Videos, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[Path] = []

    def flaky(source: Source, decoder: str) -> Video:
        attempts.append(source.path)
        if attempts.count(source.path) == 1:
            raise VideoError(source.path, "stale file handle")
        return Video(source, decoder)

    wanted = views(good)
    monkeypatch.setattr(loader, "Video", flaky)
    assert all(
        torch.equal(one.pixels_bVT3SS, other.pixels_bVT3SS) and not one.failures
        for one, other in zip(views(good), wanted, strict=True)
    )
    assert len(attempts) == 12


def test_copies_do_not_depend_on_a_trial_and_differ(good: Videos) -> None:
    (batch,) = copies_loader(good, COPIES, HERE, 8)
    assert batch.pixels_bVT3SS.shape == (6, 3, 4, 3, 16, 16)
    assert not torch.equal(batch.pixels_bVT3SS[5, 0], batch.pixels_bVT3SS[5, 1])
    for number in range(4):
        shown_copies = pixels(epoch(good, [5, 2], number, seed=number, train=COPIES))
        assert torch.equal(shown_copies, batch.pixels_bVT3SS[[5, 2], number % 3])


def test_fresh_views_follow_seed_epoch_and_index_alone(good: Videos) -> None:
    whole = pixels(epoch(good, [4, 0, 5, 2, 3]))
    assert torch.equal(pixels(epoch(good, [5, 2, 3])), whole[2:])  # resumed in the middle
    assert not torch.equal(pixels(epoch(good, [4], number=1)), whole[:1])
    assert not torch.equal(pixels(epoch(good, [4], seed=1)), whole[:1])


def test_training_replaces_failures_by_others_and_counts_them(flawed: Videos) -> None:
    batches = epoch(flawed, [0, 1, 4, 5])
    assert [index for batch in batches for index in batch.resampled] == [1, 4]
    delivered = [index for batch in batches for index in batch.indices]
    assert delivered[0] == 0 and delivered[3] == 5 and not {1, 4} & set(delivered)
    assert torch.cat([batch.labels_b for batch in batches]).tolist() == [index % 2 for index in delivered]
    assert pixels(batches).flatten(1).any(1).all()


class Treacherous(Pyav):
    """A decoder that hangs on one video and crashes on another."""

    def __init__(self, source: Source) -> None:
        if source.path.name == "1.mp4":
            time.sleep(600)
        if source.path.name == "4.mp4":
            os.kill(os.getpid(), signal.SIGSEGV)
        super().__init__(source)


def test_videos_that_hang_or_crash_are_replaced_as_others_that_fail(good: Videos, flawed: Videos) -> None:
    notes: list[str] = []
    train = FRESH.model_copy(update={"decoder": f"{__name__}:Treacherous"})
    found = list(train_loader(good, train, 0, 0, [0, 1, 4, 5], 2, Decoding(2, seconds=2, note=notes.append)))
    for one, other in zip(found, epoch(flawed, [0, 1, 4, 5]), strict=True):
        assert one.indices == other.indices and one.resampled == other.resampled
        assert torch.equal(one.pixels_bT3SS, other.pixels_bT3SS) and torch.equal(one.labels_b, other.labels_b)
    assert {note.partition(":")[0] for note in notes} == {"1.mp4", "4.mp4"}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_path_out_of_the_root_is_the_users_mistake(tmp_path: Path, workers: int) -> None:
    videos = small_videos(tmp_path, videos=2)
    outside = (tmp_path / "videos" / "1.mp4").rename(tmp_path / "1.mp4")
    (tmp_path / "videos" / "1.mp4").symlink_to(outside)
    with pytest.raises(UserError, match="leads out"):
        views(videos, workers)


def test_a_loader_left_early_leaves_no_process(good: Videos) -> None:
    for _ in test_loader(good, TEST, Decoding(2), 1):
        break
    assert not active_children()


def test_training_without_any_video_ends(tmp_path: Path) -> None:
    with refused("decoded", kind=StageError):
        epoch(small_videos(tmp_path, videos=2, bad=(0, 1)), [0])


def test_loading_leaves_the_global_generators_alone(good: Videos) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # type: ignore[index]
    views(good)
    epoch(good, [0, 1])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # type: ignore[index]

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.sampling import (
    dense,
    segment_centre,
    segment_start,
    segments_inclusive,
    test_indices,
    ticks,
    train_indices,
)
from bench.data.views import TestViews, TrainViews
from tests.golden.data_cases import replay_frame_sampling

LENGTHS, FRAMES, CLIPS, SEEDS = st.integers(1, 400), st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32)


def test_official_indices_are_reproduced() -> None:
    path = Path(__file__).parent.parent / "golden" / "frame_sampling.json"
    assert replay_frame_sampling(path) == {"val": 0, "test": 0}


@given(LENGTHS, FRAMES, SEEDS)
def test_training_indices_are_ordered_and_inside(length: int, frames: int, seed: int) -> None:
    for sampler in (segments_inclusive, ticks):
        indices = sampler(length, frames, np.random.default_rng(seed))
        assert indices.shape == (frames,) and indices.min() >= 0 and indices.max() < length
        assert (np.diff(indices) >= 0).all()


@given(
    LENGTHS,
    FRAMES,
    CLIPS,
    st.sampled_from(["segment_start", "dense", "segment_centre"]),
    st.sampled_from(["wrap", "clamp"]),
)
def test_test_indices_are_inside(length: int, frames: int, clips: int, sampler: str, short_clip: str) -> None:
    views = TestViews(frames=frames, clips=clips, sampler=sampler, short_clip=short_clip)  # type: ignore[arg-type]
    indices_KN = test_indices(views, length)
    assert indices_KN.shape == (clips, frames) and indices_KN.dtype.kind == "i"
    assert indices_KN.min() >= 0 and indices_KN.max() < length
    ordered = sampler == "segment_centre" or (sampler == "segment_start" and short_clip == "clamp")
    assert not ordered or (np.diff(indices_KN, axis=1) >= 0).all()


@given(LENGTHS, FRAMES)
def test_clips_after_the_first_do_not_change_it(length: int, frames: int) -> None:
    alone = segment_start(length, frames, 1, "wrap")
    assert (segment_start(length, frames, 4, "wrap")[0] == alone[0]).all()
    assert (alone[0] == [int(i * (length / frames)) for i in range(frames)]).all()


def test_segments_include_both_borders() -> None:
    drawn_XN = np.array([segments_inclusive(300, 8, np.random.default_rng(seed)) for seed in range(3000)])
    assert drawn_XN.min(0).tolist() == [0, 37, 75, 112, 150, 187, 224, 262]
    assert drawn_XN.max(0).tolist() == [37, 75, 112, 150, 187, 224, 262, 299]


def test_ticks_have_no_common_borders_and_repeat_short_videos() -> None:
    drawn_XN = np.array([ticks(16, 8, np.random.default_rng(seed)) for seed in range(200)])
    assert drawn_XN.min(0).tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert drawn_XN.max(0).tolist() == [1, 3, 5, 7, 9, 11, 13, 15]
    assert set(ticks(3, 8, np.random.default_rng(0))) == {0, 1, 2}


def test_short_clips_wrap_or_are_clamped() -> None:
    assert segment_start(5, 8, 3, "wrap")[1, 0] == 4
    clamped_KN = segment_start(5, 8, 3, "clamp")
    assert (clamped_KN == clamped_KN[0]).all()


def test_one_dense_clip_lies_in_the_middle() -> None:
    assert dense(328, 8, 1).tolist() == [[100 + 16 * i for i in range(8)]]
    assert dense(1, 8, 1).tolist() == [[0] * 8]


def test_segment_centres() -> None:
    assert segment_centre(300, 1, 1).tolist() == [[150]]
    assert segment_centre(80, 4, 1).tolist() == [[9, 29, 49, 69]]
    assert segment_centre(80, 4, 2).tolist() == [[4, 24, 44, 64], [14, 34, 54, 74]]


@pytest.mark.parametrize("sampler", ["segment_start", "dense", "segment_centre"])
def test_no_frames_no_test_views(sampler: str) -> None:
    with pytest.raises(ValueError, match="without frames"):
        test_indices(TestViews(sampler=sampler), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", ["segments_inclusive", "ticks"])
def test_training_sampler_is_chosen_by_the_views(sampler: str) -> None:
    views = TrainViews(sampler=sampler)  # type: ignore[arg-type]
    rule = {"segments_inclusive": segments_inclusive, "ticks": ticks}[sampler]
    assert (train_indices(views, 50, np.random.default_rng(3)) == rule(50, 8, np.random.default_rng(3))).all()
    with pytest.raises(ValueError, match="without frames"):
        train_indices(views, 0, np.random.default_rng(0))

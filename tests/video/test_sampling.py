from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.video.sampling import (
    dense,
    middles_inclusive,
    mmaction,
    mmaction_strided,
    random_dense,
    random_mmaction_strided,
    random_segments,
    random_strided,
    segment_centre,
    segment_start,
    segments_inclusive,
    strided,
    test_indices,
    ticks,
    train_indices,
)
from bench.video.views import TestViews, TrainViews
from tests.golden.data_cases import replay_frame_sampling

LENGTHS, FRAMES, CLIPS, SEEDS = st.integers(1, 400), st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32)
TEST_SAMPLERS = list(get_args(TestViews.model_fields["sampler"].annotation))
TRAIN_SAMPLERS = list(get_args(TrainViews.model_fields["sampler"].annotation))
STRIDED = st.fixed_dictionaries(
    {
        "stride": st.integers(1, 40),
        "rate": st.sampled_from([None, 30.0, 12.5]),
        "spacing": st.sampled_from(["step", "even"]),
    }
)
RATES = st.sampled_from([30.0, 29.97, 25.0, 1.0, 120.0])


def test_official_indices_are_reproduced() -> None:
    path = Path(__file__).parent.parent / "golden" / "frame_sampling.json"
    assert replay_frame_sampling(path) == {"val": 0, "test": 0}


@given(LENGTHS, FRAMES, SEEDS, st.sampled_from(TRAIN_SAMPLERS), STRIDED, RATES)
def test_training_indices_are_inside_and_ordered(
    length: int, frames: int, seed: int, sampler: str, how: dict[str, Any], rate: float
) -> None:
    views = TrainViews(frames=frames, sampler=sampler, **how)  # type: ignore[arg-type]
    indices = train_indices(views, length, np.random.default_rng(seed), rate)
    assert indices.shape == (frames,) and indices.dtype.kind == "i"
    assert indices.min() >= 0 and indices.max() < length
    starts_over = {"dense": length < 128, "mmaction": length < frames, "mmaction_strided": indices[0] == 0}
    assert starts_over.get(sampler) or (np.diff(indices) >= 0).all()


@given(
    LENGTHS, FRAMES, CLIPS, st.sampled_from(TEST_SAMPLERS), st.sampled_from(["wrap", "clamp"]), STRIDED, RATES, SEEDS
)
def test_test_indices_are_inside_and_ordered(
    length: int, frames: int, clips: int, sampler: str, short_clip: str, how: dict[str, Any], rate: float, seed: int
) -> None:
    views = TestViews(frames=frames, clips=clips, sampler=sampler, short_clip=short_clip, **how)  # type: ignore[arg-type]
    indices_KN = test_indices(views, length, rate, seed)
    assert indices_KN.shape == (clips, frames) and indices_KN.dtype.kind == "i"
    assert indices_KN.min() >= 0 and indices_KN.max() < length
    ordered = {
        "segment_start": short_clip == "clamp" or length >= frames,
        "dense": length >= 128,
        "segment_centre": True,
        "segments_inclusive": True,
        "mmaction": clips == 1 or length >= frames,
        "strided": True,
        "mmaction_strided": indices_KN[0, 0] > 0,
    }
    assert not ordered[sampler] or (np.diff(indices_KN, axis=1) >= 0).all()
    if sampler not in ("segment_start", "mmaction"):
        assert (np.diff(indices_KN[:, 0]) >= 0).all(), "later clips begin later"


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


def test_a_random_dense_clip_covers_128_frames_and_never_starts_last() -> None:
    starts = {int(random_dense(138, 8, np.random.default_rng(seed))[0]) for seed in range(300)}
    assert starts == set(range(10))  # 138 - 128 = 10 would fit as well; the official draw leaves it out
    assert random_dense(129, 8, np.random.default_rng(0)).tolist() == [16 * i for i in range(8)]
    assert random_dense(100, 8, np.random.default_rng(0)).tolist() == [16 * i % 100 for i in range(8)]


def test_random_segments_never_reach_the_rest() -> None:
    drawn_XN = np.array([random_segments(19, 8, np.random.default_rng(seed)) for seed in range(200)])
    assert drawn_XN.min(0).tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert drawn_XN.max(0).tolist() == [1, 3, 5, 7, 9, 11, 13, 15]  # of 0..18
    assert len({tuple(np.diff(row)) for row in drawn_XN}) > 20  # drawn separately in each segment


def test_random_segments_of_a_short_video_are_spread_and_start_over() -> None:
    # round(i * 5 / 8) with halves to even: 0, 0.6, 1.2, 1.9, 2.5, 3.1, 3.8, 4.4
    assert random_segments(5, 8, np.random.default_rng(0)).tolist() == [0, 1, 1, 2, 2, 3, 4, 4]
    # round(i / 8) = 1 from i = 5 on, which is the end of a video of one frame
    assert random_segments(1, 8, np.random.default_rng(0)).tolist() == [0] * 8


def test_one_mmaction_clip_takes_middles_and_several_are_random_but_seeded() -> None:
    assert mmaction(300, 8, 1, seed=0).tolist() == [[18, 56, 93, 131, 168, 206, 243, 281]]
    assert (mmaction(300, 8, 1, seed=0) == mmaction(300, 8, 1, seed=1)).all()
    several = mmaction(300, 8, 4, seed=5)
    assert (several == mmaction(300, 8, 4, seed=5)).all() and (several != mmaction(300, 8, 4, seed=6)).any()
    assert len({tuple(clip) for clip in several.tolist()}) == 4
    assert (mmaction(300, 8, 2, seed=5) == several[:2]).all()  # a clip does not depend on how many there are
    assert (several // 37 == np.arange(8)).all()


def test_strided_clips_lie_evenly_over_the_video() -> None:
    # 8 frames 16 apart span 128 of 300; the starts are multiples of floor(172 / 2)
    assert strided(300, 8, 3, 16, "even")[:, 0].tolist() == [0, 86, 172]
    # in exact steps they span 113; the starts are 0, 93.5 and 187, rounded
    assert strided(300, 8, 3, 16, "step")[:, 0].tolist() == [0, 94, 187]
    assert strided(300, 8, 1, 16, "step").tolist() == [[93 + 16 * i for i in range(8)]]
    assert strided(300, 8, 1, 16, "even").tolist() == [[86 + int(i * 127 / 7) for i in range(8)]]
    assert strided(300, 8, 3, 16, "even")[-1, -1] == 299


def test_a_strided_clip_repeats_the_last_frame_of_a_short_video() -> None:
    assert strided(40, 8, 2, 16, "step").tolist() == [[0, 16, 32, 39, 39, 39, 39, 39]] * 2
    assert random_strided(40, 8, 16, "even", np.random.default_rng(3)).tolist() == [0, 18, 36, 39, 39, 39, 39, 39]


def test_a_random_strided_clip_can_start_wherever_it_fits() -> None:
    for spacing, last in (("even", 138 - 128), ("step", 138 - 113)):
        drawn = [random_strided(138, 8, 16, spacing, np.random.default_rng(seed)) for seed in range(400)]  # type: ignore[arg-type]
        assert {int(clip[0]) for clip in drawn} == set(range(last + 1))


def test_official_training_repeats_the_last_frame_it_took() -> None:
    assert random_strided(40, 8, 16, "step", np.random.default_rng(3)).tolist() == [0, 16, 32, 32, 32, 32, 32, 32]


def test_mmactions_strided_clips_start_over() -> None:
    assert mmaction_strided(300, 8, 3, 16)[:, 0].tolist() == [28, 86, 144]  # middles of thirds of 0..172
    assert mmaction_strided(40, 8, 2, 16).tolist() == [[0, 16, 32, 8, 24, 0, 16, 32]] * 2
    drawn = [random_mmaction_strided(138, 8, 16, np.random.default_rng(seed)) for seed in range(400)]
    assert {int(clip[0]) for clip in drawn} == set(range(11)) and all((np.diff(clip) == 16).all() for clip in drawn)
    assert random_mmaction_strided(40, 4, 16, np.random.default_rng(0)).tolist() == [0, 16, 32, 8]


@given(st.integers(1, 2000), st.integers(1, 64), st.integers(1, 40), st.integers(1, 12))
def test_official_rules_hold_for_any_sizes(length: int, frames: int, stride: int, clips: int) -> None:
    """The rules written out in whole numbers and Python's own rounding, for single frames."""
    last, room = length - 1, max(0, length - ((frames - 1) * stride + 1))
    for clip, row in enumerate(strided(length, frames, clips, stride, "step").tolist()):
        start = room // 2 if clips == 1 else round(room / (clips - 1) * clip)
        assert row == [min(start + number * stride, last) for number in range(frames)]
    room = length - frames * stride + 1
    for clip, row in enumerate(mmaction_strided(length, frames, clips, stride).tolist()):
        start = int(room / clips * clip + room / clips / 2) if room > 0 else 0
        assert row == [(start + number * stride) % length for number in range(frames)]
    borders = [round((length - 1) / frames * number) for number in range(frames + 1)]
    middles = [(one + other) // 2 for one, other in pairwise(borders)]
    assert middles_inclusive(length, frames, 1).tolist() == [middles]
    if frames == 1:
        centres = [length // 2]
    elif length <= frames:
        centres = [number * length // frames for number in range(frames)]
    else:
        centres = [int(number * length / frames + (length / frames - 1) / 2) for number in range(frames)]
    assert segment_centre(length, frames, 1).tolist() == [centres]


def test_a_rate_rescales_the_span_of_strided_clips_alone() -> None:
    """At 15 frames a second, the span of 128 frames at 30 is one of 64."""
    views = TestViews(sampler="strided", rate=30, clips=1)
    assert test_indices(views, 300, rate=15.0).tolist() == strided(300, 8, 1, 8, "step").tolist()
    assert test_indices(views.model_copy(update={"rate": None}), 300, rate=15.0)[0, 1] == 93 + 16
    train = TrainViews(sampler="strided", rate=30, spacing="even")
    drawn = train_indices(train, 300, np.random.default_rng(0), rate=15.0)
    assert drawn[-1] - drawn[0] == 63
    assert (test_indices(TestViews(rate=30), 300, rate=15.0) == test_indices(TestViews(), 300)).all()


@pytest.mark.parametrize("sampler", TEST_SAMPLERS)
def test_no_frames_no_test_views(sampler: str) -> None:
    with pytest.raises(ValueError, match="without frames"):
        test_indices(TestViews(sampler=sampler), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", TRAIN_SAMPLERS)
def test_training_sampler_is_chosen_by_the_views(sampler: str) -> None:
    views = TrainViews(sampler=sampler)  # type: ignore[arg-type]
    rule = {
        "segments_inclusive": segments_inclusive,
        "ticks": ticks,
        "dense": random_dense,
        "mmaction": random_segments,
        "strided": lambda length, frames, rng: random_strided(length, frames, 16, "step", rng),
        "mmaction_strided": lambda length, frames, rng: random_mmaction_strided(length, frames, 16, rng),
    }[sampler]
    assert (train_indices(views, 250, np.random.default_rng(3)) == rule(250, 8, np.random.default_rng(3))).all()
    with pytest.raises(ValueError, match="without frames"):
        train_indices(views, 0, np.random.default_rng(0))

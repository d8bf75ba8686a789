"""Frame sampling: zero-based indices of the frames in training and test clips, numpy only.

Rules and names follow the code bases of the field: MoTE and Text4Vis (`segments_inclusive` in training, `dense`,
`segment_start`), Text4Vis (`ticks`), ActionCLIP (`segment_centre`), X-CLIP and ViFi-CLIP (`mmaction`), AIM
(`mmaction_strided`), ST-Adapter and Vita-CLIP (`strided` with `spacing: step`), both on SSv2 (`segments_inclusive`),
Open-VCLIP (`strided` with `spacing: even`), without their offset of one for the names of frame files.

Legend: K clips, N frames of a clip.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from bench.core.seeds import seed_for
from bench.video.views import TestViews, TrainViews

Indices = np.ndarray
Spacing = Literal["step", "even"]

DENSE_SPAN = 128  # frames covered by a dense clip in the official code, at any frame rate


def train_indices(views: TrainViews, length: int, rng: np.random.Generator, rate: float = 30.0) -> Indices:
    """Frames [N] of one random training view of a video with `rate` frames per second.

    Raises ValueError for a video without frames.
    """
    _require_frames(length)
    if views.sampler == "strided":
        return random_strided(length, views.frames, _stride(views, rate), views.spacing, rng)
    if views.sampler == "mmaction_strided":
        return random_mmaction_strided(length, views.frames, _stride(views, rate), rng)
    samplers = {
        "segments_inclusive": segments_inclusive,
        "ticks": ticks,
        "dense": random_dense,
        "mmaction": random_segments,
    }
    return samplers[views.sampler](length, views.frames, rng)


def test_indices(views: TestViews, length: int, rate: float = 30.0, seed: int = 0) -> Indices:
    """Frames [K,N] of the clips of a test video with `rate` frames per second.

    Only `mmaction` with several clips is random and uses `seed`. Raises ValueError for a video without frames.
    """
    _require_frames(length)
    if views.sampler == "strided":
        return strided(length, views.frames, views.clips, _stride(views, rate), views.spacing)
    if views.sampler == "segment_start":
        return segment_start(length, views.frames, views.clips, views.short_clip)
    if views.sampler == "mmaction":
        return mmaction(length, views.frames, views.clips, seed)
    if views.sampler == "mmaction_strided":
        return mmaction_strided(length, views.frames, views.clips, _stride(views, rate))
    samplers = {"dense": dense, "segment_centre": segment_centre, "segments_inclusive": middles_inclusive}
    return samplers[views.sampler](length, views.frames, views.clips)


test_indices.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it where it is imported


# --- training: one random clip [N] of a video with at least one frame -------------------------------------------------


def segments_inclusive(length: int, frames: int, rng: np.random.Generator) -> Indices:
    """One random frame of each of N equal segments; both neighbours contain their border, so frames can repeat."""
    borders = _borders(length, frames)
    return rng.integers(borders[:-1], borders[1:], endpoint=True)


def ticks(length: int, frames: int, rng: np.random.Generator) -> Indices:
    """One random frame of each of N segments without common borders; in short videos random frames repeat."""
    if length <= frames:
        return np.sort(np.concatenate([np.arange(length), rng.integers(0, length, frames - length)]))
    borders = np.arange(frames + 1) * length // frames
    return rng.integers(borders[:-1], borders[1:])


def random_dense(length: int, frames: int, rng: np.random.Generator) -> Indices:
    """N frames evenly over 128 consecutive ones from a random start; as in the official code, never the last start."""
    return _dense(length, frames, int(rng.integers(max(1, length - DENSE_SPAN))))


def random_segments(length: int, frames: int, rng: np.random.Generator) -> Indices:
    """One random frame of each of N segments of floor(length / N) frames; the remaining frames at the end are not used.

    The frames of a video with fewer than N are spread evenly, without randomness. An index that rounds up to the
    video's end becomes 0 (mmaction's `loop`).
    """
    segment = length // frames
    if segment == 0:
        return np.rint(np.arange(frames) * (length / frames)).astype(np.int64) % length  # type: ignore[no-any-return]
    return np.arange(frames) * segment + rng.integers(segment, size=frames)


def random_strided(length: int, frames: int, stride: float, spacing: Spacing, rng: np.random.Generator) -> Indices:
    """N frames `stride` apart from a random start. Short videos repeat their last frame, with `step` the last taken."""
    start = int(rng.integers(max(0, int(length - _span(frames, stride, spacing))), endpoint=True))
    if spacing == "step":
        taken = int((length - 1 - start) // stride)  # steps that fit
        return np.floor(start + np.arange(frames).clip(max=taken) * stride).astype(np.int64)
    return _strided(length, frames, start, stride, spacing)


def random_mmaction_strided(length: int, frames: int, stride: float, rng: np.random.Generator) -> Indices:
    """N frames `stride` apart from a random start, of which a clip spans N * `stride`; short videos start over."""
    start = int(rng.integers(max(0, int(length - frames * stride)), endpoint=True))
    return np.floor(start + np.arange(frames) * stride).astype(np.int64) % length  # type: ignore[no-any-return]


# --- test: K clips [K,N] of a video with at least one frame -----------------------------------------------------------


def segment_start(length: int, frames: int, clips: int, short_clip: Literal["wrap", "clamp"]) -> Indices:
    """The first frame of each of N segments; further clips are shifted within a segment.

    If a video has fewer frames than N, shifts are negative: `wrap` lets indices wrap around to the video's end, as the
    official code does; `clamp` sets the shifts to zero.
    """
    tick = length / frames
    shifts_K1 = np.floor(np.linspace(0, tick - 1, clips))[:, None]
    if short_clip == "clamp":
        shifts_K1 = shifts_K1.clip(min=0)
    return np.trunc(shifts_K1 + tick * np.arange(frames)).astype(np.int64) % length  # type: ignore[no-any-return]


def dense(length: int, frames: int, clips: int) -> Indices:
    """N frames evenly over 128 consecutive ones, clips evenly over the video; indices of short videos wrap around.

    The official code divides by zero for one clip; here a single clip is in the middle.
    """
    return _dense(length, frames, _starts(max(0, length - DENSE_SPAN), clips))


def segment_centre(length: int, frames: int, clips: int) -> Indices:
    """The middle frame of each of N segments; the first one if a video has no more frames than segments.

    ActionCLIP has one clip only; K clips are the middles of K equal parts of every segment.
    """
    parts = frames * clips
    if parts == 1:
        return np.array([[length // 2]])
    starts = np.arange(parts) * length
    middles = starts // parts if length <= parts else (starts / parts + (length / parts - 1) / 2).astype(np.int64)
    return middles.reshape(frames, clips).T


def middles_inclusive(length: int, frames: int, clips: int) -> Indices:
    """The middle frame of each of N segments whose neighbours both contain their border.

    ST-Adapter and AIM have one clip only; K clips are the middles of K equal parts of every segment.
    """
    borders = _borders(length, frames * clips)
    return ((borders[:-1] + borders[1:]) // 2).reshape(frames, clips).T  # type: ignore[no-any-return]


def mmaction(length: int, frames: int, clips: int, seed: int) -> Indices:
    """One clip: the middle of each of N segments. Several clips: each is a random one by the training rule.

    X-CLIP and ViFi-CLIP measure 4 x 3 views in this way; here a clip depends only on `seed` and its number.
    """
    if clips == 1:
        return _mmaction_starts(length, 1, frames)[None]
    generators = [np.random.default_rng(seed_for("clip", seed, clip)) for clip in range(clips)]
    return np.stack([random_segments(length, frames, rng) for rng in generators])


def strided(length: int, frames: int, clips: int, stride: float, spacing: Spacing) -> Indices:
    """N frames `stride` apart, clips evenly over the video, a single one in the middle; short videos repeat the end.

    With `step`, a clip ends with its last frame and starts are rounded (ST-Adapter); with `even`, it spans N * `stride`
    frames and starts are multiples of one distance (PySlowFast).
    """
    slack = max(0, length - _span(frames, stride, spacing))
    starts_K1 = _starts(slack, clips)
    if spacing == "step" and clips > 1:
        starts_K1 = np.rint(slack / (clips - 1) * np.arange(clips))[:, None].astype(np.int64)
    return _strided(length, frames, starts_K1, stride, spacing)


def mmaction_strided(length: int, frames: int, clips: int, stride: float) -> Indices:
    """N frames `stride` apart, starts in the middles of K equal parts of the possible ones; short videos start over."""
    starts_K1 = _mmaction_starts(length, frames * stride, clips)[:, None]
    return np.floor(starts_K1 + np.arange(frames) * stride).astype(np.int64) % length  # type: ignore[no-any-return]


# --- parts ------------------------------------------------------------------------------------------------------------


def _borders(length: int, segments: int) -> Indices:
    """Borders [N+1] of segments from the first to the last frame."""
    return np.rint((length - 1) / segments * np.arange(segments + 1)).astype(np.int64)  # type: ignore[no-any-return]


def _mmaction_starts(length: int, span: float, clips: int) -> Indices:
    """Starts [K] of K clips of `span` frames in the middles of equal parts, 0 in shorter videos (mmaction's tests)."""
    part = max(0, length - span + 1) / clips
    return (np.arange(clips) * part + part / 2).astype(np.int64)


def _span(frames: int, stride: float, spacing: Spacing) -> float:
    """Frames that a strided clip covers."""
    return (frames - 1) * stride + 1 if spacing == "step" else frames * stride


def _starts(slack: float, clips: int) -> Indices:
    """First frames [K,1] of K clips if the last one can start at `slack`."""
    starts_K = np.arange(clips) * (slack // (clips - 1)) if clips > 1 else np.array([slack // 2])
    return starts_K[:, None].astype(np.int64)


def _dense(length: int, frames: int, start_K1: Indices | int) -> Indices:
    return (start_K1 + np.arange(frames) * max(1, DENSE_SPAN // frames)) % length


def _strided(length: int, frames: int, start_K1: Indices | int, stride: float, spacing: Spacing) -> Indices:
    span = frames * stride
    offsets_N = np.arange(frames) * stride if spacing == "step" else np.linspace(0, max(0, span - 1), frames)
    return np.floor(start_K1 + offsets_N).astype(np.int64).clip(max=length - 1)


def _stride(views: TestViews | TrainViews, rate: float) -> float:
    """Distance between sampled frames in a video of `rate` frames per second."""
    return views.stride if views.rate is None else views.stride * rate / views.rate


def _require_frames(length: int) -> None:
    if length < 1:
        raise ValueError("a video without frames has no views")

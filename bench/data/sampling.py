"""Which frames of a video are looked at: zero-based indices, numpy only.

Rules and names follow the code bases of the field: MoTE and Text4Vis (`segments_inclusive`, `segment_start`, `dense`),
Text4Vis (`ticks`), ActionCLIP (`segment_centre`). Their frame-file offset of one is left out.

Legend: K clips, N frames of a clip.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from bench.data.views import TestViews, TrainViews

Indices = np.ndarray

DENSE_SPAN = 128  # frames that a dense clip covers in the official code, whatever the frame rate


def segments_inclusive(length: int, frames: int, rng: np.random.Generator) -> Indices:
    """One random frame of each of N equal segments, [N]; borders belong to both neighbours, so frames can coincide.

    Raises ValueError for a video without frames.
    """
    _require_frames(length)
    borders = np.rint((length - 1) / frames * np.arange(frames + 1)).astype(np.int64)
    return rng.integers(borders[:-1], borders[1:], endpoint=True)  # type: ignore[no-any-return]


def ticks(length: int, frames: int, rng: np.random.Generator) -> Indices:
    """One random frame of each of N segments without common borders, [N]; short videos repeat random frames.

    Raises ValueError for a video without frames.
    """
    _require_frames(length)
    if length <= frames:
        return np.sort(np.concatenate([np.arange(length), rng.integers(0, length, frames - length)]))
    borders = np.arange(frames + 1) * length // frames
    return rng.integers(borders[:-1], borders[1:])


def segment_start(length: int, frames: int, clips: int, short_clip: Literal["wrap", "clamp"]) -> Indices:
    """The first frame of each of N segments; clip k is the same grid shifted within a segment, [K,N].

    With fewer frames than N the shifts are negative: `wrap` lets them reach the video's last frame, as the official
    code does, `clamp` keeps the clips on the unshifted grid. Raises ValueError for a video without frames.
    """
    _require_frames(length)
    tick = length / frames
    shifts_K1 = np.floor(np.linspace(0, tick - 1, clips))[:, None]
    if short_clip == "clamp":
        shifts_K1 = shifts_K1.clip(min=0)
    return np.trunc(shifts_K1 + tick * np.arange(frames)).astype(np.int64) % length  # type: ignore[no-any-return]


def dense(length: int, frames: int, clips: int) -> Indices:
    """N frames evenly over 128 consecutive ones, clips evenly over the video, [K,N]; short videos start over.

    The official code divides by zero for one clip; here a single clip lies in the middle. Raises ValueError for a video
    without frames.
    """
    _require_frames(length)
    slack = max(0, length - DENSE_SPAN)
    starts_K = np.arange(clips) * (slack // (clips - 1)) if clips > 1 else np.array([slack // 2])
    return (starts_K[:, None] + np.arange(frames) * max(1, DENSE_SPAN // frames)) % length


def segment_centre(length: int, frames: int, clips: int) -> Indices:
    """The middle frame of each of N segments, [K,N].

    ActionCLIP knows one clip; K clips take the middles of K equal parts of every segment. Raises ValueError for a video
    without frames.
    """
    _require_frames(length)
    parts = frames * clips
    if parts == 1:
        return np.array([[length // 2]])
    tick = length / parts
    middles: Indices = np.trunc(np.arange(parts) * tick + (tick - 1) / 2).astype(np.int64)
    return middles.reshape(frames, clips).T


def train_indices(views: TrainViews, length: int, rng: np.random.Generator) -> Indices:
    """Frames of one random training view, [N]. Raises ValueError for a video without frames."""
    sampler = ticks if views.sampler == "ticks" else segments_inclusive
    return sampler(length, views.frames, rng)


def test_indices(views: TestViews, length: int) -> Indices:
    """Frames of the clips of a test video, [K,N]. Raises ValueError for a video without frames."""
    if views.sampler == "segment_start":
        return segment_start(length, views.frames, views.clips, views.short_clip)
    sampler = dense if views.sampler == "dense" else segment_centre
    return sampler(length, views.frames, views.clips)


test_indices.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it where it is imported


def _require_frames(length: int) -> None:
    if length < 1:
        raise ValueError("a video without frames has no views")

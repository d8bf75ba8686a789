"""Small pictures of the videos behind a result, where the videos are on this machine. N frames."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO

import numpy as np
from PIL import Image

from bench.core.errors import StageError, UserError
from bench.data.videos import opened
from bench.graph.stage import Stage
from bench.video.reader import Video
from bench.video.source import Source, VideoError

FRAMES, HEIGHT, WIDEST, GAP = 3, 72, 128, 2  # of a picture; pixels
BYTES = 9_000  # of a picture, so that twelve of them weigh less than 150 kB in a page
QUALITIES = (80, 60, 40, 20, 10)  # of JPEG, of which the first is taken that is small enough


def stills(evaluation: Stage, names: Sequence[str]) -> dict[str, bytes]:
    """By name, a JPEG of three frames of videos of an evaluation; without those that cannot be read here."""
    found = dict[str, bytes]()
    with suppress(StageError, UserError, OSError):
        videos = opened(evaluation.inputs["features"].context)
        places = {entry.name: place for place, entry in enumerate(videos.entries)}
        for name in names:
            with suppress(VideoError, OSError):
                found[name] = picture(videos[places[name]].source)
    return found


def picture(source: Source) -> bytes:
    """A JPEG of the frames in the middle of each third, side by side. Raises VideoError."""
    video = Video(source)
    middles_N = (np.arange(FRAMES) + 0.5) / FRAMES * len(video)
    frames = [Image.fromarray(frame) for frame in video.frames(middles_N.astype(int))]
    width = max(1, min(WIDEST, round(HEIGHT * frames[0].width / frames[0].height)))
    strip = Image.new("RGB", (FRAMES * (width + GAP) - GAP, HEIGHT), "white")
    for place, frame in enumerate(frames):
        strip.paste(frame.resize((width, HEIGHT), Image.Resampling.LANCZOS), (place * (width + GAP), 0))
    made = b""
    for quality in QUALITIES:
        file = BytesIO()
        strip.save(file, "JPEG", quality=quality, optimize=True)
        made = file.getvalue()
        if len(made) <= BYTES:
            break
    return made

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.video.reader import Video
from bench.video.source import Source, VideoError
from tests.video.clips import READERS, shown, write_clip


@pytest.mark.parametrize("decoder", READERS)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.mkv"])
def test_a_span_of_seconds_is_a_video_of_its_own(tmp_path: Path, name: str, decoder: str) -> None:
    path = write_clip(tmp_path / name, frames=20)  # of 8 frames a second
    video = Video(Source(path, span=(0.5, 1.5)), decoder)
    assert len(video) == 8 and video.rate == 8
    assert shown(video.frames(np.array([0, 7, 3]))) == [4, 11, 7]
    with pytest.raises(VideoError, match="no frame 8 among 8"):
        video.frames(np.array([8]))
    assert len(Video(Source(path, span=(2, 99)), decoder)) == 4
    for empty in ((2.5, 9), (1, 1), (1.01, 1.1)):
        with pytest.raises(VideoError, match="no frames in seconds"):
            Video(Source(path, span=empty), decoder)


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys, bench.video.reader; print([name for name in ('torch', 'decord', 'av') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"

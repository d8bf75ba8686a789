"""Videos that two rows disagree on, and their pictures."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.glyphs import world
from bench.video.source import Source, VideoError
from reports import stills
from reports.disagreements import PicturedTable, disagreement_tables
from reports.page import write_report
from tests.reports import synthetic
from tests.reports.test_confusion import written


def test_both_directions_are_shown_with_answers_and_seeds() -> None:
    (table,) = disagreement_tables(written())
    assert synthetic.heads(table) == ["Video", "Class", "MoTE", "CLIP (frozen)", "Seeds right", "Protocol"]
    assert synthetic.texts(table) == [
        ("v0", "run", "run", "walk", "2 of 2 / 0 of 1", "K400"),
        ("v1", "run", "run", "walk", "2 of 2 / 0 of 1", "K400"),
        ("v3", "walk", "run", "walk", "1 of 2 / 1 of 1", "K400"),
        ("v5", "<jump>", "<jump>", "<jump>", "1 of 2 / 1 of 1", "K400"),
    ]


def test_protocols_and_classes_come_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reports.disagreements.SIDE", 3)
    (table,) = disagreement_tables(written(("K400", "UCF")))
    shown = [(row[0], row[-1]) for row in synthetic.texts(table)]
    assert shown[:3] == [("v0", "K400"), ("v0", "UCF"), ("v1", "K400")]
    assert shown[3:] == [("v3", "K400"), ("v3", "UCF"), ("v5", "K400")]


def test_what_could_not_be_decoded_is_left_out() -> None:
    (table,) = disagreement_tables(written(failed=(0,)))
    assert "v0" not in [row[0] for row in synthetic.texts(table)]


@pytest.mark.usefixtures("without_figures")
def test_pictures_stand_in_the_page_where_they_are_known(tmp_path: Path) -> None:
    file = BytesIO()
    Image.new("RGB", (220, 72), "red").save(file, "JPEG")
    results = replace(
        written(), stills=lambda identity, videos: {own: file.getvalue() for own in videos if own != "v1"}
    )
    (table,) = disagreement_tables(results)
    assert isinstance(table, PicturedTable) and [bool(own) for own in table.pictures] == [True, False, True, True]
    text = write_report(results, tmp_path / "out").read_text(encoding="utf-8")
    assert text.count('<img src="data:image/jpeg;base64,') == 3 and 'alt="Three frames of v0"' in text
    assert "<jump>" not in text and "&lt;jump&gt;" in text
    assert "data:image/jpeg" not in write_report(written(), tmp_path / "without").read_text(encoding="utf-8")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path, *_ = next(iter(world.entries("narrow", "verbs", "test")))
    file = tmp_path / "clip.mp4"
    world.encode(world.render_entry("narrow", path), file)
    return file


def test_a_picture_is_three_frames_and_small(clip: Path) -> None:
    made = stills.picture(Source(clip))
    with Image.open(BytesIO(made)) as shown:
        assert shown.size == (3 * 72 + 2 * 2, 72)
    assert len(made) <= stills.BYTES and made == stills.picture(Source(clip))


def test_pictures_of_noise_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    class Noise:
        def __init__(self, source: Source) -> None: ...

        def __len__(self) -> int:
            return 9

        def frames(self, indices: np.ndarray) -> np.ndarray:
            return np.random.default_rng(0).integers(0, 256, (len(indices), 72, 400, 3), dtype=np.uint8)

    monkeypatch.setattr(stills, "Video", Noise)
    assert 12 * 4 / 3 * len(stills.picture(Source(Path("noise.mp4")))) < 150_000


def test_videos_that_are_not_there_have_no_picture(tmp_path: Path) -> None:
    with pytest.raises(VideoError):
        stills.picture(Source(tmp_path / "nothing.mp4"))

"""Maps over frames: each frame on a scale of its own, the frames of long clips thinned out, one seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from reports.experts import COLUMNS, map_figures, scaled
from reports.facts import MappedClip, Maps, Subject
from tests.reports import synthetic

NAMES = ("merged", "expert 0", "expert 2")


def _maps(seed: int = 0, frames: int = 4, clips: int = 1) -> Maps:
    rng = np.random.default_rng(seed)
    made = tuple(
        MappedClip(
            video=f"v{n}.mp4",
            shown="star rising",
            predicted=("star rising", "star falling", "moon rising"),
            pixels=rng.integers(0, 256, (frames, 3, 16, 16), dtype=np.uint8),
            cosines=rng.uniform(-0.1, 0.4, (len(NAMES), frames, 2, 2)).astype(np.float32),
        )
        for n in range(clips)
    )
    return Maps(Subject("mote", "MoTE", "", f"m{seed}", seed), "K600", "t_frames", NAMES, made)


def _figures(*found: Maps) -> dict[str, Figure]:
    return {own.name: own.figure for own in map_figures(replace(synthetic.plain(), maps=found))}


def test_each_frame_has_its_own_scale() -> None:
    maps_TGG = scaled(np.array([[[1, 2], [3, 5]], [[10, 10], [10, 10]]], dtype=np.float32))
    assert maps_TGG.tolist() == [[[0, 0.25], [0.5, 1]], [[0, 0], [0, 0]]]


def test_rows_are_frames_and_choices_and_columns_are_frames() -> None:
    figures = _figures(_maps(clips=2))
    assert list(figures) == ["expert-maps-mote-1", "expert-maps-mote-2"]
    figure = figures["expert-maps-mote-1"]
    tiles, bar = figure.axes[:-1], figure.axes[-1]
    assert len(tiles) == (1 + len(NAMES)) * 4 and bar.get_ylabel() == "cosine, scaled in each frame"
    maps = [axes.images[1] for axes in tiles[4:]]
    assert all(image.get_interpolation() == "bilinear" and image.get_clim() == (0, 1) for image in maps)
    for image in maps:
        assert np.ptp(np.asarray(image.get_array())) == pytest.approx(1)
        assert tuple(image.get_extent()) == (0, 16, 16, 0)  # the whole frame
    label = tiles[4].get_ylabel().split("\n")
    assert label[:2] == ["merged", "star rising"] and " to " in label[2]
    assert "v0.mp4: star rising" in figure.get_suptitle()


def test_long_clips_are_thinned_out_evenly() -> None:
    (figure,) = _figures(_maps(frames=16)).values()
    titles = [axes.get_title() for axes in figure.axes[:COLUMNS]]
    assert titles[0] == "frame 0" and titles[-1] == "frame 15" and len(figure.axes) == COLUMNS * (1 + len(NAMES)) + 1
    assert f"{COLUMNS} of 16 frames" in figure.get_supxlabel()


def test_only_the_first_seed_is_drawn() -> None:
    (figure,) = _figures(_maps(seed=3), _maps(seed=1)).values()
    assert "seed 1" in figure.get_suptitle()

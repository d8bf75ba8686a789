"""The recipe of the embedded world's video tower in miniature, and the weights that it shipped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from bench.glyphs import world as glyphs
from bench.models.clip import VideoTower, load_clip
from bench.models.weights import BUILTIN_FILES
from tools import pretrain_video as recipe

FILE = BUILTIN_FILES[recipe.NAME]
TINY: dict[str, Any] = {"batch": 3, "steps": 2, "whole_steps": 1}


# Small tensors gain nothing from threads, and stall by the second where other processes hold the cores.
pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_moves_all_of_the_tower_and_nothing_else() -> None:
    start, done = recipe.started(0).state_dict(), recipe.train(recipe.VideoPretraining(**TINY), lambda *counts: None)
    same = {name for name, tensor in done.state_dict().items() if torch.equal(tensor, start[name])}
    assert same == {name for name in start if not name.startswith("visual.")}


def test_a_batch_shows_the_pairs_that_it_names() -> None:
    config = recipe.VideoPretraining(**TINY)
    batch, again = (recipe.clip_batch(config, 5, 4) for _ in range(2))
    assert batch.clips_BT3HW.shape == (3, 4, 3, 64, 64) and torch.equal(batch.clips_BT3HW, again.clips_BT3HW)
    assert not torch.equal(batch.clips_BT3HW, recipe.clip_batch(config, 6, 4).clips_BT3HW)
    assert batch.pairs_B.max() < len(glyphs.OBJECTS) * len(glyphs.VERBS)


@torch.no_grad()
def test_dropped_patches_leave_the_class_token_and_all_is_the_towers_own() -> None:
    clip = recipe.started(0)
    tower = clip.visual
    assert isinstance(tower, VideoTower)
    clips_BT3HW = recipe.clip_batch(recipe.VideoPretraining(**TINY), 0, 4).clips_BT3HW
    whole_BD = clip.encode_clips(clips_BT3HW)[:, 0]
    torch.testing.assert_close(recipe.features(tower, clips_BT3HW, 0.0), whole_BD, atol=1e-5, rtol=0)
    dropped_BD = recipe.features(tower, clips_BT3HW, 0.75)
    assert not torch.allclose(dropped_BD, whole_BD, atol=1e-3)
    assert (F.cosine_similarity(dropped_BD, whole_BD) > 0.5).all()


# ---------------------------------------------------------------------------------------------------------------------
# What is shipped


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path(FILE).with_suffix(".json").read_text(encoding="utf-8"))
    return loaded


def test_the_shipped_file_is_the_recorded_one(record: dict[str, Any]) -> None:
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == record["sha256"]
    assert FILE.stat().st_size < 5_000_000
    assert record["config"] == recipe.asdict(recipe.VideoPretraining())


def test_the_shipped_tower_tells_motions_from_their_reverse(record: dict[str, Any]) -> None:
    """Which the tiny CLIP, a mean over frames, cannot."""
    source = record["measured"]["source"]
    assert source["top1"] > 2 * source["reversed_top1"]
    clip = load_clip(recipe.NAME, "builtin")
    table_1TW = clip.visual.temporal_positional_embedding
    assert table_1TW.shape[1] == 4 and (table_1TW.std(dim=1) > 0).any()
    measured = recipe.measure_set(clip, "source", 1)
    assert measured["top1"] >= source["top1"] - 0.2  # 32 clips

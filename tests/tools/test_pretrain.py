"""The pre-training recipe in miniature, its batches, and the weights that it shipped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.glyphs import world as glyphs
from bench.models.backbones import backbone
from bench.models.clip import load_clip
from bench.models.weights import BUILTIN_FILE
from tests.errors import refused
from tools import pretrain, stills

TINY: dict[str, Any] = {"batch": 12, "teacher_steps": 3, "cone_steps": 2, "tower_steps": 6, "checkpoint_every": 2}


# Small tensors gain nothing from threads, and stall by the second where other processes hold the cores.
pytestmark = pytest.mark.usefixtures("one_thread")


def trained(out: Path, **settings: Any) -> dict[str, Tensor]:
    run = pretrain.PretrainingRun(out, pretrain.Pretraining(**TINY | settings), lambda done, total, text: None)
    state: dict[str, Tensor] = pretrain.train(run).state_dict()
    return state


def test_an_interrupted_run_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole")
    losses = pretrain.distillation_losses
    calls = []

    def stops_in_the_fourth_step(*arguments: Any) -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return losses(*arguments)

    monkeypatch.setattr(pretrain, "distillation_losses", stops_in_the_fourth_step)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut")
    assert torch.load(tmp_path / "cut" / "checkpoints" / "tower.pt", weights_only=True)["step"] == 2
    resumed = trained(tmp_path / "cut")
    assert len(calls) == 4 + 4  # steps 2 to 5 again, nothing before
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_another_recipe_does_not_continue_a_checkpoint(tmp_path: Path) -> None:
    trained(tmp_path)
    with refused("other settings", where="teacher.pt"):
        trained(tmp_path, seed=1)


def test_the_tower_learns(tmp_path: Path) -> None:
    """A few steps on one batch bring the loss down: the optimiser reaches every part of the tower."""
    config = pretrain.Pretraining(batch=16)
    teacher = pretrain.new_teacher(0).eval().requires_grad_(False)
    table, tower = pretrain.text_table(teacher), load_clip("glyph-vit", "random:0").visual.requires_grad_(True)
    optimisation = pretrain.Optimisation(tower, config, 2e-3, 10**6)
    _, batch = next(pretrain.batches(config, 0, 1, salt=0))
    totals, before = [], {name: value.clone() for name, value in tower.named_parameters()}
    for step in range(12):
        loss = sum(pretrain.distillation_losses(tower, teacher, table, batch).values(), torch.zeros(()))
        totals.append(loss.item())
        optimisation.step(loss, step + 60)
    assert totals[-1] < 0.8 * totals[0]
    assert not [name for name, value in tower.named_parameters() if torch.equal(value, before[name])]


def test_the_cone_keeps_the_order_of_texts(tmp_path: Path) -> None:
    config = pretrain.Pretraining(batch=16, cone_steps=1, cone=2.0)
    run = pretrain.PretrainingRun(tmp_path, config, lambda *counts: None)
    teacher = pretrain.new_teacher(3).eval().requires_grad_(False)
    spread_KD = pretrain.class_texts(teacher, list(glyphs.OBJECTS))
    pretrain.gather_texts(run, teacher)
    gathered_KD = pretrain.class_texts(teacher, list(glyphs.OBJECTS))
    assert (gathered_KD @ gathered_KD.T).min() > (spread_KD @ spread_KD.T).min()
    assert (gathered_KD @ gathered_KD.T).mean() > 0.75  # c^2 / (1 + c^2) = 0.8 for orthogonal texts


def test_confusing_captions_change_the_verb_only() -> None:
    batch = stills.still_batch(64, 0, 0)
    confusing = pretrain.confusing_captions(batch, np.random.default_rng(0))
    acting = [(c, glyphs.VERBS[v]) for c, v in zip(batch.captions, batch.verbs_B, strict=True) if v >= 0]
    assert len(confusing) == len(acting)
    others = []
    for wrong, (caption, verb) in zip(confusing, acting, strict=True):
        candidates = [other for other in glyphs.VERBS if other != verb and caption.replace(verb, other) == wrong]
        assert candidates, (wrong, caption)
        others.append((verb, candidates[0]))
    opposites = {a: b for pair in glyphs.OPPOSITES for a, b in (pair, pair[::-1])}
    with_opposite = [opposites[verb] == other for verb, other in others if verb in opposites]
    assert 0.25 < np.mean(with_opposite) < 0.85


def test_modulation_is_one_on_the_source_and_small_on_far_classes() -> None:
    source_CD = F.normalize(torch.randn(30, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    torch.testing.assert_close(pretrain.modulation(source_CD[:4], source_CD, source_CD), torch.ones(4))
    assert pretrain.modulation(source_CD[:4], -source_CD, source_CD).max() < 0.01


# ---------------------------------------------------------------------------------------------------------------------
# What is shipped


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(BUILTIN_FILE.with_suffix(".json").read_text(encoding="utf-8"))
    return loaded


def test_the_shipped_file_is_the_recorded_one(record: dict[str, Any]) -> None:
    assert hashlib.sha256(BUILTIN_FILE.read_bytes()).hexdigest() == record["sha256"]
    assert BUILTIN_FILE.stat().st_size < 5_000_000


def test_the_shipped_clip_knows_objects_as_recorded(record: dict[str, Any]) -> None:
    clip = load_clip("glyph-vit", "builtin")
    measured = pretrain.sample_accuracy(clip)
    assert measured >= record["measured"]["sample_object_accuracy"] - 0.03  # 92 clips: three of them
    assert measured > 0.8


def test_the_shipped_clip_has_features_of_the_stated_norm() -> None:
    batch = stills.still_batch(128, 7, 7)
    norms = pretrain.embed(load_clip("glyph-vit", "builtin"), batch.pixels_BHW3).norm(dim=-1)
    assert norms.mean().item() == pytest.approx(5, abs=0.3) and backbone("glyph-vit").embed_dim == 128

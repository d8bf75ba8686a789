"""Smoothed labels and blended videos: the official numbers, groups, and the trainings that use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from bench.stages.train import Trainer, run
from bench.stages.training.mixing import Blend, blended, cut_box, cut_in, mixed_up, smoothed
from bench.stages.training.ranks import Ranks
from bench.suite.recipe import Mix
from tests.stages.trainings import training, weights

GOLDEN = load_file(Path(__file__).parents[2] / "golden/vificlip.safetensors")
CLASSES = 5


def videos() -> Blend:
    return Blend(GOLDEN["in.pixels"], smoothed(GOLDEN["in.labels"], CLASSES, float(GOLDEN["in.smoothing"])))


def cross_entropy(targets_bC: Tensor) -> Tensor:
    """Of the golden logits, which are those of the unmixed videos."""
    return F.cross_entropy(GOLDEN["out.logits"], targets_bC)


def test_smoothed_labels_are_those_of_vifi_clip() -> None:
    torch.testing.assert_close(videos().targets, GOLDEN["out.targets.smoothed"], atol=1e-6, rtol=0)
    torch.testing.assert_close(cross_entropy(videos().targets), GOLDEN["out.loss.smoothed_only"], atol=1e-5, rtol=0)
    plain = cross_entropy(smoothed(GOLDEN["in.labels"], CLASSES, 0.0))
    torch.testing.assert_close(plain, GOLDEN["out.loss.plain_ce"], atol=1e-5, rtol=0)


def test_mixup_is_that_of_vifi_clip() -> None:
    pixels, targets = mixed_up(videos(), GOLDEN["in.permutation"], float(GOLDEN["in.mixup.lambda"]))
    torch.testing.assert_close(pixels, GOLDEN["out.mixup.pixels"], atol=1e-5, rtol=0)
    torch.testing.assert_close(targets, GOLDEN["out.mixup.targets"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["cutmix0", "cutmix1"])
def test_cutmix_is_that_of_vifi_clip(case: str) -> None:
    """Both boxes reach over an edge."""
    x, y = GOLDEN[f"in.{case}.centre_xy"].tolist()
    height, width = GOLDEN["in.pixels"].shape[-2:]
    box = cut_box(width, height, float(GOLDEN[f"in.{case}.lambda"]), (x, y))
    assert [box.x1, box.y1, box.x2, box.y2] == GOLDEN[f"out.{case}.box_x1y1x2y2"].tolist()
    pixels, targets = cut_in(videos(), GOLDEN["in.permutation"], box)
    torch.testing.assert_close(targets, GOLDEN[f"out.{case}.targets"], atol=1e-5, rtol=0)
    if f"out.{case}.pixels" in GOLDEN:
        torch.testing.assert_close(pixels, GOLDEN[f"out.{case}.pixels"], atol=0, rtol=0)
    assert not torch.equal(pixels, GOLDEN["in.pixels"])


def drawn(videos: int, seed: int, **mix: Any) -> tuple[Tensor, Tensor]:
    """(pixels, targets) of videos of 8 x 8 pixels, whose number is the value of all their pixels and their class."""
    numbers_b = torch.arange(videos)
    pixels = numbers_b.float()[:, None, None, None, None].expand(-1, 2, 3, 8, 8)
    return blended(Blend(pixels, smoothed(numbers_b, videos, 0.0)), Mix(**mix), np.random.default_rng(seed))


@pytest.mark.parametrize("odds", [0.0, 1.0])
def test_targets_say_of_whom_the_pixels_are(odds: float) -> None:
    for seed in range(10):
        pixels, targets = drawn(6, seed, odds=odds)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))
        torch.testing.assert_close(targets @ torch.arange(6.0), pixels.mean(dim=(1, 2, 3, 4)), atol=1e-5, rtol=0)


def test_a_group_shares_share_and_permutation_and_keeps_to_itself() -> None:
    kinds = set()
    for seed in range(20):
        pixels, targets = drawn(10, seed, group=4)
        groups = [range(4), range(4, 8), range(8, 10)]
        shares = [{round(float(targets[own, own]), 4) for own in group} - {1.0} for group in groups]
        assert max(map(len, shares)) <= 1  # a video may be its own partner
        for group in groups:
            assert float(targets[list(group)][:, list(group)].sum()) == pytest.approx(len(group))
        kinds |= {bool((pixels[list(group)] % 1 == 0).all()) for group in groups}
    assert kinds == {True, False}  # CutMix leaves whole numbers


def test_one_video_stays_itself() -> None:
    assert torch.equal(drawn(1, 0)[0], torch.zeros(1, 2, 3, 8, 8))


# ---------------------------------------------------------------------------------------------------------------------
# Trainings


pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_loss_gets_targets_and_blended_pixels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = training(folder, "blended", tuned=True, smoothing=0.1, mix={"odds": 0.0}, epochs=1 / 3)
    trainer = Trainer(work, Ranks())
    batch = next(trainer.source.batches(0, 0, 0))
    plain = trainer.source.prepared(trainer.model, batch.frames_b)
    pixels, targets = trainer._targets(plain, batch.labels_b, 0)
    assert targets.shape == (5, 3) and pixels.shape == plain.shape and not torch.equal(pixels, plain)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(5))
    assert targets.min() >= 0.1 / 3 - 1e-6
    again, _ = trainer._targets(plain, batch.labels_b, 0)
    other, _ = trainer._targets(plain, batch.labels_b, 1)
    assert torch.equal(again, pixels) and not torch.equal(other, pixels)


def test_smoothing_alone_needs_no_pixels(folder: Path) -> None:
    plain, softened = (training(folder, f"soft-{eps}", smoothing=eps, epochs=1) for eps in (0.0, 0.1))
    assert run(plain)["total"] != run(softened)["total"]
    assert weights(plain).keys() == weights(softened).keys()

"""What stages do over and over, on one thread: `python -m pytest tests/benchmarks/test_stages.py --benchmark-only -s`.

Steps and answers of every registered method are multiples of CLIP mean-pool's answers to the same clips, which take
turns with them: both sides include the tower of the embedded world (13 MFLOPs a frame), so heads show as what they add.

Legend: B videos, T frames, S side, D joint CLIP width.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn import functional as F

from bench.models.backbones import backbone
from bench.video.loader import test_loader
from bench.video.pool import Decoding
from conformance.cases import BACKBONE, C, Case, cases
from tests.benchmarks.test_mote import in_turns
from tests.benchmarks.test_reading import VIEWS, videos_in, write_natural

TIMED = pytest.mark.benchmark(group="stages", timer=time.process_time)  # whatever else the machine does

B, T = 16, 8
PROMPTS = [[f"a photo of a {name}"] for name in ("star", "heart", "flag", "king", "die")]  # one for each of C


pytestmark = pytest.mark.usefixtures("one_thread")


def methods() -> list[Case]:
    """Every registered method under its defaults, with a frozen tower."""
    return [case for case in cases() if not case.variant and case.config.tower == "frozen"]


@cache
def clips() -> torch.Tensor:
    """Normalised pixels [B, T, 3, S, S]."""
    side = backbone(BACKBONE).image_size
    return torch.randn(B, T, 3, side, side, generator=torch.Generator().manual_seed(0))


def classes() -> torch.Tensor:
    """Unit class features [C, D]."""
    generator = torch.Generator().manual_seed(1)
    return F.normalize(torch.randn(C, backbone(BACKBONE).embed_dim, generator=generator), dim=-1)


def answering(case: Case) -> Callable[[], object]:
    """From pixels to scores of all clips, as deployed."""
    model = case.build()
    predictor, classes_CD = model.deploy(case.inference(), classes()), classes()

    @torch.no_grad()
    def answer() -> None:
        predictor(model.encode(clips()), classes_CD)

    return answer


def stepping(case: Case) -> Callable[[], object]:
    """A step of training on all clips: forward, backward and optimiser."""
    model = case.build().train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    labels_B, generator = torch.arange(B) % C, torch.Generator()

    def step() -> None:
        optimizer.zero_grad()
        classes_CD = model.embed_classes(PROMPTS) if model.config.texts_inside else classes()
        model.loss(model.encode(clips()), labels_B, classes_CD, generator.manual_seed(0))["total"].backward()
        optimizer.step()

    return step


def mean_pool() -> Callable[[], object]:
    return answering(next(case for case in methods() if case.method.name == "clip_mean"))


@TIMED
def test_decoding(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Eight frames of each of four clips of 10 s, 340 x 256."""
    (tmp_path / "videos").mkdir()
    for seed in range(4):
        write_natural(tmp_path / "videos" / f"{seed}.mp4", seed)
    videos = videos_in(tmp_path)
    batches = benchmark.pedantic(lambda: list(test_loader(videos, VIEWS, Decoding(0), 4)), rounds=5, warmup_rounds=1)
    assert [len(batch.indices) for batch in batches] == [4] and not batches[0].failures


@TIMED
def test_encoding(benchmark: BenchmarkFixture) -> None:
    """Frame features of all clips, glyph-vit."""
    model = next(iter(methods())).build()
    frames_BTD = benchmark.pedantic(torch.no_grad()(partial(model.encode, clips())), rounds=10, warmup_rounds=2)
    assert frames_BTD.shape == (B, T, model.width)


@TIMED
@pytest.mark.parametrize("case", methods(), ids=lambda case: case.method.name)
def test_inference(benchmark: BenchmarkFixture, case: Case) -> None:
    assert in_turns(benchmark, answering(case), mean_pool(), rounds=20) > 0.5


@TIMED
@pytest.mark.parametrize("case", [each for each in methods() if each.config.trains], ids=lambda case: case.method.name)
def test_a_training_step(benchmark: BenchmarkFixture, case: Case) -> None:
    assert in_turns(benchmark, stepping(case), mean_pool(), rounds=20) > 0.5

"""What VidPrism's head costs: `python -m pytest tests/benchmarks/test_vidprism.py --benchmark-only -s`.

A forward and backward pass is compared with the specification written down as it is read: video by video and window by
window, each token of a window in its turn, then pair by pair of streams. Experts, read-out and heads are the same
modules on both sides. The two take turns on one thread and are compared by processor time turn by turn.

Legend: B batch, T frames, L tokens of a stream, w frames of a window, D joint CLIP width, C classes.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.nn import functional as F

from methods.vidprism.config import Config
from methods.vidprism.head import VidPrismHead
from methods.vidprism.model import DIVERSITY, balance
from tests.benchmarks.test_mote import in_turns

B, T, D, C = 8, 32, 512, 400  # ViT-B/16 on Kinetics-400, 32 frames
SLOWER = 0.8  # over the competitor, at most


pytestmark = pytest.mark.usefixtures("one_thread")


# --- window by window -------------------------------------------------------------------------------------------------


def window_token(pool: nn.Module, window_wD: Tensor) -> tuple[Tensor, Tensor]:
    """What a window becomes [D], and its divergence."""
    metric_wD = pool.get_submodule("metric_proj")(window_wD)
    unit_wD = F.normalize(metric_wD, dim=-1)
    similarity_ww = unit_wD @ unit_wD.T
    similarity_ww = similarity_ww.masked_fill(torch.eye(len(window_wD), dtype=torch.bool), 0)
    predicted_w, norms_w = pool.get_submodule("score_head")(metric_wD)[:, 0], window_wD.norm(dim=-1)
    kept = int((0.7 * predicted_w + 0.3 * norms_w).argmax())
    attention_ww = (similarity_ww / 0.1).softmax(dim=-1)
    token_D = window_wD[kept]
    for t in range(len(window_wD)):
        if t != kept:
            weight = attention_ww[t, kept] / (attention_ww[t, kept] + 1e-6)
            token_D = token_D + 0.5 * weight * window_wD[t]
    target_w = ((norms_w + similarity_ww.mean(dim=-1)).detach() / 0.2).softmax(dim=-1)
    shares_w = (predicted_w / 0.2).softmax(dim=-1)
    return token_D, (target_w * (target_w.clamp_min(1e-9).log() - shares_w.clamp_min(1e-9).log())).sum()


def merged(pool: nn.Module, rate: int, frames_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """A stream [B, L, D] and its rank loss."""
    videos, divergences = [], []
    for frames_TD in frames_BTD:
        found = [window_token(pool, window_wD) for window_wD in frames_TD.split(rate)]
        videos.append(torch.stack([token_D for token_D, _ in found]))
        divergences += [divergence for _, divergence in found]
    return torch.stack(videos), torch.stack(divergences).mean()


def interacted(head: VidPrismHead, streams: list[Tensor]) -> list[Tensor]:
    """StreamPair by pair, each overwriting what the target took over before."""
    module, taken = head.dynamic_interaction, list(streams)
    for source, target in head.config.pairs:
        means_B2D = torch.cat([streams[source].mean(dim=1), streams[target].mean(dim=1)], dim=-1)
        score_B1 = module.get_submodule(f"score_mlps.{source * len(streams) + target}")(means_B2D)
        if score_B1.mean() < 0.3:
            continue
        source_BDL = streams[source].mT
        if source < target:
            update_BDL = module.get_submodule(f"fast2slow_ops.{source}->{target}.tconv")(source_BDL)
        else:
            length = streams[target].shape[1]
            update_BDL = module.get_submodule("slow2fast.proj")(F.interpolate(source_BDL, length, mode="linear"))
        taken[target] = streams[target] + score_B1[:, :, None] * update_BDL.mT
    return taken


# --- the measurement --------------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="vidprism")
def test_forward_and_backward(benchmark: BenchmarkFixture) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = VidPrismHead(D, Config())
        head.bind_classes(C)
        frames_BTD = torch.randn(B, T, D)

    def step(by_hand: bool) -> Tensor:
        head.zero_grad()
        if by_hand:
            found = [
                merged(pool, rate, frames_BTD)
                for pool, rate in zip(head.pooling_layers, head.config.rates, strict=True)
            ]
            rank = torch.stack([divergence for _, divergence in found]).mean()
            read = head.mote(interacted(head, [stream_BLD for stream_BLD, _ in found]))
        else:
            _, _, read, rank = head(frames_BTD, ranked=True)
        ce = F.cross_entropy(head.logits(read.video_BD), torch.arange(B))
        total: Tensor = ce + rank + balance(read.shares_BE) + DIVERSITY["batch"](read.summaries_BED)
        total.backward()
        return total.detach()

    torch.testing.assert_close(step(False), step(True), rtol=1e-4, atol=1e-5)
    assert in_turns(benchmark, lambda: step(False), lambda: step(True), rounds=10) <= SLOWER

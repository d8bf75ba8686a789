"""What MoTE costs: `python -m pytest tests/benchmarks/test_mote.py --benchmark-only -s`.

A training step is compared with the specification written down expert by expert: a module each, run where it was drawn,
and for the merged pass all of them stacked and summed with their weights. A deployed network is compared with the dense
head. The competitors take turns on one thread and are compared by processor time turn by turn, since other processes
share the machine.

Legend: B batch, T frames, D joint CLIP width, C classes, L layers, E experts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.backbones import backbone
from bench.models.clip import Clip
from methods.blocks import FeedForward, layer_norm
from methods.contract import build_model
from methods.dense_temporal.config import Config as DenseConfig
from methods.dense_temporal.model import Model as Dense
from methods.mote.config import Config, Inference, merge_weights
from methods.mote.model import Model
from tests.golden.official_mote import bare_clip

B, T, D, C, HEADS, LAYERS, EXPERTS = 16, 8, 512, 400, 8, 4, 4  # ViT-B/16 on Kinetics-400
SLOWER = {"training": 1.0, "test": 1.05}  # over the competitor, at most

ROUTING_L, TEMPERATURES_L = [3, 2, 3, 0], [0.6, -4.8, 1.2, 9.6]


def clip() -> Clip:
    """A CLIP whose joint space is ViT-B/16's; its tower is not used."""
    return bare_clip(replace(backbone("glyph-vit"), embed_dim=D, text_width=64 * HEADS, text_heads=HEADS))


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Frames [B, T, D], labels [B] and classes [C, D]."""
    generator = torch.Generator().manual_seed(0)
    classes_CD = F.normalize(torch.randn(C, D, generator=generator), dim=-1)
    return torch.randn(B, T, D, generator=generator), torch.arange(B), classes_CD


# --- expert by expert -------------------------------------------------------------------------------------------------


class PlainBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = layer_norm(D), layer_norm(D)
        self.attn = nn.MultiheadAttention(D, HEADS, batch_first=True)
        self.experts = nn.ModuleList(FeedForward(D) for _ in range(EXPERTS))

    def forward(self, hidden_BTD: Tensor, expert: int | None, temperature: float) -> Tensor:
        normed_BTD = self.ln_1(hidden_BTD)
        hidden_BTD = hidden_BTD + self.attn(normed_BTD, normed_BTD, normed_BTD, need_weights=False)[0]
        normed_BTD = self.ln_2(hidden_BTD)
        network = self._merged(temperature) if expert is None else self.experts[expert]
        output_BTD: Tensor = hidden_BTD + network(normed_BTD)
        return output_BTD

    def _merged(self, temperature: float) -> Callable[[Tensor], Tensor]:
        weights_E = (torch.arange(1, EXPERTS + 1) / temperature).softmax(dim=0)
        states = [dict(expert.named_parameters()) for expert in self.experts]
        merged = {
            name: torch.einsum("e,e...->...", weights_E, torch.stack([state[name] for state in states]))
            for name in states[0]
        }
        first = self.experts[0]
        return lambda hidden_BTD: torch.func.functional_call(first, merged, (hidden_BTD,))


class PlainMote(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(77, D))
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(LAYERS))
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, frames_BTD: Tensor, routing_L: Sequence[int] | None, temperatures_L: Sequence[float]) -> Tensor:
        hidden_BTD = frames_BTD + self.positions[:T]
        for layer, block in enumerate(self.blocks):
            hidden_BTD = block(hidden_BTD, routing_L and routing_L[layer], temperatures_L[layer])
        return hidden_BTD

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor) -> Tensor:
        routed_BTD = self(frames_BTD, ROUTING_L, TEMPERATURES_L)
        merged_BTD = self(frames_BTD, None, TEMPERATURES_L)
        ce, wmr = (
            F.cross_entropy(self.scale.exp() * F.normalize((frames_BTD + h).mean(1), dim=-1) @ classes_CD.T, labels_B)
            for h in (routed_BTD, merged_BTD)
        )
        total: Tensor = ce + 0.5 * wmr + 0.1 * merged_BTD.square().mean()
        return total

    @torch.no_grad()
    def copy_from(self, model: Model) -> None:
        """The weights of a model of ours."""
        self.positions.copy_(model.head.frame_position_embeddings.weight)
        self.scale.copy_(model.clip.logit_scale)
        for plain, block, mlp in zip(self.blocks, model.head.blocks, model.head.mixtures, strict=True):
            for name in ("ln_1", "ln_2", "attn"):
                getattr(plain, name).load_state_dict(getattr(block, name).state_dict())
            for expert, up, down in zip(plain.experts, mlp.fc_up, mlp.fc_dn, strict=True):  # type: ignore[arg-type]
                expert.c_fc.load_state_dict(up.state_dict())
                expert.c_proj.load_state_dict(down.state_dict())


# --- the measurements -------------------------------------------------------------------------------------------------


pytestmark = pytest.mark.usefixtures("one_thread")


def in_turns(
    benchmark: BenchmarkFixture, ours: Callable[[], object], theirs: Callable[[], object], rounds: int
) -> float:
    """The middle one of our times over theirs of the same turn, printed with the least of each."""
    times: tuple[list[float], list[float]] = ([], [])
    runs = [(0, ours), (1, theirs)]

    def measure() -> None:
        runs.reverse()
        for own, run in runs:
            began = time.process_time()
            run()
            times[own].append(time.process_time() - began)

    benchmark.pedantic(measure, rounds=rounds, warmup_rounds=2)
    counted = [found[-rounds:] for found in times]
    ratio: float = median(mine / other for mine, other in zip(*counted, strict=True))
    least = [1e3 * min(found) for found in counted]
    print(f"\n  ours {least[0]:.1f} ms, other {least[1]:.1f} ms, ratio {ratio:.3f}")
    benchmark.extra_info.update({"ms": least, "ratio": ratio})
    return ratio


@pytest.mark.benchmark(group="mote")
def test_training_step(benchmark: BenchmarkFixture) -> None:
    model = build_model(Model, Config(layers=LAYERS, num_experts=EXPERTS), clip(), 0)
    assert isinstance(model, Model)
    plain = PlainMote(0.0)
    plain.copy_from(model)
    frames_BTD, labels_B, classes_CD = inputs()

    def ours() -> Tensor:
        model.zero_grad()
        total = model.objective(frames_BTD, labels_B, classes_CD, ROUTING_L, TEMPERATURES_L)["total"]
        total.backward()
        return total.detach()

    def theirs() -> Tensor:
        plain.zero_grad()
        total = plain.loss(frames_BTD, labels_B, classes_CD)
        total.backward()
        return total.detach()

    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-5)
    assert merge_weights(EXPERTS, TEMPERATURES_L[0])[-1] > 0.8  # a skewed merge costs as much as any
    assert in_turns(benchmark, ours, theirs, rounds=12) <= SLOWER["training"]


@pytest.mark.benchmark(group="mote")
@pytest.mark.parametrize("tfm", [False, True])
def test_deployed(benchmark: BenchmarkFixture, tfm: bool) -> None:
    frames_BTD, _, classes_CD = inputs()
    sources_CD = classes_CD.roll(1, dims=1)
    mote = build_model(Model, Config(layers=LAYERS, num_experts=EXPERTS), clip(), 0)
    dense = build_model(Dense, DenseConfig(layers=LAYERS), clip(), 0)
    merged, plain = mote.deploy(Inference(tfm=tfm), sources_CD), dense.deploy(Inference(), sources_CD)

    @torch.no_grad()
    def ours() -> None:
        merged(frames_BTD, classes_CD)

    @torch.no_grad()
    def theirs() -> None:
        plain(frames_BTD, classes_CD)

    assert in_turns(benchmark, ours, theirs, rounds=80) <= SLOWER["test"]

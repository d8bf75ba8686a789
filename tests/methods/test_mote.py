"""MoTE's own behaviour: routing, temperatures, resting experts, one merge, modulation, sizes.

Legend: B batch, T frames, D joint CLIP width, C classes, L layers, E experts.
"""

from __future__ import annotations

import re
from collections import Counter
from copy import deepcopy
from math import exp, inf
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from bench.core.errors import UserError
from bench.models.backbones import backbone
from bench.models.clip import load_clip
from methods.contract import build_model
from methods.mote.config import Config, Inference, merge_weights
from methods.mote.experts import MoteHead
from methods.mote.model import Model, draw_routing, draw_temperatures, modulation, temperatures
from tests.golden.official_mote import SOURCES, official_mote, tower_state

B, T, C, D = 4, 3, 6, 128


def random_unit(rows: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(rows, D, generator=torch.Generator().manual_seed(seed)), dim=-1)


def build(**choices: Any) -> Model:
    model = build_model(Model, Config.model_validate({"layers": 2, **choices}), load_clip("glyph-vit", "random:0"), 0)
    assert isinstance(model, Model)
    return model


@pytest.fixture
def frames_BTD() -> Tensor:
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------------------------------------------
# Random choices


@pytest.mark.parametrize(
    ("experts", "published"),
    [
        (3, [0.0900, 0.2447, 0.6652]),
        (4, [0.0321, 0.0871, 0.2369, 0.6439]),
        (5, [0.0117, 0.0317, 0.0861, 0.2341, 0.6364]),
    ],
)
def test_routing_follows_the_published_odds_in_each_layer(experts: int, published: list[float]) -> None:
    generator = torch.Generator().manual_seed(0)
    config = Config(layers=2, num_experts=experts)
    draws = [draw_routing(config, generator)["routing"] for _ in range(4000)]
    assert merge_weights(experts, 1.0) == pytest.approx(published, abs=6e-5)
    for layer in range(2):
        counts = Counter(routing_L[layer] for routing_L in draws)
        assert [counts[i] / 4000 for i in range(experts)] == pytest.approx(published, abs=0.03)
    both_last = draws.count([experts - 1] * 2) / 4000
    assert both_last == pytest.approx(published[-1] ** 2, abs=0.03)  # layers are drawn independently


def test_temperatures() -> None:
    assert temperatures(0.6) == pytest.approx([-9.6, -4.8, -2.4, -1.2, -0.6, 0.6, 1.2, 2.4, 4.8, 9.6, inf])
    generator = torch.Generator().manual_seed(0)
    draws = [draw_temperatures(Config(layers=2), generator) for _ in range(2200)]
    for layer in range(2):
        counts = Counter(taus_L[layer] for taus_L in draws)
        assert set(counts) == set(temperatures(0.6))
        assert min(counts.values()) > 140
    assert any(taus_L[0] != taus_L[1] for taus_L in draws)


@pytest.mark.parametrize(
    ("tau", "published"),
    [(0.6, [0.0055, 0.0290, 0.1534, 0.8122]), (-2.4, [0.4201, 0.2770, 0.1826, 0.1204]), (inf, [0.25] * 4)],
)
def test_merge_weights(tau: float, published: list[float]) -> None:
    assert merge_weights(4, tau) == pytest.approx(published, abs=6e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Training


def test_a_step_draws_its_routing_first_and_temperatures_only_when_they_are_used(frames_BTD: Tensor) -> None:
    labels_B, classes_CD = torch.arange(B), random_unit(C, 1)
    for weights, names in (({}, {"ce", "wmr", "mse", "total"}), ({"wmr_weight": 0, "mse_weight": 0}, {"ce", "total"})):
        model, generator = build(**weights), torch.Generator().manual_seed(5)
        terms = model.loss(frames_BTD, labels_B, classes_CD, generator)
        other = torch.Generator().manual_seed(5)
        routing_L = draw_routing(model.config, other)["routing"]
        taus_L = draw_temperatures(model.config, other) if "wmr" in names else None
        expected = model.objective(frames_BTD, labels_B, classes_CD, routing_L, taus_L)
        assert set(terms) == names
        assert torch.equal(generator.get_state(), other.get_state())
        assert {name: value.item() for name, value in terms.items()} == {k: v.item() for k, v in expected.items()}


def test_the_total_weighs_its_terms(frames_BTD: Tensor) -> None:
    terms = build(wmr_weight=2.0, mse_weight=3.0).objective(
        frames_BTD, torch.arange(B), random_unit(C, 1), [0, 1], [0.6, inf]
    )
    assert terms["total"].item() == pytest.approx((terms["ce"] + 2 * terms["wmr"] + 3 * terms["mse"]).item())


def test_an_expert_that_was_not_drawn_rests(frames_BTD: Tensor) -> None:
    """Three AdamW steps equal those of a reference in which each expert has an optimiser of its own."""
    model, labels_B, classes_CD = build(wmr_weight=0, mse_weight=0), torch.arange(B), random_unit(C, 1)
    reference = deepcopy(model)
    drawn = [[0, 1], [0, 2], [1, 1]]
    optimiser = torch.optim.AdamW(model.head.parameters(), lr=1e-2, weight_decay=0.2)
    own = {name: torch.optim.AdamW([p], lr=1e-2, weight_decay=0.2) for name, p in reference.head.named_parameters()}
    for routing_L in drawn:
        for each in (model, reference):
            each.zero_grad()
            each.objective(frames_BTD, labels_B, classes_CD, routing_L, None)["total"].backward()
        optimiser.step()
        for name, parameter in reference.head.named_parameters():
            if used(name, [routing_L]):
                own[name].step()
            else:
                assert parameter.grad is None
    untouched = build().head.state_dict()
    for name, parameter in model.head.named_parameters():
        assert torch.equal(parameter, reference.head.get_parameter(name)), name
        assert torch.equal(parameter, untouched[name]) != used(name, drawn), name


def used(name: str, drawn: list[list[int]]) -> bool:
    """Whether a parameter of the head is shared, or its expert was drawn in its layer."""
    place = re.search(r"resblocks\.(\d+)\.mlp\.fc_(?:up|dn)\.(\d+)", name)
    return place is None or int(place[2]) in {routing_L[int(place[1])] for routing_L in drawn}


def test_experts_start_different_and_as_published() -> None:
    head = build().head.state_dict()
    ups = [head[f"transformer.resblocks.0.mlp.fc_up.{i}.weight"] for i in range(4)]
    assert all(not torch.equal(ups[0], other) for other in ups[1:])
    assert float(torch.stack(ups).std()) == pytest.approx(0.02, rel=0.02)
    xavier = (6 / (D + 3 * D)) ** 0.5
    assert float(head["transformer.resblocks.0.attn.in_proj_weight"].abs().max()) == pytest.approx(xavier, rel=0.01)
    assert not any(tensor.any() for name, tensor in head.items() if name.endswith("bias"))


# ---------------------------------------------------------------------------------------------------------------------
# Inference


@pytest.mark.parametrize(
    ("choice", "weights_E"),
    [({}, [0.25] * 4), ({"expert": 2}, [0, 0, 1, 0]), ({"merge_temperature": -2.4}, merge_weights(4, -2.4))],
)
def test_deploying_merges_once_into_a_dense_head(
    frames_BTD: Tensor, choice: dict[str, Any], weights_E: list[float]
) -> None:
    model = build()
    predictor = model.deploy(Inference.model_validate({"tfm": False, **choice}), random_unit(C, 1))
    assert not [name for name in predictor.state_dict() if "fc_up" in name or "fc_dn" in name]
    experts = model.head.state_dict()
    mean = sum(weight * experts[f"transformer.resblocks.1.mlp.fc_dn.{i}.weight"] for i, weight in enumerate(weights_E))
    torch.testing.assert_close(predictor.head.state_dict()["transformer.resblocks.1.mlp.c_proj.weight"], mean)
    expected_BTD = model.head(frames_BTD, [weights_E] * 2)
    torch.testing.assert_close(predictor.head(frames_BTD), expected_BTD, atol=1e-5, rtol=1e-5)


def test_an_expert_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="expert 4 does not exist; allowed: 0 to 3"):
        Config(tower="frozen").check(Inference(expert=4))
    Config(tower="frozen").check(Inference(expert=3))


@pytest.mark.parametrize(
    "wrong",
    [{"merge_temperature": 0}, {"merge_temperature": inf}, {"expert": -1}, {"expert": 1, "merge_temperature": 1}],
)
def test_senseless_inference_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Inference.model_validate(wrong)


def test_modulation_does_nothing_where_the_test_has_the_sources_classes(frames_BTD: Tensor) -> None:
    classes_CD = random_unit(C, 1)
    same_B = modulation(frames_BTD, classes_CD, classes_CD[torch.randperm(C)], gamma=0.05, k=3)
    torch.testing.assert_close(same_B, torch.ones(B), atol=1e-5, rtol=0)
    assert modulation(frames_BTD, random_unit(C, 2), classes_CD, gamma=0.05, k=3).max() < 0.01


def test_modulation_takes_the_best_source_neighbour_of_each_test_neighbour() -> None:
    axes = torch.eye(4)
    tests_CD, sources_SD = axes[[0, 2]], torch.tensor([[1.0, 0, 0, 0], [0.6, 0.8, 0, 0]])
    rho_B = modulation(axes[[0]][None], tests_CD, sources_SD, gamma=0.5, k=5)  # k is clamped to 2
    assert float(rho_B) == pytest.approx(exp(-(1 - (1 + 0) / 2) / 0.5))


def test_modulation_scales_what_the_head_adds(frames_BTD: Tensor) -> None:
    model, sources_SD, classes_CD = build(), random_unit(C, 1), random_unit(C, 2)
    plain = model.deploy(Inference(tfm=False), sources_SD)
    modulated = model.deploy(Inference(tfm_gamma=1.0, tfm_k=2), sources_SD)
    assert modulated.looks_at_classes and not plain.looks_at_classes
    rho_B = modulation(frames_BTD, classes_CD, sources_SD, 1.0, 2)
    temporal_BD = plain(frames_BTD, classes_CD).features["t"]
    features = modulated(frames_BTD, classes_CD).features
    torch.testing.assert_close(features["t"], temporal_BD)
    torch.testing.assert_close(features["z"], frames_BTD.mean(1) + rho_B[:, None] * temporal_BD)


# ---------------------------------------------------------------------------------------------------------------------
# Sizes and official files


@pytest.mark.parametrize(
    ("name", "layers", "stored", "active"),
    [("ViT-B-16", 4, 37_845_504, 12_648_960), ("ViT-L-14", 6, 127_590_144, 42_586_368)],
)
def test_published_sizes(name: str, layers: int, stored: int, active: int) -> None:
    shapes = backbone(name)
    with torch.device("meta"):
        head = MoteHead(shapes.embed_dim, shapes.text_width // 64, Config(layers=layers))
    assert sum(p.numel() for p in head.parameters()) == stored
    assert Config(tower="frozen", layers=layers).head_parameters(shapes) == (stored, active)


def official_states() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model = build(num_experts=3)
    head = {f"module.{name}": tensor for name, tensor in model.head.state_dict().items()}
    extras = {f"transformer.resblocks.{layer}.mlp.mote_fusion_weight": torch.zeros(3) for layer in range(2)}
    return tower_state(model.clip), head | extras | {SOURCES: random_unit(C, 1)}


def test_official_states_are_loaded_whatever_their_prefix(frames_BTD: Tensor) -> None:
    tower, head = official_states()
    model, sources_SD = official_mote(tower, head, load_clip("glyph-vit", "random:1"))
    assert (model.config.layers, model.config.num_experts) == (2, 3)
    assert sources_SD is not None and torch.equal(sources_SD, head[SOURCES])
    assert all(torch.equal(tensor, tower[name]) for name, tensor in tower_state(model.clip).items())
    assert all(torch.equal(tensor, head[f"module.{name}"]) for name, tensor in model.head.state_dict().items())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("module.transformer.resblocks.1.ln_1.bias", None, r"1 tensors are missing: .*resblocks\.1\.ln_1\.bias"),
        ("novel", torch.zeros(1), r"1 unexpected tensors: .*novel"),
        ("module.transformer.resblocks.0.ln_2.bias", torch.zeros(7), r"ln_2.bias is \[7\], expected \[128\]"),
        ("transformer.resblocks.0.mlp.mote_fusion_weight", torch.ones(3), "not merged equally"),
    ],
)
def test_other_states_are_refused(key: str, value: Tensor | None, message: str) -> None:
    tower, head = official_states()
    changed = {name: tensor for name, tensor in (head | {key: value}).items() if tensor is not None}
    with pytest.raises(UserError, match=message):
        official_mote(tower, changed, load_clip("glyph-vit", "random:1"))

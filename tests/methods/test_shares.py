"""Shares of experts in the answer: what they are in each method that has them, and none in the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.models.backbones import backbone
from bench.models.clip import load_clip
from methods.contract import Predictor, build_model
from methods.mote.config import merge_weights
from methods.registry import method

B, T, C, EXPERTS = 3, 16, 5, 4
WIDTH = backbone("glyph-vit").embed_dim
FRAMES_BTD = torch.randn(B, T, WIDTH, generator=torch.Generator().manual_seed(0))
CLASSES_CD = torch.nn.functional.normalize(torch.randn(C, WIDTH, generator=torch.Generator().manual_seed(1)), dim=-1)


def deployed(name: str, config: dict[str, Any], inference: dict[str, Any]) -> Predictor:
    registered = method(name)
    model = build_model(registered.model, registered.config(**config), load_clip("glyph-vit", "random:0"), 0, C)
    return model.deploy(registered.inference(**inference), CLASSES_CD)


@pytest.mark.parametrize(
    ("config", "inference", "shares_E"),
    [
        ({}, {}, [0.25] * 4),
        ({}, {"expert": 2}, [0.0, 0.0, 1.0, 0.0]),
        ({}, {"merge_temperature": 0.6}, merge_weights(4, 0.6)),
        ({}, {"aggregation": "ensemble"}, [0.25] * 4),
        ({"expert_design": "up"}, {"merge_temperature": -1.2}, merge_weights(4, -1.2)),
    ],
)
def test_mote_shares_by_the_weights_of_its_merge(
    config: dict[str, Any], inference: dict[str, Any], shares_E: list[float]
) -> None:
    shares_BE = deployed("mote", {"layers": 2, **config}, inference).shares(FRAMES_BTD, CLASSES_CD)
    assert shares_BE is not None
    torch.testing.assert_close(shares_BE, torch.tensor([shares_E] * B))


@pytest.mark.parametrize("design", ["ffn", "up_down"])
def test_shares_of_drawn_experts_are_those_of_layers_and_pools(design: str) -> None:
    config = {"layers": 3, "expert_design": design}
    predictor = deployed("mote", config, {"aggregation": "random_routing", "routing_seed": 1})
    shares_BE = predictor.shares(FRAMES_BTD, CLASSES_CD)
    assert shares_BE is not None
    draws = 3 * (2 if design == "up_down" else 1)
    counts_E = shares_BE[0] * draws
    torch.testing.assert_close(counts_E, counts_E.round())
    assert counts_E.sum() == pytest.approx(draws)


def test_vidprism_shares_by_the_attention_of_its_read_out() -> None:
    predictor = deployed("vidprism", {}, {})
    shares_BE = predictor.shares(FRAMES_BTD, CLASSES_CD)
    assert shares_BE is not None and shares_BE.shape == (B, EXPERTS)
    torch.testing.assert_close(shares_BE.sum(dim=1), torch.ones(B))
    assert not torch.equal(shares_BE[0], shares_BE[1])
    alone_BE = deployed("vidprism", {}, {"expert": 1}).shares(FRAMES_BTD, CLASSES_CD)
    assert alone_BE is not None
    assert alone_BE.tolist() == [[0, 1, 0, 0]] * B


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("clip_mean", {}),
        ("dense_temporal", {"layers": 1}),
        ("vidprism", {"rates": [4]}),
        ("mote", {"layers": 1, "routing": "fixed"}),
        ("mote", {"layers": 1, "data": "all", "init": "same"}),
    ],
)
def test_a_method_without_experts_has_no_shares(name: str, config: dict[str, Any]) -> None:
    assert deployed(name, config, {}).shares(FRAMES_BTD, CLASSES_CD) is None

"""The groups of a training's optimiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.models.clip import load_clip
from bench.stages.training.optimiser import adamw, set_rates, undecayed
from bench.suite.recipe import Training
from methods.contract import Model, build_model
from methods.dense_temporal.config import Config
from methods.dense_temporal.model import Model as Dense


def model() -> Model:
    return build_model(Dense, Config(layers=1, tower="tuned"), load_clip("glyph-vit", "random:0"), 0)


def groups(**recipe: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = adamw(model(), Training(lr=1e-3, tower_lr_ratio=0.1, **recipe)).param_groups
    return found


def test_tower_and_head_have_a_rate_each() -> None:
    assert [(group["base_lr"], group["weight_decay"]) for group in groups()] == [(1e-4, 0.2), (1e-3, 0.2)]


def test_a_scale_decays_and_a_vector_does_not() -> None:
    """`1d` means exactly one dimension: the logit scale has none (Open-VCLIP, FROSTER)."""
    own = model()
    names = {id(parameter): name for name, parameter in own.named_parameters()}
    optimizer = adamw(own, Training(undecayed=("1d", "*positional_embedding")))
    decays = [
        {names[id(each)] for each in group["params"]} for group in optimizer.param_groups if group["weight_decay"]
    ]
    trained = {name: parameter for name, parameter in own.named_parameters() if parameter.requires_grad}
    assert set.union(*decays) == {
        name for name, own in trained.items() if own.ndim != 1 and not name.endswith("positional_embedding")
    }
    assert "clip.logit_scale" in decays[0] and "clip.visual.class_embedding" not in decays[0]
    assert len(optimizer.param_groups) == 4
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trained)


@pytest.mark.parametrize(
    ("patterns", "name", "spared"),  # official names and decays of AIM and ST-Adapter
    [
        (("*positional_embedding*", "*ln_post*"), "backbone.ln_post.bias", True),
        (("*positional_embedding*", "*ln_post*"), "backbone.temporal_embedding", False),
        (("*positional_embedding*", "*ln_post*"), "backbone.transformer.resblocks.0.S_Adapter.D_fc1.bias", False),
        (("*.bias",), "transformer.resblocks.0.adapter_1.fc1.bias", True),
        (("*.bias",), "transformer.resblocks.0.adapter_1.fc1.weight", False),
    ],
)
def test_names_say_what_does_not_decay(patterns: tuple[str, ...], name: str, spared: bool) -> None:
    assert undecayed(name, torch.zeros(2, 2), patterns) == spared


def test_all_groups_may_fall_to_one_rate() -> None:
    optimizer = adamw(model(), Training(lr=1e-3, tower_lr_ratio=0.1, floor=0.01, floor_of="tower"))
    set_rates(optimizer, lambda of_floor: 0.01 * of_floor)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-6, 1e-6])

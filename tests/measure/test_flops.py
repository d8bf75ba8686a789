"""FLOPs of whole methods at the sizes that papers use: the counter, the closed forms, and what was published."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.measure import flops as counting
from bench.models.backbones import backbone
from methods.registry import method, methods

FRAMES, CLASSES = 8, 400

# MoTE, Table 4: "GFLOPs" per view of 8 frames of ViT-B/16 and ViT-L/14, which are multiply-adds. Layers: official code.
PUBLISHED = {"ViT-B-16": (4, 141), "ViT-L-14": (6, 649)}


@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("size", PUBLISHED)
def test_counter_and_closed_form_agree_within_a_hundredth(name: str, size: str) -> None:
    kind, shape = method(name), backbone(size)
    config, inference = kind.config(), kind.inference()
    model = counting.shapes(kind, config, size, CLASSES)
    parts = config.head_modules(shape, FRAMES, inference)
    predictor = model.deploy(inference, counting.units(CLASSES, shape.embed_dim))
    head = counting.head(predictor, config, parts, shape, FRAMES, CLASSES)
    assert {part: head.get(part, 0) for part in parts} == pytest.approx(parts, rel=0.01)
    closed = config.head_flops(shape, FRAMES, inference) + CLASSES * config.class_flops(shape, FRAMES, 1)
    assert sum(head.values()) == pytest.approx(closed, rel=0.01)
    if config.tower_inside:  # the plain tower: tests/models/test_backbones.py
        inside = config.inside_flops(shape, FRAMES)
        expected = {counting.TOWER: shape.view_flops(FRAMES), **({counting.INSIDE: inside} if inside else {})}
        assert counting.tower(model, FRAMES) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("size", "layers", "published"), [(size, *known) for size, known in PUBLISHED.items()])
def test_published_gflops_of_mote_are_macs(size: str, layers: int, published: int) -> None:
    shape, config = backbone(size), method("mote").config.model_validate({"layers": layers})
    macs = (shape.view_flops(FRAMES) + config.head_flops(shape, FRAMES)) / 2
    assert macs / 1e9 == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize("choices", [{}, {"data": "all"}, {"wmr_weight": 0, "mse_weight": 0}, {"routing": "random"}])
def test_passes_of_mote_experts_are_what_a_step_computes(choices: dict[str, object]) -> None:
    kind, shape = method("mote"), backbone("glyph-vit")
    config = kind.config.model_validate({"layers": 2, "num_experts": 3, **choices})
    model, frames_BTD = counting.shapes(kind, config, "glyph-vit", 5), torch.randn(2, 4, shape.embed_dim)

    def forward() -> None:
        model.loss(frames_BTD, torch.tensor([0, 1]), counting.units(5, shape.embed_dim), torch.Generator())

    counts = counting.count(forward, model, {"experts": ("head*.mlp",)}, counting.ELSEWHERE)
    expected = sum(n * flops for n, flops in zip(config.expert_passes, config.expert_flops(shape, 4), strict=True))
    assert counts["experts"] == pytest.approx(2 * expected)


@pytest.mark.parametrize(("name", "choices"), [("mote", {}), ("vidprism", {"rates": [2, 4]})])
def test_an_expert_asked_alone_is_all_that_runs_of_experts(name: str, choices: dict[str, object]) -> None:
    shape, kind = backbone("glyph-vit"), method(name)
    config = kind.config.model_validate(choices)
    for i, flops in enumerate(config.expert_flops(shape, FRAMES)):
        assert config.head_modules(shape, FRAMES, kind.inference.model_validate({"expert": i}))["experts"] == flops


def test_ensemble_of_mote_passes_once_through_every_expert() -> None:
    shape, kind = backbone("ViT-B-16"), method("mote")
    config, (ensemble,) = kind.config(), kind.config().ensembles(kind.inference()).values()
    assert config.head_modules(shape, FRAMES, ensemble)["experts"] == sum(config.expert_flops(shape, FRAMES))


class Nested(nn.Module):
    """A layer inside a block, called by it; and a product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 16))
        self.other = nn.Linear(16, 4)

    def forward(self, rows_B8: torch.Tensor) -> torch.Tensor:
        inner_B4: torch.Tensor = self.other(self.block(rows_B8))
        return inner_B4 @ torch.ones(4, 3)


def test_the_innermost_part_counts_and_the_rest_is_elsewhere() -> None:
    model = Nested()
    paths = {"first": ("block.0",), "block": ("block*",)}
    counts = counting.count(lambda: model(torch.ones(5, 8)), model, paths, "rest")
    assert counts == {"first": 2 * 5 * 8 * 8, "block": 2 * 5 * 8 * 16, "rest": 2 * 5 * 16 * 4 + 2 * 5 * 4 * 3}
    assert counting.total(lambda: model(torch.ones(5, 8))) == sum(counts.values())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

"""Open-VCLIP's own behaviour: what a frame sees, mixed weights, sizes, suites.

Legend: B batch, T frames, P tokens of a frame, H heads, D joint CLIP width, C classes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from bench.graph.build import build_graph
from bench.models.backbones import backbone
from bench.models.clip import Clip, load_clip
from bench.suite.resolve import SUITES, load_suite
from methods.contract import build_model
from methods.open_vclip.config import Config
from methods.open_vclip.model import Model
from methods.open_vclip.tower import neighbours
from methods.settings import Inference
from tests.errors import refused

B, T, C = 2, 5, 4
SUITE_NAMES = sorted(path.stem for path in SUITES.glob("open-vclip-*.yaml"))


def build(clip: Clip | None = None, **choices: Any) -> Model:
    start = clip or load_clip("glyph-vit", "random:0")
    model = build_model(Model, Config.model_validate(choices), start, 0, C, training=True)
    assert isinstance(model, Model)
    return model


def moved(**choices: Any) -> Model:
    """A model whose weights differ from its teacher's."""
    model, generator = build(**choices), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameter_groups()["tower"]:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return model


@pytest.fixture
def clips_BT3HW() -> Tensor:
    return torch.randn(B, T, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def classes_CD() -> Tensor:
    return F.normalize(torch.randn(C, 128, generator=torch.Generator().manual_seed(2)), dim=-1)


def encoded(model: Model, clips_BT3HW: Tensor) -> Tensor:
    with torch.no_grad():
        frames_BTD: Tensor = model.eval().encode(clips_BT3HW)
    return frames_BTD


# ---------------------------------------------------------------------------------------------------------------------
# What a frame sees


@pytest.mark.parametrize("ends", ["zeros", "masked"])
@pytest.mark.parametrize("window", [3, 5, 7])
def test_a_block_equals_attention_written_frame_by_frame(window: int, ends: str, clips_BT3HW: Tensor) -> None:
    model, radius = build(window=window, ends=ends), window // 2
    visual = model.clip.visual
    with torch.no_grad():
        hidden_BTPW = visual._embeds(clips_BT3HW.flatten(0, 1)).unflatten(0, (B, T))
        for block in visual.transformer.resblocks:
            own = block.attn
            parts = F.linear(block.ln_1(hidden_BTPW), own.in_proj_weight, own.in_proj_bias)
            query, key, value = parts.unflatten(-1, (3, own.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)  # [B, T, H, P, X]
            rows = []
            for t in range(T):
                shown = range(t - radius, t + radius + 1)
                keys, values = (
                    torch.cat([each[:, i] if 0 <= i < T else 0 * each[:, 0] for i in shown], dim=-2)
                    for each in (key, value)
                )
                weights = query[:, t] @ keys.mT * query.shape[-1] ** -0.5
                if ends == "masked":
                    outside = torch.tensor([not 0 <= i < T for i in shown]).repeat_interleave(hidden_BTPW.shape[2])
                    weights = weights.masked_fill(outside, -torch.inf)
                rows.append(weights.softmax(dim=-1) @ values)
            mixed_BTPW = torch.stack(rows, dim=1).transpose(2, 3).flatten(3)
            hidden_BTPW = hidden_BTPW + own.out_proj(mixed_BTPW)
            hidden_BTPW = hidden_BTPW + block.mlp(block.ln_2(hidden_BTPW))
        expected_BTD = visual._pool(hidden_BTPW.flatten(0, 1))[0] @ visual.proj
    torch.testing.assert_close(encoded(model, clips_BT3HW), expected_BTD.unflatten(0, (B, T)), atol=1e-5, rtol=1e-5)


def test_neighbours_are_looked_up_within_a_clip() -> None:
    tokens_BTPW = torch.arange(1.0, 7).reshape(2, 3, 1, 1)
    assert neighbours(tokens_BTPW, 1).squeeze(-1).tolist() == [
        [[0, 1, 2], [1, 2, 3], [2, 3, 0]],
        [[0, 4, 5], [4, 5, 6], [5, 6, 0]],
    ]


def test_a_still_clip_is_clip_but_for_ends_of_zeros(clips_BT3HW: Tensor) -> None:
    still_BT3HW = clips_BT3HW[:, :1].expand(-1, T, -1, -1, -1)
    plain_BTD = encoded(build(window=1), still_BT3HW)
    layers = backbone("glyph-vit").vision_layers
    torch.testing.assert_close(encoded(build(ends="masked"), still_BT3HW), plain_BTD, atol=1e-5, rtol=1e-5)
    longer_BT3HW = clips_BT3HW[:, :1].expand(-1, 2 * layers + 1, -1, -1, -1)
    zeros_BTD = encoded(build(), longer_BT3HW)
    torch.testing.assert_close(zeros_BTD[:, layers], plain_BTD[:, 0], atol=1e-5, rtol=1e-5)
    assert (zeros_BTD[:, 0] - plain_BTD[:, 0]).abs().max() > 1e-3


def test_a_window_of_one_is_clip_bit_for_bit(clips_BT3HW: Tensor) -> None:
    clip = load_clip("glyph-vit", "random:0")
    with torch.no_grad():
        expected_ND = clip.encode_frames(clips_BT3HW.flatten(0, 1))
    assert torch.equal(encoded(build(window=1), clips_BT3HW).flatten(0, 1), expected_ND)


def test_reversed_frames_have_reversed_features(clips_BT3HW: Tensor) -> None:
    model = build(window=5)
    reversed_BTD = encoded(model, clips_BT3HW.flip(1))
    torch.testing.assert_close(reversed_BTD.flip(1), encoded(model, clips_BT3HW), atol=1e-5, rtol=1e-5)


def test_a_score_is_the_mean_of_the_frames_cosines(clips_BT3HW: Tensor, classes_CD: Tensor) -> None:
    model = build()
    frames_BTD = encoded(model, clips_BT3HW)
    prediction = model.deploy(Inference(), classes_CD)(frames_BTD, classes_CD)
    torch.testing.assert_close(prediction.cosines_BC, (F.normalize(frames_BTD, dim=-1) @ classes_CD.T).mean(dim=1))
    assert (prediction.norms_B < 1).all()


# ---------------------------------------------------------------------------------------------------------------------
# Mixed weights


def gradients(model: Model, clips_BT3HW: Tensor, classes_CD: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Share of CLIP that was drawn, and gradients of a step."""
    generator = torch.Generator().manual_seed(3)
    with model.train().draws_from(generator):
        shown = model.encode(clips_BT3HW)
        model.loss(shown, torch.arange(B), classes_CD, generator)["total"].backward()
    found = {name: p.grad for name, p in model.clip.named_parameters() if p.grad is not None}
    return float(shown["share"]), found


def test_the_gradient_is_the_sum_of_those_at_own_and_at_mixed_weights(clips_BT3HW: Tensor, classes_CD: Tensor) -> None:
    model = moved(mix_low=0.2, mix_weight=0.7)
    share, found = gradients(model, clips_BT3HW, classes_CD)
    assert 0.2 <= share < 0.6 and model.teacher is not None
    other, plain = build(mix_weight=0), moved(mix_weight=0)
    mixed = {name: share * own for name, own in model.teacher.state_dict().items()}
    other.clip.load_state_dict({name: (1 - share) * own + mixed[name] for name, own in model.clip.state_dict().items()})
    for each in (other, plain):
        generator = torch.Generator()
        each.loss(each.encode(clips_BT3HW), torch.arange(B), classes_CD, generator)["total"].backward()
    for (name, own), (_, at_mixed) in zip(plain.clip.named_parameters(), other.clip.named_parameters(), strict=True):
        if own.grad is None or at_mixed.grad is None:
            assert name not in found
            continue
        expected = own.grad + 0.7 * at_mixed.grad
        torch.testing.assert_close(found[name], expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-3)


def test_checkpointing_keeps_the_gradient_of_both_passes(clips_BT3HW: Tensor, classes_CD: Tensor) -> None:
    model, saving = moved(), moved()
    saving.clip.set_grad_checkpointing(True)
    _, kept = gradients(model, clips_BT3HW, classes_CD)
    _, again = gradients(saving, clips_BT3HW, classes_CD)
    assert kept.keys() == again.keys()
    for name, own in kept.items():
        torch.testing.assert_close(again[name], own, atol=1e-6, rtol=1e-4)


def test_a_share_comes_from_the_steps_generator(clips_BT3HW: Tensor) -> None:
    model = build(mix_low=0.1, mix_high=0.3)
    with pytest.raises(ValueError, match="drawn in a training step"):
        model.train().encode(clips_BT3HW)
    with model.draws_from(torch.Generator().manual_seed(0)):
        shares = [float(model.draw_share()) for _ in range(200)]
    assert 0.1 <= min(shares) < 0.12 and 0.28 < max(shares) < 0.3


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"tower": "frozen"}, "Input should be 'tuned'"),
        ({"window": 1, "ends": "masked"}, "ends has no effect with window: 1"),
        ({"mix_low": 0.7}, "mix_low 0.7 lies above mix_high 0.6"),
        ({"mix_weight": 0, "mix_high": 0.3}, "mix_high has no effect with mix_weight: 0"),
        ({"mix_weight": 0, "mix_draw": "step"}, "mix_draw has no effect with mix_weight: 0"),
        ({"mix_high": 1}, "less than 1"),
    ],
)
def test_choices_without_effect_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(choices)


@pytest.mark.parametrize(
    ("choices", "draws", "teacher"),
    [({}, True, True), ({"mix_draw": "step"}, False, True), ({"mix_weight": 0}, False, False)],
)
def test_only_mixed_weights_need_clip_beside_the_model(choices: dict[str, Any], draws: bool, teacher: bool) -> None:
    config = Config.model_validate(choices)
    assert (config.depends_on_processes, config.teacher) == (draws, teacher)
    assert (build(**choices).teacher is not None) == teacher


# ---------------------------------------------------------------------------------------------------------------------
# Sizes and suites


@pytest.mark.parametrize(
    ("name", "trained", "inside"),
    [("ViT-B-16", 86_192_641, 22_890_479_616), ("ViT-L-14", 303_966_209, 103_886_094_336)],
)
def test_sizes_are_those_of_the_official_model(name: str, trained: int, inside: int) -> None:
    shape, config = backbone(name), Config()
    assert sum(map(shape.parameters, config.tuned)) == trained
    assert config.head_parameters(shape) == (0, 0)
    assert config.inside_flops(shape, 8) == inside == 8 * config.inside_flops(shape, 1)


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_its_suites_plan_in_the_embedded_world_with_the_rows_that_they_have(name: str) -> None:
    real, small = (load_suite(SUITES / f"{name}.yaml", world) for world in ((), ("world=glyphs",)))
    assert [(t.row, t.point, t.seed) for t in real.trials] == [(t.row, t.point, t.seed) for t in small.trials]
    assert [t.config for t in real.trials] == [t.config for t in small.trials]
    graph = build_graph(small)
    assert not graph.missing and any(stage.kind == "train" for stage in graph.stages.values())


def test_the_official_step_draws_in_eight_parts() -> None:
    trials = load_suite(SUITES / "open-vclip-mix.yaml").trials
    divided = {t.config.depends_on_processes: (t.recipe.batch, t.recipe.processes, t.recipe.accumulate) for t in trials}
    assert divided == {True: (64, 1, 8), False: (64, 1, 1)}
    with refused("8 parts"):
        load_suite(SUITES / "open-vclip-mix.yaml", ("recipe.processes=3",))

"""AIM's own behaviour: sizes, the start and the way back to it, what a frame sees, draws, rates, suites.

Legend: B videos, T frames, N frames of a batch, P tokens of a frame, W tower width, D joint CLIP width, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from bench.graph.build import build_graph
from bench.models.backbones import backbone
from bench.models.clip import Clip, load_clip
from bench.stages.training.optimiser import adamw
from bench.suite.recipe import Training
from bench.suite.resolve import SUITES, load_suite
from methods.aim.config import PRESETS, Config
from methods.aim.model import Adapters, Model
from methods.contract import build_model
from methods.settings import Inference

B, T, C = 2, 4, 4
SUITE_NAMES = sorted(path.stem for path in SUITES.glob("aim-*.yaml"))
CLIPS_BT3HW = torch.randn(B, T, 3, 64, 64, generator=torch.Generator().manual_seed(0))
CLASSES_CD = F.normalize(torch.randn(C, 128, generator=torch.Generator().manual_seed(2)), dim=-1)


def clip() -> Clip:
    return load_clip("glyph-vit", "random:0")


def build(**choices: Any) -> Model:
    model = build_model(Model, Config.model_validate({"frames": T, **choices}), clip(), 0, C)
    assert isinstance(model, Model)
    return model


def moved(**choices: Any) -> Model:
    """A model whose own tensors left their first values."""
    model, generator = build(**choices), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


@torch.no_grad()
def encoded(model: Model, clips_BT3HW: Tensor = CLIPS_BT3HW) -> Tensor:
    frames_BTD: Tensor = model.eval().encode(clips_BT3HW)
    return frames_BTD


def stepped(model: Model, seed: int = 0) -> Tensor:
    """Frame features of a training step."""
    with model.train().draws_from(torch.Generator().manual_seed(seed)):
        frames_BTD: Tensor = model.encode(CLIPS_BT3HW)
    return frames_BTD


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


@pytest.mark.parametrize(
    ("name", "adapter", "vectors", "norm", "layer", "gigas"),
    [
        ("ViT-B-16-quickgelu", 295_872, 6_144, 1_536, 307_600, (202.1, 404.6, 811.1)),
        ("ViT-L-14-quickgelu", 525_568, 8_192, 2_048, 410_000, (933.5, 1868.6, 3743.6)),
    ],
)
def test_sizes_are_those_of_the_official_model(
    name: str, adapter: int, vectors: int, norm: int, layer: int, gigas: tuple[float, ...]
) -> None:
    shape, config = backbone(name), Config(head="linear")
    own, bound = config.head_parameters(shape).stored, config.class_bound_parameters(shape, 400)
    assert own == 3 * shape.vision_layers * adapter + vectors + norm and bound == layer
    assert own + bound == {"ViT-B-16-quickgelu": 10_966_672, "ViT-L-14-quickgelu": 38_261_136}[name]
    two = Config(temporal_adapters=2).head_parameters(shape).stored
    assert two == own + shape.vision_layers * adapter
    for frames, expected in zip((8, 16, 32), gigas, strict=True):
        flops = shape.view_flops(frames) + config.inside_flops(shape, frames)
        assert flops / 2e9 == pytest.approx(expected, abs=0.05)


def test_time_alone_and_all_that_is_added_have_their_shares_of_the_tower() -> None:
    shape = backbone("ViT-B-16-quickgelu")
    choices: list[dict[str, Any]] = [{"parts": []}, {"parts": ["spatial", "joint"]}, {}]
    plain, adapters, whole = (
        shape.view_flops(8) + Config.model_validate(each).inside_flops(shape, 8) for each in choices
    )
    one = Config(parts=("spatial",)).inside_flops(shape, 8)
    assert (whole - adapters - one) / plain == pytest.approx(0.32, abs=0.005)
    assert whole / plain == pytest.approx(1.44, abs=0.005)


def test_clips_of_other_lengths_and_adapters_without_width_are_refused() -> None:
    shape = backbone("glyph-vit")
    Config(frames=8).fits(shape, 8)
    Config(frames=0).fits(shape, 5)
    with pytest.raises(ValueError, match=r"clips of 16 frames, but config.frames 8 .*config.frames 16 or 0"):
        Config(frames=8).fits(shape, 16)
    with pytest.raises(ValueError, match="leaves adapters no width; allowed: at least 1/128"):
        Config(ratio=0.005).fits(shape, 8)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"parts": ["spatial"], "scale": 1}, "scale has no effect.*parts with joint"),
        ({"parts": ["spatial", "joint"], "temporal_adapters": 2}, "temporal_adapters has no effect"),
        ({"parts": ["spatial"], "drop_path": 0.1}, "drop_path has no effect"),
        ({"drop_path": 0, "drop_unit": "sample"}, "drop_unit has no effect"),
        ({"parts": [], "ratio": 0.5}, "ratio has no effect"),
        ({"scale": 0}, "greater than 0"),
        ({"parts": ["joint", "joint"]}, "joint is given twice"),
        ({"dropout": 0.1}, "dropout has no effect with head: text"),
        ({"head": "linear", "pool": "unit_frames"}, "pool has no effect with head: linear"),
        ({"tower": "tuned"}, "Input should be 'frozen'"),
    ],
)
def test_choices_without_effect_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(choices)


def test_the_order_of_parts_makes_no_other_training() -> None:
    assert Config(parts=("joint", "spatial")).fingerprint == Config(parts=("spatial", "joint")).fingerprint


# ---------------------------------------------------------------------------------------------------------------------
# The start, and the way back to it


@pytest.mark.parametrize("choices", [{}, {"temporal_adapters": 2, "scale": 1.0}, {"frames": 0}, {"parts": []}])
def test_the_start_is_clip_bit_for_bit(choices: dict[str, Any]) -> None:
    model = build(**choices)
    with torch.no_grad():
        expected_BTD = clip().encode_clips(CLIPS_BT3HW)
        assert torch.equal(encoded(model), expected_BTD)
        torch.testing.assert_close(stepped(model), expected_BTD, atol=1e-5, rtol=1e-5)


def test_a_linear_head_takes_normed_class_tokens() -> None:
    model = build(head="linear")
    tokens_BTW = encoded(model)
    torch.testing.assert_close(tokens_BTW @ model.clip.visual.proj, encoded(build()))
    answer = model.deploy(Inference(), CLASSES_CD)(tokens_BTW, CLASSES_CD)
    assert model.head.fc is not None
    torch.testing.assert_close(answer.cosines_BC, model.head.fc(tokens_BTW.mean(dim=1)))
    assert float(model.head.fc.weight.detach().std()) == pytest.approx(0.01, rel=0.2)


def test_alpha_0_has_clips_scores_and_half_of_alpha_half_of_the_terms() -> None:
    model, start = moved(), build()
    answers = start.deploy(Inference(), CLASSES_CD)(encoded(start), CLASSES_CD).cosines_BC
    assert not torch.allclose(encoded(model), encoded(start), atol=1e-2)
    half = moved()
    half.interpolate(clip(), 0.5)
    own, before = dict(model.head.named_parameters()), dict(start.head.named_parameters())
    for name, parameter in half.head.named_parameters():
        up = ".D_fc2." in name or not name.startswith("blocks.")
        torch.testing.assert_close(parameter, (own[name] + before[name]) / 2 if up else own[name])
    model.interpolate(clip(), 0.0)
    back = model.deploy(Inference(), CLASSES_CD)(encoded(model), CLASSES_CD).cosines_BC
    assert torch.equal(back, answers)


def test_the_final_norm_is_a_copy_that_trains() -> None:
    model = moved()
    assert torch.equal(model.clip.visual.ln_post.weight, clip().visual.ln_post.weight)
    assert not model.clip.visual.ln_post.weight.requires_grad and not model.config.tuned
    assert {"head.ln_post.weight", "head.ln_post.bias", "head.temporal_embedding"} <= model.trained_state().keys()
    other = build()
    other.load_trained(model.trained_state())
    assert torch.equal(encoded(other), encoded(model))


# ---------------------------------------------------------------------------------------------------------------------
# What a frame sees


@pytest.mark.parametrize(("parts", "sees"), [((), False), (("spatial", "joint"), False), (("temporal",), True)])
def test_a_frame_sees_others_in_the_pass_over_time_alone(parts: tuple[str, ...], sees: bool) -> None:
    model = moved(parts=parts)
    changed_BT3HW = CLIPS_BT3HW.clone()
    changed_BT3HW[0, 0] += 1
    differing_BT = (encoded(model) - encoded(model, changed_BT3HW)).abs().amax(dim=-1) > 1e-5
    assert differing_BT.tolist() == [[True] + [sees] * (T - 1), [False] * T]


def test_a_token_sees_its_own_place_of_the_other_frames() -> None:
    model = moved(parts=("temporal",))
    block, own = model.clip.visual.transformer.resblocks[0], model.head.blocks[0]
    hidden_NPW = torch.randn(B * T, 5, 128, generator=torch.Generator().manual_seed(3))
    assert isinstance(own, Adapters)
    over_time, changed_NPW = own._over_time, hidden_NPW.clone()
    changed_NPW[1, 2] += torch.randn(128, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        before, after = (over_time(each, block, T) for each in (hidden_NPW, changed_NPW))
    reached = ((before - after).abs().amax(dim=-1) > 1e-6).nonzero().tolist()
    assert reached == [[frame, 2] for frame in range(T)]


def test_only_vectors_of_frames_tell_the_order() -> None:
    without, with_them = moved(frames=0), moved()
    mirrored_BTD = encoded(without, CLIPS_BT3HW.flip(1)).flip(1)
    torch.testing.assert_close(mirrored_BTD, encoded(without), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(encoded(with_them, CLIPS_BT3HW.flip(1)).flip(1), encoded(with_them), atol=1e-2)


@pytest.mark.parametrize(
    ("one", "other"),
    [({}, {"scale": 1.0}), ({}, {"temporal_adapters": 2}), ({}, {"frames": 0}), ({}, {"ratio": 0.125})],
)
def test_every_choice_changes_the_tower(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert not torch.allclose(encoded(moved(**one)), encoded(moved(**other)), atol=1e-3)


# ---------------------------------------------------------------------------------------------------------------------
# Draws


def kept(model: Model, rate: float, places: int, videos: int) -> Tensor:
    with model.draws_from(torch.Generator().manual_seed(0)):
        return model.draw_kept(rate, places, torch.Size((videos, T)))


def test_a_place_is_dropped_in_all_frames_or_a_video_as_a_whole() -> None:
    places_1P1, videos_N11 = kept(build(), 0.25, 4000, B), kept(build(drop_unit="sample"), 0.25, 5, 1000)
    assert places_1P1.shape == (1, 4000, 1) and videos_N11.shape == (1000 * T, 1, 1)
    for each in (places_1P1, videos_N11.unflatten(0, (-1, T))[:, 0]):
        assert each.unique().tolist() == pytest.approx([0, 1 / 0.75])
        assert float((each == 0).float().mean()) == pytest.approx(0.25, abs=0.04)
    by_video = videos_N11.unflatten(0, (-1, T))
    assert torch.equal(by_video, by_video[:, :1].expand_as(by_video))


def test_rates_rise_from_nothing_in_the_first_block(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rates = build(drop_path=0.3), list[float]()

    def draw(rate: float, *sizes: object) -> Tensor:
        rates.append(rate)
        return torch.ones(1)

    monkeypatch.setattr(model, "draw_kept", draw)
    stepped(model)
    assert rates == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.3])


def test_a_dropped_class_token_leaves_the_last_joint_adapter_without_a_gradient() -> None:
    model = moved()
    for seed in range(20):
        with model.draws_from(torch.Generator().manual_seed(seed)):
            drawn = [model.draw_kept(own, 65, torch.Size((B, T))) for own in (0.2 / 3, 0.4 / 3, 0.2) for _ in range(2)]
        model.zero_grad()
        stepped(model, seed).square().sum().backward()
        reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        missing = {name for name, p in model.named_parameters() if p.requires_grad} - reached
        assert missing == (set() if drawn[-1][0, 0, 0] else model.unused_parameters())
        if missing:
            return
    pytest.fail("no draw dropped the class token")


@pytest.mark.parametrize("unit", ["token", "sample"])
def test_draws_come_from_the_step_and_none_is_left_at_the_test(unit: str) -> None:
    model = moved(drop_unit=unit, drop_path=0.5)
    assert torch.equal(stepped(model, 1), stepped(model, 1))
    assert not torch.equal(stepped(model, 1), stepped(model, 2))
    assert torch.equal(encoded(model), encoded(moved(drop_path=0)))
    with pytest.raises(ValueError, match="drawn in a training step"):
        model.train().encode(CLIPS_BT3HW)
    torch.testing.assert_close(stepped(moved(drop_path=0)), encoded(model), atol=1e-5, rtol=1e-5)


def test_checkpointing_keeps_the_draws_and_the_gradient() -> None:
    found = []
    for recompute in (False, True):
        model = moved(drop_path=0.5)
        model.clip.set_grad_checkpointing(recompute)
        stepped(model, 5).square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and all(name.startswith("head.") for name in found[0])
    for name, own in found[0].items():
        torch.testing.assert_close(found[1][name], own, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("choices", "draws"),
    [
        ({}, True),
        ({"drop_path": 0}, False),
        ({"parts": ["spatial"]}, False),
        ({"parts": ["spatial"], "head": "linear"}, True),
        ({"parts": [], "head": "linear", "dropout": 0}, False),
    ],
)
def test_what_is_drawn_depends_on_the_processes(choices: dict[str, Any], draws: bool) -> None:
    assert Config.model_validate(choices).depends_on_processes == draws


# ---------------------------------------------------------------------------------------------------------------------
# Rates and suites


def rates(model: Model, **more: Any) -> dict[str, tuple[float, float]]:
    recipe = {name: own for name, own in PRESETS["official"]["recipe"].items() if name in Training.model_fields}
    names = {id(p): name for name, p in model.named_parameters()}
    groups = adamw(model, Training.model_validate({**recipe, **more})).param_groups
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_all_but_the_linear_layer_has_the_towers_rate() -> None:
    base, large = rates(build(head="linear")), rates(build(head="linear"), tower_lr_ratio=0.1, undecayed=())
    for name, (rate, decay) in base.items():
        assert rate == 3e-4 and decay == (0 if "ln_post" in name else 0.05)
        assert large[name] == pytest.approx((3e-4 if name.startswith("head.fc.") else 3e-5, 0.05))
    assert {rate for rate, _ in rates(build(), tower_lr_ratio=0.1).values()} == {3e-4}


def planned(name: str) -> Iterator[Any]:
    return (load_suite(SUITES / f"{name}.yaml", world) for world in ((), ("world=glyphs",)))


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_its_suites_plan_in_the_embedded_world_with_the_rows_that_they_have(name: str) -> None:
    real, small = planned(name)
    assert [(t.row, t.point, t.seed) for t in real.trials] == [(t.row, t.point, t.seed) for t in small.trials]
    assert [min(t.config.frames, 4) for t in real.trials] == [t.config.frames for t in small.trials]
    graph = build_graph(small)
    assert not graph.missing and any(stage.kind == "train" for stage in graph.stages.values())


def test_the_official_step_draws_in_eight_parts() -> None:
    trials = load_suite(SUITES / "aim-kinetics.yaml").trials
    assert {(t.recipe.batch, t.recipe.processes, t.recipe.accumulate) for t in trials} == {(64, 1, 8)}
    assert {t.recipe.views.frames * t.recipe.views.stride for t in trials} == {128}

"""The variants that MoTE's paper ablates: each does what its field says, and the dense ones are the dense baseline.

Legend: B batch, T frames, D joint CLIP width, C classes, L layers, E experts.
"""

from __future__ import annotations

from collections import Counter
from math import exp, inf, isclose
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from bench.models.backbones import backbone
from bench.models.clip import load_clip
from methods.contract import Prediction, build_model
from methods.dense_temporal.config import Config as DenseConfig
from methods.dense_temporal.model import Model as Dense
from methods.mote.config import Config, Inference, merge_weights
from methods.mote.experts import ExpertFeedForward, MoteHead, one_expert
from methods.mote.model import (
    COLDEST,
    DRAWS,
    MEAN_SQUARES,
    REGULARISERS,
    Model,
    MotePredictor,
    Pass,
    draw_routing,
    draw_temperatures,
    modulation,
)

B, T, C, D = 4, 3, 6, 128
BACKBONE = backbone("glyph-vit")


pytestmark = pytest.mark.usefixtures("one_thread")


def random_unit(rows: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(rows, D, generator=torch.Generator().manual_seed(seed)), dim=-1)


def build(**choices: Any) -> Model:
    model = build_model(Model, Config.model_validate({"layers": 2, **choices}), load_clip("glyph-vit", "random:0"), 0)
    assert isinstance(model, Model)
    return model


def build_dense() -> Dense:
    model = build_model(Dense, DenseConfig(layers=2), load_clip("glyph-vit", "random:0"), 0)
    assert isinstance(model, Dense)
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


FRAMES_BTD = torch.randn(B, T, D, generator=seeded())
LABELS_B, CLASSES_CD, SOURCES_SD = torch.arange(B), random_unit(C, 1), random_unit(C + 1, 2)


def loss(model: Model | Dense, generator: torch.Generator) -> dict[str, Tensor]:
    return model.loss(FRAMES_BTD, LABELS_B, CLASSES_CD, generator)


def train(model: Model | Dense, steps: int = 3) -> None:
    generator, optimiser = seeded(), torch.optim.AdamW(model.head.parameters(), lr=1e-3, weight_decay=0.2)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(model, generator)["total"].backward()
        optimiser.step()


def predict(model: Model | Dense, **choices: Any) -> Prediction:
    inference = Inference.model_validate({"tfm": False, **choices})
    predictor = model.deploy(inference, SOURCES_SD)
    predictor.per_frame = True
    prediction: Prediction = predictor(FRAMES_BTD, CLASSES_CD)
    return prediction


# ---------------------------------------------------------------------------------------------------------------------
# Dense baselines


@pytest.mark.parametrize("choices", [{"routing": "fixed"}, {"data": "all", "init": "same"}], ids=str)
def test_experts_that_are_one_network_are_the_dense_baseline(choices: dict[str, Any]) -> None:
    model, dense = build(**choices), build_dense()
    weights = dense.head.state_dict()
    for name in model.head.state_dict():
        dense_name = name.replace("fc_up", "c_fc").replace("fc_dn", "c_proj")
        if dense_name != name:
            before, _, after = dense_name.partition(".mlp.")
            kind, _, parameter = after.split(".")
            dense_name = f"{before}.mlp.{kind}.{parameter}"
        model.head.state_dict()[name].copy_(weights[dense_name])
    for _ in range(2):
        own, theirs = loss(model, seeded()), loss(dense, seeded())
        assert set(own) == {"ce", "total"}
        assert own["total"].item() == pytest.approx(theirs["total"].item(), abs=1e-5)
        ours, wanted = predict(model), predict(dense)
        torch.testing.assert_close(ours.cosines_BC, wanted.cosines_BC, atol=1e-5, rtol=0)
        for name in ("z", "t", "t_frames", "last_ffn_branch"):
            torch.testing.assert_close(ours.features[name], wanted.features[name], atol=2e-4, rtol=1e-4)
        train(model)
        train(dense)


def test_fixed_routing_is_the_dense_baseline_bit_by_bit() -> None:
    """One expert is built, from the same draws as the dense network's."""
    model, dense = build(routing="fixed"), build_dense()
    train(model)
    train(dense)
    assert torch.equal(predict(model).cosines_BC, predict(dense).cosines_BC)
    assert model.config.experts == 0 and not model.config.expert_choices(Inference())
    assert model.config.head_parameters(BACKBONE) == dense.config.head_parameters(BACKBONE)


# ---------------------------------------------------------------------------------------------------------------------
# What is drawn


@pytest.mark.parametrize(
    ("choices", "odds_E"),
    [
        ({"routing": "random"}, [0.25] * 4),
        ({"kappa": 2.0}, merge_weights(4, 2.0)),
        ({"kappa": 0.05}, [0.0, 0.0, 0.0, 1.0]),
    ],
)
def test_odds_of_routing(choices: dict[str, Any], odds_E: list[float]) -> None:
    config, generator = Config(layers=1, **choices), seeded()
    counts = Counter(draw_routing(config, generator)["routing"][0] for _ in range(4000))
    assert config.routing_odds == pytest.approx(odds_E, abs=1e-8)
    assert [counts[i] / 4000 for i in range(4)] == pytest.approx(odds_E, abs=0.03)


def test_two_pools_are_drawn_independently() -> None:
    config, generator = Config(layers=1, expert_design="up_down", routing="random"), seeded()
    draws = [draw_routing(config, generator) for _ in range(4000)]
    both = Counter((draw["routing"][0], draw["routing_down"][0]) for draw in draws)
    assert len(both) == 16
    assert min(both.values()) > 180


@pytest.mark.parametrize("kind", DRAWS)
def test_drawn_temperatures(kind: str) -> None:
    generator = seeded()
    drawn = torch.tensor([DRAWS[kind](0.5, generator) for _ in range(4000)])
    finite = drawn[drawn.isfinite()]
    assert drawn.abs().min() >= COLDEST
    if kind == "normal":
        assert (float(drawn.mean()), float(drawn.std())) == pytest.approx((0, 1), abs=0.06)
    if kind == "uniform":
        assert (float(drawn.min()), float(drawn.max())) == pytest.approx((-8, 8), abs=0.05)
        assert float(drawn.std()) == pytest.approx(16 / 12**0.5, rel=0.03)
    assert len(finite) == {"point": 0, "discrete": int((drawn != inf).sum())}.get(kind, 4000)


def test_a_temperature_is_never_next_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    for sign in (1, -1):
        monkeypatch.setattr(torch, "randn", lambda *_, sign=sign, **__: torch.tensor([sign * 1e-9]))
        assert DRAWS["normal"](0.6, seeded()) == sign * COLDEST
        weights_E = merge_weights(4, sign * COLDEST)
        assert isclose(sum(weights_E), 1) and max(weights_E) == weights_E[3 if sign > 0 else 0] == 1


def test_point_merges_uniformly_and_draws_nothing() -> None:
    generator = seeded()
    before = generator.get_state()
    assert draw_temperatures(Config(layers=3, wmr_region="point"), generator) == [inf] * 3
    assert torch.equal(generator.get_state(), before)


def test_what_was_drawn_is_counted() -> None:
    for design, names in (("ffn", ["routing"]), ("up_down", ["routing", "routing_down"])):
        model, generator, other = build(expert_design=design), seeded(3), seeded(3)
        expected = {name: torch.zeros(2, 4, dtype=torch.int64) for name in names}
        for _ in range(5):
            loss(model, generator)
            for name, routing_L in draw_routing(model.config, other).items():
                expected[name][torch.arange(2), routing_L] += 1
            draw_temperatures(model.config, other)
        assert list(model.counts) == names
        for name, counts_LE in expected.items():
            assert torch.equal(model.counts[name], counts_LE)
            assert counts_LE.sum(dim=1).tolist() == [5, 5]
        assert not set(names) & set(model.state_dict())
    assert build(data="all").counts == {}


# ---------------------------------------------------------------------------------------------------------------------
# Experts


def test_experts_can_start_alike() -> None:
    own, first = build(init="same").head.state_dict(), build().head.state_dict()
    for name, tensor in first.items():
        copies = [name.replace(f"{pool}.0.", f"{pool}.{i}.") for pool in ("fc_up", "fc_dn") for i in range(4)]
        if ".0." in name.partition(".mlp.")[2] or ".mlp." not in name:
            assert all(torch.equal(own[copy], tensor) for copy in copies)


@pytest.mark.parametrize(("design", "pools"), [("ffn", (4, 4)), ("up_down", (4, 4)), ("up", (4, 1)), ("down", (1, 4))])
def test_designs_of_experts(design: Any, pools: tuple[int, int]) -> None:
    config = Config(layers=2, expert_design=design)
    head, model = MoteHead(D, 4, config), build(expert_design=design)
    mlp = head.mixtures[0]
    assert (len(mlp.fc_up), len(mlp.fc_dn)) == pools == config.pools
    assert config.head_parameters(BACKBONE).stored == sum(p.numel() for p in head.parameters())
    # Expert i has the i-th of each pool of its own; a drawn path is that of one dense network.
    up_L, down_L = ([0, 3], [1, 2]) if design == "up_down" else ([0, 3], [0, 3])
    weights = model._weights([up_L, down_L])
    for layer, (mlp, block) in enumerate(zip(model.head.mixtures, model.head.merged(*weights).blocks, strict=True)):
        dense = block.mlp.state_dict()
        up, down = (min(i, size - 1) for i, size in zip((up_L[layer], down_L[layer]), pools, strict=True))
        assert torch.equal(dense["c_fc.weight"], mlp.fc_up[up].get_parameter("weight"))
        assert torch.equal(dense["c_proj.bias"], mlp.fc_dn[down].get_parameter("bias"))
    names = {name.split(".")[1] for name in model.expert_parameters()[0]}
    assert names == {pool for pool, size in zip(("fc_up", "fc_dn"), pools, strict=True) if size > 1}


def test_both_pools_are_merged_with_one_temperature() -> None:
    model = build(expert_design="up_down")
    terms = model.objective(FRAMES_BTD, LABELS_B, CLASSES_CD, [0, 1], [0.6, -1.2], [2, 3])
    routed_BTD = model.head(FRAMES_BTD, *model._weights([[0, 1], [2, 3]]))
    merged_BTD = model.head(FRAMES_BTD, [merge_weights(4, 0.6), merge_weights(4, -1.2)])
    for name, temporal_BTD in (("ce", routed_BTD), ("wmr", merged_BTD)):
        expected = model.cross_entropy((FRAMES_BTD + temporal_BTD).mean(dim=1), LABELS_B, CLASSES_CD)
        assert terms[name].item() == pytest.approx(expected.item(), rel=1e-6)


def test_all_data_goes_through_the_mean_of_all_outputs() -> None:
    mlp = ExpertFeedForward(D, (3, 3))
    outputs = [mlp.fc_dn[i](mlp.gelu(mlp.fc_up[i](FRAMES_BTD))) for i in range(3)]
    torch.testing.assert_close(mlp(FRAMES_BTD), sum(outputs) / 3)
    model = build(data="all")
    terms, expected = loss(model, seeded()), (FRAMES_BTD + model.head(FRAMES_BTD)).mean(dim=1)
    assert terms["ce"].item() == pytest.approx(model.cross_entropy(expected, LABELS_B, CLASSES_CD).item())
    assert set(terms) == {"ce", "wmr", "mse", "total"}  # experts that start different are still merged at the test


# ---------------------------------------------------------------------------------------------------------------------
# Regularisers


def test_regularisers() -> None:
    generator = seeded()
    merged, routed = (
        Pass(torch.randn(B, T, D, generator=generator), torch.randn(B, C, generator=generator)) for _ in range(2)
    )
    p_BC, log_q_BC = routed.logits_BC.softmax(-1), merged.logits_BC.log_softmax(-1)
    expected = {
        "ce": -log_q_BC[range(B), LABELS_B].mean(),
        "kl": (p_BC * (p_BC.log() - log_q_BC)).sum(-1).mean(),
        "mse": (merged.video_BTD - routed.video_BTD).square().mean(),
    }
    assert set(expected) == set(REGULARISERS)
    for name, value in expected.items():
        assert REGULARISERS[name](merged, routed, LABELS_B).item() == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_the_routed_pass_is_a_fixed_target(kind: str) -> None:
    """Only the merged pass has a gradient, of which an expert gets the share of its merge weight."""
    model = build(wmr_loss=kind)
    terms = model.objective(FRAMES_BTD, LABELS_B, CLASSES_CD, [0, 0], [0.6, 0.6])
    terms["wmr"].backward()
    biases = [own["layer 1.fc_dn.bias"].grad for own in model.expert_parameters()]
    total = sum(grad for grad in biases if grad is not None)
    for grad, weight in zip(biases, merge_weights(4, 0.6), strict=True):
        assert grad is not None
        torch.testing.assert_close(grad, weight * total, rtol=1e-3, atol=1e-9)


def test_forms_of_the_mean_square() -> None:
    h_BTD = torch.randn(B, T, D, generator=seeded())
    assert MEAN_SQUARES["code"](h_BTD).item() == pytest.approx((h_BTD**2).mean().item())
    pooled = ((FRAMES_BTD + h_BTD).mean(1) - FRAMES_BTD.mean(1)).norm(dim=-1) ** 2
    assert MEAN_SQUARES["paper"](h_BTD).item() == pytest.approx(pooled.mean().item(), rel=1e-4)
    terms = build(mse_form="paper").objective(FRAMES_BTD, LABELS_B, CLASSES_CD, [0, 1], [0.6, inf])
    assert terms["total"].item() == pytest.approx((terms["ce"] + 0.5 * terms["wmr"] + 0.1 * terms["mse"]).item())


def test_experts_may_rest_where_nothing_merges_them() -> None:
    for choices, pools in (
        ({}, set()),
        ({"wmr_weight": 0}, set()),
        ({"wmr_weight": 0, "mse_weight": 0}, {"fc_up", "fc_dn"}),
        ({"wmr_weight": 0, "mse_weight": 0, "expert_design": "up"}, {"fc_up"}),
        ({"temperature": "normal"}, {"fc_up", "fc_dn"}),
        ({"data": "all", "wmr_weight": 0, "mse_weight": 0}, set()),
        ({"routing": "fixed"}, set()),
    ):
        assert {name.split(".")[5] for name in build(**choices).unused_parameters()} == pools


# ---------------------------------------------------------------------------------------------------------------------
# Aggregation and modulation


@pytest.mark.parametrize("tfm", [False, True])
def test_an_ensemble_is_the_mean_of_its_experts(tfm: bool) -> None:
    model, modulated = build(), {"tfm": tfm, "tfm_gamma": 1.0}
    ensemble = predict(model, aggregation="ensemble", **modulated)
    experts = [predict(model, expert=i, **modulated) for i in range(4)]
    mean_BC = torch.stack([each.cosines_BC for each in experts]).mean(dim=0)
    torch.testing.assert_close(ensemble.cosines_BC, mean_BC, atol=1e-6, rtol=0)
    assert set(ensemble.features) == {"z", "t", "last_ffn_branch", "t_frames"}
    for name, feature in ensemble.features.items():
        torch.testing.assert_close(feature, torch.stack([each.features[name] for each in experts]).mean(dim=0))


def test_random_routing_follows_its_seed_and_the_odds_of_training() -> None:
    model = build()
    before = torch.get_rng_state()
    answers = {seed: predict(model, aggregation="random_routing", routing_seed=seed).cosines_BC for seed in range(6)}
    assert torch.equal(predict(model, aggregation="random_routing", routing_seed=3).cosines_BC, answers[3])
    assert torch.equal(torch.get_rng_state(), before)
    paths = [
        model.head(FRAMES_BTD, [one_expert(4, i), one_expert(4, j)]).mean(dim=1) for i in range(4) for j in range(4)
    ]
    for seed in answers:
        t_BD = predict(model, aggregation="random_routing", routing_seed=seed).features["t"]
        assert sum(torch.allclose(t_BD, path_BD, atol=1e-6) for path_BD in paths) == 1
    assert len({answer.numpy().tobytes() for answer in answers.values()}) > 1
    last = build(kappa=0.01)
    drawn, chosen = predict(last, aggregation="random_routing"), predict(last, expert=3)
    torch.testing.assert_close(drawn.cosines_BC, chosen.cosines_BC)


def test_modulating_the_branch_leaves_the_copy_of_the_frames() -> None:
    model = build()
    rho_B = modulation(FRAMES_BTD, CLASSES_CD, SOURCES_SD, 1.0, 5)
    carried_BTD = FRAMES_BTD + model.head.frame_position_embeddings.weight[:T].detach()
    h_BTD = predict(model).features["t_frames"]
    z_BTD = FRAMES_BTD + carried_BTD + rho_B[:, None, None] * (h_BTD - carried_BTD)
    branch = predict(model, tfm=True, tfm_gamma=1.0, tfm_target="branch")
    torch.testing.assert_close(branch.features["z"], z_BTD.mean(dim=1))
    same = model.deploy(Inference(tfm_target="branch", tfm_gamma=1.0), CLASSES_CD)
    torch.testing.assert_close(same(FRAMES_BTD, CLASSES_CD).cosines_BC, predict(model).cosines_BC)


def test_the_scope_decides_whether_a_subset_of_the_classes_is_scored_anew() -> None:
    model = build()
    anew = {scope: model.deploy(Inference(tfm_scope=scope), SOURCES_SD).looks_at_classes for scope in ("list", "full")}
    assert anew == {"list": True, "full": False}


def test_features_of_the_last_branch_and_of_each_frame() -> None:
    model = build()
    predictor = model.deploy(Inference(tfm=False), SOURCES_SD)
    assert isinstance(predictor, MotePredictor)
    assert set(predictor(FRAMES_BTD, CLASSES_CD).features) == {"z", "t", "last_ffn_branch"}
    seen: list[Tensor] = []
    predictor.head.blocks[-1].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output))
    predictor.per_frame = True
    features = predictor(FRAMES_BTD, CLASSES_CD).features
    torch.testing.assert_close(features["last_ffn_branch"], seen[0].mean(dim=1))
    assert features["t_frames"].shape == (B, T, D)
    torch.testing.assert_close(features["t_frames"].mean(dim=1), features["t"])


# ---------------------------------------------------------------------------------------------------------------------
# Sizes, refusals, presets


def test_an_ensemble_costs_a_pass_per_expert() -> None:
    shape, config, ensemble = backbone("ViT-B-16"), Config(num_experts=3), Inference(aggregation="ensemble")
    assert config.head_flops(shape, 8, ensemble) == 3 * config.head_flops(shape, 8)
    assert config.head_parameters(shape, ensemble).active == config.head_parameters(shape).stored


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        ({"data": "all", "routing": "random"}, "routing has no effect with data: all; .*data: routed"),
        ({"kappa": 2, "routing": "random"}, "kappa has no effect .*allowed"),
        ({"kappa": 2, "data": "all"}, "kappa has no effect .*allowed"),
        ({"wmr_region": "point", "temperature": "normal"}, "temperature has no effect .*wmr_region: region"),
        ({"routing": "learned"}, "'multinomial', 'random' or 'fixed'"),
        ({"kappa": 0}, "greater than 0"),
    ],
)
def test_senseless_configs_are_refused(wrong: dict[str, Any], allowed: str) -> None:
    with pytest.raises(ValidationError, match=allowed):
        Config.model_validate(wrong)


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        ({"aggregation": "ensemble", "expert": 1}, "expert and aggregation: ensemble exclude each other; allowed: one"),
        ({"aggregation": "random_routing", "merge_temperature": 1}, "allowed: one of them"),
        ({"routing_seed": 1}, "routing_seed has no effect.*aggregation: random_routing"),
    ],
)
def test_senseless_inference_is_refused(wrong: dict[str, Any], allowed: str) -> None:
    with pytest.raises(ValidationError, match=allowed):
        Inference.model_validate(wrong)


def test_choices_that_a_config_cannot_serve_are_refused() -> None:
    assert Config(data="all").routing_odds == ()
    with pytest.raises(ValueError, match="allowed: merge, ensemble"):
        Config(data="all").check(Inference(aggregation="random_routing"))
    with pytest.raises(ValueError, match="expert 1 does not exist; allowed: 0 to 0"):
        Config(routing="fixed").check(Inference(expert=1))


def test_comparisons_of_experts_are_valid_choices() -> None:
    config = Config()
    for asked in (Inference(aggregation="random_routing", routing_seed=2), Inference(merge_temperature=0.6)):
        choices = config.expert_choices(asked)
        assert list(choices) == ["merged", "expert 0", "expert 1", "expert 2", "expert 3"]
        assert all(Inference.model_validate(choice.model_dump()) == choice for choice in choices.values())


def test_who_shares_a_draw() -> None:
    assert Config().depends_on_processes
    assert not Config(routing_scope="step").depends_on_processes
    assert not DenseConfig().depends_on_processes


def test_odds_match_the_formula() -> None:
    odds = [exp(i / 2.0) for i in range(1, 5)]
    assert merge_weights(4, 2.0) == pytest.approx([each / sum(odds) for each in odds])

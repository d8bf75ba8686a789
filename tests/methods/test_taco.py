"""TACO's own behaviour: sizes, its start at CLIP, distillation, teacher and ensemble, what deploys.

Legend: B batch, T frames, D joint CLIP width, C classes, K anchors.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from bench.models.backbones import backbone
from bench.models.clip import Clip, load_clip
from bench.stages.training.average import RunningMean
from bench.suite.recipe import Average
from methods.clip_mean.config import Config as ClipMeanConfig
from methods.clip_mean.model import Model as ClipMean
from methods.contract import Terms, build_model
from methods.taco.config import Config, Inference
from methods.taco.model import Model, relative

B, T, C = 3, 2, 4
PROMPTS = [[f"a video of a {name}"] for name in ("flag", "king", "die", "moon")]
LABELS_B = torch.tensor([2, 0, 3])


def clip() -> Clip:
    return load_clip("glyph-vit", "random:0")


def build(training: bool = True, **choices: Any) -> Model:
    model = build_model(Model, Config.model_validate(choices), clip(), 0, C, training)
    assert isinstance(model, Model)
    return model.train(training)


@pytest.fixture
def clips_BT3HW() -> Tensor:
    return torch.randn(B, T, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def loss(model: Model, clips_BT3HW: Tensor, draw: int = 0) -> Terms:
    generator = torch.Generator().manual_seed(draw)
    classes = model.training_texts(PROMPTS, LABELS_B, generator)
    return model.loss(model.encode(clips_BT3HW), LABELS_B, classes, generator)


def steps(model: Model, clips_BT3HW: Tensor, number: int = 3) -> list[dict[str, Tensor]]:
    """The CLIP of a model before and after each step of a training."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    states = [copied(model.clip)]
    for step in range(number):
        optimizer.zero_grad()
        loss(model, clips_BT3HW, step)["total"].backward()
        optimizer.step()
        with torch.no_grad():
            model.after_step()
        states.append(copied(model.clip))
    return states


def copied(own: Clip) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in own.named_parameters()}


# ---------------------------------------------------------------------------------------------------------------------
# Sizes and choices


@pytest.mark.parametrize(
    ("name", "stored", "flops", "trained"),
    [("ViT-B-16", 1_050_112, 2_097_152, 150_670_849), ("ViT-L-14", 2_361_600, 4_718_592, 429_978_113)],
)
def test_parameters_and_flops_of_the_specification(name: str, stored: int, flops: int, trained: int) -> None:
    shape, config = backbone(name), Config()
    assert config.head_parameters(shape, Inference()) == (stored, stored)
    assert config.head_parameters(shape, Inference(projected=False)) == (stored, 0)
    assert config.head_modules(shape, 8, Inference()) == {"projection": flops}
    assert stored + sum(map(shape.parameters, config.tuned)) == trained


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"kl_weight": 0, "anchors": 50}, "anchors: 50 has no effect with kl_weight: 0"),
        ({"kl_weight": 0, "momentum": 1}, "momentum: 1.0 has no effect with kl_weight: 0"),
        ({"kl_weight": 0, "target_scale": "detached"}, "target_scale: detached has no effect with kl_weight: 0"),
        ({"anchors": 0, "anchor_draw": "step"}, "anchor_draw: step has no effect with anchors: 0"),
    ],
)
def test_choices_without_effect_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(choices)


def test_the_number_of_processes_matters_where_each_draws() -> None:
    assert Config().depends_on_processes
    for others in ({"anchor_draw": "step"}, {"anchors": 0}, {"kl_weight": 0}):
        assert not Config.model_validate(others).depends_on_processes


def test_it_is_tuned_by_default_and_its_frozen_tower_still_has_tuned_texts() -> None:
    assert Config().tuned == {"visual", "text", "tokens", "scale"}
    frozen = Config(tower="frozen")
    assert frozen.tuned == {"text", "tokens", "scale"} and frozen.shares_encodings and frozen.texts_inside


# ---------------------------------------------------------------------------------------------------------------------
# Objective


def test_at_first_it_is_clip_and_agrees_with_its_teacher(clips_BT3HW: Tensor) -> None:
    model = build()
    terms, plain = loss(model, clips_BT3HW), build_model(ClipMean, ClipMeanConfig(tower="tuned"), clip(), 0)
    video_BD = plain.encode(clips_BT3HW).mean(dim=1)
    assert torch.equal(model.projected(video_BD), video_BD)
    assert float(terms["kl"].detach()) == pytest.approx(0, abs=1e-7)
    assert torch.equal(terms["ce"], plain.cross_entropy(video_BD, LABELS_B, plain.embed_classes(PROMPTS)))


def test_without_teacher_and_projection_it_is_a_cross_entropy(clips_BT3HW: Tensor) -> None:
    model = build(kl_weight=0, projection=False)
    assert model.teacher is None and not model.config.has_head
    terms, plain = loss(model, clips_BT3HW), build_model(ClipMean, ClipMeanConfig(tower="tuned"), clip(), 0)
    own = plain.loss(plain.encode(clips_BT3HW), LABELS_B, plain.embed_classes(PROMPTS), torch.Generator())
    assert terms.keys() == own.keys() and torch.equal(terms["total"], own["total"])


def test_divergence_of_videos_alike_is_that_of_one() -> None:
    model, generator = build(), torch.Generator().manual_seed(1)
    taught_1C, own_1C = (torch.randn(1, C, generator=generator) / 10 for _ in range(2))
    scale = model.clip.logit_scale.exp()
    q_C, r_C = (scale * taught_1C[0]).softmax(0), (scale * own_1C[0]).softmax(0)
    expected = (q_C * (q_C / r_C).log()).sum()
    torch.testing.assert_close(model.divergence(taught_1C.expand(5, -1), own_1C.expand(5, -1)), expected)


@pytest.mark.parametrize("target_scale", ["live", "detached"])
def test_the_targets_scale_has_a_gradient_only_if_it_is_live(target_scale: str) -> None:
    """A student whose similarities are all alike has no gradient of its own with respect to it."""
    model = build(target_scale=target_scale)
    taught_BC, own_BC = torch.eye(C)[:B] / 20, torch.zeros(B, C)
    model.divergence(taught_BC, own_BC).backward()
    gradient = model.clip.logit_scale.grad
    assert gradient is not None and bool(gradient.abs() > 1e-3) == (target_scale == "live")


def test_relative_similarities_are_flattened_cosines_on_average() -> None:
    """Their expectation is K / D times the cosines."""
    model, generator = build(anchors=200), torch.Generator().manual_seed(3)
    video_BD, classes_CD = (F.normalize(torch.randn(n, 128, generator=generator), dim=-1) for n in (B, C))
    drawn = [relative(7 * video_BD, classes_CD, model.draw_anchors(generator)) for _ in range(2000)]
    expected = 200 / 128 * video_BD @ classes_CD.T
    torch.testing.assert_close(torch.stack(drawn).mean(dim=0), expected, atol=0.02, rtol=0)
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(relative(7 * video_BD, classes_CD, None), video_BD @ classes_CD.T)


def test_anchors_follow_from_the_generator_and_have_unit_length() -> None:
    model = build(anchors=7)
    first, again = (model.draw_anchors(torch.Generator().manual_seed(1)) for _ in range(2))
    assert first is not None and again is not None and torch.equal(first, again)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(7))


def test_classes_are_means_of_raw_or_of_unit_texts() -> None:
    prompts = [["a flag", "a photo of a flag", "flag"], ["a king"]]
    raw, unit = (build(training=False, class_mean=mean) for mean in ("raw", "unit"))
    texts_ND = raw.clip.encode_prompts(prompts)
    expected = F.normalize(torch.stack([texts_ND[:3].sum(0), texts_ND[3]]), dim=-1)
    torch.testing.assert_close(raw.embed_classes(prompts), expected)
    torch.testing.assert_close(unit.embed_classes(prompts), clip().embed_classes(prompts))
    differing = (raw.embed_classes(prompts) - unit.embed_classes(prompts)).abs().amax(dim=-1)
    assert differing[0] > 1e-5 and differing[1] < 1e-6


# ---------------------------------------------------------------------------------------------------------------------
# Teacher and ensemble


def test_the_teacher_is_the_closed_form_of_its_moves(clips_BT3HW: Tensor) -> None:
    model, beta = build(momentum=0.6), 0.6
    states = steps(model, clips_BT3HW)
    assert model.teacher is not None
    for name, own in model.teacher.named_parameters():
        moves = [(1 - beta) * beta ** (len(states) - 1 - i) * state[name] for i, state in enumerate(states) if i]
        expected = beta ** (len(states) - 1) * states[0][name] + torch.stack(moves).sum(dim=0)
        torch.testing.assert_close(own, expected, atol=1e-6, rtol=1e-5)


def test_with_a_momentum_of_one_clip_stays_the_teacher(clips_BT3HW: Tensor) -> None:
    model = build(momentum=1.0)
    steps(model, clips_BT3HW)
    assert model.teacher is not None
    assert all(
        torch.equal(own, tensor) for own, tensor in zip(model.teacher.parameters(), clip().parameters(), strict=True)
    )


def test_a_frozen_tower_is_its_own_teacher(clips_BT3HW: Tensor) -> None:
    """So its frames can be encoded once; the teacher's keep CLIP's bits."""
    model = build(tower="frozen", momentum=0.6)
    steps(model, clips_BT3HW)
    assert model.teacher is not None and isinstance(model.encode(clips_BT3HW), Tensor)
    pairs = zip(model.teacher.visual.parameters(), clip().visual.parameters(), strict=True)
    assert all(torch.equal(own, tensor) for own, tensor in pairs)
    assert float(loss(model, clips_BT3HW)["kl"].detach()) > 0


def test_the_ensemble_after_an_epoch_is_halfway_from_clip(clips_BT3HW: Tensor) -> None:
    model = build()
    before = {name: own.clone() for name, own in model.trained_state().items()}
    ensemble = RunningMean(Average(start=True), model.trained_state())
    steps(model, clips_BT3HW)
    ensemble.after_epoch(1, True, model.trained_state())
    for name, own in model.trained_state().items():
        torch.testing.assert_close(ensemble.state[name], (before[name] + own) / 2)


# ---------------------------------------------------------------------------------------------------------------------
# Test


@torch.no_grad()
def test_the_test_takes_either_space(clips_BT3HW: Tensor) -> None:
    model = build(training=False)
    for parameter in model.head.parameters():
        parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    classes_CD, frames_BTD = model.embed_classes(PROMPTS), model.encode(clips_BT3HW)
    through, plain = (model.deploy(Inference(projected=own), classes_CD) for own in (True, False))
    mean_BD = frames_BTD.mean(dim=1)
    assert torch.equal(plain(frames_BTD, classes_CD).features["z"], mean_BD)
    torch.testing.assert_close(through(frames_BTD, classes_CD).features["z"], model.projected(mean_BD))
    without = build(training=False, projection=False).deploy(Inference(), classes_CD)
    assert torch.equal(without(frames_BTD, classes_CD).features["z"], mean_BD)

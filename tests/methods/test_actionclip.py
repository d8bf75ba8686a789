"""ActionCLIP's own behaviour: sizes, texts of a step, probabilities over templates, what is trained.

Legend: B batch, T frames, D joint CLIP width, C classes, P prompts of a class.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from bench.graph.build import build_graph
from bench.measure.metrics import fuse
from bench.models.backbones import Part, backbone
from bench.models.clip import load_clip
from bench.published.pairing import pairs
from bench.suite.resolve import SUITES, load_suite
from methods.actionclip.config import Config, Inference
from methods.actionclip.model import Model
from methods.contract import build_model
from methods.text4vis.model import contrast
from tests.errors import refused

B, T, P = 4, 3, 3
NAMES = ("flag rising", "king falling", "die growing", "star shaking", "moon turning")
PROMPTS = [[f"a video of a {name}", name, f"{name}, an action"] for name in NAMES]
SUITE_NAMES = sorted(path.stem for path in SUITES.glob("actionclip-*.yaml"))


def build(**choices: Any) -> Model:
    model = build_model(Model, Config.model_validate(choices), load_clip("glyph-vit", "random:0"), 0, len(NAMES))
    assert isinstance(model, Model)
    return model


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "base", "large"),
    [
        ("none", 0, 0),
        ("conv1d", 1_536, 2_304),
        ("lstm", 2_101_248, 4_724_736),
        ("transf", 18_953_728, 42_586_368),
        # With a position for each of 77 frames, where the official head has as many as training has frames.
        ("transf_cls", 18_920_448 + 69 * 512, 33_093_120 + 69 * 768),
    ],
)
def test_heads_have_as_many_parameters_as_the_official_ones(head: str, base: int, large: int) -> None:
    sizes = [Config(head=head).head_parameters(backbone(name)).stored for name in ("ViT-B-16", "ViT-L-14")]  # type: ignore[arg-type]
    assert sizes == [base, large]


@pytest.mark.parametrize(("name", "trained"), [("ViT-B-16", 168_574_465), ("ViT-L-14", 470_202_881)])
def test_both_towers_token_table_scale_and_head_are_trained(name: str, trained: int) -> None:
    shape, config, fixed = backbone(name), Config(), Config(tunes_text=False)
    parts: tuple[Part, ...] = ("visual", "text", "tokens", "scale")
    assert config.tuned == {*parts} and fixed.tuned == {"visual", "scale"}
    assert sum(map(shape.parameters, config.tuned)) + config.head_parameters(shape).stored == trained


@pytest.mark.parametrize(("frames", "flops"), [(8, 0.303), (16, 0.607), (32, 1.221)])
def test_flops_of_the_transformer_are_the_published_ones(frames: int, flops: float) -> None:
    assert Config().head_flops(backbone("ViT-B-16"), frames) / 1e9 == pytest.approx(flops, abs=5e-4)


# --- training -------------------------------------------------------------------------------------------------------


def test_each_video_is_compared_with_one_drawn_prompt_of_its_label() -> None:
    model, labels_B = build(head="none"), torch.tensor([2, 0, 2, 4])
    asked: list[list[list[str]]] = []
    model.clip.encode_prompts = lambda prompts: asked.append(prompts) or drawn(len(prompts), 128)  # type: ignore
    texts_B1D = model.training_texts(PROMPTS, labels_B, generator())
    assert texts_B1D.shape == (B, 1, 128)
    assert [len(own) for own in asked[0]] == [1] * B
    assert all(own[0] in PROMPTS[label] for own, label in zip(asked[0], labels_B.tolist(), strict=True))
    many = model.draw_texts([PROMPTS[0]] * 300, generator())
    assert {own[0] for own in many} == {*PROMPTS[0]}  # for every video anew


def test_frozen_texts_are_drawn_alike_and_carry_no_gradient() -> None:
    labels_B, frames_BTD = torch.tensor([2, 0, 2, 4]), drawn(B, T, 128)
    tuned, frozen = build(head="none"), build(head="none", tunes_text=False)
    with torch.no_grad():
        classes_CPD = frozen.embed_classes(PROMPTS)
        texts_B1D = tuned.training_texts(PROMPTS, labels_B, generator(3))
    losses = [
        model.loss(frames_BTD, labels_B, classes, generator(3))["total"]
        for model, classes in ((tuned, texts_B1D), (frozen, classes_CPD))
    ]
    torch.testing.assert_close(*losses)
    losses[1].backward()
    assert {name for name, p in frozen.clip.named_parameters() if p.grad is not None} == {"logit_scale"}


def test_mean_texts_are_those_that_other_methods_have() -> None:
    model, labels_B, frames_BTD = build(head="none", text_draw="mean"), torch.tensor([1, 1, 0, 3]), drawn(B, T, 128)
    classes_CPD = model.training_texts(PROMPTS, labels_B, generator())
    classes_CD = model.clip.embed_classes(PROMPTS)
    expected = contrast(model.logits(frames_BTD.mean(dim=1), classes_CD[labels_B]), labels_B, dual=False)
    torch.testing.assert_close(model.loss(frames_BTD, labels_B, classes_CPD, generator())["total"], expected)


def test_the_whole_batch_is_compared_so_its_division_matters() -> None:
    assert Config().depends_on_processes and not Config().soft_targets
    (trial, *_) = load_suite(SUITES / "actionclip-batch.yaml").trials
    assert (trial.recipe.parts, trial.recipe.shards, trial.recipe.drop_last) == (1, 1, True)
    with refused("actionclip", "1 parts", "accumulate 1"):
        load_suite(SUITES / "actionclip-batch.yaml", ("recipe.accumulate=2",))


# --- test -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["fixed100", "learnt"])
def test_summed_softmax_of_scores_is_the_mean_probability_over_templates(scale: str) -> None:
    model, frames_BTD, classes_CPD = build(head="none"), drawn(B, T, 128), drawn(5, P, 128, seed=1)
    predictor = model.deploy(Inference.model_validate({"scale": scale}), classes_CPD)
    factor = 100.0 if scale == "fixed100" else float(model.clip.logit_scale.detach().exp())
    cosines_BCP = torch.einsum("bd,cpd->bcp", *(F.normalize(x, dim=-1) for x in (frames_BTD.mean(1), classes_CPD)))
    expected_BC = (factor * cosines_BCP).softmax(dim=1).mean(dim=-1)
    prediction = predictor(frames_BTD, classes_CPD)
    views_1VC, norms_1V = prediction.cosines_BC[None].numpy(), prediction.norms_B[None].numpy()
    fused_1C = fuse(views_1VC, norms_1V, predictor.logit_scale, "softmax_sum")
    assert fused_1C[0] == pytest.approx(expected_BC.double().sum(dim=0).numpy(), abs=1e-5)


def test_improbable_classes_keep_their_order() -> None:
    """Probabilities of such cosines are zero in fp32."""
    model, classes_CPD = build(head="none"), F.normalize(drawn(5, 1, 128), dim=-1)
    predictor = model.deploy(Inference(), classes_CPD)
    frames_BTD = classes_CPD[:1] - classes_CPD[1:2] - 0.5 * classes_CPD[2:3]
    scores_BC = predictor(frames_BTD, classes_CPD).cosines_BC
    cosines_BC = F.normalize(frames_BTD[:, 0], dim=-1) @ classes_CPD[:, 0].T
    assert scores_BC.isfinite().all() and (100 * (cosines_BC - cosines_BC.amax())).exp().amin() == 0
    torch.testing.assert_close(scores_BC - scores_BC.amax(), cosines_BC - cosines_BC.amax())


def test_a_mean_of_templates_is_the_cosine_with_their_mean() -> None:
    model, frames_BTD, classes_CPD = build(head="none"), drawn(B, T, 128), drawn(5, P, 128, seed=1)
    predictor = model.deploy(Inference(templates="mean"), classes_CPD)
    means_CD = F.normalize(F.normalize(classes_CPD, dim=-1).mean(dim=1), dim=-1)
    prediction = predictor(frames_BTD, classes_CPD)
    torch.testing.assert_close(prediction.cosines_BC, F.normalize(frames_BTD.mean(dim=1), dim=-1) @ means_CD.T)
    assert predictor.bounded and not predictor.looks_at_classes


def test_probabilities_can_only_be_summed_over_views() -> None:
    suite = SUITES / "actionclip-text.yaml"
    assert Config().fusions(Inference()) == ("softmax_sum",) and not Config().fusions(Inference(templates="mean"))
    with refused("protocols.K400.fusion", "cannot be fused by double_softmax", "softmax_sum"):
        load_suite(suite, ("protocols.K400.fusion=double_softmax",))


# --- choices and suites ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"tower": "frozen", "head": "none", "tunes_text": False, "inside": "tsm"},
        {"inside": "joint_st"},
        {"conv_axes": "viewed"},
        {"head": "none", "layers": 2},
        {"head": "shift"},
    ],
)
def test_choices_without_an_effect_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(wrong)


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_its_suites_plan_in_the_embedded_world_with_the_rows_that_they_have(name: str) -> None:
    small = load_suite(SUITES / f"{name}.yaml", ("world=glyphs",))
    assert {t.row for t in small.trials} == set(small.file.rows)
    assert all(t.config.tower == "tuned" for t in small.trials)
    graph = build_graph(small)
    assert not graph.missing and any(stage.kind == "train" for stage in graph.stages.values())


def test_released_models_stand_beside_their_published_numbers() -> None:
    shown = {(p.point, p.number.value) for p in pairs(load_suite(SUITES / "actionclip-kinetics.yaml")) if p.comparable}
    released = {"B/32 8f": "78.36", "B/16 8f": "81.09", "B/16 16f": "81.68", "B/16 32f": "82.32"}
    assert shown >= {(f"model {model}", value) for model, value in released.items()}

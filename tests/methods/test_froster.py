"""FROSTER's own behaviour: what is held to CLIP, texts of a step, sizes, suites.

Legend: B batch, T frames, D joint CLIP width, C classes, P texts of a class.
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
from bench.models.clip import class_means, load_clip
from bench.models.prompts import TEMPLATES
from bench.suite.resolve import SUITES, load_suite
from methods.contract import Terms, build_model
from methods.froster.config import PRESETS, Config
from methods.froster.model import Model
from methods.settings import Inference

B, T, C, P = 2, 4, 3, 5
SUITE_NAMES = sorted(path.stem for path in SUITES.glob("froster-*.yaml"))
PROMPTS = [[f"{text} {name}" for text in ("a", "the", "a photo of a", "one", "")] for name in ("star", "heart", "die")]


def build(**choices: Any) -> Model:
    clip = load_clip("glyph-vit", "random:0")
    model = build_model(Model, Config.model_validate(choices), clip, 0, C, training=True)
    assert isinstance(model, Model)
    return model.train()


def stepped(model: Model, clips_BT3HW: Tensor, seed: int = 0) -> tuple[Terms, Tensor]:
    """Loss terms and class features of a step."""
    labels, generator = torch.arange(B), torch.Generator().manual_seed(seed)
    classes = model.training_texts(PROMPTS, labels, generator)
    return model.loss(model.encode(clips_BT3HW), labels, classes, generator), classes


def unit(seed: int) -> Tensor:
    return F.normalize(torch.randn(C, 128, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def clips_BT3HW() -> Tensor:
    return torch.randn(B, T, 3, 64, 64, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------------------------------------------
# What is held to CLIP


def test_a_training_begins_at_clip_but_for_the_window(clips_BT3HW: Tensor) -> None:
    terms, classes_C2D = stepped(build(), clips_BT3HW)
    torch.testing.assert_close(classes_C2D[:, 0], classes_C2D[:, 1], atol=1e-6, rtol=0)
    assert terms["classes"].abs() < 1e-6 and terms["frames"] > 1e-3
    plain, _ = stepped(build(window=1), clips_BT3HW)
    assert plain["frames"].abs() < 1e-6
    torch.testing.assert_close(terms["total"], terms["ce"] + 2 * (terms["frames"] + terms["classes"]))


@pytest.mark.parametrize(
    ("choices", "names"),
    [
        ({}, {"ce", "frames", "classes", "total"}),
        ({"distil": "video"}, {"ce", "frames", "total"}),
        ({"distil": "text"}, {"ce", "classes", "total"}),
        ({"distil": "none"}, {"ce", "total"}),
        ({"tower": "frozen", "distil": "text"}, {"ce", "classes", "total"}),
        ({"text_tower": "frozen", "distil": "none"}, {"ce", "total"}),
    ],
    ids=str,
)
def test_terms_are_of_what_is_held(choices: dict[str, Any], names: set[str], clips_BT3HW: Tensor) -> None:
    model = build(**choices)
    assert (model.teacher is not None) == (names != {"ce", "total"})
    if model.config.texts_inside:
        assert stepped(model, clips_BT3HW)[0].keys() == names
        return
    terms = model.loss(model.encode(clips_BT3HW), torch.arange(B), unit(1), torch.Generator())
    assert terms.keys() == names


def test_the_distance_is_taken_behind_the_projector_and_the_loss_before_it(clips_BT3HW: Tensor) -> None:
    model, other = build(), build()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    found, start = stepped(model, clips_BT3HW)[0], stepped(other, clips_BT3HW)[0]
    assert torch.equal(found["ce"], start["ce"]) and found["frames"] != start["frames"]
    first, second = (model.head.get_parameter(f"projector_v.{place}.weight") for place in (0, 2))
    features_CD = unit(5)
    expected_CD = features_CD + 0.1 * (F.gelu(features_CD @ first.T) @ second.T)
    torch.testing.assert_close(model.projected("v", features_CD), expected_CD)
    cosine = F.cosine_similarity(expected_CD, unit(6), dim=-1).mean()
    torch.testing.assert_close(model.distance("v", features_CD, unit(6)), 1 - cosine)


def test_no_gradient_reaches_the_teacher_and_no_test_needs_it(clips_BT3HW: Tensor) -> None:
    model = build()
    stepped(model, clips_BT3HW)[0]["total"].backward()
    assert model.teacher is not None and all(p.grad is None for p in model.teacher.parameters())
    with torch.no_grad():
        model.eval()
        classes_CD, frames_BTD = model.embed_classes(PROMPTS), model.encode(clips_BT3HW)
        predictor = model.deploy(Inference(), classes_CD)
        assert predictor(frames_BTD, classes_CD).cosines_BC.shape == (B, C)
    assert not list(predictor.parameters())


# ---------------------------------------------------------------------------------------------------------------------
# Texts of a step


def drawn(**choices: Any) -> list[list[list[str]]]:
    """Texts that ten steps draw."""
    model = build(**choices)
    return [model.draw_texts(PROMPTS, torch.Generator().manual_seed(seed)) for seed in range(10)]


def test_a_step_has_one_drawn_text_and_the_last_alike_for_all_classes() -> None:
    places = []
    for texts in drawn():
        (place,) = {own.index(pair[0]) for own, pair in zip(PROMPTS, texts, strict=True)}
        assert [pair[1:] for pair in texts] == [[own[-1]] for own in PROMPTS]
        places.append(place)
    assert set(places) == set(range(P - 1))
    assert {len(own) for texts in drawn(fixed_text="none") for own in texts} == {1}
    assert drawn(fixed_text="none", distil="none") == drawn(fixed_text="none")
    assert drawn(texts="all") == 10 * [PROMPTS]


def test_the_teacher_has_the_same_texts(clips_BT3HW: Tensor) -> None:
    model = build(fixed_text="none")
    assert model.teacher is not None
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.mul_(1.01)
    for seed in range(3):
        _, classes_C2D = stepped(model, clips_BT3HW, seed)
        texts = model.draw_texts(PROMPTS, torch.Generator().manual_seed(seed))
        for place, clip in enumerate((model.clip, model.teacher)):
            expected_CD = class_means(clip.encode_prompts(texts), texts)
            torch.testing.assert_close(classes_C2D[:, place], expected_CD, atol=1e-5, rtol=1e-5)


def test_a_drawn_place_has_to_be_there_for_every_class() -> None:
    with pytest.raises(ValueError, match="class 1 has 2 texts, class 0 has 5; allowed: equally many"):
        build().draw_texts([PROMPTS[0], PROMPTS[1][:2]], torch.Generator())


# ---------------------------------------------------------------------------------------------------------------------
# Choices, sizes, suites


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"tower": "frozen", "text_tower": "frozen", "distil": "none"}, "leave nothing to learn"),
        ({"tower": "frozen"}, "distil: both holds a frozen tower .video.; allowed: text, none"),
        ({"text_tower": "frozen", "distil": "text"}, "distil: text holds a frozen tower .text.; allowed: video, none"),
        ({"distil": "none", "distil_weight": 1.0}, "distil_weight has no effect with distil: none"),
        ({"projector": "identity", "residual": 0.2}, "residual has no effect with projector: identity"),
        ({"texts": "all", "fixed_text": "none"}, "fixed_text has no effect with texts: all"),
        ({"text_tower": "frozen", "distil": "video", "template_draw": "step"}, "no effect with text_tower: frozen"),
    ],
)
def test_choices_without_effect_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(choices)


@pytest.mark.parametrize(
    ("name", "trained", "own"), [("ViT-B-16", 150_669_313, 1_048_576), ("ViT-L-14", 429_975_809, 2_359_296)]
)
def test_sizes_are_those_of_the_official_model(name: str, trained: int, own: int) -> None:
    shape, config = backbone(name), Config()
    assert config.head_parameters(shape) == (own, 0)
    assert sum(map(shape.parameters, config.tuned)) + own == trained
    assert config.head_flops(shape, 8) == 0 and config.inside_flops(shape, 8) > 0


def test_the_official_preset_has_the_published_texts() -> None:
    assert PRESETS["official"]["recipe"]["templates"] == "rephrased29" and len(TEMPLATES["rephrased29"]) == 29
    assert PRESETS["clean"]["recipe"]["templates"] == "mote28" and PRESETS["clean"]["config"]["fixed_text"] == "none"


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_its_suites_plan_in_the_embedded_world_with_the_rows_that_they_have(name: str) -> None:
    real, small = (load_suite(SUITES / f"{name}.yaml", world) for world in ((), ("world=glyphs",)))
    assert [(t.row, t.point, t.seed) for t in real.trials] == [(t.row, t.point, t.seed) for t in small.trials]
    assert [t.config for t in real.trials] == [t.config for t in small.trials]
    graph = build_graph(small)
    assert not graph.missing and any(stage.kind == "train" for stage in graph.stages.values())


def test_each_process_of_the_official_step_draws_a_text() -> None:
    suite = load_suite(SUITES / "froster-distil.yaml")
    divided = {(t.config.depends_on_processes, t.recipe.batch, t.recipe.accumulate) for t in suite.trials}
    assert divided == {(True, 64, 8), (False, 64, 1)}

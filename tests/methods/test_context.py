"""Class texts with a learnt context (CoOp), against texts that are written out.

Legend: B batch, T frames, M vectors, W width of the text tower, D joint CLIP width, C classes, K contexts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from bench.core.errors import UserError
from bench.glyphs.world import entries
from bench.graph.build import build_graph
from bench.measure import flops as counting
from bench.models.backbones import backbone
from bench.models.clip import Clip, load_clip, seeded
from bench.suite.resolve import SUITES, load_suite
from methods.contract import build_model
from methods.registry import method
from methods.text4vis.classifiers import Context
from methods.text4vis.config import Config, Inference
from methods.text4vis.model import Model

B, T, C, D = 4, 3, 4, 128
GLYPHS = ("flag rising", "king", "die growing", "flower moon shaking")
# As CLIP's own tokenizer sees them: one token and many, a full stop that is there already or melts into a bracket.
NAMES = ("archery", "ApplyEyeMakeup", "playing the didgeridoo", "tai chi.", "push up (arms)")


def build(clip: Clip | None = None, classes: int = C, seed: int = 0, **choices: Any) -> Model:
    choices = {"head": "none", "classifier": "coop", **choices}
    if "context_start" not in choices:
        choices = {"context": 4, **choices}
    clip = clip or load_clip("glyph-vit", "random:0")
    model = build_model(Model, Config.model_validate(choices), clip, seed, classes)
    assert isinstance(model, Model)
    return model


def bare(names: tuple[str, ...]) -> list[list[str]]:
    return [[name] for name in names]


def byte_pairs() -> Clip:
    """A small CLIP that reads texts with OpenAI's tokenizer."""
    text = {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16}
    spec = replace(backbone("ViT-B-32"), embed_dim=32, text_width=64, text_layers=2, text_heads=2, context_length=24)
    with seeded(0):
        clip = Clip(spec, {"embed_dim": 32, "text_cfg": text, "vision_cfg": vision})
    clip.eval().requires_grad_(False)
    return clip


# ---------------------------------------------------------------------------------------------------------------------
# Texts


@pytest.mark.parametrize("context_of", ["all", "class"])
@pytest.mark.parametrize(
    ("class_at", "text"), [("end", "a video of {}."), ("middle", "a {} video of."), ("front", "{} a video of.")]
)
def test_untrained_words_make_the_text_that_clip_reads(class_at: str, text: str, context_of: str) -> None:
    clip, names = byte_pairs(), NAMES if class_at == "end" else NAMES[:-1]
    model = build(clip, len(names), context_start="a video of", class_at=class_at, context_of=context_of)
    expected_CD = clip.embed_classes(bare(tuple(text.format(name.removesuffix(".")) for name in names)))
    found_CD = model.embed_classes(bare(names)).detach()
    torch.testing.assert_close(found_CD, expected_CD, atol=1e-5, rtol=1e-4)
    without_CD = clip.embed_classes(bare(tuple(f"a video of {name.removesuffix('.')}" for name in names)))
    assert not torch.allclose(found_CD, without_CD, atol=1e-3)


def test_the_words_of_other_templates_stand_where_the_name_does_and_prompts_are_averaged() -> None:
    model, patterns = build(context_start="a video of"), ("{}", "a picture of a {}.")
    found_CD = model.embed_classes([[pattern.format(name) for pattern in patterns] for name in GLYPHS])
    texts = [[f"a video of {pattern.format(name)}" for pattern in patterns] for name in GLYPHS]
    torch.testing.assert_close(found_CD, model.clip.embed_classes(texts), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("class_at", "text"), [("end", "a video of {}"), ("front", "{} a video of")])
def test_a_name_that_is_too_long_loses_its_last_words(class_at: str, text: str) -> None:
    model = build(context_start="a video of", class_at=class_at)
    words = [*["flag", "king", "die", "cat"] * 5]
    found_CD = model.embed_classes(bare((" ".join(words), *GLYPHS)))
    room = backbone("glyph-vit").context_length - 2 - 3
    expected_1D = model.clip.embed_classes(bare((text.format(" ".join(words[:room])),)))
    torch.testing.assert_close(found_CD[:1], expected_1D, atol=1e-5, rtol=1e-4)


def test_a_name_that_vectors_leave_no_room_for_is_refused() -> None:
    model = build(context=13)
    with pytest.raises(UserError, match="class 'die growing' is too long beside learnt words: it has 2 tokens"):
        model.embed_classes(bare(("king", "die growing")))
    with torch.no_grad():
        assert torch.equal(*build().embed_classes(bare(("die_growing", "die growing"))))


def test_longer_texts_beside_a_text_do_not_change_it_nor_do_those_before() -> None:
    model = build()
    together_CD, first_CD = model.embed_classes(bare(GLYPHS)), model.embed_classes(bare(GLYPHS[:2]))
    torch.testing.assert_close(together_CD[:2], first_CD, atol=1e-6, rtol=0)
    assert torch.equal(model.embed_classes(bare(GLYPHS)), together_CD)


def test_the_smaller_half_of_an_odd_context_stands_before_a_name_in_the_middle() -> None:
    """n_ctx // 2 (official code)."""
    model = build(context_start="a video of flag cat", class_at="middle")
    expected_CD = model.clip.embed_classes(bare(tuple(f"a video {name} of flag cat" for name in GLYPHS)))
    torch.testing.assert_close(model.embed_classes(bare(GLYPHS)), expected_CD, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Vectors


def contexts(model: Model) -> Tensor:
    return model.get_parameter("context.vectors_KMW")


def test_vectors_are_drawn_narrowly_and_are_one_set_or_one_for_each_class() -> None:
    generic, own = contexts(build(context=13)), contexts(build(context=13, context_of="class", classes=40))
    assert generic.shape == (1, 13, D) and own.shape == (40, 13, D)
    for vectors in (generic, own):
        assert float(vectors.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert not torch.equal(own[0], own[1])
    assert not torch.equal(generic, contexts(build(context=13, seed=1)))


def test_words_begin_every_context_of_single_classes() -> None:
    own = contexts(build(context_start=" a video of ", context_of="class"))
    assert torch.equal(own, contexts(build(context_start="a video of")).expand(C, -1, -1))


def test_only_the_context_is_learnt_on_frozen_towers_and_other_classes_hear_of_it() -> None:
    model, labels_B = build(), torch.arange(B) % 2
    frames_BTD = torch.randn(B, T, D, generator=torch.Generator().manual_seed(0))
    assert set(model.trained_state()) == {"context.vectors_KMW"} and set(model.parameter_groups()) == {"head"}
    unseen_CD, losses = model.embed_classes(bare(GLYPHS[2:])).detach(), []
    optimiser = torch.optim.AdamW(model.parameter_groups()["head"], lr=1e-2)
    for _ in range(10):
        optimiser.zero_grad()
        terms = model.loss(frames_BTD, labels_B, model.embed_classes(bare(GLYPHS[:2])), torch.Generator())
        terms["total"].backward()
        optimiser.step()
        losses.append(float(terms["total"].detach()))
    assert losses[-1] < losses[0] / 2
    assert not torch.allclose(model.embed_classes(bare(GLYPHS[2:])), unseen_CD, atol=1e-3)
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("context."))


def test_a_context_of_its_own_is_a_classs_alone() -> None:
    model = build(context_of="class")
    prompts = [[name] if n != 2 else [name, f"a {name}"] for n, name in enumerate(GLYPHS)]
    model.embed_classes(prompts)[2, 0].backward()
    gradient = contexts(model).grad
    assert gradient is not None and gradient[2].any() and not gradient[[0, 1, 3]].any()
    with pytest.raises(ValueError, match="3 candidates, but contexts are bound to 4 classes"):
        model.embed_classes(bare(GLYPHS[1:]))
    with pytest.raises(ValueError, match="not bound to classes before texts are embedded"):
        build(classes=0, context_of="class").embed_classes(bare(GLYPHS))


def test_scores_are_cosines_with_the_texts_also_where_contexts_are_bound() -> None:
    model = build(context_of="class")
    classes_CD = model.embed_classes(bare(GLYPHS)).detach()
    frames_BTD = torch.randn(B, T, D, generator=torch.Generator().manual_seed(0))
    prediction = model.deploy(Inference(), classes_CD)(frames_BTD, classes_CD)
    expected_BC = torch.nn.functional.cosine_similarity(frames_BTD.mean(dim=1)[:, None], classes_CD, dim=-1)
    torch.testing.assert_close(prediction.cosines_BC, expected_BC)
    assert prediction.norms_B.std() > 0
    assert not model.config.open_vocabulary and build().config.open_vocabulary


def test_recomputing_activations_changes_no_gradient() -> None:
    gradients = []
    for again in (False, True):
        model = build()
        model.clip.visual.set_grad_checkpointing(again)
        model.embed_classes(bare(GLYPHS))[:, 0].sum().backward()
        gradients.append(contexts(model).grad)
    torch.testing.assert_close(*gradients)


# ---------------------------------------------------------------------------------------------------------------------
# Costs, and what is refused


@pytest.mark.parametrize(
    ("choices", "single"),
    [({"head": "none"}, 16 * 512), ({"context_of": "class"}, 16 * 512), ({"context_start": "a video of"}, 3 * 512)],
)
def test_sizes_with_vit_b16(choices: dict[str, Any], single: int) -> None:
    config, shape = Config.model_validate({"classifier": "coop", **choices}), backbone("ViT-B-16")
    model = counting.shapes(method("text4vis"), config, "ViT-B-16", 400)
    size = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("clip."))
    own, bound = config.head_parameters(shape), config.class_bound_parameters(shape, 400)
    without = Config(head=config.head).head_parameters(shape).stored
    assert own.stored + bound == size and own.active == own.stored
    expected = (without, 400 * single) if config.context_of == "class" else (without + single, 0)
    assert (own.stored, bound) == expected


def test_a_full_text_takes_what_plain_clips_does() -> None:
    model, shape = build(), backbone("glyph-vit")
    assert model.config.texts_inside and model.config.text_flops(shape) == shape.text_flops()
    assert counting.text(model) == pytest.approx(shape.text_flops(), rel=0.01)


def test_a_training_is_planned_with_the_texts_of_every_step() -> None:
    suite = load_suite(SUITES / "text4vis-classifiers.yaml", ("world=glyphs",))
    flops = {stage.title: stage.flops for stage in build_graph(suite).stages.values() if stage.kind == "train"}
    videos, recipe = entries("narrow", "source", "train"), suite.trials[0].recipe
    texts = len({label for _, label in videos}) * backbone("glyph-vit").text_flops()
    more = flops["train coop seed 0"] - flops["train texts seed 0"]
    # Twice: the pass, and its gradient down to the context. The tower is frozen, so its weights need none.
    assert more == pytest.approx(2 * texts * recipe.epochs * len(videos) / recipe.batch)


def test_a_context_without_room_for_a_name_is_refused() -> None:
    shape = backbone("glyph-vit")
    with pytest.raises(ValueError, match="a context of 14 leaves no room for a class name in a text of 16 tokens"):
        Config(classifier="coop", context=14).fits(shape, 8)
    Config(classifier="coop", context=13).fits(shape, 8)
    assert build(context=13).embed_classes(bare(("king", "flag"))).isfinite().all()
    with pytest.raises(ValueError, match="no room"):
        Config(classifier="coop", context_start="a " * 14).fits(shape, 8)


def test_words_that_are_several_tokens_are_refused() -> None:
    with pytest.raises(UserError, match="'a didgeridoo of' is 6 tokens, not one for each word"):
        Context(Config(classifier="coop", context_start="a didgeridoo of"), byte_pairs())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"classifier": "linear", "context": 4},
            "context has no effect with classifier: linear; allowed: .*classifier: coop",
        ),
        ({"context_start": "a video of"}, "context_start has no effect with classifier: clip_text"),
        ({"classifier": "lda", "context_of": "class"}, "context_of has no effect with classifier: lda"),
        ({"class_at": "front"}, "class_at has no effect"),
        ({"classifier": "coop", "context": 4, "context_start": "a video of"}, "context has no effect with context_st"),
        ({"classifier": "coop", "context": 0}, "greater than or equal to 1"),
    ],
)
def test_choices_without_effect_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(wrong)


@pytest.mark.parametrize("loss", ["ce", "nce", "ds"])
def test_a_frozen_tower_without_a_head_may_learn_a_context_by_every_loss(loss: str) -> None:
    config = Config.model_validate({"head": "none", "classifier": "coop", "loss": loss})
    assert config.trains and config.has_head and config.shares_encodings

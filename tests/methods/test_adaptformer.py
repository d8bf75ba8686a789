"""AdaptFormer's own behaviour: what its adapters read and add, dropout inside them, its suite.

Legend: B batch, T frames, K tokens of a frame, C classes, W tower width, A adapter width.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from bench.models.backbones import backbone
from bench.models.clip import load_clip
from bench.suite.resolve import SUITES, load_suite
from methods.adaptformer.config import Config
from methods.adaptformer.model import Adapter, Model
from methods.contract import build_model
from tests.errors import says

B, T, C, W, A, BLOCKS = 2, 3, 5, 128, 8, 4
GLYPHS = "glyph-vit"


def build(**choices: Any) -> Model:
    model = build_model(Model, Config.model_validate({"width": A, **choices}), load_clip(GLYPHS, "random:0"), 0, C)
    assert isinstance(model, Model)
    return model


def shifted(model: Model) -> Model:
    """The model with other weights where it trains."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def clips() -> Tensor:
    return torch.randn(B, T, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "parameters"), [("ViT-B-16", 1_189_632), ("ViT-L-14", 24 * (2 * 1024 * 64 + 1088))])
def test_it_takes_what_the_paper_says(name: str, parameters: int) -> None:
    chosen, shape = Config(), backbone(name)
    assert chosen.head_parameters(shape) == (parameters, parameters)
    tokens = 8 * shape.vision_tokens
    assert chosen.inside_flops(shape, 8) == shape.vision_layers * 2 * tokens * 2 * shape.vision_width * 64


@pytest.mark.parametrize("form", ["parallel", "sequential"])
def test_training_starts_at_clip_and_alpha_0_comes_back_to_it(form: str) -> None:
    """Bit for bit."""
    model, clip = build(form=form), load_clip(GLYPHS, "random:0")
    with torch.no_grad():
        plain = clip.encode_clips(clips())
        assert torch.equal(model.eval().encode(clips()), plain)
        trained = shifted(model).encode(clips())
        assert not torch.allclose(trained, plain, atol=1e-3)
        model.interpolate(clip, 1.0)
        assert torch.equal(model.encode(clips()), trained)
        model.interpolate(clip, 0.0)
        assert torch.equal(model.encode(clips()), plain)


@pytest.mark.parametrize("form", ["parallel", "sequential"])
def test_an_adapter_reads_the_network_s_input_or_its_output(form: str) -> None:
    model, read = shifted(build(form=form)).eval(), dict[str, Tensor]()
    block, adapter = model.clip.visual.transformer.resblocks[0], model.head.blocks[0]
    block.ln_2.register_forward_hook(lambda _, inputs, output: read.update(stream=inputs[0]))
    block.ls_2.register_forward_hook(lambda _, inputs, output: read.update(network=output))
    adapter.register_forward_hook(lambda _, inputs, output: read.update(taken=inputs[0], added=output))
    with torch.no_grad():
        model.encode(clips())
    assert torch.equal(read["taken"], read["stream" if form == "parallel" else "network"])
    assert isinstance(adapter, Adapter) and adapter.scale == 0.1
    expected_NKW = 0.1 * adapter.up_proj(F.relu(adapter.down_proj(read["taken"])))
    torch.testing.assert_close(read["added"], expected_NKW)


def test_frames_do_not_meet() -> None:
    model, other = shifted(build()).eval(), clips()
    other[:, 0] += 1
    with torch.no_grad():
        change_BT = (model.encode(other) - model.encode(clips())).abs().amax(dim=-1)
    assert (change_BT[:, 0] > 1e-3).all() and not change_BT[:, 1:].any()


def test_dropout_inside_draws_from_the_step_and_survives_recomputation() -> None:
    model = shifted(build(inner_dropout=0.5)).train()

    def encoded(seed: int) -> Tensor:
        with model.draws_from(torch.Generator().manual_seed(seed)):
            frames_BTD: Tensor = model.encode(clips())
            return frames_BTD

    def gradient() -> Tensor:
        model.zero_grad()
        encoded(0).square().sum().backward()
        found = next(iter(model.head.blocks.parameters())).grad
        assert found is not None
        return found

    assert torch.equal(encoded(0), encoded(0)) and not torch.equal(encoded(0), encoded(1))
    kept = gradient()
    model.clip.set_grad_checkpointing(True)
    assert torch.equal(gradient(), kept)
    still = model.eval().encode(clips())
    assert torch.equal(still, encoded(0)) and torch.equal(still, encoded(1))


def test_the_linear_head_reads_normed_class_tokens() -> None:
    model = build(head="linear").eval()
    frames_BTW = model.encode(clips())
    clip = load_clip(GLYPHS, "random:0")
    torch.testing.assert_close(frames_BTW @ clip.visual.proj, clip.encode_clips(clips()))
    assert model.head.fc is not None and model.head.fc.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_adapters_without_weight_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"scale\n.*greater than 0"):
        Config(scale=0)


def test_a_tuned_tower_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"tower": "tuned"})
    says(str(caught.value), "tower", "frozen")


@pytest.mark.parametrize("overrides", [(), ("world=glyphs",)], ids=["real", "glyphs"])
def test_its_suite_has_one_recipe_for_all_rows(overrides: tuple[str, ...]) -> None:
    trials = load_suite(SUITES / "adaptformer-form.yaml", overrides).trials
    assert {trial.row for trial in trials} >= {"parallel", "sequential", "st_adapter"}
    assert len({trial.recipe.training for trial in trials}) == 1

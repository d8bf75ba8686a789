"""ST-Adapter's own behaviour: what adapters see and add, what is dead, both heads, recipes, official files, suites.

Legend: B batch, T frames, C classes, W tower width.
"""

from __future__ import annotations

from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.backbones import backbone
from bench.models.clip import load_clip
from bench.published.pairing import pairs
from bench.stages.training.optimiser import undecayed
from bench.stages.training.schedule import Schedule
from bench.store.records import Store
from bench.suite.recipe import Recipe
from bench.suite.resolve import SUITES, load_suite
from methods.contract import build_model
from methods.linear_head import LinearHead
from methods.settings import Inference
from methods.st_adapter.config import PRESETS, Config
from methods.st_adapter.model import Adapter, Model
from tests.checkpoints.test_imported import give, same, saved, take, the_record
from tests.errors import refused, says

B, T, C, W, BLOCKS = 2, 4, 5, 128, 4
GLYPHS = "glyph-vit"
SUITE_NAMES = sorted(path.stem for path in SUITES.glob("st-adapter-*.yaml"))


def config(**choices: Any) -> Config:
    return Config.model_validate({"width": 24, **choices})


def build(seed: int = 0, **choices: Any) -> Model:
    model = build_model(Model, config(**choices), load_clip(GLYPHS, "random:0"), seed, C)
    assert isinstance(model, Model)
    return model


def shifted(model: Model, only: str = "") -> Model:
    """The model with other weights where it trains, or in some of them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and only in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def clips() -> Tensor:
    return torch.randn(B, T, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def classes() -> Tensor:
    return F.normalize(torch.randn(C, W, generator=torch.Generator().manual_seed(2)), dim=-1)


def loss(model: Model) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    total: Tensor = model.loss(model.encode(clips()), torch.tensor([1, 3]), classes(), generator)["total"]
    return total


@torch.no_grad()
def answers(model: Model) -> Tensor:
    model.eval()
    cosines_BC: Tensor = model.deploy(Inference(), classes())(model.encode(clips()), classes()).cosines_BC
    return cosines_BC


# ---------------------------------------------------------------------------------------------------------------------
# Sizes and choices


@pytest.mark.parametrize(
    ("name", "choices", "parameters", "billions", "layer"),
    [
        ("ViT-B-16", {}, 7_110_144, 151.6, 307_600),
        ("ViT-B-16", {"places": "both"}, 14_220_288, 162.7, 307_600),
        ("ViT-B-16", {"drop_dead": True}, 7_110_144 - 592_512, None, 307_600),
        ("ViT-L-14", {}, 18_945_024, 686.8, 410_000),
        ("ViT-L-14", {"places": "both"}, 37_890_048, None, 410_000),
    ],
)
def test_it_takes_what_the_official_modules_take(
    name: str, choices: dict[str, Any], parameters: int, billions: float | None, layer: int
) -> None:
    shape = backbone(name)
    for head, bound in (("text", 0), ("linear", layer)):
        chosen = Config.model_validate({**choices, "head": head})
        assert chosen.head_parameters(shape) == (parameters, parameters)
        assert chosen.class_bound_parameters(shape, 400) == bound
        if billions:
            total = shape.view_flops(8) + chosen.inside_flops(shape, 8)
            assert total / 2e9 == pytest.approx(billions, abs=0.05)


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        ({"places": "attn", "drop_dead": True}, ["drop_dead has no effect with places: attn"]),
        ({"last_blocks": 1}, ["adapts what nothing reads", "places: attn or both", "last_blocks: 2 or more"]),
        ({"dropout": 0.1}, ["dropout has no effect with head: text", "head: linear"]),
        ({"head": "linear", "pool": "unit_frames"}, ["pool has no effect with head: linear"]),
        ({"tower": "tuned"}, ["tower", "frozen"]),
    ],
)
def test_choices_without_effect_are_refused(choices: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**choices)
    says(str(caught.value), *named)


def test_more_blocks_than_there_are_cannot_be_adapted() -> None:
    config(last_blocks=BLOCKS).fits(backbone(GLYPHS), T)
    with pytest.raises(ValueError, match="last_blocks 5, but glyph-vit has 4 blocks; allowed: 1 to 4"):
        config(last_blocks=BLOCKS + 1).fits(backbone(GLYPHS), T)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, [["pre_mlp"]] * BLOCKS),
        ({"places": "attn", "last_blocks": 1}, [[], [], [], ["pre_attn"]]),
        ({"places": "both", "last_blocks": 2, "drop_dead": True}, [[], [], ["pre_attn", "pre_mlp"], ["pre_attn"]]),
    ],
)
def test_adapters_stand_where_they_are_asked_for(choices: dict[str, Any], expected: list[list[str]]) -> None:
    assert [list(own) for own in build(**choices).head.blocks] == expected  # type: ignore[call-overload]


# ---------------------------------------------------------------------------------------------------------------------
# Adapters


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_an_adapter_is_a_convolution_over_time_between_two_linear_layers(kernel: int) -> None:
    """Frames beyond the ends are zeros behind the first layer; the class token stays as it is."""
    adapter, generator = Adapter(W, config(kernel=kernel)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        tokens_BTKW = torch.randn(B, T, 5, W, generator=generator)
        found_BTKW = adapter(tokens_BTKW.flatten(0, 1), T).unflatten(0, (B, T))
        down_BTPA = tokens_BTKW[:, :, 1:] @ adapter.fc1.weight.T + adapter.fc1.bias
        assert adapter.conv.bias is not None
        expected_BTPA = adapter.conv.bias.expand_as(down_BTPA).clone()
        for frame in range(T):
            for tap in range(kernel):
                if 0 <= (other := frame + tap - kernel // 2) < T:
                    expected_BTPA[:, frame] += adapter.conv.weight[:, 0, tap, 0, 0] * down_BTPA[:, other]
        added_BTPW = expected_BTPA @ adapter.fc2.weight.T + adapter.fc2.bias
    assert torch.equal(found_BTKW[:, :, 0], tokens_BTKW[:, :, 0])
    torch.testing.assert_close(found_BTKW[:, :, 1:], tokens_BTKW[:, :, 1:] + added_BTPW, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("kernel", "reached"), [(1, [0]), (3, [0, 1]), (5, [0, 1, 2])])
def test_a_frame_is_seen_by_as_many_as_the_kernel_says(kernel: int, reached: list[int]) -> None:
    """Through a single adapter, in front of an attention."""
    model, other = shifted(build(places="attn", last_blocks=1, kernel=kernel)), clips()
    other[:, 0] += 1
    with torch.no_grad():
        change_BT = (model.encode(other) - model.encode(clips())).abs().amax(dim=-1)
    assert [frame for frame in range(T) if change_BT[:, frame].max() > 1e-6] == reached


@pytest.mark.parametrize("zero", ["convolution", "up"])
@pytest.mark.parametrize("places", ["mlp", "attn", "both"])
def test_training_starts_at_clip_and_alpha_0_comes_back_to_it(places: str, zero: str) -> None:
    """Bit for bit; alpha is the share of what adapters add."""
    model, clip = build(places=places, zero=zero), load_clip(GLYPHS, "random:0")
    with torch.no_grad():
        plain = clip.encode_clips(clips())
        assert torch.equal(model.encode(clips()), plain)
        trained = shifted(model).encode(clips())
        assert not torch.allclose(trained, plain, atol=1e-3)
        model.interpolate(clip, 1.0)
        assert torch.equal(model.encode(clips()), trained)
        model.interpolate(clip, 0.5)
        halfway = model.encode(clips())
        assert not torch.allclose(halfway, trained, atol=1e-3) and not torch.allclose(halfway, plain, atol=1e-3)
        model.interpolate(clip, 0.0)
        assert torch.equal(model.encode(clips()), plain)


def moved(model: Model) -> set[str]:
    """Names, without blocks, of the adapters' tensors with a gradient after a first step, in blocks that are read."""
    loss(model).backward()
    return {
        name.partition(".pre_")[2].partition(".")[2]
        for name, parameter in model.named_parameters()
        if ".pre_" in name and parameter.grad is not None and parameter.grad.any()
    }


def test_the_first_step_moves_what_lies_behind_the_zero() -> None:
    assert moved(build(places="both")) == {"conv.weight", "conv.bias", "fc2.bias"}
    assert moved(build(places="both", zero="up")) == {"fc2.weight", "fc2.bias"}


@pytest.mark.parametrize("head", ["text", "linear"])
def test_the_adapter_before_the_last_network_is_dead(head: str) -> None:
    """Nothing that it changes is read: its gradients are zeros, and a training does as well without it."""
    model, dead = shifted(build(places="both", head=head)), f"head.blocks.{BLOCKS - 1}.pre_mlp."
    without = build(places="both", head=head, drop_dead=True)
    state = {name: own for name, own in model.trained_state().items() if not name.startswith(dead)}
    without.load_trained(state)
    assert torch.equal(answers(without), answers(model))
    assert torch.equal(answers(shifted(model, only=dead)), answers(without))
    loss(model).backward()
    still = {name for name, own in model.named_parameters() if own.requires_grad and not own.grad.any()}  # type: ignore[union-attr]
    assert still == model.unused_parameters() == {name for name, _ in model.named_parameters() if dead in name}
    assert len(still) == 6 and not without.unused_parameters()


# ---------------------------------------------------------------------------------------------------------------------
# Heads


def test_the_linear_head_norms_the_mean_over_the_frames() -> None:
    """Not the mean of normed frames, which the text head has."""
    model, read = shifted(build(head="linear")), list[Tensor]()
    with torch.no_grad():
        model.clip.visual.ln_post.bias.add_(0.1)
        hook = model.clip.visual.ln_post.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        encoded_B1W = model.encode(clips())
        hook.remove()
        text = build()
        text.load_trained({name: own for name, own in model.trained_state().items() if not name.startswith("head.fc.")})
        text.clip.visual.ln_post.bias.add_(0.1)
        hidden_NKW = text.clip.visual._embeds(clips().flatten(0, 1))
        for block in text.blocks(T):
            hidden_NKW = block(hidden_NKW)
        tokens_BTW, norm = hidden_NKW[:, 0].unflatten(0, (B, T)), text.clip.visual.ln_post
        torch.testing.assert_close(read[0][:, 0], tokens_BTW.mean(dim=1))
        torch.testing.assert_close(encoded_B1W[:, 0], norm(tokens_BTW.mean(dim=1)))
        assert not torch.allclose(encoded_B1W[:, 0], norm(tokens_BTW).mean(dim=1), atol=1e-3)
        torch.testing.assert_close(text.encode(clips()), norm(tokens_BTW) @ text.clip.visual.proj)


def test_the_linear_head_starts_as_the_official_one_and_belongs_to_its_classes() -> None:
    model = build(head="linear")
    fc = model.head.fc
    assert fc is not None and model.class_bound == {"head.fc.weight", "head.fc.bias"}
    assert fc.weight.std().item() == pytest.approx(0.02, rel=0.1) and not fc.bias.any()
    predictor, encoded_B1W = model.deploy(Inference(), classes()), model.encode(clips())
    prediction = predictor(encoded_B1W, classes())
    torch.testing.assert_close(prediction.cosines_BC, encoded_B1W[:, 0] @ fc.weight.T)
    assert predictor.logit_scale == 1 and prediction.norms_B.tolist() == [1.0] * B
    with pytest.raises(ValueError, match="4 candidates, but the head is bound to 5 classes"):
        predictor(encoded_B1W, classes()[:4])
    unbound = build_model(Model, config(head="linear"), load_clip(GLYPHS, "random:0"), 0)
    with pytest.raises(ValueError, match="head: linear was not bound to classes"):
        unbound.deploy(Inference(), classes())


def test_dropout_draws_from_the_generator_in_training_alone() -> None:
    layer, ones_BW = LinearHead(W, W, 0.02, 0.5), torch.ones(64, W)
    nn.init.eye_(layer.weight)
    first, again, other = (layer(ones_BW, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert first.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(layer(ones_BW), ones_BW)
    model = shifted(build(head="linear"))
    training, evaluation = loss(model.train()), loss(model.eval())
    without = shifted(build(head="linear", dropout=0))
    assert training != evaluation
    torch.testing.assert_close(evaluation, loss(without.train()))


def test_unit_frames_are_averaged_as_the_rerun_of_froster_does() -> None:
    model = shifted(build(pool="unit_frames"))
    with torch.no_grad():
        frames_BTD = model.encode(clips())
    expected_BC = (F.normalize(frames_BTD, dim=-1) @ classes().T).mean(dim=1)
    torch.testing.assert_close(answers(model), expected_BC)
    assert not torch.allclose(answers(shifted(build())), expected_BC, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Recipes


def recipe(fidelity: str) -> Recipe:
    own = PRESETS[fidelity]["recipe"]
    return Recipe.model_validate({**own, "views": {"resize": 256, "size": 224, **own["views"]}})


@pytest.mark.parametrize(("fidelity", "rate", "epochs"), [("official", 7.5e-4, 12), ("official-ssv2", 1e-3, 50)])
def test_the_rate_falls_as_in_the_official_program(fidelity: str, rate: float, epochs: int) -> None:
    """By step, from 0 over two epochs, then half a cosine whose clock begins there."""
    own, length = recipe(fidelity), 7
    schedule = Schedule(own.training, length * own.batch)
    assert (own.lr, own.lr / own.batch * 256, schedule.steps) == (rate, pytest.approx(1e-3), epochs * length)
    for step in range(schedule.steps):
        time = step / length
        expected = time / 2 if time < 2 else 0.5 + 0.5 * cos(pi * (time - 2) / (epochs - 2))
        assert schedule.factor(step) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_all_but_biases_decay() -> None:
    own, model = recipe("official"), build(places="both", head="linear")
    decaying = {
        name.rpartition(".")[2]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not undecayed(name, parameter, own.undecayed)
    }
    assert decaying == {"weight"} and own.weight_decay == 0.01


def test_the_programs_of_the_data_sets_differ() -> None:
    k400, ssv2 = recipe("official").views, recipe("official-ssv2").views
    assert (k400.sampler, k400.stride, k400.spacing, k400.augmentation) == ("strided", 16, "step", "short_side")
    assert (k400.short_side, k400.flip, k400.rand_augment) == (1.15, True, "none")
    assert (ssv2.sampler, ssv2.augmentation, ssv2.flip) == ("segments_inclusive", "resized_crop", False)
    assert (ssv2.rand_augment, ssv2.rand_augment_n, ssv2.rand_augment_m) == ("clip", 4, 21)
    assert PRESETS["official"]["config"] == {"head": "linear"} and PRESETS["clean"]["config"] == {"drop_dead": True}


# ---------------------------------------------------------------------------------------------------------------------
# Official checkpoints


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def official_file(**choices: Any) -> dict[str, Any]:
    """As the official trainer saves it: what was trained, under names without a prefix."""
    state = {}
    for name, own in shifted(build(**choices)).trained_state().items():
        name = name.removeprefix("head.").replace("blocks.", "transformer.resblocks.")
        state[name.replace(".pre_", ".adapter_pre_")] = own
    beside = {"optimizer": {"state": {}}, "lr_sched": {}, "loss_scaler": {}, "next_epoch": 12}
    return {"model": state, **beside}


@pytest.mark.parametrize(
    "choices",
    [{"head": "linear"}, {"head": "linear", "places": "both", "kernel": 1}, {"places": "attn", "last_blocks": 2}],
    ids=["k400", "ssv2", "text"],
)
def test_an_official_file_is_read_and_comes_back(choices: dict[str, Any], tmp_path: Path, store: Store) -> None:
    content = official_file(**choices)
    assert take(saved(tmp_path, content), store, "--name", "released", method="st_adapter") == 0
    record, folder = the_record(store)
    found = Config.model_validate(record["spec"]["config"])
    assert found == config(**choices)
    assert record["result"].get("classes", 0) == (C if "head" in choices else 0)
    again = build(seed=5, **choices)
    again.load_trained(load_file(folder / "weights.safetensors"))
    assert torch.equal(answers(again), answers(shifted(build(**choices))))
    assert give("released", tmp_path / "back.pth", store) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == {"model"} and same(back["model"], content["model"])


@pytest.mark.parametrize(
    ("name", "own", "named"),
    [
        ("transformer.resblocks.1.adapter_pre_mlp.conv.bias", None, "1 tensors are missing"),
        ("ln_post.weight", torch.zeros(W), "1 unexpected tensors: ln_post.weight"),
        ("transformer.resblocks.1.adapter_pre_mlp.fc1.bias", torch.zeros(7), "is [7], expected [24]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    name: str, own: Tensor | None, named: str, tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    content = official_file(head="linear")
    content["model"].pop(name, None)
    content["model"] |= {} if own is None else {name: own}
    assert take(saved(tmp_path, content), store, method="st_adapter") == 2
    says(capsys.readouterr().err, named)


def test_a_file_without_adapters_is_refused(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"model": {"fc.weight": torch.zeros(C, W), "fc.bias": torch.zeros(C)}}
    assert take(saved(tmp_path, content), store, method="st_adapter") == 2
    says(capsys.readouterr().err, "the head has no adapters")


# ---------------------------------------------------------------------------------------------------------------------
# Suites


@pytest.mark.parametrize("name", SUITE_NAMES)
@pytest.mark.parametrize("overrides", [(), ("world=glyphs",)], ids=["real", "glyphs"])
def test_a_suite_has_published_numbers_in_both_worlds(name: str, overrides: tuple[str, ...]) -> None:
    suite = load_suite(SUITES / f"{name}.yaml", overrides)
    assert suite.trials and pairs(suite)


def test_a_linear_head_is_not_measured_on_other_classes() -> None:
    with refused("row 'mlp' has a head bound to its classes"):
        load_suite(SUITES / "st-adapter-parts.yaml", ("rows.mlp.config.head=linear",))

"""X-CLIP's own behaviour: its parts, what trains at which rate, official files, suites.

Legend: B batch, T frames, p patches of a frame, D joint CLIP width, C classes, K prompts of a class.
"""

from __future__ import annotations

from argparse import Namespace
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from bench.checkpoints.heads import HEADS, XCLIP
from bench.commands.app import main
from bench.core.errors import UserError
from bench.models.backbones import backbone
from bench.models.clip import load_clip
from bench.models.state_dicts import renamed
from bench.published.pairing import pairs
from bench.stages.training.optimiser import adamw
from bench.store.records import Store
from bench.suite.recipe import Training
from bench.suite.resolve import SUITES, load_suite
from methods.clip_mean.config import Config as ClipMeanConfig
from methods.clip_mean.model import Model as ClipMean
from methods.contract import build_model, mapped
from methods.settings import Inference
from methods.xclip.config import PRESETS, Config
from methods.xclip.model import CLASSES, Model
from tests.checkpoints.test_imported import give, same, saved, take, the_record, trained
from tests.errors import says
from tests.suites import plans_alike
from tests.videos import write_tiny_dataset

B, T, C = 2, 3, 4
GLYPHS = "glyph-vit"
NONE: dict[str, Any] = {"messages": False, "integration": 0, "prompts": 0}
SUITE_NAMES = sorted(path.stem for path in SUITES.glob("xclip-*.yaml"))


def config(**choices: Any) -> Config:
    return Config.model_validate(choices)


def build(seed: int = 0, **choices: Any) -> Model:
    model = build_model(Model, config(**choices), load_clip(GLYPHS, "random:0"), seed, C)
    assert isinstance(model, Model)
    return model.eval()


def clips() -> Tensor:
    return torch.randn(B, T, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def classes(count: int = C) -> Tensor:
    """Features [C, 1, D] of other lengths than 1."""
    return 3 * torch.randn(count, 1, 128, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def answers(model: Model, classes_CKD: Tensor, pixels: Tensor | None = None) -> Tensor:
    predictor = model.deploy(Inference(), classes_CKD)
    cosines_BC: Tensor = predictor(model.encode(clips() if pixels is None else pixels), classes_CKD).cosines_BC
    return cosines_BC


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


@pytest.mark.parametrize(
    ("name", "messages", "integration", "prompts", "whole"),
    [
        ("ViT-B-16", 35_453_952, 3_156_480, 6_697_984, 131_501_056),
        ("ViT-L-14", 126_001_152, 7_094_016, 14_961_920, 452_023_296),
    ],
)
def test_it_has_as_many_parameters_as_the_official_code(
    name: str, messages: int, integration: int, prompts: int, whole: int
) -> None:
    shape = backbone(name)
    parts = {"messages": True, "integration": 1, "prompts": 2}
    sizes = [config(**{**NONE, part: on}).head_parameters(shape).stored for part, on in parts.items()]
    assert sizes == [messages, integration, prompts]
    assert config().head_parameters(shape) == (sum(sizes), sum(sizes))
    assert sum(sizes) + shape.parameters("visual") == whole
    assert config(positions=32).head_parameters(shape).stored == sum(sizes) + 24 * shape.embed_dim
    assert config(**NONE).head_parameters(shape) == (0, 0) and not config(**NONE).has_head


@pytest.mark.parametrize(
    ("name", "frames", "published"),
    [("ViT-B-32", 8, 39), ("ViT-B-32", 16, 75), ("ViT-B-16", 8, 145), ("ViT-B-16", 16, 287), ("ViT-L-14", 8, 658)],
)
def test_published_gflops_are_macs(name: str, frames: int, published: int) -> None:
    own, shape = config(positions=frames), backbone(name)
    flops = shape.view_flops(frames) + own.inside_flops(shape, frames) + own.head_flops(shape, frames)
    assert (flops + 400 * own.class_flops(shape, frames, 1)) / 2e9 == pytest.approx(published, rel=0.03)


def test_flops_of_the_parts_are_those_of_the_official_modules() -> None:
    """But for the patches, of which the mean over the frames is projected, not every frame."""
    shape, width, joint, blocks, tokens, frames = backbone("ViT-B-16"), 768, 512, 12, 197, 8
    messages = 2 * blocks * frames * (9 * width**2 + 2 * frames * width + 2 * width * (2 * tokens + 1))
    assert config(**{**NONE, "messages": True}).inside_flops(shape, frames) == messages
    assert config().inside_flops(shape, frames) == messages + 2 * (tokens - 1) * width * joint
    of_view = 2 * 2 * 2 * (tokens - 1) * joint**2
    of_class = 2 * 2 * (10 * joint**2 + 2 * (tokens - 1) * joint)
    assert config(**{**NONE, "prompts": 2}).head_flops(shape, frames) == of_view
    assert config().class_flops(shape, frames, 16) == of_class + 2 * joint
    integration = 2 * frames * (12 * joint**2 + 2 * frames * joint)
    assert config().head_flops(shape, frames) == of_view + integration


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        (
            {"integration": 0, "positions": 16},
            ["positions has no effect with integration: 0", "integration: 1 or more"],
        ),
        ({"prompts": 0, "alpha": 0.5}, ["alpha has no effect with prompts: 0", "allowed: leave it out"]),
        ({"prompts": 0, "patch_init": "scaled"}, ["patch_init has no effect with prompts: 0"]),
    ],
)
def test_choices_without_effect_are_refused(choices: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**choices)
    says(str(caught.value), *named)


def test_frames_without_a_position_are_refused() -> None:
    shape = backbone("ViT-B-16")
    config().fits(shape, 8)
    with pytest.raises(ValueError, match="9 frames, but positions: 8; allowed: up to 8 frames, or positions: 9"):
        config().fits(shape, 9)
    config(integration=0).fits(shape, 9)
    with pytest.raises(ValueError, match="has width 96; allowed: multiples of 64"):
        config().fits(replace(shape, vision_width=96), 8)


def test_a_test_with_more_frames_than_were_trained_is_refused(tmp_path: Path) -> None:
    test = "protocol: {templates: name, fusion: softmax_sum, views: {frames: "
    for frames, refused in ((2, False), (1, False), (3, True)):
        (tmp_path / "suite.yaml").write_text(TINY.replace(f"{test}2", f"{test}{frames}"))
        with pytest.raises(UserError) if refused else nullcontext() as caught:
            load_suite(tmp_path / "suite.yaml")
        if caught:
            says(str(caught.value), "row 'own'", "2 frames", "shows 3", "allowed: up to 2 frames")


# ---------------------------------------------------------------------------------------------------------------------
# Parts


def test_without_its_parts_it_is_the_mean_over_clips_frames() -> None:
    plain = ClipMean(ClipMeanConfig(), load_clip(GLYPHS, "random:0")).eval()
    names = [["star"], ["heart"]]
    with torch.no_grad():
        raw_CKD, unit_CD = build(**NONE).embed_classes(names), plain.embed_classes(names)
        expected = plain.deploy(Inference(), unit_CD)(plain.encode(clips()), unit_CD).cosines_BC
    assert not torch.allclose(raw_CKD.norm(dim=-1), torch.ones(2, 1))
    torch.testing.assert_close(answers(build(**NONE), raw_CKD), expected, atol=1e-6, rtol=0)


def test_prompts_without_strength_change_nothing() -> None:
    without, silent, loud = (answers(build(**own), classes()) for own in ({"prompts": 0}, {"alpha": 0}, {"alpha": 1}))
    torch.testing.assert_close(silent, without, atol=1e-6, rtol=0)
    assert (loud - without).abs().max() > 5e-4


@torch.no_grad()
def test_messages_reach_the_other_frames_in_whatever_order() -> None:
    pixels = clips()
    changed = torch.cat([pixels[:, :1].neg(), pixels[:, 1:]], dim=1)
    for model, reached in ((build(), True), (build(messages=False), False)):
        first, other, shuffled = (model.encode(each)["frames"] for each in (pixels, changed, pixels[:, [2, 0, 1]]))
        assert torch.allclose(other[:, 1:], first[:, 1:], atol=1e-6) != reached
        torch.testing.assert_close(shuffled, first[:, [2, 0, 1]], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_message_is_made_of_the_class_token_and_read_by_its_own_frame() -> None:
    """With one frame the tower is CLIP's with one more token; the message itself goes nowhere else."""
    model = build()
    for name, parameter in model.head.messages.named_parameters():
        if name.partition(".")[2] in ("fc.weight", "fc.bias", "attn.out_proj.weight"):
            parameter.zero_()
    visual = model.clip.visual
    hidden_NPW = visual._embeds(clips().flatten(0, 1))
    longer_NPW = torch.cat([hidden_NPW, torch.zeros_like(hidden_NPW[:, :1])], dim=1)
    stepped_NPW = model.blocks(T)[0](hidden_NPW)
    torch.testing.assert_close(stepped_NPW, visual.transformer.resblocks[0](longer_NPW)[:, :-1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_integration_tells_the_order_of_frames() -> None:
    frames_BTD = torch.randn(B, T, 128, generator=torch.Generator().manual_seed(2))
    encoded = {"frames": frames_BTD, "patches": torch.randn(B, 64, 128)}
    for layers, tells in ((1, True), (0, False)):
        predictor = build(integration=layers).deploy(Inference(), classes())
        there, back = (
            predictor({**encoded, "frames": each}, classes()).features["z"] for each in (frames_BTD, frames_BTD.flip(1))
        )
        assert torch.allclose(there, back, atol=1e-5) != tells


def test_the_length_of_a_class_feature_counts_only_for_prompts() -> None:
    for model, counts in ((build(alpha=1), True), (build(prompts=0), False)):
        change = (answers(model, 5 * classes()) - answers(model, classes())).abs().max()
        assert (change > 2e-4) == counts


def test_a_class_is_judged_without_the_others_and_in_parts() -> None:
    model, many = build(), classes(CLASSES + 3)
    whole = answers(model, many)
    assert whole.shape == (B, CLASSES + 3)
    for few in (slice(0, 2), slice(CLASSES - 1, CLASSES + 2)):
        torch.testing.assert_close(answers(model, many[few]), whole[:, few], atol=1e-6, rtol=0)


def test_several_prompts_are_their_mean() -> None:
    model, first, second = build(), classes(), classes(2 * C)[C:]
    torch.testing.assert_close(
        answers(model, torch.cat([first, second], dim=1)), answers(model, (first + second) / 2), atol=1e-6, rtol=0
    )


def test_patches_are_the_mean_of_normed_and_projected_ones() -> None:
    own = build().head.patches
    assert own is not None
    with torch.no_grad():
        own.ln.weight.uniform_(generator=torch.Generator().manual_seed(3))
        patches_BTpW = 5 + torch.randn(B, T, 64, 128)
        torch.testing.assert_close(own(patches_BTpW), (own.ln(patches_BTpW) @ own.proj).mean(dim=1))


@pytest.mark.parametrize(
    ("name", "spread"),
    [
        ("messages.0.fc.weight", (3 * 128) ** -0.5),
        ("messages.0.attn.in_proj_weight", (2 / (4 * 128)) ** 0.5),
        ("messages.0.attn.out_proj.weight", (3 * 128) ** -0.5),
        ("mit.positional_embedding", 0.02),
        ("mit.resblocks.0.attn.in_proj_weight", (2 / (4 * 128)) ** 0.5),
        ("mit.resblocks.0.attn.out_proj.weight", 0.02),
        ("mit.resblocks.0.mlp.c_fc.weight", 0.02),
        ("classifier.decoder.0.q_proj.weight", 0.02),
        ("classifier.decoder.1.proj.weight", 0.02),
        ("classifier.decoder.1.mlp.c_proj.weight", 0.02),
        ("patches.proj", 1.0),
    ],
)
def test_starts_are_those_of_the_official_code(name: str, spread: float) -> None:
    assert float(build().head.get_parameter(name).detach().std()) == pytest.approx(spread, rel=0.08)


def test_biases_and_factors_start_as_in_the_official_code() -> None:
    head = build().head
    own = {name: parameter.detach() for name, parameter in head.named_parameters()}
    assert own["messages.0.fc.bias"].any()
    zero = [name for name in own if name.endswith("bias") and ".fc." not in name]
    assert len(zero) == 30 and not any(own[name].any() for name in zero)
    assert (own["classifier.alpha"] == 0.1).all()
    scaled = build(patch_init="scaled").head.get_parameter("patches.proj")
    torch.testing.assert_close(scaled, own["patches.proj"] * 128**-0.5)


# ---------------------------------------------------------------------------------------------------------------------
# Training


@pytest.mark.parametrize(
    ("choices", "parts"),
    [
        ({}, {"visual"}),
        ({"tower": "frozen"}, set()),
        ({"texts": "tuned"}, {"visual", "text", "tokens", "scale"}),
        ({"tower": "frozen", "texts": "tuned"}, {"text", "tokens", "scale"}),
    ],
)
def test_the_logit_scale_is_tuned_with_the_texts_alone(choices: dict[str, Any], parts: set[str]) -> None:
    model = build(**choices)
    assert model.config.tuned == parts and model.config.texts_inside == ("text" in parts)
    assert model.clip.logit_scale.requires_grad == ("scale" in parts)
    assert model.clip.visual.proj.requires_grad == ("visual" in parts)
    assert model.clip.token_embedding.weight.requires_grad == ("tokens" in parts)


def test_rates_and_weight_decay_are_those_of_the_official_code() -> None:
    recipe = PRESETS["official"]["recipe"]
    model = build()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimiser = adamw(model, Training(**{name: recipe[name] for name in Training.model_fields if name in recipe}))
    given = {
        names[id(p)]: (group["base_lr"], group["weight_decay"])
        for group in optimiser.param_groups
        for p in group["params"]
    }
    for name, (rate, decay) in given.items():
        new = name.startswith("head.")
        assert rate == pytest.approx(8e-5 if new else 8e-6)
        free = model.get_parameter(name).ndim == 1 or "positional_embedding" in name
        assert decay == (0.0 if free else 1e-3), name
    decayed = {name for name, (_, decay) in given.items() if decay}
    assert {"clip.visual.proj", "clip.visual.conv1.weight", "head.patches.proj", "head.messages.0.fc.weight"} <= decayed
    assert not decayed & {"clip.visual.class_embedding", "clip.visual.positional_embedding", "head.classifier.alpha"}
    assert {group["of_floor"] for group in optimiser.param_groups} == {1.0, 0.1}  # all fall to a hundredth of 8e-6
    assert "clip.logit_scale" not in given


def test_interpolation_leaves_what_clip_does_not_have() -> None:
    model, clip = build(), load_clip(GLYPHS, "random:0")
    before = answers(model, classes())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    tuned = {name: tensor.clone() for name, tensor in model.head.state_dict().items()}
    model.interpolate(clip, 0.0)
    assert all(torch.equal(own, tuned[name]) for name, own in model.head.state_dict().items())
    assert torch.equal(model.clip.visual.proj, clip.visual.proj)
    assert not torch.allclose(answers(model, classes()), before, atol=1e-4)


def test_half_precision_leaves_cosines_exact() -> None:
    model = build()
    encoded, classes_CKD = model.encode(clips()), classes()
    predictor = model.deploy(Inference(), classes_CKD)
    one = {name: tensor[:1] for name, tensor in mapped(torch.detach, encoded).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        cosines_BC = predictor(one, classes_CKD).cosines_BC
    assert cosines_BC.dtype == torch.float32
    assert not torch.equal(cosines_BC, cosines_BC.bfloat16().float())


TINY = """\
title: Tiny
fidelity: official
datasets:
  tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}
recipe: {source: tiny, pretrained: "random:0", views: {frames: 2, resize: 72, size: 64}, batch: 4, micro_steps: 1}
protocol: {templates: name, fusion: softmax_sum, views: {frames: 2, clips: 2, resize: 64, size: 64}}
protocols:
  closed-set: {role: closed-set, dataset: tiny}
rows:
  own: {method: xclip, recipe: {epochs: 1, warmup_epochs: 0, precision: fp32}, inference: {clip_alpha: 0.5}}
"""


def test_it_is_trained_with_blended_videos_and_measured_from_stored_patches(
    tmp_path: Path, without_figures: None
) -> None:
    write_tiny_dataset(tmp_path)
    (tmp_path / "suite.yaml").write_text(TINY)
    store = ["--store", str(tmp_path / "runs"), "--jobs", "0", "--workers", "0", "--device", "cpu"]
    assert main([str(tmp_path / "suite.yaml"), *store]) == 0
    records = Store.create(tmp_path / "runs")
    kinds = {kind: records.folder(kind, next(iter(records.known(kind)))) for kind in ("encode", "texts", "evaluate")}
    features = load_file(kinds["encode"] / "features.safetensors")
    assert features["features"].shape[1:] == (2, 2, 128) and features["features.patches"].shape[1:] == (2, 64, 128)
    raw_CKD = load_file(kinds["texts"] / "classes.safetensors")["classes"]
    assert raw_CKD.ndim == 3 and (raw_CKD.norm(dim=-1) - 1).abs().min() > 0.01
    cosines = load_file(kinds["evaluate"] / "scores.safetensors")["cosines"]
    assert cosines.abs().max() <= 1 and cosines.std() > 0


# ---------------------------------------------------------------------------------------------------------------------
# Official checkpoints


def official_file(**choices: Any) -> dict[str, Any]:
    """As the official trainer saves it: a whole model, whose text tower is CLIP's."""
    model, rules = build(seed=7, **choices), {own: name for name, own in XCLIP.states["model"].items()}
    tower = load_clip(GLYPHS, "random:3").visual.state_dict(prefix="clip.visual.")
    state = {**model.state_dict(), **tower, "clip.logit_scale": torch.tensor(4.25)}
    own = {renamed(name, rules): tensor for name, tensor in state.items()}
    beside = {"optimizer": {"state": {}}, "lr_scheduler": {}, "max_accuracy": 83.8, "config": Namespace(seed=1024)}
    return {"model": own, "epoch": 29, **beside}


def test_official_names_are_those_of_the_official_code() -> None:
    names = official_file()["model"].keys()
    assert len(names) == len(build().state_dict())
    assert names >= {
        "visual.transformer.resblocks.3.message_fc.weight",
        "visual.transformer.resblocks.0.message_attn.in_proj_weight",
        "visual.transformer.resblocks.0.message_ln.bias",
        "visual.transformer.resblocks.0.attn.in_proj_weight",
        "transformer.resblocks.0.attn.in_proj_weight",
        "mit.positional_embedding",
        "mit.resblocks.0.mlp.c_fc.weight",
        "prompts_visual_ln.weight",
        "prompts_visual_proj",
        "prompts_generator.norm.weight",
        "prompts_generator.alpha",
        "prompts_generator.decoder.1.norm1.weight",
        "prompts_generator.decoder.1.cross_attn.q_proj.weight",
        "prompts_generator.decoder.1.cross_attn.proj.bias",
        "prompts_generator.decoder.1.mlp.0.weight",
        "prompts_generator.decoder.1.mlp.3.bias",
        "logit_scale",
    }


@pytest.mark.parametrize(
    "choices", [{}, {"positions": 16, "integration": 2, "prompts": 1}, {"messages": False, "prompts": 0}], ids=str
)
def test_an_official_file_is_measured_and_comes_out_again(choices: dict[str, Any], tmp_path: Path) -> None:
    store, content = Store(tmp_path / "runs"), official_file(**choices)
    assert take(saved(tmp_path, content), store, "--name", "released", method="xclip") == 0
    assert config(**the_record(store)[0]["spec"]["config"]) == config(**choices)
    model, plain = trained(store, "random:0").eval(), build(**choices)
    assert isinstance(model, Model)
    rules = XCLIP.states["model"]
    plain.load_state_dict({renamed(name, rules): own for name, own in content["model"].items()})
    assert torch.equal(answers(model, classes()), answers(plain, classes()))
    assert model.scale == pytest.approx(70.1, rel=1e-3)
    assert give("released", tmp_path / "back.pt", store) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back.keys() == {"model", "epoch"} and back["epoch"] == 29
    assert same(back["model"], content["model"])


def test_a_file_without_texts_comes_out_with_those_of_clip(tmp_path: Path) -> None:
    """Official code builds its text tower from the file."""
    store, content = Store(tmp_path / "runs"), official_file()
    whole = content["model"]
    content["model"] = {name: own for name, own in whole.items() if name.startswith(("visual", "mit", "prom", "logit"))}
    assert take(saved(tmp_path, content), store, "--name", "mine", method="xclip") == 0
    assert give("mine", tmp_path / "back.pt", store) == 0
    assert same(torch.load(tmp_path / "back.pt", weights_only=True)["model"], whole)


@pytest.mark.parametrize(
    ("name", "own", "named"),
    [
        ("visual.transformer.resblocks.2.message_fc.bias", None, ["1 tensors are missing: messages.2.fc.bias"]),
        ("mit.positional_embedding", None, ["1 tensors are missing: mit.positional_embedding"]),
        (
            "mit.positional_embedding",
            torch.zeros(8, 128),
            ["mit.positional_embedding is [8, 128], expected [1, 8, 128]"],
        ),
        ("prompts_visual_proj", torch.zeros(128, 64), ["patches.proj is [128, 64], expected [128, 128]"]),
        ("ln_final.bias", torch.ones(128), ["its text tower is not that of the pretrained weights"]),
    ],
    ids=lambda own: own if isinstance(own, str) else "",
)
def test_tensors_that_do_not_fit_are_named(
    name: str, own: Tensor | None, named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = official_file()
    content["model"].pop(name)
    content["model"] |= {} if own is None else {name: own}
    assert take(saved(tmp_path, content), Store(tmp_path / "runs"), method="xclip") == 2
    says(capsys.readouterr().err, *named)


def test_layers_and_positions_are_counted() -> None:
    head = {"mit.resblocks.0.ln_1.bias": torch.zeros(1), "mit.positional_embedding": torch.zeros(1, 32, 4)}
    found = {"messages": False, "integration": 1, "prompts": 0, "positions": 32}
    assert HEADS["xclip"].choices(head) == found
    assert HEADS["xclip"].choices({}) == NONE


# ---------------------------------------------------------------------------------------------------------------------
# Suites


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_its_suites_plan_in_the_embedded_world(name: str) -> None:
    plans_alike(name)


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_published_numbers_stand_beside_what_is_measured_alike(name: str) -> None:
    """A number of one view also stands, marked, beside the column of several, and the reverse."""
    shown = pairs(load_suite(SUITES / f"{name}.yaml"))
    alike = {(pair.row, pair.point, pair.number) for pair in shown if pair.comparable}
    assert alike and alike == {(pair.row, pair.point, pair.number) for pair in shown}

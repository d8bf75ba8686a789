"""MSTA's own behaviour: sizes, where adapters sit, shared projections, time, consistency with descriptions.

Legend: B batch, T frames, N frames of a batch, P tokens, S places of a frame, R bottleneck, W width, D joint CLIP
width, C classes.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from bench.graph.build import build_graph
from bench.models.backbones import backbone
from bench.models.clip import Clip, load_clip
from bench.published.pairing import pairs
from bench.suite.resolve import SUITES, load_suite
from conformance.cases import video_clip
from methods.contract import build_model
from methods.msta.adapters import AdapterPair, TemporalUp, VideoUp, scaled
from methods.msta.config import PRESETS, Config
from methods.msta.model import Model
from tests.errors import refused

B, T, C = 2, 4, 4
NAMES = ("flag rising", "king falling", "die growing", "flower shaking by the bottom of the moon")
SUITE_NAMES = sorted(path.stem for path in SUITES.glob("msta-*.yaml"))
PROMPTS = [[f"a video of a {name}", name] for name in NAMES]


def build(**choices: Any) -> Model:
    model = build_model(Model, Config.model_validate({"bottleneck": 16, **choices}), clip(), 0, C)
    assert isinstance(model, Model)
    for seed, kind in enumerate(model.config.description_sets):
        model.descriptions[kind] = random_unit(C, seed)
    return model


def clip() -> Clip:
    return load_clip("glyph-vit", "random:0")


def on_video(**choices: Any) -> Model:
    """The model on a small ViCLIP, whose clips have one class token and whose frames have positions in time."""
    config = Config.model_validate({"bottleneck": 16, "temporal_cls": False, **choices})
    model = build_model(Model, config, video_clip(), 0, C)
    assert isinstance(model, Model)
    return model


def adapters(model: Model) -> list[Any]:
    return list(model.adapters)


def random_unit(rows: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(rows, 128, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def clips_BT3HW() -> Tensor:
    return torch.randn(B, T, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---------------------------------------------------------------------------------------------------------------------
# Sizes and places


@pytest.mark.parametrize(
    ("bottleneck", "first", "parameters"),
    [(128, 8, 1_744_000), (256, 1, 8_712_192), (256, 8, 3_630_080), (256, 7, 4_356_096)],
)
def test_it_has_as_many_parameters_as_published(bottleneck: int, first: int, parameters: int) -> None:
    shape, config = backbone("ViT-B-16"), Config(bottleneck=bottleneck, first_block=first)
    assert config.head_parameters(shape).stored == parameters
    with torch.device("meta"):
        pairs = [AdapterPair(config, shape.text_width, shape.vision_width) for _ in config.pairs(shape)]
    assert sum(map(size, pairs)) == parameters


@pytest.mark.parametrize(
    ("bottleneck", "first", "parameters", "gflops"),
    [(128, 8, 1_744_000, 3.378), (256, 8, 3_630_080, 7.234), (256, 1, 8_712_192, 17.361)],
)
def test_on_viclip_it_has_as_many_parameters_as_published(
    bottleneck: int, first: int, parameters: int, gflops: float
) -> None:
    shape, config = backbone("ViCLIP-B-16"), Config(bottleneck=bottleneck, first_block=first, temporal_cls=False)
    assert config.head_parameters(shape).stored == parameters
    assert config.inside_flops(shape, 8) / 1e9 == pytest.approx(gflops, abs=5e-4)


@pytest.mark.parametrize("bottleneck", [32, 64, 128, 256, 512])
@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"middle": "own"},
        {"middle": "none"},
        {"branches": "text"},
        {"branches": "video", "cc_weight": 0},
        {"up": "spatial"},
        {"up": "temporal"},
        {"temporal_layout": "depthwise"},
        {"temporal_layout": "depthwise", "up": "temporal"},
    ],
    ids=str,
)
def test_parameters_of_every_form_in_closed_form(bottleneck: int, choices: dict[str, Any]) -> None:
    shape = backbone("ViT-B-16")
    config = Config.model_validate({"bottleneck": bottleneck, "last_block": 1, **choices})
    with torch.device("meta"):
        assert config.head_parameters(shape).stored == size(AdapterPair(config, shape.text_width, shape.vision_width))


def test_both_temporal_layouts_fit_the_logged_number_of_parameters() -> None:
    shape = backbone("ViT-B-16")
    numbers = {
        Config(first_block=8, temporal_layout=layout).head_parameters(shape).stored
        for layout in ("grouped", "depthwise")
    }
    assert numbers == {1_744_000}


@pytest.mark.parametrize(
    ("name", "first", "last", "pairs"),
    [
        ("ViT-B-16", 8, 12, [(i, i) for i in range(7, 12)]),
        ("ViT-B-16", 1, 6, [(i, i) for i in range(6)]),
        ("ViT-L-14", 11, 12, [(10, 22), (11, 23)]),
        ("ViT-L-14", 1, 1, [(0, 12)]),
        ("glyph-vit", 8, 12, [(1, 3)]),
        ("glyph-vit", 1, 6, [(0, 2)]),
        ("glyph-vit", 1, 12, [(0, 2), (1, 3)]),
    ],
)
def test_the_last_blocks_of_both_towers_go_together(
    name: str, first: int, last: int, pairs: list[tuple[int, int]]
) -> None:
    assert Config(first_block=first, last_block=last).pairs(backbone(name)) == pairs


def test_the_pairs_of_vit_l_14_have_the_size_that_follows_from_its_widths() -> None:
    one = Config(bottleneck=256, first_block=12)
    assert one.head_parameters(backbone("ViT-L-14")).stored == 989_696


@pytest.mark.parametrize(
    "wrong",
    [
        {"first_block": 9, "last_block": 8},
        {"last_block": 13},
        {"middle": "own", "branches": "text"},
        {"branches": "text", "up": "spatial"},
        {"up": "spatial", "temporal_cls": False},
        {"up": "temporal", "temporal_cls": False},
        {"branches": "video"},
        {"cc_weight": 0, "descriptions": "spatial"},
        {"scale": -0.1},
    ],
    ids=str,
)
def test_choices_without_effect_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(wrong)


# ---------------------------------------------------------------------------------------------------------------------
# Adapters beside blocks


@torch.no_grad()  # under which torch takes the same way through the attention in both
def test_without_weight_the_towers_are_clips(clips_BT3HW: Tensor) -> None:
    model, plain = build(scale=0), clip()
    assert torch.equal(model.encode(clips_BT3HW).flatten(0, 1), plain.encode_frames(clips_BT3HW.flatten(0, 1)))
    torch.testing.assert_close(model.embed_classes(PROMPTS), plain.embed_classes(PROMPTS), atol=1e-6, rtol=0)


@pytest.mark.parametrize("adapter_input", ["ln1", "raw"])
def test_the_adapter_is_added_once_behind_the_whole_block(clips_BT3HW: Tensor, adapter_input: str) -> None:
    model = build(adapter_input=adapter_input, scale=0.3)
    visual, blocks = model.clip.visual, model.clip.visual.transformer.resblocks
    hidden_NPW = visual._embeds(clips_BT3HW.flatten(0, 1))
    for block in blocks[:2]:
        hidden_NPW = block(hidden_NPW)
    for pair, block in zip(adapters(model), blocks[2:], strict=True):
        taken_NPW = block.ln_1(hidden_NPW) if adapter_input == "ln1" else hidden_NPW
        inner_NPR = pair.shared(pair.video.down(taken_NPW).relu()).relu()
        hidden_NPW = block(hidden_NPW) + 0.3 * pair.video.up(inner_NPR, T)
    expected_ND = visual._pool(hidden_NPW)[0] @ visual.proj
    torch.testing.assert_close(model.encode(clips_BT3HW).flatten(0, 1), expected_ND)


def test_adapters_start_near_the_backbone_but_not_on_it(clips_BT3HW: Tensor) -> None:
    model, plain = build(), clip()
    for adapted, own in (
        (model.encode(clips_BT3HW).flatten(0, 1), plain.encode_frames(clips_BT3HW.flatten(0, 1))),
        (model.embed_classes(PROMPTS), plain.embed_classes(PROMPTS)),
    ):
        away = float(((adapted - own).norm() / own.norm()).detach())
        assert 1e-4 < away < 0.1


def test_weights_start_by_kaimings_rule_and_biases_at_zero() -> None:
    torch.manual_seed(0)
    pair = AdapterPair(Config(bottleneck=64), 128, 192)
    found = {name: float(p.detach().std()) for name, p in pair.named_parameters() if name.endswith("weight")}
    outputs = {"shared": 64, "text.down": 64, "text.up": 128, "video.down": 64}
    outputs |= {"video.up.spatial": 192, "video.up.temporal.conv": 192 * 3}
    assert found == {f"{name}.weight": pytest.approx((2 / fan) ** 0.5, rel=0.1) for name, fan in outputs.items()}
    assert not any(p.any() for name, p in pair.named_parameters() if name.endswith("bias"))


def test_copies_share_no_adapter(clips_BT3HW: Tensor) -> None:
    model = build()
    before, copy = model.encode(clips_BT3HW), deepcopy(model)
    with torch.no_grad():
        for parameter in copy.adapters.parameters():
            parameter.add_(1)
    assert torch.equal(model.encode(clips_BT3HW), before)
    assert not torch.equal(copy.encode(clips_BT3HW), before)


def test_longer_texts_beside_a_text_do_not_change_it() -> None:
    model = build(scale=0.1)
    together, alone = model.embed_classes(PROMPTS), model.embed_classes(PROMPTS[:1])
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=0)


def test_texts_are_told_apart_when_they_follow_each_other() -> None:
    model = build()
    first, second = model.embed_classes(PROMPTS[:2]), model.embed_classes(PROMPTS[2:])
    assert not torch.allclose(first, second)
    torch.testing.assert_close(model.embed_classes(PROMPTS[:2]), first)


def test_recomputing_activations_changes_neither_features_nor_gradients(clips_BT3HW: Tensor) -> None:
    grown = []
    for again in (False, True):
        model = build()
        model.clip.visual.set_grad_checkpointing(again)
        (model.encode(clips_BT3HW).square().mean() + model.embed_classes(PROMPTS)[:, 0].sum()).backward()
        grown.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(grown[0], grown[1])


# ---------------------------------------------------------------------------------------------------------------------
# What is shared, and gradients


def test_the_shared_projection_learns_from_both_towers(clips_BT3HW: Tensor) -> None:
    def learnt(frames: bool, classes: bool) -> Tensor:
        model = build(cc_weight=0)
        frames_BTD, classes_CD = model.encode(clips_BT3HW), model.embed_classes(PROMPTS)
        frames_BTD = frames_BTD if frames else frames_BTD.detach()
        classes_CD = classes_CD if classes else classes_CD.detach()
        model.loss(frames_BTD, torch.arange(B), classes_CD, torch.Generator())["total"].backward()
        return torch.stack([pair.shared.weight.grad for pair in adapters(model)])

    both, video, text = learnt(True, True), learnt(True, False), learnt(False, True)
    assert video.any() and text.any()
    torch.testing.assert_close(both, video + text)


@pytest.mark.parametrize(("unscaled", "adapter", "below"), [(True, 1.0, 0.01), (False, 0.01, 0.01)])
def test_adapters_learn_as_if_lambda_were_one_and_what_lies_below_as_it_is(
    unscaled: bool, adapter: float, below: float
) -> None:
    factors = (1.0, 0.01) if unscaled else (0.01, 1.0)
    value, weight = torch.tensor(3.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    output = scaled(weight * scaled(value, 1.0, factors[1]), 0.01, factors[0])
    output.backward()
    assert value.grad is not None and weight.grad is not None
    assert (output.item(), weight.grad.item(), value.grad.item()) == pytest.approx((0.06, 3 * adapter, 2 * below))


def test_unscaled_gradients_are_those_of_lambda_over_lambda(clips_BT3HW: Tensor) -> None:
    grown = []
    for unscaled in (True, False):
        model = build(first_block=12, unscaled_gradients=unscaled)
        model.encode(clips_BT3HW).square().mean().backward()
        grown.append(torch.cat([p.grad.flatten() for p in model.adapters.parameters() if p.grad is not None]))
    torch.testing.assert_close(grown[0] * 0.005, grown[1], rtol=1e-4, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------------------
# Time


@pytest.mark.parametrize("layout", ["grouped", "depthwise"])
def test_the_order_of_frames_changes_the_temporal_term_alone(layout: str) -> None:
    up = VideoUp(Config.model_validate({"bottleneck": 16, "temporal_layout": layout}), 48)
    inner_NPR = torch.randn(B * T, 5, 16, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([2, 0, 3, 1])
    mixed_NPR = inner_NPR.unflatten(0, (B, T))[:, order].flatten(0, 1)
    assert up.spatial is not None and up.temporal is not None

    def back(output_NPW: Tensor) -> Tensor:
        restored_NPW: Tensor = output_NPW.unflatten(0, (B, T))[:, order.argsort()].flatten(0, 1)
        return restored_NPW

    torch.testing.assert_close(back(up.spatial(mixed_NPR)), up.spatial(inner_NPR))
    temporal_NPW = up(inner_NPR, T) - up.spatial(inner_NPR)
    assert not torch.allclose(back(up(mixed_NPR, T) - up.spatial(mixed_NPR)), temporal_NPW, atol=1e-3)


def test_a_frame_hears_of_its_neighbours_in_its_own_clip_and_at_its_own_place() -> None:
    up = TemporalUp(Config(bottleneck=16), 48)
    inner_NPR = torch.zeros(B * T, 5, 16)
    changed_NPR = inner_NPR.clone()
    changed_NPR[1, 3] = 1
    heard_NP = (up(changed_NPR, T) - up(inner_NPR, T)).any(dim=-1)
    assert heard_NP.nonzero().tolist() == [[0, 3], [1, 3], [2, 3]]


def test_without_the_class_token_frames_meet_at_patches_only(clips_BT3HW: Tensor) -> None:
    up = TemporalUp(Config(bottleneck=16, temporal_cls=False), 48)
    output_NPW = up(torch.randn(B * T, 5, 16, generator=torch.Generator().manual_seed(0)), T)
    assert not output_NPW[:, 0].any() and output_NPW[:, 1:].any()
    model = build(temporal_cls=False)
    model.encode(clips_BT3HW).sum().backward()
    convolutions = {name: p for name, p in model.named_parameters() if "temporal" in name}
    resting = {name for name, p in convolutions.items() if p.grad is None or not p.grad.any()}
    assert resting == model.unused_parameters() and len(resting) == len(convolutions) / 2


def test_a_clip_of_one_frame_runs(clips_BT3HW: Tensor) -> None:
    assert build().encode(clips_BT3HW[:, :1]).shape == (B, 1, 128)


def test_adapters_of_texts_alone_leave_the_frames_as_they_are(clips_BT3HW: Tensor) -> None:
    model = build(branches="text", cc_weight=0)
    assert torch.equal(model.encode(clips_BT3HW), super(Model, model).encode(clips_BT3HW))
    assert not any(".video." in name for name, _ in model.named_parameters())


# ---------------------------------------------------------------------------------------------------------------------
# One sequence a clip


@torch.no_grad()
def test_without_weight_a_video_tower_is_viclips(clips_BT3HW: Tensor) -> None:
    model, plain = on_video(scale=0), video_clip()
    assert torch.equal(model.encode(clips_BT3HW), plain.encode_clips(clips_BT3HW))
    assert not torch.allclose(on_video().encode(clips_BT3HW), plain.encode_clips(clips_BT3HW), atol=1e-5)


@pytest.mark.parametrize("layout", ["grouped", "depthwise"])
def test_it_is_the_papers_3d_convolution_of_the_patches(layout: str) -> None:
    config = Config.model_validate({"bottleneck": 16, "temporal_cls": False, "temporal_layout": layout})
    up, side = VideoUp(config, 48, joint=True), 3
    inner_BPR = torch.randn(B, 1 + side * side * T, 16, generator=torch.Generator().manual_seed(0))
    assert up.spatial is not None and up.temporal is not None
    below_BPR = inner_BPR if layout == "grouped" else up.spatial(inner_BPR)
    conv = up.temporal.conv
    volume_BRTSS = below_BPR[:, 1:].unflatten(1, (side, side, T)).permute(0, 4, 3, 1, 2)
    kernel = conv.weight[..., None, None]
    mixed_BWTSS = F.conv3d(volume_BRTSS, kernel, conv.bias, padding=(1, 0, 0), groups=conv.groups)
    temporal_BPW = up(inner_BPR, T) - up.spatial(inner_BPR)
    torch.testing.assert_close(temporal_BPW[:, 1:], mixed_BWTSS.permute(0, 3, 4, 2, 1).flatten(1, 3))
    assert not temporal_BPW[:, 0].any()


def test_a_patch_hears_of_its_own_place_in_the_neighbouring_frames_of_its_clip() -> None:
    up = TemporalUp(Config(bottleneck=16, temporal_cls=False), 48, joint=True)
    inner_BPR = torch.zeros(B, 1 + 5 * T, 16)
    changed_BPR = inner_BPR.clone()
    changed_BPR[1, 1 + 3 * T + 1] = 1  # place 3 of frame 1
    heard_BP = (up(changed_BPR, T) - up(inner_BPR, T)).any(dim=-1)
    assert heard_BP.nonzero().tolist() == [[1, 1 + 3 * T + frame] for frame in (0, 1, 2)]


@pytest.mark.parametrize(("last_block", "resting"), [(12, 2), (6, 0)])
def test_the_temporal_projection_of_the_last_block_may_rest(clips_BT3HW: Tensor, last_block: int, resting: int) -> None:
    model = on_video(last_block=last_block, scale=0.3)
    model.encode(clips_BT3HW).square().sum().backward()
    video = {name: p for name, p in model.named_parameters() if ".video." in name}
    assert {name for name, p in video.items() if p.grad is None or not p.grad.any()} == model.unused_parameters()
    assert len(model.unused_parameters()) == resting


def test_a_class_token_a_clip_is_mixed_with_none() -> None:
    video, frames = backbone("ViCLIP-B-16"), backbone("ViT-B-16")
    for choices in ({"temporal_cls": False}, {"up": "spatial"}, {"branches": "text"}):
        Config.model_validate(choices).fits(video, T)
    for choices in ({}, {"up": "temporal"}):
        Config.model_validate(choices).fits(frames, T)
        with refused("temporal_cls: true", "ViCLIP-B-16", "allowed: temporal_cls: false", kind=ValueError):
            Config.model_validate(choices).fits(video, T)


def test_a_video_tower_reads_any_number_of_frames(clips_BT3HW: Tensor) -> None:
    model = on_video()
    for frames in (1, 3, T, 2 * T):
        assert model.encode(clips_BT3HW.repeat(1, 2, 1, 1, 1)[:, :frames]).shape == (B, 1, 32)


# ---------------------------------------------------------------------------------------------------------------------
# Losses


def test_a_class_that_equals_its_descriptions_costs_nothing_and_the_opposite_four() -> None:
    model, classes_CD = build(), random_unit(C, 5)
    model.descriptions = dict.fromkeys(("spatial", "temporal"), classes_CD)
    assert model.inconsistency(classes_CD).item() == pytest.approx(0, abs=1e-6)
    assert model.inconsistency(-classes_CD).item() == pytest.approx(4)


@pytest.mark.parametrize("chosen", ["both", "spatial", "temporal"])
def test_the_total_adds_the_mean_over_classes_of_the_chosen_kinds(chosen: str) -> None:
    model, classes_CD, frames_BTD = build(descriptions=chosen, cc_weight=0.5), random_unit(C, 5), torch.ones(B, T, 128)
    terms = model.loss(frames_BTD, torch.arange(B), classes_CD, torch.Generator())
    parts = [1 - (classes_CD * model.descriptions[kind]).sum(dim=-1) for kind in model.config.description_sets]
    assert len(parts) == (2 if chosen == "both" else 1)
    assert terms["cc"].item() == pytest.approx(sum(part.mean().item() for part in parts))
    assert terms["total"].item() == pytest.approx(terms["ce"].item() + 0.5 * terms["cc"].item())


def test_without_weight_or_adapted_texts_no_descriptions_are_asked_for() -> None:
    for choices in ({"cc_weight": 0}, {"cc_weight": 0, "branches": "video"}):
        model = build(**choices)
        assert model.config.description_sets == ()
        terms = model.loss(torch.ones(B, T, 128), torch.arange(B), random_unit(C, 5), torch.Generator())
        assert set(terms) == {"ce", "total"}
    assert build(cc_weight=0, branches="video").config.texts_inside is False


# ---------------------------------------------------------------------------------------------------------------------
# Suites


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_its_suites_plan_in_the_embedded_world_with_the_rows_that_they_have(name: str) -> None:
    real, small = (load_suite(SUITES / f"{name}.yaml", world) for world in ((), ("world=glyphs",)))
    assert [(t.row, t.point, t.seed) for t in real.trials] == [(t.row, t.point, t.seed) for t in small.trials]
    assert [t.config for t in real.trials] == [t.config for t in small.trials]
    assert {t.recipe.descriptions for t in small.trials} == {"glyphs"}
    graph = build_graph(small)
    assert not graph.missing and any(stage.kind == "train" for stage in graph.stages.values())


def test_numbers_of_the_paper_stand_beside_its_own_backbone() -> None:
    """They are second-hand, so none is compared."""
    shown = pairs(load_suite(SUITES / "msta-kinetics.yaml"))
    assert {pair.measure for pair in shown} == {"K400", "UCF", "HMDB", "K600"}
    assert {(pair.differs, pair.comparable) for pair in shown} == {((), False)}
    controls = ("rows.zero-shot.recipe={epochs: 10, backbone: ViT-B-16-quickgelu, pretrained: openai}",)
    swapped = pairs(load_suite(SUITES / "msta-kinetics.yaml", (*controls, "rows.zero-shot.config={}")))
    assert ("backbone: ViT-B/16 here, ViCLIP ViT-B/16 published",) in {pair.differs for pair in swapped}


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_its_suites_have_the_published_backbone_and_clip_as_the_control(name: str) -> None:
    suite = load_suite(SUITES / f"{name}.yaml")
    towers = {trial.recipe.backbone for trial in suite.trials if trial.method == "msta"}
    assert towers == {"ViCLIP-B-16", "ViT-B-16-quickgelu"}
    small = load_suite(SUITES / f"{name}.yaml", ("world=glyphs",))
    assert {(t.recipe.backbone, s.recipe.backbone) for t, s in zip(suite.trials, small.trials, strict=True)} == {
        ("ViCLIP-B-16", "glyph-video"),
        ("ViT-B-16-quickgelu", "glyph-vit"),
    }
    missing = build_graph(suite).missing
    assert "VTB_DATA" in missing["$VTB_DATA/weights/ViCLIP-B-16.pth"]


def test_official_is_what_was_logged_and_paper_what_was_printed() -> None:
    sizes = {
        name: Config.model_validate(preset["config"]).head_parameters(backbone("ViT-B-16")).stored
        for name, preset in PRESETS.items()
    }
    assert sizes == {"official": 1_744_000, "log": 1_744_000, "clean": 1_744_000, "paper": 8_712_192}

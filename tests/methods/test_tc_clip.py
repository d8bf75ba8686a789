"""TC-CLIP's own behaviour: context tokens and their merging, words that read a video, costs, official files, suites.

Legend: B batch, T frames, C classes, M words, n seeds of a clip, k context tokens, W tower width, D joint width.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from bench.checkpoints.heads import HEADS, joined_qkv, split_qkv
from bench.core.errors import UserError
from bench.measure import flops as counting
from bench.models.backbones import Part, backbone
from bench.models.clip import load_clip
from bench.published.pairing import pairs
from bench.store.records import Store
from bench.suite.resolve import SUITES, load_suite
from methods.contract import Encoded, build_model
from methods.registry import method
from methods.tc_clip.config import PRESETS, Config, Inference, merges
from methods.tc_clip.model import Model, read
from methods.tc_clip.tower import ContextTower, means, merged
from tests.checkpoints.test_imported import give, same, saved, take, trained
from tests.errors import says
from tests.suites import plans_alike

B, T, C = 2, 3, 3
GLYPHS = "glyph-vit"  # 64 patches, 4 and 2 blocks, texts of 16 tokens
NAMES = [["star"], ["a_king falling."], ["die"]]
SUITE_NAMES = sorted(path.stem for path in SUITES.glob("tc-clip-*.yaml"))


def config(**choices: Any) -> Config:
    return Config.model_validate(choices)


def build(seed: int = 0, **choices: Any) -> Model:
    model = build_model(Model, config(**choices), load_clip(GLYPHS, "random:0"), seed, C)
    assert isinstance(model, Model)
    return model.eval()


def shifted(model: Model) -> Model:
    """The model with other weights where it trains."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def clips() -> Tensor:
    return torch.randn(B, T, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def scores(model: Model, encoded: Encoded | None = None, names: list[list[str]] = NAMES) -> Tensor:
    predictor, shown = model.deploy(Inference(), torch.empty(0)), encoded or model.encode(clips())
    cosines_BC: Tensor = predictor(shown, model.embed_classes(names)).cosines_BC
    return cosines_BC


def loss(model: Model) -> Tensor:
    labels_B, classes = torch.tensor([0, 2]), model.embed_classes(NAMES)
    return model.loss(model.encode(clips()), labels_B, classes, torch.Generator())["total"]


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


@pytest.mark.parametrize(
    ("name", "own", "trained_in_all"), [("ViT-B-16", 3_155_720, 127_479_561), ("ViT-L-14", 7_093_216, 396_764_385)]
)
def test_it_trains_as_many_parameters_as_the_official_code(name: str, own: int, trained_in_all: int) -> None:
    shape, chosen = backbone(name), config()
    assert chosen.head_parameters(shape).stored == own
    parts: tuple[Part, ...] = ("visual", "text", "scale")
    assert chosen.tuned == {*parts} and sum(map(shape.parameters, parts)) + own == trained_in_all
    words_alone = config(video_prompts=False).head_parameters(shape).stored
    assert own - words_alone == 4 * shape.text_width * (shape.text_width + 1) + 8 * shape.text_width**2 + (
        11 * shape.text_width
    )


@pytest.mark.parametrize(
    ("frames", "tower", "matching"), [(8, 299.57, 2.05), (16, 585.69, 14.33), (32, 1157.95, 106.3)]
)
def test_frames_take_what_is_known_of_the_official_code(frames: int, tower: float, matching: float) -> None:
    shape = backbone("ViT-B-16")
    view = shape.view_flops(frames) + config().inside_flops(shape, frames)
    assert view / 1e9 == pytest.approx(tower + matching, abs=0.06)
    unmerged = config(context_tokens=frames * 58).inside_cost(shape, frames)
    assert unmerged.flops > 0 and not list(merges(frames * 58, frames * 58, 100))


def test_texts_of_400_classes_take_two_billion_and_not_915() -> None:
    shape, chosen = backbone("ViT-B-16"), config()
    answers = 400 * chosen.class_flops(shape, 16, 1)
    assert 2.1e9 < answers < 2.4e9
    assert chosen.head_flops(shape, 16) == pytest.approx(0.122e9 + 4 * 4 * 512**2, rel=0.01)
    assert chosen.text_flops(shape) == pytest.approx(2.288e9 * 11 / 12, rel=0.03)


@pytest.mark.parametrize("choices", [{}, {"context_tokens": 7, "merge_rate": 5}, {"video_prompts": False}])
def test_closed_forms_are_exact(choices: dict[str, Any]) -> None:
    model, shape = build(**choices), backbone(GLYPHS)
    assert sum(counting.tower(model, T).values()) == shape.view_flops(T) + model.config.inside_flops(shape, T)
    assert counting.text(model) == model.config.text_flops(shape)
    parts = model.config.head_modules(shape, T)
    counts = counting.head(model.deploy(Inference(), torch.empty(0)), model.config, parts, shape, T, C)
    assert counts == {**parts, counting.CLASSES: C * model.config.class_flops(shape, T, 1)}


def test_costs_are_counted_without_the_values_of_the_visual_tower() -> None:
    bare, whole = counting.shapes(method("tc_clip"), config(), GLYPHS, C), build()
    assert bare.clip.visual.proj.is_meta and not bare.clip.text_projection.is_meta
    own = config().class_shape(backbone(GLYPHS), 1)
    assert counting.step(bare, T, C, False, own) == counting.step(whole, T, C, False, own) > 0


# ---------------------------------------------------------------------------------------------------------------------
# Context tokens


@pytest.mark.parametrize(
    ("count", "removed"),
    [
        (928, [100] * 8 + [32]),
        (464, [100, 100, 100, 68]),
        (250, [100, 54]),
        (96, []),
        (58, []),
        (1856, [100] * 17 + [60]),
    ],
)
def test_steps_of_merging(count: int, removed: list[int]) -> None:
    steps = list(merges(count, 96, 100))
    assert [each for _, each in steps] == removed
    assert count - sum(removed) == min(count, 96) and all(2 * each <= left for left, each in steps)


def one_by_one(tokens_nW: Tensor, keep: int, rate: int) -> Tensor:
    """Context tokens [k, W] of one clip, step after step, token after token, with sizes."""
    tokens, sizes = list(tokens_nW), [1] * len(tokens_nW)
    for _, removed in merges(len(tokens), keep, rate):
        even, odd = range(0, len(tokens), 2), range(1, len(tokens), 2)
        found = [[float(F.cosine_similarity(tokens[i], tokens[j], dim=0)) for j in odd] for i in even]
        order = sorted(range(len(even)), key=lambda a: -max(found[a]))
        for a in order[:removed]:
            i, j = even[a], odd[found[a].index(max(found[a]))]
            together = sizes[i] + sizes[j]
            tokens[j] = (sizes[i] * tokens[i] + sizes[j] * tokens[j]) / together
            sizes[j] = together
        left = [even[a] for a in order[removed:]] + list(odd)
        tokens, sizes = [tokens[i] for i in left], [sizes[i] for i in left]
    return torch.stack(tokens)


@pytest.mark.parametrize(("keep", "rate"), [(6, 10), (5, 3), (11, 100), (16, 4)])
def test_the_most_similar_are_merged_with_the_weight_of_what_is_in_them(keep: int, rate: int) -> None:
    tokens_BnW = torch.randn(B, 33, 12, generator=torch.Generator().manual_seed(keep))
    own_BkW = means(tokens_BnW, merged(tokens_BnW, keep, rate), keep)
    expected_BkW = torch.stack([one_by_one(each_nW.double(), keep, rate) for each_nW in tokens_BnW])
    torch.testing.assert_close(own_BkW, expected_BkW.float(), atol=1e-5, rtol=0)
    if rate == 3:  # small steps compare anew
        assert not torch.allclose(own_BkW, means(tokens_BnW, merged(tokens_BnW, keep, 100), keep), atol=1e-3)


def test_as_many_context_tokens_as_seeds_are_the_seeds() -> None:
    model = build(context_tokens=60, seed_share=0.2)
    tower = ContextTower(model.clip.visual, model.config, model.head.bias, T)
    with torch.no_grad():
        hidden_BSW, shares_BTN = tower.attend(tower.embedded(clips()), 0)
        seeds_BTq = tower.seeds(shares_BTN)
        context_BkW = tower.context(hidden_BSW, seeds_BTq)
    assert context_BkW.shape[1] == 12 * T == model.config.context(backbone(GLYPHS), T)
    patches_BTNW = hidden_BSW.unflatten(1, (T, -1))[:, :, 1:]
    expected = [patches_BTNW[b, t, seed] for b in range(B) for t in range(T) for seed in seeds_BTq[b, t]]
    assert torch.equal(context_BkW.flatten(0, 1), torch.stack(expected))
    best_BTq = shares_BTN.sort(dim=-1, descending=True).values[..., :12]
    assert torch.equal(shares_BTN.take_along_dim(seeds_BTq, dim=-1), best_BTq)


def test_frames_that_cannot_see_context_are_those_of_clip() -> None:
    model = build()
    seen = model.encode(clips())["frames"]
    with torch.no_grad():
        for table_H12 in model.head.bias.values():
            table_H12[..., 1] = -1e9
    unseen, plain = model.encode(clips())["frames"], model.clip.encode_clips(clips())
    torch.testing.assert_close(unseen, plain, atol=1e-5, rtol=0)
    assert not torch.allclose(seen, plain, atol=1e-3)
    assert not torch.allclose(build(bias=False).encode(clips())["frames"], seen, atol=1e-5)


def test_seeds_are_chosen_by_the_mean_over_heads_of_what_context_leaves_them() -> None:
    """Where context takes all of the attention of the other heads, the mean is one head's share of it."""
    model = build(context_tokens=30)
    tower, table_H12 = ContextTower(model.clip.visual, model.config, model.head.bias, T), model.head.bias["1"]
    with torch.no_grad():
        hidden_BSW = tower.step(tower.embedded(clips()), 0)
        whole_BTN, before_H = tower.attend(hidden_BSW, 1)[1], table_H12[:, 0, 1].clone()
        parts: list[Tensor] = []
        for head in range(len(before_H)):
            table_H12[:, 0, 1] = 60.0
            table_H12[head, 0, 1] = before_H[head]
            parts.append(tower.attend(hidden_BSW, 1)[1])
    torch.testing.assert_close(sum(parts), whole_BTN, atol=1e-6, rtol=0)
    assert not any(torch.equal(tower.seeds(part), tower.seeds(whole_BTN)) for part in parts)


# ---------------------------------------------------------------------------------------------------------------------
# Words


def test_words_start_as_a_photo_of_a_and_their_layer_as_the_last_block() -> None:
    model, table = build(prompts=6), load_clip(GLYPHS, "random:0").token_embedding.weight
    (tokens_L,) = model.clip.tokenizer(["a photo of a"])
    assert torch.equal(model.head.context[:4], table[tokens_L[1:5]]) and len(model.head.context) == 6
    layer, block = model.head.generation[0].state_dict(), model.clip.transformer.resblocks[-1].state_dict()
    assert {name: own for name, own in layer.items() if "ln_1_kv" not in name}.keys() == block.keys()
    assert all(torch.equal(own, block[name.replace("ln_1_kv", "ln_1")]) for name, own in layer.items())
    assert not model.clip.token_embedding.weight.requires_grad


@torch.no_grad()
def test_the_short_way_gives_what_the_whole_text_tower_gives() -> None:
    model = shifted(build(context_tokens=20))
    encoded, clip, count = model.encode(clips()), model.clip, model.config.prompts
    tokens_CL = clip.tokenizer([f"x x x x {own[0].removesuffix('.').replace('_', ' ')}." for own in NAMES])
    short_Cl = torch.cat([tokens_CL[:, :1], tokens_CL[:, 1 + count :]], dim=1)
    words_BMV = read(model.head.generation, model.words(), encoded["context"])
    for video in range(B):
        hidden_CLV = model.hidden(short_Cl)
        torch.testing.assert_close(hidden_CLV[:, 1 : 1 + count], model.words().expand(C, -1, -1), atol=1e-5, rtol=0)
        hidden_CLV[:, 1 : 1 + count] = words_BMV[video]
        hidden_CLV = clip.transformer.resblocks[-1](hidden_CLV, attn_mask=clip.attn_mask)
        texts_CD = clip.ln_final(hidden_CLV[torch.arange(C), tokens_CL.argmax(dim=-1)]) @ clip.text_projection
        expected_C = F.cosine_similarity(texts_CD, encoded["frames"][video].mean(dim=0)[None])
        torch.testing.assert_close(scores(model, encoded)[video], expected_C, atol=1e-5, rtol=0)


def test_a_class_is_the_same_among_others_and_several_prompts_are_averaged() -> None:
    model = shifted(build())
    encoded = model.encode(clips())
    torch.testing.assert_close(scores(model, encoded, NAMES[:1])[:, 0], scores(model, encoded)[:, 0], atol=1e-6, rtol=0)
    twice, both = [["star", "star"]], [["star", "die"]]
    torch.testing.assert_close(scores(model, encoded, twice), scores(model, encoded, [["star"]]), atol=1e-6, rtol=0)
    assert not torch.allclose(scores(model, encoded, both), scores(model, encoded, twice), atol=1e-4)
    with pytest.raises(UserError, match="unequally many prompts"):
        model.embed_classes([["star", "die"], ["king"]])


def test_views_are_answered_alike_in_any_number() -> None:
    model = shifted(build())
    encoded = {name: own.repeat(20, 1, 1) for name, own in model.encode(clips()).items()}  # more than VIEWS
    torch.testing.assert_close(scores(model, encoded), scores(model).repeat(20, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("reads", [True, False])
def test_only_words_that_read_the_video_change_with_its_context(reads: bool) -> None:
    model = shifted(build(video_prompts=reads))
    encoded = model.encode(clips())
    other = {**encoded, "context": encoded["context"].flip(0)}
    assert torch.allclose(scores(model, encoded), scores(model, other), atol=1e-6) != reads


def test_only_without_stop_gradient_texts_move_the_visual_tower_through_context() -> None:
    found = []
    for stops in (True, False):
        model = shifted(build(stop_gradient=stops))
        loss(model).backward()
        gradient = model.clip.visual.transformer.resblocks[0].mlp.c_fc.weight.grad
        assert gradient is not None
        found.append(gradient)
    assert not torch.allclose(found[0], found[1], atol=1e-7)


def test_activations_that_are_computed_again_give_the_same_gradients() -> None:
    found = []
    for again in (False, True):
        model = build().train()
        model.clip.set_grad_checkpointing(again)
        loss(model).backward()
        found.append({name: own.grad for name, own in model.named_parameters() if own.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(own, found[1][name], atol=1e-7) for name, own in found[0].items())


def test_half_precision_gives_about_the_same() -> None:
    model = build(context_tokens=20)
    whole = loss(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(model)
    half.backward()
    found = {name: own.grad for name, own in model.named_parameters() if own.requires_grad}
    torch.testing.assert_close(half.detach(), whole.detach(), atol=0, rtol=0.02)
    assert all(own is not None and own.isfinite().all() and own.any() for own in found.values())
    tokens_BnW = torch.full((1, 300, 4), 1.01, dtype=torch.bfloat16)
    places_Bn = torch.zeros(1, 300, dtype=torch.long)
    assert torch.equal(means(tokens_BnW, places_Bn, 1)[0, 0], tokens_BnW[0, 0])  # bf16 counts to 256


def test_the_numbers_in_the_attention_learn_at_the_rate_of_the_towers() -> None:
    model = build()
    groups = {name: {id(p) for p in own} for name, own in model.parameter_groups().items()}
    assert all(id(own) in groups["tower"] for own in model.head.bias.values())
    assert groups["head"] == {id(model.head.context), *map(id, model.head.generation.parameters())}
    recipe = PRESETS["official"]["recipe"]
    assert recipe["lr"] * recipe["tower_lr_ratio"] == pytest.approx(8e-6) and recipe["floor_of"] == "tower"


def test_mixing_clip_in_leaves_what_clip_does_not_have() -> None:
    model, clip = shifted(build()), load_clip(GLYPHS, "random:0")
    before = {name: own.clone() for name, own in model.head.state_dict().items()}
    model.interpolate(clip, 0.0)
    assert all(torch.equal(own, clip.state_dict()[name]) for name, own in model.clip.state_dict().items())
    assert all(torch.equal(own, before[name]) for name, own in model.head.state_dict().items())


def test_a_name_without_room_behind_the_words_is_named() -> None:
    model = build(text_length=10)
    with pytest.raises(UserError, match="class 'king king king king king' is too long beside learnt words") as caught:
        model.embed_classes([["king"], ["king " * 4 + "king"]])
    says(str(caught.value), "config.text_length", "it has 5 tokens", "names may have 4", "use fewer learnt words")
    fitting, cut = model.embed_classes([["king king king king"], ["king " * 16]])
    torch.testing.assert_close(fitting, cut)  # as by the tokenizer


@pytest.mark.parametrize(
    ("name", "choices", "named"),
    [
        (GLYPHS, {"seed_share": 0.01}, "seed_share 0.01 of 64 is no patch; allowed: from 0.016"),
        (
            GLYPHS,
            {"prompts": 13},
            "prompts 13 leaves no room for a class name in a text of 16 tokens; allowed: up to 12",
        ),
        ("ViT-B-16", {"prompts": 27}, "a text of 30 tokens"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, choices: dict[str, Any], named: str) -> None:
    config().fits(backbone(name), T)
    with pytest.raises(ValueError, match=named):
        config(**choices).fits(backbone(name), T)


@pytest.mark.parametrize(
    "choices", [{"tower": "frozen"}, {"video_prompts": False, "stop_gradient": False}, {"seed_share": 0}]
)
def test_choices_without_effect_are_refused(choices: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**choices)


# ---------------------------------------------------------------------------------------------------------------------
# Official checkpoints


def official_file(model: Model) -> dict[str, Any]:
    """As the official trainer saves it; the table of tokens is not in it."""
    state: dict[str, Tensor] = {}
    for name, own in model.clip.state_dict().items():
        if name.startswith("visual."):
            official = name.replace("visual.", "image_encoder.", 1)
            if "in_proj_" in name:
                for kind, part in zip("qkv", own.chunk(3), strict=True):
                    state[official.replace("in_proj_", f"{kind}_proj.")] = part.clone()
            else:
                state[official] = own
        elif name == "logit_scale":
            state[name] = own
        elif name != "token_embedding.weight":
            state[f"text_encoder.{name}"] = own
    for name, own in model.head.state_dict().items():
        kind, _, rest = name.partition(".")
        if kind == "context":
            state["prompt_learner.ctx"] = own
        elif kind == "bias":
            state[f"image_encoder.transformer.resblocks.{rest}.attn.local_global_bias_table"] = own
        else:
            state[f"text_encoder.prompt_generation_layer.{rest}"] = own
    state["prompt_learner.token_prefix"] = torch.ones(C, 1, 128)
    state["prompt_learner.token_suffix"] = torch.ones(C, 11, 128)
    beside = {"optimizer": {"state": {}}, "lr_scheduler": {}, "max_accuracy": 76.8, "config": Namespace(seed=1024)}
    return {"model": {f"module.{name}": own for name, own in state.items()}, "epoch": 9, **beside}


@pytest.mark.parametrize(
    "choices", [{}, {"bias": False, "prompts": 3}, {"video_prompts": False}], ids=["whole", "unbiased", "own-words"]
)
def test_an_official_file_answers_alike_and_comes_out_again(
    choices: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, store = shifted(build(**choices)), Store(tmp_path / "runs")
    content = official_file(model)
    assert take(saved(tmp_path, content), store, "--name", "released", method="tc_clip") == 0
    assert "inference: {clip_alpha: 0.7}" in capsys.readouterr().out
    found = trained(store, "random:0").eval()
    assert isinstance(found, Model) and found.config == model.config
    assert torch.equal(scores(found), scores(model))
    assert give("released", tmp_path / "back.pt", store) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert same(back["model"], content["model"]) and back["epoch"] == 9 and back.keys() == {"model", "epoch"}
    assert all(name.startswith("module.") for name in back["model"])


@pytest.mark.parametrize(
    ("name", "own", "named"),
    [
        ("image_encoder.transformer.resblocks.1.attn.k_proj.weight", None, "resblocks.1.attn.in_proj_weight"),
        (
            "image_encoder.transformer.resblocks.1.attn.k_proj.weight",
            torch.ones(7, 128),
            "resblocks.1.attn.in_proj_weight",
        ),
        ("prompt_learner.ctx", None, "there are no learnt words"),
        ("text_encoder.prompt_generation_layer.0.ln_1_kv.bias", None, "generation.0.ln_1_kv.bias"),
        ("image_encoder.transformer.resblocks.2.attn.local_global_bias_table", None, "bias.2"),
        ("novel.weight", torch.zeros(1), "novel.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    name: str, own: Tensor | None, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = official_file(build())
    content["model"].pop(f"module.{name}", None)
    content["model"] |= {} if own is None else {f"module.{name}": own}
    assert take(saved(tmp_path, content), Store(tmp_path / "runs"), method="tc_clip") == 2
    assert named in capsys.readouterr().err


def test_slices_of_visual_blocks_alone_are_apart_in_a_file() -> None:
    state = load_clip(GLYPHS, "random:0").state_dict()
    sliced = split_qkv(state)
    assert len(sliced) == len(state) + 4 * 4 and "transformer.resblocks.0.attn.in_proj_weight" in sliced
    assert same(joined_qkv(sliced), state)
    assert HEADS["tc_clip"].choices({"context": torch.zeros(5, 8)}) == {
        **{"prompts": 5, "bias": False, "video_prompts": False}
    }


# ---------------------------------------------------------------------------------------------------------------------
# Suites


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_its_suites_plan_in_the_embedded_world(name: str) -> None:
    plans_alike(name)


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_published_numbers_stand_beside_what_is_measured_alike(name: str) -> None:
    shown = pairs(load_suite(SUITES / f"{name}.yaml"))
    assert shown and all(pair.comparable for pair in shown)


def test_the_official_test_mixes_clip_in_where_it_is_zero_shot() -> None:
    alphas = {t.row: t.inference.clip_alpha for t in load_suite(SUITES / "tc-clip-shots.yaml").trials}
    assert alphas.pop("k400") == 0.7 and {*alphas.values()} == {1.0}

"""Vita-CLIP's own behaviour: what trains, tokens and who sees them, class texts at the test, official files, suites.

Legend: B batch, T frames, P tokens of a frame, S those with learnt ones among them, G global tokens, M vectors of a
context, N frames of a batch, W width, D joint width, C classes.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.checkpoints.heads import HEADS, VITA_CLIP
from bench.commands.app import main
from bench.core.errors import UserError
from bench.graph.build import build_graph
from bench.models.backbones import backbone
from bench.models.clip import load_clip, new_clip
from bench.models.state_dicts import renamed
from bench.published.pairing import pairs
from bench.stages.training.optimiser import undecayed
from bench.store.records import Store
from bench.suite.resolve import SUITES, load_suite
from methods.contract import build_model
from methods.vita_clip.config import PRESETS, Config, Inference
from methods.vita_clip.model import Model
from tests.errors import says
from tests.suites import write_suite
from tests.videos import CLASSES, write_tiny_dataset

B, T, G, M, C = 2, 3, 2, 3, 3
GLYPHS = "glyph-vit"
SMALL = {"frames": T, "global_tokens": G, "context_vectors": M}
SUITE_NAMES = sorted(path.stem for path in SUITES.glob("vita-clip-*.yaml"))


def config(**choices: Any) -> Config:
    return Config.model_validate(choices)


def build(seed: int = 0, **choices: Any) -> Model:
    choices = {**SMALL, **choices}
    if "global" not in choices.get("prompts", ["global"]):
        del choices["global_tokens"]
    if choices.get("context") == "none":
        del choices["context_vectors"]
    model = build_model(Model, config(**choices), load_clip(GLYPHS, "random:0"), seed, C)
    assert isinstance(model, Model)
    return model


def clips(frames: int = T) -> Tensor:
    return torch.randn(B, frames, 3, 64, 64, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


@pytest.mark.parametrize(
    ("name", "projections", "new", "trained", "flops"),
    [
        ("ViT-B-16", 7_087_104, 37_245_952, 30_158_849, 145.7e9),
        ("ViT-L-14", 25_190_400, 128_860_160, 103_669_761, None),
    ],
)
def test_it_has_as_many_parameters_as_the_official_code(
    name: str, projections: int, new: int, trained: int, flops: float | None
) -> None:
    chosen, shape = config(), backbone(name)
    stored = chosen.head_parameters(shape).stored
    assert stored + chosen.class_bound_parameters(shape, 400) == new
    with torch.device("meta"):
        model = Model(chosen, new_clip(name, 0))
        model.bind_classes(400)
    learnt = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in learnt.values()) == trained == new - projections + 1
    assert {n for n in learnt if n.startswith("clip.")} == {"clip.logit_scale"}
    assert not any("cls_proj" in n for n in learnt)
    if flops:  # with multiply-adds as in the paper, and without what the official code throws away
        assert (shape.view_flops(8) + chosen.inside_flops(shape, 8)) / 2 == pytest.approx(flops, rel=1e-3)


def test_switches_decide_what_trains() -> None:
    """The official code leaves the projection at its random start, which a record keeps all the same."""
    official, clean = build(), build(train_cls_proj=True, train_scale=False)
    moved = {n for n, p in clean.named_parameters() if p.requires_grad} ^ {
        n for n, p in official.named_parameters() if p.requires_grad
    }
    assert {n.split(".")[-2] if "cls_proj" in n else n for n in moved} == {"cls_proj", "clip.logit_scale"}
    kept = {n for n in official.trained_state() if "cls_proj" in n}
    assert len(kept) == 2 * backbone(GLYPHS).vision_layers
    other = build(seed=5)
    other.load_trained(official.trained_state())
    assert torch.equal(other.encode(clips()), official.encode(clips()))


@torch.no_grad()
def test_tokens_start_in_the_official_ranges() -> None:
    model, shape = build(frames=8, global_tokens=50, context_vectors=8), backbone(GLYPHS)
    bound = (6 / (3 * shape.patch_size**2 + shape.vision_width)) ** 0.5
    blocks: Any = model.head.blocks
    for tokens in (model.head.global_prompts, torch.stack([own.local_prompts for own in blocks])):
        assert tokens.abs().max() <= bound and tokens.std() == pytest.approx(bound / 3**0.5, rel=0.05)
    queries, limit = blocks[0].summary_attn_layer.q_proj, (6 / (2 * shape.vision_width)) ** 0.5
    assert queries.weight.abs().max() == pytest.approx(limit, rel=0.01) and not queries.bias.any()
    assert model.head.time_embed.std() == pytest.approx(0.02, rel=0.1)


def test_prompts_and_time_are_spared_decay_in_the_clean_recipe_alone() -> None:
    model = build(context="generic", train_cls_proj=True)
    learnt = {n: p for n, p in model.named_parameters() if p.requires_grad}
    patterns = PRESETS["clean"]["recipe"]["undecayed"]
    decayed = {n for n, p in learnt.items() if not undecayed(n, p, patterns) and n != "clip.logit_scale"}
    assert decayed == {n for n in learnt if n.endswith("weight") and "summary_ln" not in n}
    assert undecayed("clip.logit_scale", model.clip.logit_scale, patterns)
    assert "undecayed" not in PRESETS["official"]["recipe"]


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        ({"tower": "tuned"}, ["tower"]),
        ({"prompts": ["global", "global"]}, ["prompts", "given twice"]),
        ({"prompts": ["local"], "global_tokens": 4}, ["global_tokens has no effect without global in prompts"]),
        ({"prompts": ["global"], "train_cls_proj": True}, ["train_cls_proj has no effect", "local or summary"]),
        ({"context": "none", "name_at": "front"}, ["name_at has no effect with context: none"]),
        ({"context": "none", "context_vectors": 4}, ["context_vectors has no effect with context: none"]),
    ],
)
def test_choices_that_contradict_each_other_are_refused(choices: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**choices)
    says(str(caught.value), *named)


def test_frames_without_tokens_and_contexts_without_room_are_refused() -> None:
    shape = backbone(GLYPHS)
    config(context_vectors=4).fits(shape, 8)
    for frames in (4, 9):
        with pytest.raises(ValueError, match=rf"clips of {frames} frames, but config\.frames 8 have tokens"):
            config(context_vectors=4).fits(shape, frames)
    with pytest.raises(ValueError, match="a context of 14 leaves no room for a class name"):
        config(context_vectors=14).fits(shape, 8)


# ---------------------------------------------------------------------------------------------------------------------
# Visual tower


def test_without_tokens_and_times_it_is_clip() -> None:
    model, clip = build(prompts=[]), load_clip(GLYPHS, "random:0")
    expected_BTD = clip.encode_clips(clips())
    assert not torch.allclose(model.encode(clips()), expected_BTD, atol=1e-3)
    with torch.no_grad():
        model.head.time_embed.zero_()
    torch.testing.assert_close(model.encode(clips()), expected_BTD, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_sequence_has_its_tokens_in_the_official_order() -> None:
    model, layer = build(), 1
    hidden_NPW = torch.randn(B * T, 65, 128, generator=torch.Generator().manual_seed(0))
    whole_BTSW = model.extended(hidden_NPW, layer, T).unflatten(0, (B, T))
    hidden_BTPW, blocks = hidden_NPW.unflatten(0, (B, T)), model.head.blocks
    own: Any = blocks[layer]
    class_BTW = own.cls_proj(hidden_BTPW[:, :, 0])
    assert whole_BTSW.shape[2] == 65 + T + G + 1
    assert torch.equal(whole_BTSW[:, :, 0], hidden_BTPW[:, :, 0])
    for frame in range(T):  # the local tokens of all frames go to every frame
        torch.testing.assert_close(whole_BTSW[:, frame, 1 : 1 + T], own.local_prompts + class_BTW)
        assert torch.equal(whole_BTSW[1, frame, 1 + T : 1 + T + G], model.head.global_prompts[layer])
    assert torch.equal(whole_BTSW[:, :, 1 + T + G : -1], hidden_BTPW[:, :, 1:])
    attention = torch.nn.MultiheadAttention(128, backbone(GLYPHS).vision_heads, batch_first=True)
    parts = own.summary_attn_layer
    projections = (parts.q_proj, parts.k_proj, parts.v_proj)
    attention.in_proj_weight.copy_(torch.cat([each.weight for each in projections]))
    attention.in_proj_bias.copy_(torch.cat([each.bias for each in projections]))
    attention.out_proj.load_state_dict(parts.out_proj.state_dict())
    normed_BTW = own.summary_ln(class_BTW)
    expected_BTW = class_BTW + attention(normed_BTW, normed_BTW, normed_BTW)[0]
    torch.testing.assert_close(whole_BTSW[:, :, -1], expected_BTW)


@pytest.mark.parametrize(
    ("prompts", "meet"), [([], False), (["global"], False), (["local"], True), (["summary"], True)]
)
@torch.no_grad()
def test_frames_meet_through_local_and_summary_tokens_alone(prompts: list[str], meet: bool) -> None:
    model, other = build(prompts=prompts), clips()
    other[:, 1] = other[:, 1].flip(-1)
    first_BTD, second_BTD = model.encode(clips()), model.encode(other)
    assert not torch.allclose(first_BTD[:, 1], second_BTD[:, 1], atol=1e-3)
    assert torch.allclose(first_BTD[:, 0], second_BTD[:, 0], atol=1e-6) != meet


@torch.no_grad()
def test_a_bias_of_patches_moves_patches_and_not_the_class_token() -> None:
    model, same = build(), build()
    bias_W = torch.randn(128, generator=torch.Generator().manual_seed(0))
    model.head.patch_bias.copy_(bias_W)
    same.clip.visual.positional_embedding[1:] += bias_W
    torch.testing.assert_close(model.encode(clips()), same.encode(clips()), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model.encode(clips()), build().encode(clips()), atol=1e-3)


# ---------------------------------------------------------------------------------------------------------------------
# Texts


def test_names_have_a_context_of_their_own_or_one_together() -> None:
    names = [["flag_rising"], ["king"], ["die"]]
    bound, shared, none = build(), build(context="generic"), build(context="none")
    assert [own.config.open_vocabulary for own in (bound, shared, none)] == [False, True, True]
    assert torch.equal(none.embed_classes(names), none.clip.embed_classes(names))
    assert torch.equal(bound.embed_classes(names), bound.embed_classes([["flag rising"], ["king"], ["die"]]))
    with pytest.raises(ValueError, match="1 candidates, but contexts are bound to 3 classes"):
        bound.embed_classes(names[:1])
    before = {own: own.embed_classes(names) for own in (bound, shared)}
    for own, moved in ((bound, [False, True, False]), (shared, [True, True, True])):
        assert own.head.context is not None
        with torch.no_grad():
            own.head.context.vectors_KMW[-2 if own is bound else 0].neg_()
        changed = (own.embed_classes(names) - before[own]).abs().amax(dim=-1) > 1e-4
        assert changed.tolist() == moved


@pytest.mark.parametrize(
    ("texts", "plain"), [("learnt", (False, False)), ("seen", (False, True)), ("plain", (True, True))]
)
def test_plain_texts_answer_where_they_are_asked_for(texts: str, plain: tuple[bool, bool]) -> None:
    inference = Inference.model_validate({"texts": texts})
    assert tuple(config().plain_texts(inference, seen) for seen in (True, False)) == plain
    if texts != "learnt":
        with pytest.raises(ValueError, match=f"texts: {texts} has no effect with context: none"):
            config(context="none").check(inference)


def rows(folder: Path, *texts: str) -> Path:
    """A suite whose rows differ in the texts at the test."""
    own = [
        f"  {each}: {{method: vita_clip, config: {{frames: 4, context_vectors: 4}}, inference: {{texts: {each}}}}}"
        for each in texts
    ]
    path = write_suite(folder)
    head, _, _ = path.read_text().partition("rows:")
    path.write_text(head + "rows:\n" + "\n".join(own) + "\n")
    return path


def test_one_training_serves_all_texts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 'learnt' has a head bound to its classes"):
        load_suite(rows(tmp_path, "learnt"))
    stages = build_graph(load_suite(rows(tmp_path, "seen", "plain"))).stages.values()
    assert len([stage for stage in stages if stage.kind == "train"]) == 2  # one a seed
    plain = {
        stage.title.removeprefix("evaluate "): stage.spec.get("plain_texts", False)
        for stage in stages
        if stage.kind == "evaluate" and "seed 0" in stage.title
    }
    assert plain == {
        "seen seed 0 on closed-set": False,
        "seen seed 0 on new-verbs": True,
        "plain seed 0 on closed-set": True,
        "plain seed 0 on new-verbs": True,
    }


def test_foreign_candidates_beside_the_own_ones_are_unseen(tmp_path: Path) -> None:
    path = rows(tmp_path, "seen")
    path.write_text(
        path.read_text().replace("split: validation", "split: validation, vocabulary: [glyphs-narrow-verbs]")
    )
    stages = build_graph(load_suite(path)).stages.values()
    assert all(stage.spec["plain_texts"] for stage in stages if stage.kind == "evaluate")


def test_clips_of_training_and_test_are_as_long(tmp_path: Path) -> None:
    path = rows(tmp_path, "seen")
    path.write_text(path.read_text().replace("config: {frames: 4", "config: {frames: 8"))
    with pytest.raises(UserError, match=r"clips of 4 frames, but config\.frames 8 have tokens"):
        load_suite(path)


def test_a_magnitude_is_that_of_the_official_program() -> None:
    """rand-m7: 7 of 10."""
    assert PRESETS["official"]["recipe"]["views"]["rand_augment_m"] == 21


def test_frames_of_a_column_that_a_row_is_not_measured_with_may_be_too_many(tmp_path: Path) -> None:
    path = rows(tmp_path, "seen")
    path.write_text(path.read_text().replace("views: {frames: 4}\nprotocols:", "views: {frames: 16}\nprotocols:"))
    with pytest.raises(UserError, match="16 frames"):
        load_suite(path)
    path.write_text(path.read_text().replace("{texts: seen}", "{texts: seen}, protocol: {views: {frames: 4}}"))
    assert {own.views.frames for trial in load_suite(path).trials for _, own in trial.protocols} == {4}


# ---------------------------------------------------------------------------------------------------------------------
# Official checkpoints


def official_file(model: Model) -> dict[str, Any]:
    """As the official trainer saves it: both towers, of which the visual one has separate projections."""
    names = {own: official for official, own in VITA_CLIP.states["model"].items()}
    state = model.state_dict()
    clip = {name.removeprefix("clip."): own for name, own in state.items() if name.startswith("clip.")}
    own = {name: tensor for name, tensor in state.items() if not name.startswith("clip.visual.")}
    visual = {name: tensor for name, tensor in clip.items() if name.startswith("visual.")}
    own |= {f"clip.{name}": tensor for name, tensor in HEADS["vita_clip"].split(visual).items()}
    found = {renamed(name, names): tensor.clone() for name, tensor in own.items()}
    if model.config.context == "generic":
        found["prompt_learner.ctx"] = found["prompt_learner.ctx"][0]
    found |= {
        "prompt_learner.token_prefix": torch.ones(C, 1, 128),
        "prompt_learner.token_suffix": torch.ones(C, 12, 128),
    }
    beside = {
        "optimizer": {"state": {}},
        "lr_sched": {},
        "loss_scaler": {},
        "next_step": 30_000,
        "args": Namespace(seed=0),
    }
    return {"model": {f"module.{name}": tensor for name, tensor in found.items()}, **beside}


def trained(**choices: Any) -> Model:
    """A model whose patches have a bias, as official files may, and another logit scale."""
    model = build(**choices)
    with torch.no_grad():
        model.head.patch_bias.copy_(0.1 * torch.randn(128, generator=torch.Generator().manual_seed(0)))
        model.clip.logit_scale.fill_(3.0)
    return model.eval()


SUITE = """\
title: Released
datasets:
  tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}
  other: {root: ., classes: other.csv, splits: {test: test.txt}}
recipe: {source: tiny, templates: name, pretrained: "random:0", views: {frames: 3}}
protocol: {templates: name, views: {frames: 3}}
protocols:
  closed-set: {role: closed-set, dataset: tiny}
  unseen: {role: zero-shot, dataset: other}
rows:
"""
OTHERS = ("king", "a heart falling", "flag")


def take(file: Path, folder: Path, pretrained: str = "random:0") -> int:
    clip = ["--backbone", GLYPHS, "--pretrained", pretrained]
    return main(["import", str(file), "--method", "vita_clip", *clip, "--store", str(folder / "runs")])


def test_an_official_file_answers_with_its_context_and_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], without_figures: None
) -> None:
    write_tiny_dataset(tmp_path)
    (tmp_path / "other.csv").write_text("id,name\n" + "".join(f"{n},{name}\n" for n, name in enumerate(OTHERS)))
    model = trained()
    torch.save(official_file(model), tmp_path / "released.pth")
    assert take(tmp_path / "released.pth", tmp_path) == 0
    row = yaml.safe_load(capsys.readouterr().out.partition("use it in a row of a suite:\n")[2])
    assert row["inference"] == {"texts": "seen"} and config(**row["config"]) == model.config
    (tmp_path / "suite.yaml").write_text(
        yaml.safe_dump(yaml.safe_load(SUITE) | {"rows": {"own": {"method": "vita_clip", **row}}})
    )
    store = ["--store", str(tmp_path / "runs")]
    assert main([str(tmp_path / "suite.yaml"), *store, "--jobs", "0", "--workers", "0", "--device", "cpu"]) == 0
    records, answers = Store.create(tmp_path / "runs"), dict[str, Tensor]()
    for identity in records.known("evaluate"):
        record, folder = records.read("evaluate", identity), records.folder("evaluate", identity)
        kind, encoded = record["title"].rpartition(" ")[2], records.folder(*record["inputs"]["features"])
        frames_NTD = load_file(encoded / "features.safetensors")["features"][:, 0]
        answers[kind] = load_file(folder / "scores.safetensors")["cosines"][:, 0]
        names = [[name] for name in (CLASSES if kind == "closed-set" else OTHERS)]
        texts = model if kind == "closed-set" else model.clip
        expected = model.deploy(Inference(), torch.empty(0))(frames_NTD, texts.embed_classes(names).detach())
        torch.testing.assert_close(answers[kind], expected.cosines_BC, atol=1e-5, rtol=0)
    assert set(answers) == {"closed-set", "unseen"}


@pytest.mark.parametrize(
    "choices", [{}, {"context": "generic", "prompts": ["global", "summary"]}], ids=["all", "fewer"]
)
def test_an_official_file_comes_out_again(choices: dict[str, Any], tmp_path: Path) -> None:
    model = trained(**choices)
    content = official_file(model)
    torch.save(content, tmp_path / "released.pth")
    assert take(tmp_path / "released.pth", tmp_path) == 0
    store = Store.create(tmp_path / "runs")
    (identity,) = store.known("train")
    record = store.read("train", identity)
    assert config(**record["spec"]["config"]) == model.config
    own = build(seed=7, **choices)
    own.load_trained(load_file(store.folder("train", identity) / "weights.safetensors"))
    assert torch.equal(own.encode(clips()), model.encode(clips()))
    assert torch.equal(own.embed_classes([["star"]] * C), model.embed_classes([["star"]] * C))
    assert own.scale == model.scale
    assert main(["export", record["spec"]["imported"], str(tmp_path / "back.pth"), "--store", str(store.root)]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == content["model"].keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in content["model"].items())


def test_an_own_training_is_exported_with_the_towers_that_official_code_needs(tmp_path: Path) -> None:
    model = trained()
    content = official_file(model)["model"]
    torch.save({"model": content}, tmp_path / "released.pth")
    assert take(tmp_path / "released.pth", tmp_path) == 0
    store = Store.create(tmp_path / "runs")
    (identity,) = store.known("train")
    record = store.read("train", identity)
    spec = {name: own for name, own in record["spec"].items() if name != "imported"} | {"recipe": {"epochs": 2.0}}
    own = {**record, "title": "train own seed 0", "spec": spec}
    own = {name: own[name] for name in ("title", "spec", "context", "inputs", "result", "cost", "provenance")}
    with store.writing("train", "d" * 32, own) as out:
        save_file(model.trained_state(), out / "weights.safetensors")
    assert main(["export", "own seed 0", str(tmp_path / "own.pth"), "--store", str(store.root)]) == 0
    found = torch.load(tmp_path / "own.pth", weights_only=True)["model"]
    lacking = {"module.prompt_learner.token_prefix", "module.prompt_learner.token_suffix"}
    assert found.keys() == content.keys() - lacking
    assert all(torch.equal(tensor, content[name]) for name, tensor in found.items())


@pytest.mark.parametrize(
    ("name", "own", "named"),
    [
        (
            "visual.proj",
            torch.zeros(128, 128),
            ["its frozen tower is not that of the pretrained weights", "visual.proj"],
        ),
        ("textual.ln_final.bias", torch.ones(128), ["its text tower is not that", "ln_final.bias"]),
        ("visual.blocks.1.attn.k_proj.weight", None, ["tensors are missing", "resblocks.1.attn.in_proj_weight"]),
        ("visual.time_embed", None, ["there is no embedding of time"]),
        ("visual.global_prompts", torch.zeros(2, 2), ["not a head of 'vita_clip'", "global_prompts is [2, 2]"]),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    name: str, own: Tensor | None, named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = official_file(trained())
    content["model"].pop(f"module.{name}")
    content["model"] |= {} if own is None else {f"module.{name}": own}
    torch.save(content, tmp_path / "released.pth")
    assert take(tmp_path / "released.pth", tmp_path) == 2
    says(capsys.readouterr().err, *named, "released.pth")


# ---------------------------------------------------------------------------------------------------------------------
# Suites


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_its_suites_plan_in_the_embedded_world(name: str) -> None:
    real, small = (load_suite(SUITES / f"{name}.yaml", world) for world in ((), ("world=glyphs",)))
    assert {t.row for t in real.trials} == {t.row for t in small.trials}
    assert {t.recipe.views.frames for t in small.trials} == {4}
    assert {getattr(t.config, "context_vectors", 0) for t in small.trials if t.config.texts_inside} == {4}
    graph = build_graph(small)
    assert not graph.missing and any(stage.kind == "train" for stage in graph.stages.values())


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_published_numbers_stand_beside_what_is_measured_alike(name: str) -> None:
    shown = pairs(load_suite(SUITES / f"{name}.yaml"))
    assert {pair.measure: pair.number.value for pair in shown} == {
        **{"UCF": "75.0", "HMDB": "48.6", "K600": "67.4", "K400": "81.8", "K400-1x1": "80.5"},
        **{"hm_zs": "61.5", "trade_off": "70.2"},
    }
    assert all(pair.comparable for pair in shown)

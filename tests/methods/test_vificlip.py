"""ViFi-CLIP's own behaviour: what is tuned, prompts, the bridge between the two stages, official files, suites.

Legend: B batch, T frames, C classes, D joint CLIP width.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from bench.checkpoints.heads import HEADS
from bench.commands.app import main
from bench.core.errors import UserError
from bench.measure import flops as counting
from bench.models.backbones import backbone
from bench.models.clip import load_clip
from bench.published.pairing import pairs
from bench.store.records import Store
from bench.suite.resolve import SUITES, load_suite
from methods.contract import build_model
from methods.vificlip.config import Config
from methods.vificlip.model import Model
from tests.errors import says
from tests.suites import plans_alike
from tests.videos import write_tiny_dataset

B, T, C = 2, 3, 3
GLYPHS = "glyph-vit"
FEW_SHOT = {"image": 10, "text": 10, "image_depth": 12, "text_depth": 12}
BASE_TO_NOVEL = {"image": 16, "text": 16, "image_depth": 9, "text_depth": 9}
SMALL = {"image": 3, "text": 2, "image_depth": 2, "text_depth": 2}
SUITE_NAMES = sorted(path.stem for path in SUITES.glob("vificlip-*.yaml"))


def config(**choices: Any) -> Config:
    return Config.model_validate(choices)


def build(seed: int = 0, **choices: Any) -> Model:
    model = build_model(Model, config(**choices), load_clip(GLYPHS, "random:0"), seed, C)
    assert isinstance(model, Model)
    return model


def shifted(model: Model) -> Model:
    """The model with other weights where it trains."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return model


def clips() -> Tensor:
    return torch.randn(B, T, 3, 64, 64, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


@pytest.mark.parametrize(
    ("name", "tunes", "trained"),
    [
        ("ViT-B-16", "both", 124_323_841),
        ("ViT-B-16", "image", 86_192_640),
        ("ViT-B-16", "text", 38_131_200),
        ("ViT-L-14", "both", 389_671_169),
        ("ViT-L-14", "image", 303_966_208),
        ("ViT-L-14", "text", 85_704_960),
    ],
)
def test_it_trains_as_many_parameters_as_the_official_code(name: str, tunes: str, trained: int) -> None:
    chosen, shape = config(tunes=tunes), backbone(name)
    assert sum(shape.parameters(part) for part in chosen.tuned) == trained
    assert chosen.head_parameters(shape) == (0, 0) and not chosen.has_head
    assert chosen.tower == ("frozen" if tunes == "text" else "tuned")


@pytest.mark.parametrize(
    ("name", "prompts", "parameters", "per_frame"),
    [
        ("ViT-B-16", FEW_SHOT, 153_600, 1.85e9),
        ("ViT-B-16", BASE_TO_NOVEL, 184_320, 2.96e9),
        ("ViT-L-14", FEW_SHOT, 215_040, None),
        ("ViT-L-14", BASE_TO_NOVEL, 258_048, None),
    ],
)
def test_prompts_take_what_is_published(
    name: str, prompts: dict[str, int], parameters: int, per_frame: float | None
) -> None:
    chosen, shape = config(prompts=prompts), backbone(name)
    assert chosen.head_parameters(shape) == (parameters, parameters) and not chosen.tuned
    small = build(prompts=SMALL)
    assert counting.text(small) == pytest.approx(small.config.text_flops(small.clip.spec), rel=0.01)
    if per_frame:
        assert chosen.inside_flops(shape, 4) / 4 == pytest.approx(per_frame, rel=3e-3)


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        ({"tunes": "text", "tower": "tuned"}, ["tower: tuned", "tunes: text", "allowed: tower: frozen"]),
        ({"tower": "frozen"}, ["tower: frozen", "tunes: both", "allowed: tower: tuned"]),
        ({"prompts": SMALL, "tower": "tuned"}, ["prompts", "allowed: tower: frozen"]),
        ({"prompts": SMALL, "tunes": "image"}, ["tunes: image has no effect with prompts"]),
        ({"prompts": {"image": 0}}, ["prompts.image"]),
    ],
)
def test_choices_that_contradict_each_other_are_refused(choices: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**choices)
    says(str(caught.value), *named)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"image_depth": 5}, "prompts.image_depth 5, but glyph-vit has 4 blocks there; allowed: 1 to 4"),
        ({"text_depth": 3}, "prompts.text_depth 3, but glyph-vit has 2 blocks there"),
        ({"text": 13}, "prompts.text 13 leaves no room for a class name in a text of 16 tokens"),
    ],
)
def test_prompts_that_towers_have_no_room_for_are_refused(more: dict[str, int], named: str) -> None:
    config(prompts=SMALL).fits(backbone(GLYPHS), T)
    with pytest.raises(ValueError, match=named):
        config(prompts={**SMALL, **more}).fits(backbone(GLYPHS), T)


# ---------------------------------------------------------------------------------------------------------------------
# Prompts


def test_the_output_depends_on_every_vector_and_its_place() -> None:
    """Blocks behind the last that has vectors of its own keep those that they get."""
    model, names = build(prompts=SMALL), [["star"], ["king"], ["die"]]
    assert model.head is not None

    def answers() -> list[Tensor]:
        with torch.no_grad():
            return [model.encode(clips()), model.embed_classes(names)]

    first = answers()
    for place, vectors in enumerate((model.head.image, model.head.text)):
        for own in vectors:
            with torch.no_grad():
                own.neg_()
            after = answers()
            assert not torch.allclose(after[place], first[place], atol=1e-6)
            assert torch.equal(after[1 - place], first[1 - place])
            first = after


def test_a_name_is_read_without_underscores_and_with_one_full_stop() -> None:
    model, read = build(prompts=SMALL), list[str]()
    tokenizer = model.clip.tokenizer

    def reading(texts: list[str]) -> Tensor:
        read.extend(texts)
        return tokenizer(texts)

    model.clip.tokenizer = reading
    model.embed_classes([["flag_rising"], ["a photo of a king."]])
    assert read == ["flag rising.", "a photo of a king."]


def test_a_name_without_room_behind_the_vectors_is_named() -> None:
    model = build(prompts={**SMALL, "text": 12})
    with pytest.raises(UserError, match="class 'a king falling' is too long beside learnt words"):
        model.embed_classes([["king"], ["a king falling"]])
    fitting, cut = model.embed_classes([["king king"], ["king " * 16]])
    assert torch.equal(fitting, cut)  # as by the tokenizer


# ---------------------------------------------------------------------------------------------------------------------
# From tuned towers to prompts


@pytest.mark.parametrize("tunes", ["both", "image", "text"])
def test_prompts_begin_in_the_towers_of_a_tuned_clip_and_keep_them(tunes: str) -> None:
    tuned, second = shifted(build(tunes=tunes)), build(prompts=SMALL)
    assert second.config.continues(tuned.config) and not tuned.config.continues(second.config)
    assert not second.config.continues(config(prompts={**SMALL, "text": 3}))
    vectors = {name: own.clone() for name, own in second.named_parameters() if name.startswith("head.")}
    second.init_from(tuned.trained_state())
    own = second.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in tuned.clip.state_dict(prefix="clip.").items())
    assert all(torch.equal(own[name], tensor) for name, tensor in vectors.items())
    assert [name for name, parameter in second.named_parameters() if parameter.requires_grad] == list(vectors)
    again = build(seed=5, prompts=SMALL)
    again.load_trained(second.trained_state())
    assert torch.equal(again.encode(clips()), second.encode(clips()))
    again.interpolate(load_clip(GLYPHS, "random:0"), 0.0)
    assert torch.equal(
        again.clip.state_dict()["visual.proj"], load_clip(GLYPHS, "random:0").state_dict()["visual.proj"]
    )


def test_towers_that_are_not_whole_are_refused() -> None:
    state = build().trained_state()
    for name in ("clip.visual.proj", "clip.ln_final.bias"):
        with pytest.raises(KeyError, match=name):
            build(prompts=SMALL).init_from({key: own for key, own in state.items() if key != name})


# ---------------------------------------------------------------------------------------------------------------------
# Official checkpoints


def official_file(**choices: Any) -> dict[str, Any]:
    """As the official trainer saves it, with tuned towers in both stages; the table of tokens is not in it."""
    clip = shifted(build()).clip.state_dict()
    state = {"logit_scale": clip["logit_scale"]}
    for name, tensor in clip.items():
        if name.startswith("visual."):
            state[name.replace("visual.", "image_encoder.", 1)] = tensor
        elif name not in ("logit_scale", "token_embedding.weight"):
            state[f"text_encoder.{name}"] = tensor
    if choices:
        head = build(**choices).head
        assert head is not None
        for tower, first, vectors in (
            ("image_encoder", "image_encoder.VPT", head.image),
            ("text_encoder", "prompt_learner.ctx", head.text),
        ):
            names = [first, *(f"{tower}.transformer.resblocks.{i}.VPT_shallow" for i in range(1, len(vectors)))]
            state |= {name: own.detach() for name, own in zip(names, vectors, strict=True)}
        state |= {
            "prompt_learner.token_prefix": torch.ones(C, 1, 128),
            "prompt_learner.token_suffix": torch.ones(C, 13, 128),
        }
    else:
        state["prompt_learner.complete_text_embeddings"] = torch.ones(C, 16, 128)
    beside = {"optimizer": {"state": {}}, "lr_scheduler": {}, "max_accuracy": 76.8, "config": Namespace(seed=1024)}
    return {"model": {f"module.{name}": own for name, own in state.items()}, "epoch": 9, **beside}


SUITE = """\
title: Released
datasets:
  tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}
recipe: {source: tiny, templates: name, pretrained: "random:0", views: {frames: 2}}
protocol: {templates: name, views: {frames: 2}}
protocols:
  closed-set: {role: closed-set, dataset: tiny}
rows:
"""


def take(file: Path, folder: Path) -> int:
    clip = ["--backbone", GLYPHS, "--pretrained", "random:0"]
    return main(["import", str(file), "--method", "vificlip", *clip, "--store", str(folder / "runs")])


@pytest.mark.parametrize("choices", [{}, {"prompts": SMALL}], ids=["tuned", "prompts"])
def test_an_official_file_is_measured_and_comes_out_again(
    choices: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], without_figures: None
) -> None:
    write_tiny_dataset(tmp_path)
    content = official_file(**choices)
    torch.save(content, tmp_path / "released.pth")
    assert take(tmp_path / "released.pth", tmp_path) == 0
    row = yaml.safe_load(capsys.readouterr().out.partition("use it in a row of a suite:\n")[2])
    assert config(**row["config"]) == config(**choices)
    (tmp_path / "suite.yaml").write_text(
        yaml.safe_dump(yaml.safe_load(SUITE) | {"rows": {"own": {"method": "vificlip", **row}}})
    )
    store = ["--store", str(tmp_path / "runs")]
    assert main([str(tmp_path / "suite.yaml"), *store, "--jobs", "0", "--workers", "0", "--device", "cpu"]) == 0
    records = Store.create(tmp_path / "runs")
    assert len(records.known("train")) == 1 and len(records.known("evaluate")) == 1
    assert main(["export", row["recipe"]["imported"], str(tmp_path / "back.pth"), *store]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == {"model", "epoch"} and back["epoch"] == 9
    assert back["model"].keys() == content["model"].keys()
    assert all(torch.equal(back["model"][name], own) for name, own in content["model"].items())


def test_what_a_training_left_frozen_is_exported_as_clip_has_it(tmp_path: Path) -> None:
    torch.save(official_file(), tmp_path / "released.pth")
    assert take(tmp_path / "released.pth", tmp_path) == 0
    store, model = Store.create(tmp_path / "runs"), shifted(build(tunes="image"))
    (identity,) = store.known("train")
    record = store.read("train", identity)
    spec = {name: own for name, own in record["spec"].items() if name != "imported"}
    spec |= {"recipe": {"epochs": 2.0}, "config": config(tunes="image").model_dump(mode="json")}
    own = {**record, "title": "train image seed 0", "spec": spec}
    own = {name: own[name] for name in ("title", "spec", "context", "inputs", "result", "cost", "provenance")}
    with store.writing("train", "d" * 32, own) as out:
        save_file(model.trained_state(), out / "weights.safetensors")
    assert main(["export", "image seed 0", str(tmp_path / "own.pth"), "--store", str(store.root)]) == 0
    found = torch.load(tmp_path / "own.pth", weights_only=True)
    whole, clip = found["model"], model.clip.state_dict()
    assert found["epoch"] == 2 and len(whole) == len(clip) - 1
    assert torch.equal(whole["module.image_encoder.proj"], clip["visual.proj"])
    assert torch.equal(whole["module.text_encoder.text_projection"], clip["text_projection"])


@pytest.mark.parametrize(
    ("name", "own", "named"),
    [
        ("image_encoder.proj", None, ["1 tensors are missing: visual.proj"]),
        ("text_encoder.ln_final.bias", None, ["1 tensors are missing: ln_final.bias"]),
        ("novel.weight", torch.zeros(1), ["1 unexpected tensors: novel.weight"]),
        ("image_encoder.VPT", None, ["no vectors of the image tower's first block"]),
        ("prompt_learner.ctx", torch.zeros(2, 7), ["text.0 is [2, 7], expected [2, 128]"]),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    name: str, own: Tensor | None, named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = official_file(prompts=SMALL)
    content["model"].pop(f"module.{name}", None)
    content["model"] |= {} if own is None else {f"module.{name}": own}
    torch.save(content, tmp_path / "released.pth")
    assert take(tmp_path / "released.pth", tmp_path) == 2
    says(capsys.readouterr().err, *named, "released.pth")


def test_vectors_are_counted() -> None:
    vectors = {"image.0": torch.zeros(4, 8), "image.1": torch.zeros(4, 8), "text.0": torch.zeros(5, 8)}
    prompts = {"image": 4, "text": 5, "image_depth": 2, "text_depth": 1}
    assert HEADS["vificlip"].choices(vectors) == {"tower": "frozen", "prompts": prompts}
    assert HEADS["vificlip"].choices({}) == {}


# ---------------------------------------------------------------------------------------------------------------------
# Suites


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_its_suites_plan_in_the_embedded_world(name: str) -> None:
    plans_alike(name)


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_published_numbers_stand_beside_what_is_measured_alike(name: str) -> None:
    shown = pairs(load_suite(SUITES / f"{name}.yaml"))
    assert shown and all(pair.comparable for pair in shown)


def test_numbers_that_a_world_has_no_room_for_are_lowered() -> None:
    suite = load_suite(SUITES / "vificlip-shots.yaml", ("world=glyphs", "seeds=[0]"))
    (own,) = {t.config for t in suite.trials if t.row == "ucf_prompts"}
    assert own.model_dump()["prompts"] == {"image": 8, "text": 4, "image_depth": 4, "text_depth": 2}
    copies = {t.row: t.recipe.views.copies for t in load_suite(SUITES / "vificlip-use.yaml", ("world=glyphs",)).trials}
    assert copies["text"] == 0 and copies["both"] == 2  # stored features cannot be blended

"""BIKE's video branch: features of tokens, frames that classes weigh, sizes, official files, suites.

There is no output of the official code to compare with; what the paper says is written out here.
Legend: B batch, T frames, D joint CLIP width, C classes, J tokens of all texts of a class.
"""

from __future__ import annotations

from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.graph.build import build_graph
from bench.models.backbones import backbone
from bench.models.clip import load_clip, part_of
from bench.models.state_dicts import HEAD, TOWER, is_tower
from bench.published.pairing import pairs
from bench.store.records import Store
from bench.suite.resolve import SUITES, load_suite
from methods.bike import model as bike
from methods.bike.config import Config
from methods.bike.model import Model, spotted
from methods.contract import build_model
from methods.settings import Inference
from methods.text4vis.config import Config as Text4VisConfig
from methods.text4vis.model import Model as Text4Vis
from tests.checkpoints.test_imported import give, same, saved, take, the_record, trained

B, T, C = 3, 4, 4
NAMES = ("star", "die", "flag", "king")
PROMPTS = [[f"a video of a {name}"] for name in NAMES]
LABELS_B = torch.tensor([2, 0, 2])
SUITE_NAMES = sorted(path.stem for path in SUITES.glob("bike-*.yaml"))


def build(**choices: Any) -> Model:
    model = build_model(Model, Config.model_validate(choices), load_clip("glyph-vit", "random:0"), 0, C, training=True)
    assert isinstance(model, Model)
    return model


def drawn(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------------------------
# Texts


def test_a_class_is_its_feature_and_those_of_all_its_tokens() -> None:
    model, clip = build(), load_clip("glyph-vit", "random:0")
    prompts = [[f"a video of a {name}", name] for name in NAMES]
    classes_CJD = model.embed_classes(prompts)
    assert classes_CJD.shape == (C, *model.config.class_shape(clip.spec, 2)) == (C, 1 + 2 * clip.context_length, 128)
    torch.testing.assert_close(classes_CJD[:, 0], clip.embed_classes(prompts))
    torch.testing.assert_close(classes_CJD.norm(dim=-1), torch.ones(classes_CJD.shape[:2]))
    ends_C2 = clip.tokenizer([text for own in prompts for text in own]).argmax(dim=-1).unflatten(0, (C, 2))
    for c, own in enumerate(prompts):
        for place, text in enumerate(own):
            (feature_D,) = F.normalize(clip.encode_texts([text]), dim=-1)
            row = 1 + place * clip.context_length + int(ends_C2[c, place])
            torch.testing.assert_close(classes_CJD[c, row], feature_D)
    assert len({own.numpy().tobytes() for own in classes_CJD[0].detach()}) > clip.context_length  # tokens differ


def test_classes_with_unequally_many_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="a class has 2 prompts, the first 1"):
        build().embed_classes([["x"], ["x", "y"]])


# ---------------------------------------------------------------------------------------------------------------------
# Spotting


def test_scores_are_those_of_frames_that_each_class_weighs() -> None:
    frames_BTD, classes_CJD = drawn(B, T, 8), F.normalize(drawn(C, 6, 8, seed=1), dim=-1)
    expected_BC = torch.zeros(B, C)
    for b in range(B):
        units_TD = frames_BTD[b] / frames_BTD[b].norm(dim=-1, keepdim=True)
        for c in range(C):
            weights_T = torch.zeros(T)
            for token_D in classes_CJD[c, 1:]:
                powers = [exp(100 * float(token_D @ unit_D) - 100) for unit_D in units_TD]
                weights_T += torch.tensor([power / sum(powers) / 5 for power in powers])
            assert float(weights_T.sum()) == pytest.approx(1)
            expected_BC[b, c] = classes_CJD[c, 0] @ (weights_T @ units_TD)
    torch.testing.assert_close(spotted(frames_BTD, classes_CJD), expected_BC, atol=1e-5, rtol=1e-5)


def test_a_frame_that_the_tokens_point_at_is_the_video() -> None:
    frames_1TD = torch.eye(8)[None, :T]
    tokens_1JD = torch.eye(8)[2].expand(1, 5, 8)
    for frame, score in ((2, 1.0), (1, 0.0)):
        classes_1JD = torch.cat([torch.eye(8)[frame].expand(1, 1, 8), tokens_1JD], dim=1)
        assert float(spotted(frames_1TD, classes_1JD)) == pytest.approx(score, abs=1e-6)


def test_equal_frames_weigh_the_same_and_their_lengths_do_not_count() -> None:
    frames_BTD, classes_CJD = drawn(B, 1, 8).expand(B, T, 8), F.normalize(drawn(C, 6, 8, seed=1), dim=-1)
    cosines_BC = F.normalize(frames_BTD[:, 0], dim=-1) @ classes_CJD[:, 0].T
    lengths_1T1 = torch.tensor([1.0, 2, 3, 4])[None, :, None]
    torch.testing.assert_close(spotted(frames_BTD * lengths_1T1, classes_CJD), cosines_BC)


def test_classes_are_scored_in_groups_as_together(monkeypatch: pytest.MonkeyPatch) -> None:
    frames_BTD, classes_CJD = drawn(B, T, 8), F.normalize(drawn(C, 6, 8, seed=1), dim=-1)
    together = spotted(frames_BTD, classes_CJD)
    monkeypatch.setattr(bike, "AT_ONCE", 3 * 6 * B * T)
    torch.testing.assert_close(spotted(frames_BTD, classes_CJD), together)


def test_a_deployed_model_spots_behind_its_head() -> None:
    frames_BTD = drawn(B, T, 128)
    for head in ("transf", "none"):
        model = build(head=head)
        classes_CJD = model.embed_classes(PROMPTS)
        predictor = model.deploy(Inference(), classes_CJD)
        behind_BTD = frames_BTD if model.head is None else frames_BTD + model.head(frames_BTD)
        prediction = predictor(frames_BTD, classes_CJD)
        torch.testing.assert_close(prediction.cosines_BC, spotted(behind_BTD, classes_CJD))
        assert (prediction.features.keys() == {"z"}) == (head == "none")


# ---------------------------------------------------------------------------------------------------------------------
# Training and sizes


def test_videos_of_a_step_are_compared_with_the_texts_of_its_labels() -> None:
    model, frames_BTD = build(head="none", tower="tuned"), drawn(B, T, 128)
    own_BJD = model.training_texts(PROMPTS, LABELS_B, torch.Generator())
    assert not own_BJD.requires_grad and torch.equal(own_BJD[0], own_BJD[2])
    logits_BB = model.clip.logit_scale.exp() * spotted(frames_BTD, model.embed_classes(PROMPTS))[:, LABELS_B]
    targets_BB = (10 * torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])).softmax(dim=-1)
    both = [
        (targets_BB * (targets_BB.log() - own_BB.log_softmax(dim=-1))).sum(dim=-1).mean()
        for own_BB in (logits_BB, logits_BB.T)
    ]
    terms = model.loss(frames_BTD, LABELS_B, own_BJD, torch.Generator())
    torch.testing.assert_close(terms["total"], (both[0] + both[1]) / 2)


def test_with_one_frame_it_is_text4vis_with_the_loss_over_the_batch() -> None:
    """Nothing can be weighed then."""
    frames_B1D, clip = drawn(B, 1, 128), load_clip("glyph-vit", "random:0")
    model, other = build(), build_model(Text4Vis, Text4VisConfig(loss="nce"), clip, 0)
    other.load_trained(model.trained_state())
    own_BJD = model.training_texts(PROMPTS, LABELS_B, torch.Generator())
    found = model.loss(frames_B1D, LABELS_B, own_BJD, torch.Generator())["total"]
    expected = other.loss(frames_B1D, LABELS_B, other.embed_classes(PROMPTS), torch.Generator())["total"]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("name", "stored"), [("ViT-B-16", 18_953_728), ("ViT-L-14", 42_586_368)])
def test_parameters_are_text4vis_and_flops_of_a_class_those_of_its_tokens(name: str, stored: int) -> None:
    shape = backbone(name)
    assert Config().head_parameters(shape) == Text4VisConfig().head_parameters(shape) == (stored, stored)
    assert Config(head="none").head_parameters(shape) == (0, 0)
    assert Config().class_flops(shape, 8, 1) == 8 * 2 * 78 * shape.embed_dim
    assert Config().text_flops(shape) - shape.text_flops() == 2 * 76 * shape.text_width * shape.embed_dim


@pytest.mark.parametrize("tower", ["tuned", "frozen"])
def test_the_text_tower_is_frozen(tower: str) -> None:
    model = build(tower=tower)
    trained_parts = {part_of(name) for name, p in model.clip.named_parameters() if p.requires_grad}
    assert trained_parts == ({"visual", "scale"} if tower == "tuned" else set())
    assert not Config(head="none").trains and Config(head="none", tower="tuned").trains


# ---------------------------------------------------------------------------------------------------------------------
# Official files and suites


@pytest.mark.parametrize("head", ["transf", "none"])
def test_an_official_file_comes_back(head: str, tmp_path: Path) -> None:
    clip = {name: own for name, own in load_clip("glyph-vit", "random:7").state_dict().items() if is_tower(name)}
    own = build(head=head, **({"layers": 2} if head == "transf" else {})).head
    states = {TOWER: clip, HEAD: {} if own is None else own.state_dict()}
    store = Store(tmp_path / "runs")
    assert take(saved(tmp_path, {"epoch": 29, **states}), store, "--name", "released", method="bike") == 0
    model = trained(store, "random:0")
    assert isinstance(model, Model)
    assert (model.head is None) == (head == "none")
    assert all(torch.equal(tensor, model.clip.state_dict()[name]) for name, tensor in clip.items())
    assert the_record(store)[0]["spec"]["config"]["tower"] == "tuned"
    assert give("released", tmp_path / "back.pt", store) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert same(back[TOWER], states[TOWER]) and same(back.get(HEAD, {}), states[HEAD])


def test_a_branch_of_attributes_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = {name: own for name, own in load_clip("glyph-vit", "random:7").state_dict().items() if is_tower(name)}
    states = {TOWER: clip, HEAD: {"query_fc.0.weight": torch.zeros(128, 128)}}
    assert take(saved(tmp_path, states), Store(tmp_path / "runs"), method="bike") == 2
    assert "branch of attributes" in capsys.readouterr().err


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_its_suites_plan_with_real_data_and_in_the_embedded_world(name: str) -> None:
    real, small = (
        load_suite(SUITES / f"{name}.yaml", world) for world in (("seeds=[0]",), ("world=glyphs", "seeds=[0]"))
    )
    assert [(t.row, t.point) for t in real.trials] == [(t.row, t.point) for t in small.trials]
    graph = build_graph(small)
    assert not graph.missing and any(stage.kind == "train" for stage in graph.stages.values())
    for trial in real.trials:
        if trial.row == "bike":
            recipe = trial.recipe
            epochs = 20 if "L-14" in recipe.backbone else 30
            assert (recipe.batch, recipe.shards, recipe.epochs, recipe.drop_last) == (256, 1, epochs, True)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("bike-kinetics", {"84.0", "82.880", "87.4", "86.384", "88.1", "87.182"}),
        ("bike-zero-shot", {"86.63", "80.83", "61.37", "52.75", "86.18", "80.04", "68.53"}),
    ],
)
def test_published_numbers_of_the_video_branch_stand_beside_the_rows(name: str, values: set[str]) -> None:
    found = pairs(load_suite(SUITES / f"{name}.yaml", ("seeds=[0]",)))
    assert values <= {pair.number.value for pair in found if pair.row == "bike" and pair.comparable}
    assert all("attributes" not in pair.number.variant for pair in found if pair.row)
    assert {pair.label for pair in found if not pair.row} <= {"BIKE with attributes"}

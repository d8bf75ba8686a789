"""OST's own behaviour: plans of transport, scores, what is tuned, the loss, official files, suites.

Legend: B batch, T frames, D joint CLIP width, C classes, N sentences of a kind, P prompts of a class.
"""

from __future__ import annotations

from argparse import Namespace
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from bench.graph.build import build_graph
from bench.models.backbones import backbone
from bench.models.clip import load_clip, part_of
from bench.published.pairing import pairs
from bench.store.records import Store
from bench.suite.resolve import SUITES, load_suite
from methods.contract import Prediction, build_model
from methods.ost.config import Config
from methods.ost.model import FIXED, MOST, MOVED, Model, kernel, scores, transport
from methods.settings import Inference
from tests.checkpoints.test_imported import give, same, saved, take, trained
from tests.errors import refused
from tests.suites import write_suite

B, T, C, N = 3, 5, 4, 2
KINDS = ("looks like", "moves like")
PROMPTS = [
    [f"it {kind} a {name} {n}" for kind in KINDS for n in ("one", "two")] for name in ("star", "die", "flag", "x")
]
LABELS_B = torch.tensor([2, 0, 2])
SUITE_NAMES = sorted(path.stem for path in SUITES.glob("ost-*.yaml"))


def build(**choices: Any) -> Model:
    model = build_model(Model, Config.model_validate(choices), load_clip("glyph-vit", "random:0"), 0, C, training=True)
    assert isinstance(model, Model)
    return model


def drawn(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def frames_BTD() -> Tensor:
    return drawn(B, T, 128)


@pytest.fixture
def classes_CPD() -> Tensor:
    return drawn(C, 2 * N, 128, seed=1)


def answer(frames_BTD: Tensor, classes_CPD: Tensor, **choices: Any) -> Tensor:
    """Scaled scores of the deployed model, whose scale is 1 / 0.07."""
    predictor = build(**choices).deploy(Inference(), classes_CPD)
    prediction: Prediction = predictor(frames_BTD, classes_CPD)
    return predictor.logit_scale * prediction.cosines_BC


# ---------------------------------------------------------------------------------------------------------------------
# Plans


def test_a_plan_is_that_of_single_entries() -> None:
    """Alternating scaling of rows and columns, written out for one matrix."""
    similarity_TN = drawn(T, N) / 10
    kernel_TN = [[exp((float(own) - 1) / 0.1) for own in row] for row in similarity_TN]
    rows, columns = [1.0] * T, [1.0] * N
    for _ in range(7):
        rows = [1 / T / sum(kernel_TN[t][n] * columns[n] for n in range(N)) for t in range(T)]
        columns = [1 / N / sum(kernel_TN[t][n] * rows[t] for t in range(T)) for n in range(N)]
    expected = torch.tensor([[rows[t] * kernel_TN[t][n] * columns[n] for n in range(N)] for t in range(T)])
    plan_TN, done = transport(kernel(similarity_TN, 0.1), 7, 0.0)
    assert done == 7
    torch.testing.assert_close(plan_TN, expected)


def test_columns_of_plans_sum_to_their_marginals_and_rows_nearly() -> None:
    kernel_BTN = kernel(drawn(B, T, N).clamp(-1, 1), 0.1)
    for most, moved, near in ((MOST, MOVED, 0.05), (2000, 0.0, 1e-5)):
        plan_BTN, done = transport(kernel_BTN, most, moved)
        torch.testing.assert_close(plan_BTN.sum(dim=-2), torch.full((B, N), 1 / N))
        torch.testing.assert_close(plan_BTN.sum(dim=-1), torch.full((B, T), 1 / T), atol=near, rtol=0)
        assert 1 < done <= most


def test_iterations_end_when_the_mean_of_all_plans_moves_little() -> None:
    """Plans of similarities all alike end after two iterations alone, and go on beside others."""
    flat_TN, steep_TN = torch.zeros(T, N), drawn(T, N).clamp(-1, 1)
    alone = [transport(kernel(own, 0.1), MOST, MOVED)[1] for own in (flat_TN, steep_TN)]
    together = transport(kernel(torch.stack([flat_TN, steep_TN]), 0.1), MOST, MOVED)[1]
    assert alone[0] == 2 < together <= alone[1]


def test_plans_have_no_gradient() -> None:
    similarity_TN = (drawn(T, N) / 10).requires_grad_()
    plan_TN, _ = transport(kernel(similarity_TN, 0.1), FIXED, 0.0)
    (plan_TN * similarity_TN).sum().backward()
    assert similarity_TN.grad is not None
    torch.testing.assert_close(similarity_TN.grad, plan_TN)


# ---------------------------------------------------------------------------------------------------------------------
# Scores


def test_logits_are_means_over_kinds_of_the_sum_of_two_terms(frames_BTD: Tensor, classes_CPD: Tensor) -> None:
    scale, expected_BC = build().scale, torch.zeros(B, C)
    for b in range(B):
        for c in range(C):
            for sentences_ND in classes_CPD[c].chunk(2):
                similarity_TN = F.normalize(frames_BTD[b], dim=-1) @ F.normalize(sentences_ND, dim=-1).T
                plan_TN, _ = transport(kernel(similarity_TN, 0.1), FIXED, 0.0)
                expected_BC[b, c] += scale * (similarity_TN.mean() + (plan_TN * similarity_TN).sum()) / 2
    torch.testing.assert_close(answer(frames_BTD, classes_CPD, stop="fixed"), expected_BC, atol=1e-5, rtol=1e-5)


def test_each_choice_changes_its_part_of_the_score(frames_BTD: Tensor, classes_CPD: Tensor) -> None:
    both = answer(frames_BTD, classes_CPD)
    single = answer(frames_BTD, classes_CPD[:, :1])
    torch.testing.assert_close(single, answer(frames_BTD, classes_CPD[:, [0, 0]]), atol=1e-5, rtol=1e-5)
    parts = [answer(frames_BTD, classes_CPD, terms=term) for term in ("pool", "transport")]
    torch.testing.assert_close(both, parts[0] + parts[1])
    kinds = [answer(frames_BTD, classes_CPD, kinds=kind) for kind in ("spatial", "temporal")]
    assert (both - (kinds[0] + kinds[1]) / 2).abs().max() < 0.02  # each kind has iterations of its own
    assert (kinds[0] - kinds[1]).abs().max() > 0.1
    first = answer(frames_BTD, classes_CPD[:, [0, 1, 0, 1]], kinds="temporal")
    torch.testing.assert_close(first, kinds[0])
    together = answer(frames_BTD, classes_CPD, kinds="one")
    torch.testing.assert_close(together, answer(frames_BTD, classes_CPD.repeat(1, 2, 1)), atol=1e-4, rtol=1e-4)
    assert (together - both).abs().max() > 0.1
    sharper = answer(frames_BTD, classes_CPD, epsilon=0.05)
    assert (sharper - both).abs().max() > 0.05
    assert 0 < (answer(frames_BTD, classes_CPD, stop="fixed") - both).abs().max() < 0.05


def test_transport_is_pooling_where_there_is_nothing_to_choose(frames_BTD: Tensor, classes_CPD: Tensor) -> None:
    """One frame, one sentence of a kind, or similarities that are all alike."""
    alike = torch.ones_like(frames_BTD), torch.ones_like(classes_CPD)
    for frames, classes in ((frames_BTD[:, :1], classes_CPD), (frames_BTD, classes_CPD[:, :2]), alike):
        pool, along = (answer(frames, classes, terms=term) for term in ("pool", "transport"))
        torch.testing.assert_close(along, pool, atol=1e-5, rtol=1e-5)


def test_the_order_of_frames_and_of_sentences_of_a_kind_does_not_count(frames_BTD: Tensor, classes_CPD: Tensor) -> None:
    both = answer(frames_BTD, classes_CPD)
    torch.testing.assert_close(answer(frames_BTD[:, [3, 1, 0, 4, 2]], classes_CPD[:, [1, 0, 3, 2]]), both)
    torch.testing.assert_close(answer(frames_BTD, classes_CPD[:, [2, 3, 0, 1]]), both)


@pytest.mark.parametrize("stop", ["batch", "fixed"])
def test_only_the_official_rule_lets_videos_and_classes_see_each_other(stop: str) -> None:
    frames_BTD, classes_CPD = drawn(B, T, 8), drawn(C, 2 * N, 8, seed=1)
    whole_BC = answer(frames_BTD, classes_CPD, stop=stop, epsilon=0.3)
    differences = [
        answer(frames_BTD[b : b + 1], classes_CPD[c : c + 1], stop=stop, epsilon=0.3) - whole_BC[b, c]
        for b in range(B)
        for c in range(C)
    ]
    assert (torch.cat(differences).abs().max() > 1e-4) == (stop == "batch")
    torch.testing.assert_close(torch.cat(differences), torch.zeros(B * C, 1), atol=0.05, rtol=0)
    assert Config.model_validate({"stop": stop}).depends_on_batch == (stop == "batch")
    assert build(stop=stop).deploy(Inference(), classes_CPD).looks_at_classes == (stop == "batch")
    assert not Config(terms="pool").depends_on_batch


@pytest.mark.parametrize("kinds", ["both", "temporal"])
def test_templates_without_its_sentences_are_refused_in_the_plan(kinds: str, tmp_path: Path) -> None:
    text = (
        "title: plain\nprotocol: {templates: mote28}\n"
        "protocols: {a: {role: closed-set, dataset: glyphs-narrow, split: validation}}\n"
        f"rows: {{ost: {{method: ost, config: {{kinds: {kinds}}}, recipe: {{templates: mote28}}}}}}\n"
    )
    file = tmp_path / "suite.yaml"
    file.write_text(text)
    with refused("templates 'mote28' ask for no {spatial} and no {temporal}"):
        build_graph(load_suite(file))
    file.write_text(text.replace(kinds, "one"))
    assert build_graph(load_suite(file)).stages


def test_classes_without_two_kinds_of_sentences_are_refused(frames_BTD: Tensor, classes_CPD: Tensor) -> None:
    with pytest.raises(ValueError, match=r"a class has 3 prompts, the first 3; allowed: equally many .* half of them"):
        answer(frames_BTD, classes_CPD[:, :3])
    assert answer(frames_BTD, classes_CPD[:, :3], kinds="one").shape == (B, C)
    with pytest.raises(ValueError, match="a class has 2 prompts, the first 4"):
        build().embed_classes([PROMPTS[0], PROMPTS[1][:2]])


# ---------------------------------------------------------------------------------------------------------------------
# Training


def test_logits_of_a_step_have_a_column_for_each_videos_label(frames_BTD: Tensor) -> None:
    """Divergences from softmax(10 * same label), summed over both directions."""
    model = build(stop="fixed")
    own_BPD = model.training_texts(PROMPTS, LABELS_B, torch.Generator())
    assert own_BPD.shape == (B, 2 * N, 128) and torch.equal(own_BPD[0], own_BPD[2])
    found = scores(frames_BTD, model.embed_classes(PROMPTS), model.config)
    logits_BB = (model.clip.logit_scale.exp() * (found["pool"] + found["transport"]))[:, LABELS_B]
    targets_BB = (10 * torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])).softmax(dim=-1)
    expected = [
        (targets_BB * (targets_BB.log() - own_BB.log_softmax(dim=-1))).sum(dim=-1).mean()
        for own_BB in (logits_BB, logits_BB.T)
    ]
    terms = model.loss(frames_BTD, LABELS_B, own_BPD, torch.Generator())
    torch.testing.assert_close(terms["total"], expected[0] + expected[1])
    torch.testing.assert_close(torch.stack([terms["videos"], terms["texts"]]), torch.stack(expected))


def test_texts_of_a_frozen_tower_are_those_of_all_classes(frames_BTD: Tensor) -> None:
    tuned, frozen = build(), build(tunes_text=False)
    assert not frozen.config.texts_inside and not frozen.config.texts_of_labels
    classes_CPD = frozen.embed_classes(PROMPTS)
    totals = [
        model.loss(frames_BTD, LABELS_B, own, torch.Generator())["total"]
        for model, own in ((tuned, classes_CPD[LABELS_B]), (frozen, classes_CPD))
    ]
    assert torch.equal(totals[0], totals[1])


@pytest.mark.parametrize(
    ("choices", "parts", "sizes"),
    [
        ({}, {"visual", "text", "tokens", "scale"}, (149_620_737, 427_616_513)),
        ({"tunes_text": False}, {"visual"}, (86_192_640, 303_966_208)),
        ({"tower": "frozen"}, {"text", "tokens"}, (63_428_096, 123_650_304)),
        ({"tower": "frozen", "tunes_text": False}, set(), (0, 0)),
    ],
)
def test_what_is_tuned(choices: dict[str, Any], parts: set[str], sizes: tuple[int, int]) -> None:
    model = build(**choices)
    assert model.config.tuned == parts and model.config.trains == bool(parts)
    assert {part_of(name) for name, p in model.clip.named_parameters() if p.requires_grad} == parts
    counted = tuple(sum(map(backbone(name).parameters, model.config.tuned)) for name in ("ViT-B-16", "ViT-L-14"))
    assert counted == sizes
    assert model.config.head_parameters(backbone("ViT-B-16"), Inference()) == (0, 0)


def test_flops_of_a_class_are_those_of_the_specification() -> None:
    flops = {kinds: Config.model_validate({"kinds": kinds}).class_flops(backbone("ViT-B-16"), 32, 8) for kinds in
             ("both", "spatial")}  # fmt: skip
    assert 400 * flops["both"] == 104_857_600 and 2 * flops["spatial"] == flops["both"]


def test_without_a_share_of_the_tuned_weights_it_is_untuned_clip() -> None:
    clips_BT3HW, moved, plain = drawn(B, T, 3, 64, 64), build(), build()
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.02 * drawn(*parameter.shape))
        found = []
        for model, alpha in ((moved, 1.0), (moved, 0.0), (plain, 1.0)):
            model.interpolate(load_clip("glyph-vit", "random:0"), alpha)
            classes_CPD = model.embed_classes(PROMPTS)
            predictor = model.deploy(Inference(), classes_CPD)
            found.append(predictor.logit_scale * predictor(model.encode(clips_BT3HW), classes_CPD).cosines_BC)
    assert torch.equal(found[1], found[2]) and (found[0] - found[2]).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "value"), [("epsilon", 0.05), ("stop", "fixed")])
def test_choices_without_effect_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"{name} has no effect with terms: pool"):
        Config.model_validate({"terms": "pool", name: value})


def test_what_a_preset_says_without_effect_on_a_row_is_left_out(tmp_path: Path) -> None:
    """`clean` has fixed iterations of the transport."""
    path = write_suite(tmp_path, ("title:", "fidelity: clean\ntitle:"))
    own = "  own: {method: ost, config: {kinds: one, terms: pool}}\n"
    path.write_text(path.read_text().partition("rows:")[0] + f"rows:\n{own}")
    assert {trial.config for trial in load_suite(path).trials} == {Config(kinds="one", terms="pool")}


# ---------------------------------------------------------------------------------------------------------------------
# Official files and suites


def test_an_official_file_is_evaluated_with_its_weights_and_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, state = Store(tmp_path / "runs"), {}
    for name, tensor in load_clip("glyph-vit", "random:7").state_dict().items():
        tower = "" if name == "logit_scale" else "image_encoder." if part_of(name) == "visual" else "text_encoder."
        state[f"module.{tower}{name.removeprefix('visual.')}"] = tensor
    beside = {"optimizer": {"state": {}}, "max_accuracy": 79.7, "config": Namespace(seed=1024)}
    assert take(saved(tmp_path, {"model": state, "epoch": 9, **beside}), store, "--name", "released", method="ost") == 0
    model, clip = trained(store, "random:0"), load_clip("glyph-vit", "random:7")
    assert all(torch.equal(own, clip.state_dict()[name]) for name, own in model.clip.state_dict().items())
    assert "inference: {clip_alpha: 0.8}" in capsys.readouterr().out
    assert give("released", tmp_path / "back.pt", store) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert same(back["model"], state, "") and back["epoch"] == 9 and back.keys() == {"model", "epoch"}


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_its_suites_plan_with_real_data_and_in_the_embedded_world(name: str) -> None:
    real, small = (
        load_suite(SUITES / f"{name}.yaml", world) for world in (("seeds=[0]",), ("world=glyphs", "seeds=[0]"))
    )
    assert [(t.row, t.point) for t in real.trials] == [(t.row, t.point) for t in small.trials]
    graph = build_graph(small)
    assert not graph.missing and any(stage.kind == "train" for stage in graph.stages.values())
    assert {trial.recipe.templates for trial in real.trials} == {"ost"}
    for trial in small.trials:
        for told in (trial.recipe, dict(trial.protocols).popitem()[1]):
            assert "{spatial}" in str(small.templates[told.templates]) and told.descriptions == "glyphs"


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_published_numbers_stand_beside_what_is_measured_alike(name: str) -> None:
    found = pairs(load_suite(SUITES / f"{name}.yaml"))
    assert found and all(pair.measure for pair in found)
    assert {pair.number.value for pair in found if pair.row == "ost" and pair.comparable} >= (
        {"79.7", "55.9", "75.1"} if name == "ost-score" else set()
    )


def test_the_official_batch_is_compared_in_parts_of_32() -> None:
    (trial,) = (own for own in load_suite(SUITES / "ost-score.yaml", ("seeds=[0]",)).trials if own.row == "ost")
    recipe = trial.recipe
    assert (recipe.batch // recipe.shards, recipe.lr, recipe.epochs, recipe.smoothing, recipe.mix) == (
        32, 8e-6, 10, 0, None
    )  # fmt: skip
    assert trial.inference.clip_alpha == 0.8
    shots = {own.row: own for own in load_suite(SUITES / "ost-shots.yaml", ("seeds=[0]",)).trials}
    few = shots["ucf_k400"]
    assert few.recipe.batch // few.recipe.shards == 32 and few.inference.clip_alpha == 1.0


def test_views_have_no_feature_in_common() -> None:
    with refused("cannot be fused by feature_mean"):
        load_suite(SUITES / "ost-score.yaml", ("protocols.UCF.fusion=feature_mean",))

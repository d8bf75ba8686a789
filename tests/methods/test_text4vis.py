"""Text4Vis' heads, classifiers and losses, each against a second way of computing it; its suites plan.

Legend: B batch, T frames, D joint CLIP width, C classes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bench.core.errors import UserError
from bench.graph.build import build_graph
from bench.models.backbones import backbone
from bench.models.clip import load_clip
from bench.suite.resolve import SUITES, load_suite
from methods.contract import build_model
from methods.dense_temporal.config import Config as DenseConfig
from methods.dense_temporal.model import Model as Dense
from methods.text4vis.classifiers import discriminant_rows, orthogonal
from methods.text4vis.config import Config, Inference
from methods.text4vis.model import Model, contrast
from methods.text4vis.temporal import HEADS, Conv1d, Lstm, Shift, TransfCls

B, T, C, D = 4, 3, 6, 128


def build(seed: int = 0, classes: int = C, **choices: Any) -> Model:
    config = Config.model_validate(choices)
    model = build_model(Model, config, load_clip("glyph-vit", "random:0"), seed, classes)
    assert isinstance(model, Model)
    return model


@pytest.fixture
def frames_BTD() -> Tensor:
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def classes_CD() -> Tensor:
    return F.normalize(torch.randn(C, D, generator=torch.Generator().manual_seed(1)), dim=-1)


# ---------------------------------------------------------------------------------------------------------------------
# Heads


def test_by_default_it_is_the_dense_transformer_bit_for_bit(frames_BTD: Tensor, classes_CD: Tensor) -> None:
    own = build(seed=3)
    dense = build_model(Dense, DenseConfig(layers=6), load_clip("glyph-vit", "random:0"), 3, C)
    state, expected = own.trained_state(), dense.trained_state()
    assert state.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    losses = [each.loss(frames_BTD, torch.arange(B), classes_CD, torch.Generator())["total"] for each in (own, dense)]
    assert torch.equal(*losses)
    predictions = [each.deploy(Inference(), classes_CD)(frames_BTD, classes_CD) for each in (own, dense)]
    assert torch.equal(predictions[0].cosines_BC, predictions[1].cosines_BC)
    assert predictions[0].features.keys() == predictions[1].features.keys()
    for name, feature in predictions[0].features.items():
        torch.testing.assert_close(feature, predictions[1].features[name])


def test_a_class_tokens_transformer_is_torchs_encoder_under_its_names(frames_BTD: Tensor) -> None:
    head = TransfCls(D, layers=2).eval()
    layer = nn.TransformerEncoderLayer(D, 8, 2048, dropout=0.1, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(D), enable_nested_tensor=False).eval()
    encoder.load_state_dict(head.transformer_enc.state_dict())
    tokens_BND = torch.cat([head.cls_token.expand(B, -1, -1), frames_BTD], dim=1) + head.pos_embed[:, : T + 1]
    torch.testing.assert_close(head.features(frames_BTD)["z"], encoder(tokens_BND)[:, 0], atol=1e-5, rtol=1e-5)


def test_its_dropout_comes_from_the_steps_generator_and_ends_with_training(
    frames_BTD: Tensor, classes_CD: Tensor
) -> None:
    model = build(head="transf_cls", layers=1)

    def loss(seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        return float(model.loss(frames_BTD, torch.arange(B), classes_CD, generator)["total"].detach())

    assert loss(1) == loss(1) != loss(2)
    model.eval()
    assert loss(1) == loss(2)


def test_it_has_positions_for_other_clips_than_those_of_training(frames_BTD: Tensor) -> None:
    head = TransfCls(D, layers=1).eval()
    longer_BTD = torch.cat([frames_BTD, frames_BTD], dim=1)
    assert not torch.allclose(head.features(longer_BTD)["z"], head.features(frames_BTD)["z"], atol=1e-3)
    with pytest.raises(ValueError, match="78 frames, but there are 77 positions"):
        head.features(torch.zeros(1, 78, D))


def test_a_convolution_starts_as_a_shift_of_two_quarters(frames_BTD: Tensor) -> None:
    features = Conv1d(D, "transposed").features(frames_BTD)
    quarter, expected_BTD = D // 4, frames_BTD.clone()
    expected_BTD[..., :quarter], expected_BTD[..., -quarter:] = 0, 0
    expected_BTD[:, 1:, :quarter] = frames_BTD[:, :-1, :quarter]
    expected_BTD[:, :-1, -quarter:] = frames_BTD[:, 1:, -quarter:]
    torch.testing.assert_close(features["t_frames"], expected_BTD)
    torch.testing.assert_close(features["z"], (frames_BTD + expected_BTD).mean(dim=1))


def test_the_official_view_makes_channels_neighbours_in_time(frames_BTD: Tensor) -> None:
    moved_BTD = Conv1d(D, "viewed").features(frames_BTD)["t_frames"]
    flat_BN = frames_BTD.flatten(1)
    for channel, frame, source in ((D // 2, 1, 0), (0, 1, -1), (D - 1, 1, 1)):  # own, before, behind
        torch.testing.assert_close(moved_BTD[:, frame, channel], flat_BN[:, channel * T + frame + source])


def test_an_lstm_is_torchs(frames_BTD: Tensor) -> None:
    head = Lstm(D)
    hidden_BTD, _ = head.lstm_visual(frames_BTD)
    torch.testing.assert_close(head.features(frames_BTD)["t_frames"], hidden_BTD, atol=1e-6, rtol=1e-5)


def test_a_shift_loses_an_end_of_the_clip_in_the_shifted_channels(frames_BTD: Tensor) -> None:
    fold = D // 8
    video_BD = Shift().features(frames_BTD)["z"]
    torch.testing.assert_close(video_BD[:, :fold], frames_BTD[:, 1:, :fold].sum(dim=1) / T)
    second = slice(fold, 2 * fold)
    torch.testing.assert_close(video_BD[:, second], frames_BTD[:, :-1, second].sum(dim=1) / T)
    torch.testing.assert_close(video_BD[:, 2 * fold :], frames_BTD[..., 2 * fold :].mean(dim=1))


@pytest.mark.parametrize(
    ("head", "millions"),
    [
        ("none", 0),
        ("shift", 0),
        ("conv1d", 0.001536),
        ("lstm", 2.101248),
        ("transf", 18.953728),
        ("transf_cls", 18.955776),
    ],
)
def test_sizes_and_flops_with_vit_b16(head: str, millions: float) -> None:
    config, shapes = Config.model_validate({"head": head}), backbone("ViT-B-16")
    with torch.device("meta"):
        module = HEADS[head](config, shapes)
        frames_BTD = torch.zeros(2, 8, shapes.embed_dim, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            module.features(frames_BTD)
    size = sum(parameter.numel() for parameter in module.parameters())
    assert config.head_parameters(shapes) == (size, size)
    assert size == round(millions * 1e6)
    assert counter.get_total_flops() == 2 * config.head_flops(shapes, 8)
    assert config.has_head == (size > 0)


# ---------------------------------------------------------------------------------------------------------------------
# Inside the tower


@pytest.fixture
def clips_BT3HW() -> Tensor:
    return torch.randn(2, T, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def reference(model: Model, clips_BT3HW: Tensor, at_half: bool, fold: int, tokens: slice) -> Tensor:
    """Block by block, clip by clip, frame by frame: tokens take `fold` channels from the next frame and the last."""
    visual, features = model.clip.visual, []
    for clip_T3HW in clips_BT3HW:
        hidden = list(visual._embeds(clip_T3HW))
        for block in visual.transformer.resblocks:
            hidden = exchange(hidden, fold, tokens)
            hidden = [each + block.attention(block.ln_1(each)[None])[0] for each in hidden]
            hidden = exchange(hidden, fold, tokens) if at_half else hidden
            hidden = [each + block.mlp(block.ln_2(each)) for each in hidden]
        features.append(torch.stack([visual.ln_post(each[0]) @ visual.proj for each in hidden]))
    return torch.stack(features)


def exchange(hidden: list[Tensor], fold: int, tokens: slice) -> list[Tensor]:
    nothing, moved = torch.zeros_like(hidden[0]), [each.clone() for each in hidden]
    for frame, each in enumerate(moved):
        behind = hidden[frame + 1] if frame + 1 < len(hidden) else nothing
        before = hidden[frame - 1] if frame else nothing
        each[tokens, :fold] = behind[tokens, :fold]
        each[tokens, fold : 2 * fold] = before[tokens, fold : 2 * fold]
    return moved


def test_patch_tokens_are_shifted_before_every_block(clips_BT3HW: Tensor) -> None:
    model = build(head="none", tower="tuned", inside="tsm")
    expected_BTD = reference(model, clips_BT3HW, at_half=False, fold=D // 8, tokens=slice(1, None))
    torch.testing.assert_close(model.encode(clips_BT3HW), expected_BTD, atol=1e-5, rtol=1e-4)


def test_class_tokens_are_shifted_twice_in_every_block(clips_BT3HW: Tensor) -> None:
    model = build(head="none", tower="tuned", inside="tokenshift")
    expected_BTD = reference(model, clips_BT3HW, at_half=True, fold=D // 4, tokens=slice(0, 1))
    torch.testing.assert_close(model.encode(clips_BT3HW), expected_BTD, atol=1e-5, rtol=1e-4)


def test_a_convolution_of_class_tokens_starts_as_their_shift_and_learns_with_the_head(clips_BT3HW: Tensor) -> None:
    shift, conv = (build(head="none", tower="tuned", inside=inside) for inside in ("tokenshift", "tokent1d"))
    torch.testing.assert_close(conv.encode(clips_BT3HW), shift.encode(clips_BT3HW))
    groups = conv.parameter_groups()
    assert [tuple(weight.shape) for weight in groups["head"]] == [(D, 1, 3)] * 4
    assert conv.clip.state_dict().keys() == shift.clip.state_dict().keys()


@pytest.mark.parametrize("inside", ["tsm", "tokenshift", "tokent1d", "joint_st"])
def test_clips_do_not_see_each_other_and_memory_may_be_saved(inside: str, clips_BT3HW: Tensor) -> None:
    model = build(head="none", tower="tuned", inside=inside)
    whole_BTD = model.encode(clips_BT3HW)
    assert whole_BTD.shape == (2, T, D)
    for clip_T3HW, alone_TD in zip(clips_BT3HW, whole_BTD, strict=True):
        torch.testing.assert_close(model.encode(clip_T3HW[None])[0], alone_TD, atol=1e-5, rtol=1e-4)
    model.clip.visual.set_grad_checkpointing(True)
    again_BTD = model.encode(clips_BT3HW)
    torch.testing.assert_close(again_BTD, whole_BTD)
    again_BTD.sum().backward()
    assert model.clip.visual.conv1.weight.grad is not None


def test_joint_attention_has_no_order_but_that_of_its_places_in_time(clips_BT3HW: Tensor) -> None:
    model = build(head="none", inside="joint_st")
    first_BTD, turned_BTD = model.encode(clips_BT3HW), model.encode(clips_BT3HW.flip(1))
    assert torch.equal(first_BTD[:, 0], first_BTD[:, -1])
    assert not torch.allclose(first_BTD, turned_BTD, atol=1e-4)
    with torch.no_grad():
        model.get_parameter("inside.time_embedding").zero_()
    torch.testing.assert_close(model.encode(clips_BT3HW), model.encode(clips_BT3HW.flip(1)), atol=1e-5, rtol=1e-4)
    still_B13HW = clips_BT3HW[:, :1]
    plain_B1D = model.clip.encode_frames(still_B13HW[:, 0])[:, None]
    torch.testing.assert_close(model.encode(still_B13HW), plain_B1D, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Classifiers


@pytest.mark.parametrize("classifier", ["random", "orthogonal"])
def test_frozen_rows_stay_and_are_saved(classifier: str, frames_BTD: Tensor, classes_CD: Tensor) -> None:
    model, plain = build(classifier=classifier, layers=1), build(layers=1)
    rows_CD = model.trained_state()["classifier.rows_CD"].clone()
    torch.testing.assert_close(rows_CD.norm(dim=-1), torch.ones(C))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    before = float(model.loss(frames_BTD, torch.arange(B), classes_CD, torch.Generator())["total"].detach())
    for _ in range(10):
        optimiser.zero_grad()
        total = model.loss(frames_BTD, torch.arange(B), classes_CD, torch.Generator())["total"]
        total.backward()
        optimiser.step()
    assert float(total.detach()) < before / 2
    assert torch.equal(model.trained_state()["classifier.rows_CD"], rows_CD)
    heads = {name: tensor for name, tensor in plain.trained_state().items() if name.startswith("head.")}
    start = build(classifier=classifier, layers=1).trained_state()
    assert all(torch.equal(start[name], tensor) for name, tensor in heads.items())
    assert not torch.equal(
        build(seed=1, classifier=classifier, layers=1).trained_state()["classifier.rows_CD"], rows_CD
    )


def test_orthogonal_rows_are_orthogonal_and_no_more_than_there_are() -> None:
    rows_CD = build(classifier="orthogonal", layers=1).trained_state()["classifier.rows_CD"]
    torch.testing.assert_close(rows_CD @ rows_CD.T, torch.eye(C), atol=1e-5, rtol=0)
    assert len(orthogonal(4, 4).rows_CD) == 4
    with pytest.raises(UserError, match="5 classes, but a matrix of width 4 has no more orthogonal rows"):
        orthogonal(4, 5)


def test_logits_of_frozen_rows_are_scaled_cosines(frames_BTD: Tensor, classes_CD: Tensor) -> None:
    model = build(classifier="random", layers=1)
    predictor = model.deploy(Inference(), classes_CD)
    prediction = predictor(frames_BTD, classes_CD)
    rows_CD = model.trained_state()["classifier.rows_CD"]
    scale = float(model.clip.logit_scale.detach().exp())
    expected_BC = scale * F.normalize(prediction.features["z"], dim=-1) @ rows_CD.T
    torch.testing.assert_close(prediction.cosines_BC, expected_BC)
    assert predictor.logit_scale == 1
    assert torch.equal(prediction.norms_B, torch.ones(B))


def test_a_linear_layer_has_a_bias_and_no_scale(frames_BTD: Tensor, classes_CD: Tensor) -> None:
    model = build(head="none", tower="tuned", classifier="linear")
    state = model.trained_state()
    assert state["classifier.weight"].shape == (C, D) and not state["classifier.bias"].any()
    assert "clip.logit_scale" not in state and "clip.visual.proj" in state
    assert model.config.class_bound_parameters(backbone("glyph-vit"), C) == C * D + C
    video_BD = frames_BTD.mean(dim=1)
    logits_BC = model.deploy(Inference(), classes_CD)(frames_BTD, classes_CD).cosines_BC
    torch.testing.assert_close(logits_BC, video_BD @ state["classifier.weight"].T)
    ce = model.loss(frames_BTD, torch.arange(B), classes_CD, torch.Generator())["ce"]
    torch.testing.assert_close(ce, F.cross_entropy(logits_BC, torch.arange(B)))


def test_a_linear_layer_is_learnt_on_a_frozen_tower_without_a_head() -> None:
    model = build(head="none", classifier="linear")
    assert model.config.trains
    assert set(model.trained_state()) == {"classifier.weight", "classifier.bias"}


def test_a_bound_classifier_refuses_other_numbers_of_classes(frames_BTD: Tensor, classes_CD: Tensor) -> None:
    predictor = build(classifier="linear", layers=1).deploy(Inference(), classes_CD)
    with pytest.raises(ValueError, match="5 candidates, but the head is bound to 6 classes"):
        predictor(frames_BTD, classes_CD[1:])
    with pytest.raises(ValueError, match="not bound to classes"):
        build(classes=0, classifier="linear", layers=1).deploy(Inference(), classes_CD)


def test_only_class_texts_leave_the_vocabulary_open() -> None:
    assert Config().open_vocabulary
    assert not any(Config(classifier=name).open_vocabulary for name in ("linear", "random", "orthogonal", "lda"))


def test_rows_of_a_discriminant_analysis_come_from_the_source_and_are_saved(
    frames_BTD: Tensor, classes_CD: Tensor
) -> None:
    model, drawn = (build(classifier=name, layers=1) for name in ("lda", "random"))
    assert model.trained_state()["classifier.rows_CD"].isnan().all()
    features_ND, labels_N = torch.randn(4 * C, D, generator=torch.Generator().manual_seed(2)), torch.arange(4 * C) % C
    model.learn_from(features_ND, labels_N)
    state = model.trained_state()
    expected_CD = discriminant_rows(features_ND, labels_N, C).float()
    torch.testing.assert_close(state["classifier.rows_CD"], expected_CD)
    assert state.keys() == drawn.trained_state().keys()
    other = build(seed=1, classifier="lda", layers=1)
    other.load_trained(state)
    predictions = [each.eval().deploy(Inference(), classes_CD)(frames_BTD, classes_CD) for each in (model, other)]
    assert torch.equal(predictions[0].cosines_BC, predictions[1].cosines_BC)
    assert model.config.class_bound_parameters(backbone("glyph-vit"), C) == 0
    assert [Config(classifier=name).looks_at_source for name in ("lda", "random", "clip_text")] == [True, False, False]


@pytest.mark.parametrize("wrong", [{"classifier": "random"}, {"classifier": "lda", "classes": 0}])
def test_others_learn_nothing_from_the_source(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="was not bound to classes, or learns from no videos"):
        build(layers=1, **wrong).learn_from(torch.zeros(C, D), torch.arange(C))


# ---------------------------------------------------------------------------------------------------------------------
# Losses


@pytest.mark.parametrize("dual", [False, True])
def test_contrast_is_the_mean_of_both_directions_over_all_pairs_times_the_batch(dual: bool) -> None:
    labels_B = torch.tensor([0, 1, 0, 2])
    similarity_BB = 20 * torch.randn(B, B, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = 0.0
    for scores in (similarity_BB, similarity_BB.T):
        if dual:
            scores = scores * (scores / 1000).exp() / (scores / 1000).exp().sum(dim=0, keepdim=True) * B
        for i in range(B):
            weights = [10.0 if labels_B[i] == labels_B[j] else 0.0 for j in range(B)]
            target_B = torch.tensor(weights, dtype=torch.float64).softmax(dim=0)
            log_B = scores[i] - scores[i].logsumexp(dim=0)
            total += float((target_B * (target_B.log() - log_B)).sum()) / B**2 * B / 2
    assert float(contrast(similarity_BB, labels_B, dual=dual)) == pytest.approx(total, rel=1e-5)


def test_videos_of_one_class_are_each_others_targets(frames_BTD: Tensor, classes_CD: Tensor) -> None:
    model, labels_B = build(loss="nce", layers=1), torch.tensor([2, 2, 2, 2])
    terms = model.loss(frames_BTD, labels_B, classes_CD, torch.Generator())
    rows_BB = model.logits(model.head.features(frames_BTD)["z"], classes_CD[labels_B])
    assert set(terms) == {"nce", "total"}
    torch.testing.assert_close(rows_BB, rows_BB[:, :1].expand(-1, B))  # one text four times: nothing to tell apart
    columns = F.kl_div(rows_BB.T.log_softmax(dim=-1), torch.full((B, B), 1 / B), reduction="batchmean")
    torch.testing.assert_close(terms["total"], columns / 2)


def test_contrast_depends_on_how_a_batch_is_divided_and_cross_entropy_does_not() -> None:
    assert [Config(loss=name).depends_on_processes for name in ("ce", "nce", "ds")] == [False, True, True]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"head": "lstm", "layers": 2}, "layers has no effect with head: lstm; allowed: .*head: transf or transf_cls"),
        ({"conv_axes": "viewed"}, "conv_axes has no effect with head: transf"),
        ({"loss": "nce", "classifier": "random"}, "loss: nce compares with texts"),
        ({"head": "shift", "classifier": "random"}, "head: shift leave nothing to learn"),
        ({"head": "none", "inside": "tsm"}, "head: none leave nothing to learn .inside: tsm"),
        ({"inside": "joint_st"}, "joint_st leaves no frames to head: transf"),
        ({"classifier": "distilbert"}, "'clip_text', 'coop', 'linear', 'random', 'orthogonal' or 'lda'"),
    ],
)
def test_choices_without_effect_or_meaning_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(wrong)


# ---------------------------------------------------------------------------------------------------------------------
# Suites

SUITE_NAMES = sorted(path.stem for path in SUITES.glob("text4vis-*.yaml"))


def test_there_is_a_suite_for_each_question() -> None:
    about = ("classifiers", "few-shot", "heads", "inside", "kinetics", "losses", "supervised", "zero-shot")
    assert [name.removeprefix("text4vis-") for name in SUITE_NAMES] == list(about)


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_a_suite_plans_on_real_declarations_and_in_the_embedded_world(name: str) -> None:
    real, small = (load_suite(SUITES / f"{name}.yaml", overrides) for overrides in ((), ("world=glyphs",)))
    graph, embedded = build_graph(real), build_graph(small)
    assert dict.fromkeys((t.row, t.point) for t in real.trials) == dict.fromkeys((t.row, t.point) for t in small.trials)
    assert all(data.startswith("glyphs") for data in embedded.datasets) and not embedded.missing
    assert graph.missing and not any(data.startswith("glyphs") for data in graph.datasets)
    official = [trial for trial in real.trials if trial.method == "text4vis"]
    assert {t.config.tower for t in official} <= {"tuned"}
    templates = {(t.config.texts_inside, t.recipe.templates) for t in official}
    assert templates <= {(False, "text4vis"), (False, "mote28"), (True, "name")}


def test_a_bound_classifier_is_refused_where_classes_are_new() -> None:
    wrong = "rows.linear.protocols=[K400, UCF]"
    with pytest.raises(UserError, match="row 'linear' has a head bound to its classes"):
        load_suite(SUITES / "text4vis-classifiers.yaml", (wrong,))

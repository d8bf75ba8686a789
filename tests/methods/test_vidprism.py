"""VidPrism's own behaviour: merging, interaction, read-out, losses, sizes, and its official checkpoints.

Legend: B batch, T frames, L tokens of a stream, n windows, w frames of a window, E experts, D joint CLIP width,
C classes.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bench.checkpoints.heads import HEADS
from bench.commands.app import main
from bench.core.errors import UserError
from bench.models.backbones import backbone
from bench.models.clip import load_clip
from bench.models.state_dicts import HEAD, TOWER, official_names
from bench.store.records import Store
from methods.contract import build_model
from methods.vidprism.config import Config, Inference, StreamPair
from methods.vidprism.head import Interaction, PlainMerging, RankGuidedMerging, VidPrismHead, divergence, interpolation
from methods.vidprism.model import DIVERSITY, Model, balance

B, T, C, D = 3, 16, 6, 16
GLYPHS = "glyph-vit"


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def config(**choices: Any) -> Config:
    return Config.model_validate(choices)


def head(width: int = D, **choices: Any) -> VidPrismHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = VidPrismHead(width, config(**choices))
        made.bind_classes(C)
    return made


def build(**choices: Any) -> Model:
    model = build_model(Model, config(**choices), load_clip(GLYPHS, "random:0"), 0, classes=C)
    assert isinstance(model, Model)
    return model


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def loss(model: Model, **inputs: Tensor) -> dict[str, Tensor]:
    frames_BTD = inputs.get("frames", random(B, T, model.width))
    classes_CD = F.normalize(random(C, model.width, seed=2), dim=-1)
    return model.loss(frames_BTD, torch.arange(len(frames_BTD)) % C, classes_CD, torch.Generator())


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


@pytest.mark.parametrize(
    ("width", "total", "parts"),
    [
        (512, 18_857_376, (1_056_768, 7_606_800, 9_463_296, 205_200, 525_312)),
        (768, 42_245_024, (2_371_584, 17_111_824, 21_272_832, 307_600, 1_181_184)),
    ],
)
def test_parameters_are_the_official_ones(width: int, total: int, parts: tuple[int, ...]) -> None:
    with torch.device("meta"):
        made = VidPrismHead(width, Config())
        made.bind_classes(400)
    modules = (made.pooling_layers, made.dynamic_interaction, made.mote, made.head, made.projection_head)
    assert (size(made), tuple(map(size, modules))) == (total, parts)
    assert list(made.buffers()) == []
    shape = replace(backbone(GLYPHS), embed_dim=width)
    assert Config().head_parameters(shape).stored + Config().class_bound_parameters(shape, 400) == total


@pytest.mark.parametrize(
    ("frames", "choices", "expert"),
    [
        (32, {}, None),
        (30, {"sources": "sum", "classifier": "text"}, 2),
        (8, {"rates": [2, 4, 8], "interaction": "slow_to_fast", "readout": "mlp"}, None),
        (16, {"interaction": "fast_to_slow", "readout": "linear", "keep": 2}, None),
        (5, {"aggregation": "max", "interaction": "none", "readout": "average"}, 0),
    ],
)
def test_flops_and_deployed_parameters_in_closed_form(frames: int, choices: dict[str, Any], expert: int | None) -> None:
    declared, inference, model = config(**choices), Inference(expert=expert), build(**choices)
    shape, classes_CD = backbone(GLYPHS), F.normalize(random(C, model.width), dim=-1)
    predictor = model.deploy(inference, classes_CD)
    frames_BTD = random(B, frames, model.width).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        predictor(frames_BTD, classes_CD)
    assert counter.get_total_flops() == B * (declared.head_flops(shape, frames, inference) + 2 * model.width * C)
    bound = declared.class_bound_parameters(shape, C)
    assert declared.head_parameters(shape, inference).active + bound == size(predictor)


@pytest.mark.parametrize(
    ("frames", "rates", "lengths"),
    [
        (32, [2, 4, 8, 16], (16, 8, 4, 2)),
        (16, [2, 4, 8, 16], (8, 4, 2, 1)),
        (8, [2, 4, 8], (4, 2, 1)),
        (8, [2, 4, 8, 16], (4, 2, 1, 1)),
        (30, [2, 4, 8, 16], (15, 8, 4, 2)),
        (7, [2, 4, 8, 16], (4, 2, 1, 1)),
        (1, [2, 4, 8, 16], (1, 1, 1, 1)),
    ],
)
def test_streams_have_a_token_for_each_window_and_shares_sum_to_one(
    frames: int, rates: list[int], lengths: tuple[int, ...]
) -> None:
    made = head(rates=rates)
    sampled, interacted, read, rank = made(random(B, frames, D), ranked=True)
    assert made.config.lengths(frames) == lengths
    for streams in (sampled, interacted):
        assert tuple(stream.shape for stream in streams) == tuple((B, length, D) for length in lengths)
    assert read.tokens_BLD.shape[1] == sum(lengths) and rank.isfinite()
    torch.testing.assert_close(read.shares_BE.sum(dim=1), torch.ones(B))


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        ({"rates": [3, 6, 8]}, "rates 3 and 8 have no whole stride"),
        ({"rates": [4, 2]}, r"rates \[4, 2\] must ascend"),
        ({"rates": []}, "at least 1 item"),
        ({"kernel": 4}, "allowed: odd numbers"),
        ({"keep": 2, "aggregation": "average"}, "keep has no effect .*aggregation: guided"),
        ({"merge_factor": 0.1, "aggregation": "max"}, "merge_factor has no effect .*aggregation: guided"),
        ({"gate": "sample", "interaction": "none"}, "gate has no effect .*interaction: both"),
        ({"kernel": 3, "interaction": "slow_to_fast"}, "kernel has no effect .*interaction: both or fast_to_slow"),
        ({"diversity": "off", "diversity_weight": 0.1}, "diversity_weight has no effect .*diversity: batch"),
        ({"keep": 3}, "more than a window of 2"),
        ({"freeze_blocks": True}, "freeze_blocks has no effect .*tower: tuned"),
    ],
)
def test_choices_that_cannot_be_are_refused(choices: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        config(**choices)


def test_rates_without_a_whole_stride_serve_where_nothing_goes_from_fast_to_slow() -> None:
    assert config(rates=[3, 6, 8], interaction="slow_to_fast").pairs == (StreamPair(2, 0), StreamPair(2, 1))


def test_frames_that_do_not_fit_the_rates_are_refused_at_first_use() -> None:
    made = head(keep=2)
    with pytest.raises(ValueError, match=r"18 frames at rates \[2, 4, 8, 16\] with keep: 2 give stream 2 6 tokens"):
        made(random(B, 18, D))


# ---------------------------------------------------------------------------------------------------------------------
# Merging


def merged_one_by_one(module: RankGuidedMerging, frames_TD: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The specification for one video, window by window and token by token: tokens [L, D], divergences."""
    settings, tokens, divergences = module.config, [], []
    for window_wD in frames_TD.split(module.rate):
        length = len(window_wD)
        if length <= settings.keep:
            tokens += list(window_wD)
            continue
        metric_wD = module.metric_proj(window_wD)
        predicted_w = module.score_head(metric_wD)[:, 0]
        similarity = [
            [F.cosine_similarity(a, b, dim=0) if i != j else torch.tensor(0.0) for j, b in enumerate(metric_wD)]
            for i, a in enumerate(metric_wD)
        ]
        mixed = [0.7 * float(predicted_w[t]) + 0.3 * float(window_wD[t].norm()) for t in range(length)]
        kept = sorted(sorted(range(length), key=lambda t: -mixed[t])[: settings.keep])
        attention = [(torch.stack(row) / 0.1).softmax(dim=0) for row in similarity]
        for k in kept:
            token_D = window_wD[k].clone()
            for t in set(range(length)) - set(kept):
                share = attention[t][k] / (sum(float(attention[t][other]) for other in kept) + 1e-6)
                token_D += 0.5 * share * window_wD[t]
            tokens.append(token_D)
        target_w = torch.stack([window_wD[t].norm() + sum(similarity[t]) / length for t in range(length)])
        p_w, q_w = (target_w / 0.2).softmax(dim=0), (predicted_w / 0.2).softmax(dim=0)
        divergences.append((p_w * (p_w.clamp_min(1e-9).log() - q_w.clamp_min(1e-9).log())).sum())
    return torch.stack(tokens), divergences


@pytest.mark.parametrize(("rate", "keep"), [(2, 1), (4, 1), (8, 1), (16, 1), (5, 1), (4, 2), (5, 3)])
def test_windows_are_merged_as_one_by_one(rate: int, keep: int) -> None:
    module = RankGuidedMerging(D, rate, config(rates=[rate], keep=keep))
    frames_BTD = random(B, T, D)
    with torch.no_grad():
        tokens_BLD, mean = module(frames_BTD, ranked=True)
        single = [merged_one_by_one(module, frames_TD) for frames_TD in frames_BTD]
    torch.testing.assert_close(tokens_BLD, torch.stack([tokens for tokens, _ in single]))
    torch.testing.assert_close(mean, torch.stack([d for _, found in single for d in found]).mean())


def test_a_window_becomes_almost_its_best_token_and_half_of_all_others() -> None:
    module = RankGuidedMerging(D, 4, config(rates=[4]))
    frames_BTD = random(B, 4, D)
    frames_BTD[:, 2] *= 50  # the norm decides
    tokens_BLD = module(frames_BTD, ranked=False).tokens_BLD
    expected_BD = 0.5 * (frames_BTD[:, 2] + frames_BTD.sum(dim=1))
    torch.testing.assert_close(tokens_BLD[:, 0], expected_BD, rtol=0, atol=1e-2)


def test_the_rank_loss_is_zero_only_where_the_prediction_is_the_target() -> None:
    target_Bnw = random(B, 2, 4)
    assert float(divergence(target_Bnw, target_Bnw + 3.0, 0.2).abs().max()) < 1e-6
    assert float(divergence(target_Bnw, target_Bnw.roll(1, dims=-1), 0.2).min()) > 0


@pytest.mark.parametrize("aggregation", ["sampling", "average", "max"])
def test_plain_aggregation_of_windows(aggregation: str) -> None:
    frames_BTD = random(B, 6, D)
    tokens_BLD = PlainMerging(4, config(aggregation=aggregation))(frames_BTD, ranked=True).tokens_BLD
    make = {
        "sampling": lambda window_BwD: window_BwD[:, 0],
        "average": lambda window_BwD: window_BwD.mean(dim=1),
        "max": lambda window_BwD: window_BwD.max(dim=1).values,
    }[aggregation]
    torch.testing.assert_close(tokens_BLD, torch.stack([make(frames_BTD[:, :4]), make(frames_BTD[:, 4:])], dim=1))


# ---------------------------------------------------------------------------------------------------------------------
# Interaction


def interaction(biases: dict[StreamPair, float], **choices: Any) -> Interaction:
    """Scores are constant: of the given pairs sigmoid(bias), of the others one half."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = Interaction(D, config(**choices))
    for number in range(16):
        nn.init.zeros_(scorer(module, number).weight)
        nn.init.zeros_(scorer(module, number).bias)
    for pair, bias in biases.items():
        nn.init.constant_(scorer(module, 4 * pair.source + pair.target).bias, bias)
    return module


def scorer(module: Interaction, number: int) -> nn.Linear:
    """The last layer of a scoring network."""
    return cast(nn.Linear, module.get_submodule(f"score_mlps.{number}.2"))


def streams() -> list[Tensor]:
    return [random(B, length, D, seed=length) for length in (8, 4, 2, 1)]


def update(module: Interaction, pair: StreamPair, given: list[Tensor]) -> Tensor:
    """What a pair's target takes over, as the specification has it: interpolated first, then projected."""
    source_BDL, length = given[pair.source].mT, given[pair.target].shape[1]
    if pair.source < pair.target:
        strided = module.get_submodule(f"fast2slow_ops.{pair.source}->{pair.target}.tconv")
        return cast(Tensor, strided(source_BDL)).mT
    stretched_BDL = F.interpolate(source_BDL, size=length, mode="linear", align_corners=False)
    return cast(Tensor, module.slow2fast["proj"](stretched_BDL)).mT


def test_the_last_source_with_an_open_gate_is_taken_over() -> None:
    given = streams()
    module = interaction({StreamPair(3, 1): -3.0, StreamPair(0, 2): -3.0, StreamPair(1, 2): -3.0})
    taken = module(given)
    expected = [
        given[0] + 0.5 * update(module, StreamPair(3, 0), given),
        given[1] + 0.5 * update(module, StreamPair(2, 1), given),  # the last gate is closed
        given[2],  # both are
        given[3] + 0.5 * update(module, StreamPair(1, 3), given),
    ]
    torch.testing.assert_close(taken, expected)


def test_all_sources_with_an_open_gate_are_summed() -> None:
    given = streams()
    module = interaction({StreamPair(3, 1): -3.0}, sources="sum")
    taken = module(given)
    both = (update(module, StreamPair(2, 0), given), update(module, StreamPair(3, 0), given))
    torch.testing.assert_close(taken[0], given[0] + 0.5 * both[0] + 0.5 * both[1])
    torch.testing.assert_close(taken[1], given[1] + 0.5 * update(module, StreamPair(2, 1), given))


@pytest.mark.parametrize("gate", ["batch", "sample"])
def test_gates_of_a_batch_open_by_its_mean_and_those_of_a_video_by_its_own_score(gate: str) -> None:
    module = Interaction(D, config(gate=gate))
    scores_PB = torch.full((8, 3), 0.9)
    scores_PB[5] = torch.tensor([0.2, 0.2, 0.8])  # pair (2, 1); the mean is 0.4
    scores_PB[7] = torch.tensor([0.1, 0.31, 0.2])  # pair (3, 1); the mean is 0.2
    chosen_PB = module.chosen(scores_PB)
    assert module.pairs[5:8:2] == (StreamPair(2, 1), StreamPair(3, 1))
    assert (
        chosen_PB[[5, 7]].tolist()
        == {
            "batch": [[True, True, True], [False, False, False]],
            "sample": [[False, False, True], [False, True, False]],
        }[gate]
    )


@pytest.mark.parametrize(
    ("way", "pairs"),
    [
        ("slow_to_fast", (StreamPair(2, 0), StreamPair(2, 1), StreamPair(3, 0), StreamPair(3, 1))),
        ("fast_to_slow", (StreamPair(0, 2), StreamPair(0, 3), StreamPair(1, 2), StreamPair(1, 3))),
        ("none", ()),
    ],
)
def test_one_direction_leaves_the_other_streams_as_they_are(way: str, pairs: tuple[StreamPair, ...]) -> None:
    made = head(interaction=way)
    sampled, interacted, _, _ = made(random(B, T, D))
    changed = [not torch.equal(before, after) for before, after in zip(sampled, interacted, strict=True)]
    assert made.config.pairs == pairs
    assert changed == [stream in {pair.target for pair in pairs} for stream in range(4)]


def test_interpolation_is_torchs() -> None:
    source_BSD = random(B, 5, D)
    expected = F.interpolate(source_BSD.mT, size=13, mode="linear", align_corners=False).mT
    torch.testing.assert_close(interpolation(source_BSD, 13).mT @ source_BSD, expected)


def test_only_what_was_taken_over_gets_a_gradient() -> None:
    model = build()
    loss(model)["total"].backward()
    module = model.head.dynamic_interaction
    reached = {name.rpartition(".")[0] for name, p in module.named_parameters() if p.grad is not None}
    scores = {f"score_mlps.{number}.{layer}" for number in (6, 7, 12, 13) for layer in (0, 2)}
    assert reached == scores | {"slow2fast.proj", "fast2slow_ops.1->2.tconv", "fast2slow_ops.1->3.tconv"}


@pytest.mark.parametrize("gate", ["batch", "sample"])
def test_companions_of_a_video_change_its_logits_under_the_batchs_gates_alone(gate: str) -> None:
    made = head(gate=gate)
    last = scorer(made.dynamic_interaction, 13)  # pair (3, 1)
    with torch.no_grad():
        frames_BTD = random(2, T, D)
        first, second = (made.dynamic_interaction.scores(made(frames_BTD).sampled)[7]).logit().tolist()
        # The scores of the two lie on either side of the threshold, their mean on the second's.
        threshold = float(torch.tensor(0.3).logit())
        last.weight *= 4 / (second - first)
        last.bias.fill_(0.0)
        low = made.dynamic_interaction.scores(made(frames_BTD).sampled)[7].logit()[0]
        last.bias.fill_(threshold - 1 - float(low))
        alone, together = made(frames_BTD[:1]).read.video_BD, made(frames_BTD).read.video_BD[:1]
        twice = made(frames_BTD[[0, 0]]).read.video_BD
    torch.testing.assert_close(twice, alone.expand(2, -1))
    assert torch.allclose(alone, together, atol=1e-6) == (gate == "sample")


# ---------------------------------------------------------------------------------------------------------------------
# Read-out and losses


def test_one_expert_alone_is_the_read_out_of_its_tokens() -> None:
    made = head().eval()
    frames_BTD = random(B, T, D)
    interacted = made(frames_BTD).interacted
    for expert, stream_BLD in enumerate(interacted):
        alone = made.deployed(expert)(frames_BTD).read
        tokens_BLD, _ = made.mote.experts[expert](stream_BLD)
        torch.testing.assert_close(alone.video_BD, made.mote.readout_gate(tokens_BLD)[0])
        torch.testing.assert_close(alone.shares_BE, torch.ones(B, 1))


def test_a_query_without_preference_gives_each_expert_the_share_of_its_tokens() -> None:
    made = head()
    for name in ("global_query", "attn.in_proj_bias"):
        nn.init.zeros_(made.mote.readout_gate.get_parameter(name))
    shares_BE = made(random(B, 32, D)).read.shares_BE.detach()
    torch.testing.assert_close(shares_BE, torch.tensor([16, 8, 4, 2]).div(30).expand(B, -1))
    assert float(balance(shares_BE)) == pytest.approx(1.5111, abs=1e-4)
    assert float(balance(torch.full((B, 4), 0.25))) == pytest.approx(1.0)


@pytest.mark.parametrize("readout", ["average", "linear", "mlp"])
def test_other_read_outs_are_weighted_means_of_the_tokens(readout: str) -> None:
    made = head(readout=readout)
    read = made(random(B, T, D)).read
    gate, weights_BL = made.mote.readout_gate, torch.full((B, 15), 1 / 15)
    if readout != "average":
        weights_BL = gate.get_submodule("score")(read.tokens_BLD)[..., 0].softmax(dim=-1)
    torch.testing.assert_close(
        read.video_BD, gate.get_submodule("ln")(torch.einsum("bl,bld->bd", weights_BL, read.tokens_BLD))
    )
    torch.testing.assert_close(read.shares_BE[:, 0], weights_BL[:, :8].sum(dim=1))


def test_diversity_is_a_mean_over_pairs_of_videos_or_of_experts() -> None:
    summaries_BED = random(B, 4, D)
    videos = [1 - F.cosine_similarity(a, b, dim=-1).mean() for a, b in combinations(summaries_BED, 2)]
    experts = [F.cosine_similarity(a, b, dim=-1).mean() for a, b in combinations(summaries_BED.unbind(dim=1), 2)]
    torch.testing.assert_close(DIVERSITY["batch"](summaries_BED), torch.stack(videos).mean())
    torch.testing.assert_close(DIVERSITY["experts"](summaries_BED), torch.stack(experts).mean())
    assert float(DIVERSITY["batch"](summaries_BED[:1])) == 0
    assert float(DIVERSITY["experts"](summaries_BED[:, :1])) == 0


def test_the_total_has_the_published_weights() -> None:
    terms = loss(build())
    weights = {"ce": 1, "rank": 0.1, "gate": 0.01, "diversity": 0.005, "contrastive": 0.01}
    assert terms.keys() - {"total"} == weights.keys()
    torch.testing.assert_close(terms["total"], torch.stack([w * terms[name] for name, w in weights.items()]).sum())


def test_classification_alone_teaches_neither_scores_nor_projection() -> None:
    off = {"rank_weight": 0, "gate_weight": 0, "diversity": "off", "contrastive_weight": 0}
    model = build(**off)
    terms = loss(model)
    terms["total"].backward()
    assert terms.keys() == {"ce", "total"}
    assert not any(p.grad is not None for name, p in model.named_parameters() if "score_head" in name)
    assert not any(p.grad is not None for p in model.head.projection_head.parameters())
    assert {
        name for name, p in model.named_parameters() if p.requires_grad and p.grad is None
    } <= model.unused_parameters()


def test_scores_are_learnt_from_the_rank_loss() -> None:
    model = build()
    loss(model)["rank"].backward()
    scores = [model.head.get_parameter(f"pooling_layers.{i}.score_head.1.weight") for i in range(4)]
    assert all(weight.grad is not None and weight.grad.any() for weight in scores)


def test_class_texts_classify_by_scaled_cosines_of_the_projection() -> None:
    model = build(classifier="text", tower="tuned", contrastive_weight=0)
    frames_BTD, classes_CD = random(B, T, model.width), F.normalize(random(C, model.width, seed=2), dim=-1)
    prediction = model.deploy(Inference(), classes_CD)(frames_BTD, classes_CD)
    ce = loss(model, frames=frames_BTD)["ce"]
    scale = model.clip.logit_scale.detach().exp()
    torch.testing.assert_close(ce, F.cross_entropy(scale * prediction.cosines_BC, torch.arange(B)))
    ce.backward()
    assert model.clip.logit_scale.grad is None and not hasattr(model.head, "head")
    assert len(model.head.projection_head) == 4


def test_the_linear_classifier_ignores_class_texts() -> None:
    model = build()
    predictor = model.deploy(Inference(), torch.empty(0, model.width))
    frames_BTD = random(B, T, model.width)
    first, second = (predictor(frames_BTD, random(C, model.width, seed=seed)) for seed in (1, 2))
    assert torch.equal(first.cosines_BC, second.cosines_BC) and predictor.logit_scale == 1
    shares_BE = predictor.shares(frames_BTD, random(C, model.width))
    assert shares_BE is not None
    torch.testing.assert_close(shares_BE.sum(dim=1), torch.ones(B))
    with pytest.raises(RuntimeError, match=r"Model\.bind_classes was not called"):
        VidPrismHead(D, Config()).logits(random(B, D))


def test_only_class_texts_serve_other_classes() -> None:
    assert (config().open_vocabulary, config(classifier="text").open_vocabulary) == (False, True)


@pytest.mark.parametrize(
    ("choices", "batch", "processes"),
    [
        ({}, True, True),
        ({"gate": "sample"}, False, True),
        ({"interaction": "none"}, False, True),
        ({"gate": "sample", "gate_weight": 0, "diversity": "experts"}, False, False),
        ({"gate": "sample", "gate_weight": 0, "diversity_weight": 0}, False, False),
    ],
)
def test_what_depends_on_the_batch_is_declared(choices: dict[str, Any], batch: bool, processes: bool) -> None:
    declared = config(**choices)
    assert (declared.depends_on_batch, declared.depends_on_processes) == (batch, processes)


def test_the_official_mistake_freezes_blocks_and_positions() -> None:
    model = build(tower="tuned", freeze_blocks=True)
    trained = {name for name, p in model.clip.visual.named_parameters() if p.requires_grad}
    assert {"conv1.weight", "class_embedding", "ln_pre.weight", "ln_post.bias", "proj"} <= trained
    assert not any("resblocks" in name or "positional" in name for name in trained)


def test_a_single_stream_is_no_choice_of_experts() -> None:
    assert config(rates=[4]).experts == 0 and config(rates=[4]).expert_choices(Inference()) == {}
    with pytest.raises(ValueError, match="expert 4 does not exist; allowed: 0 to 3"):
        Config().check(Inference(expert=4))


# ---------------------------------------------------------------------------------------------------------------------
# Official checkpoints


def checkpoint(**choices: Any) -> dict[str, Any]:
    """As the official trainer saves it."""
    tower, made = official_names(build(tower="tuned", **choices).trained_state())
    return {"epoch": 7, TOWER: tower, HEAD: {**made, **HEADS["vidprism"].additions(made)}}


@pytest.mark.parametrize("choices", [{}, {"rates": [2, 4, 8]}, {"classifier": "text"}])
def test_a_checkpoint_goes_into_the_store_and_out_again(choices: dict[str, Any], tmp_path: Path) -> None:
    file, store = tmp_path / "official.pt", Store.create(tmp_path / "runs")
    torch.save(checkpoint(**choices), file)
    options = ["--method", "vidprism", "--backbone", GLYPHS, "--pretrained", "random:0", "--store", str(store.root)]
    assert main(["import", str(file), *options]) == 0
    (identity,) = store.known("train")
    record = store.read("train", identity)
    assert record["spec"]["config"] == config(tower="tuned", **choices).model_dump(mode="json")
    assert record["result"].get("classes") == (None if choices.get("classifier") == "text" else C)
    model = build(tower="tuned", **choices)
    model.load_trained(load_file(store.folder("train", identity) / "weights.safetensors"))
    assert main(["export", identity, str(tmp_path / "back.pt"), "--store", str(store.root)]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    for part, state in checkpoint(**choices).items():
        if part == "epoch":
            assert back[part] == state
        else:
            assert back[part].keys() == state.keys()
            assert all(torch.equal(back[part][name], tensor) for name, tensor in state.items())


def test_heads_whose_rates_cannot_be_told_are_refused() -> None:
    made = checkpoint()[HEAD]
    strange = {name.replace("0->2", "0->1"): tensor for name, tensor in made.items()}
    with pytest.raises(UserError, match=r"0->1, 0->3, 1->2, 1->3 are not those of rates \[2, 4, 8, 16\]"):
        HEADS["vidprism"].choices(strange)
    with pytest.raises(UserError, match="rates of 5 experts are not known"):
        HEADS["vidprism"].choices({"mote.experts.4.ln_1.bias": torch.zeros(D)})
    with pytest.raises(UserError, match="the head has no experts"):
        HEADS["vidprism"].choices({})

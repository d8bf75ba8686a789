"""Tests of the contract that every registered method keeps, built-in or not, with a frozen and with a tuned tower.

A registered method is tested here without further steps (plugin.py).
Legend: B inputs, T frames, D joint CLIP width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bench.core.errors import UserError
from bench.measure import flops as counting
from bench.models.backbones import backbone
from bench.models.clip import part_of
from conformance.cases import BACKBONE, VIDEO, C, Case, pretrained, video_clip
from methods.contract import Encoded, Model, Prediction, Predictor, mapped, missing_hooks
from methods.registry import refuse_video

B, T, P = 3, 4, 2
PROMPTS = [[f"a photo of a {name}", name] for name in ("star", "heart", "flag", "king", "die")]  # [C][P]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bits are equal only at equal thread counts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Inputs:
    """Random clips, labels and classes [C, ...]; `sources_CD` are other classes than `classes_CD`."""

    clips_BT3HW: Tensor
    labels_B: Tensor
    classes_CD: Tensor
    sources_CD: Tensor


@pytest.fixture
def inputs(case: Case) -> Inputs:
    spec, generator = backbone(BACKBONE), torch.Generator().manual_seed(1)
    clips_BT3HW = torch.randn(B, T, 3, spec.image_size, spec.image_size, generator=generator)
    shape = case.config.class_shape(spec, P)
    classes_CD, sources_CD = (
        F.normalize(torch.randn(C + extra, *shape, generator=generator), dim=-1) for extra in (0, 2)
    )
    return Inputs(clips_BT3HW, torch.randint(C, (B,), generator=generator), classes_CD, sources_CD)


def loss(model: Model, inputs: Inputs, generator: torch.Generator) -> dict[str, Tensor]:
    """Loss terms as the trainer asks for them."""
    own = model.config.texts_inside
    classes = model.training_texts(PROMPTS, inputs.labels_B, generator) if own else inputs.classes_CD
    with model.draws_from(generator):
        return model.loss(model.encode(inputs.clips_BT3HW), inputs.labels_B, classes, generator)


def train(model: Model, inputs: Inputs, steps: int = 2, seed: int = 0) -> Model:
    model.train()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(model, inputs, generator)["total"].backward()
        optimiser.step()
    return model


@torch.no_grad()
def predict(model: Model, predictor: Predictor, inputs: Inputs) -> Prediction:
    prediction: Prediction = predictor(encode(model, inputs), inputs.classes_CD)
    return prediction


@torch.no_grad()
def encode(model: Model, inputs: Inputs) -> Encoded:
    """The clips as at test; the model keeps its mode."""
    training = model.training
    encoded = model.eval().encode(inputs.clips_BT3HW)
    model.train(training)
    return encoded


def bits(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: tensor.detach().cpu().contiguous().numpy().tobytes() for name, tensor in tensors.items()}


def memory(module: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}


def head_size(model: Model, besides: tuple[str, ...] = ()) -> int:
    besides = ("clip.", "teacher.", *besides)
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith(besides))


# ---------------------------------------------------------------------------------------------------------------------
# Shapes and declarations


def test_a_method_with_experts_names_their_parameters(case: Case) -> None:
    missing = missing_hooks(case.method.model, case.config)
    assert not missing, f"Model.{' and Model.'.join(missing)}: docs/add_a_method.md, a method with experts"


def test_shapes(case: Case, inputs: Inputs) -> None:
    model, spec = case.build(), backbone(BACKBONE)
    terms = loss(model, inputs, torch.Generator())
    predictor = model.deploy(case.inference(), inputs.sources_CD)
    prediction = predict(model, predictor, inputs)
    assert {name: value.shape for name, value in terms.items()} == dict.fromkeys(terms, torch.Size([]))
    assert terms["total"].isfinite()
    assert prediction.cosines_BC.shape == (B, C)
    assert {value.shape for value in prediction.features.values()} == {(B, spec.embed_dim)}
    assert prediction.norms_B.shape == (B,)
    if predictor.bounded:
        norms_B = torch.ones(B)
        if case.config.open_vocabulary or case.config.texts_inside:
            assert prediction.cosines_BC.abs().max() <= 1 + 1e-6
            norms_B = prediction.features["z"].norm(dim=-1)
        torch.testing.assert_close(prediction.norms_B, norms_B)


def test_encodings_have_the_declared_shapes(case: Case, inputs: Inputs) -> None:
    """At test; a dict only if more than frames is declared."""
    declared, encoded = case.config.encoded(backbone(BACKBONE), T), encode(case.build(), inputs)
    assert isinstance(encoded, dict) == (declared.keys() != {"frames"})
    tensors = encoded if isinstance(encoded, dict) else {"frames": encoded}
    assert {name: own.shape for name, own in tensors.items()} == {name: (B, *own) for name, own in declared.items()}
    assert case.config.shares_encodings <= (set(declared) == {"frames"})


def test_features_of_each_frame_are_returned_on_request(case: Case, inputs: Inputs) -> None:
    model = case.build()
    predictor = model.deploy(case.inference(), inputs.sources_CD)
    predictor.per_frame = True
    features = predict(model, predictor, inputs).features
    assert {name: value.shape[1:] for name, value in features.items() if value.ndim > 2} in (
        {},
        {"t_frames": (T, backbone(BACKBONE).embed_dim)},
    )
    if "t_frames" in features:
        torch.testing.assert_close(features["t_frames"].mean(dim=1), features["t"])


def test_experts_own_parameters(case: Case) -> None:
    model = case.build()
    experts, parameters = model.expert_parameters(), {id(p) for p in model.parameters() if p.requires_grad}
    own = [id(tensor) for expert in experts for tensor in expert.values()]
    assert len(experts) == case.config.experts
    assert len(own) == len(set(own)), "two experts share a tensor"
    assert set(own) <= parameters, "tensors of an expert have to be whole trained parameters"
    assert all(expert.keys() == experts[0].keys() for expert in experts)


def test_counts_are_kept_beside_the_weights(case: Case, inputs: Inputs) -> None:
    model = case.build()
    loss(model, inputs, torch.Generator().manual_seed(0))
    assert {count.dtype for count in model.counts.values()} <= {torch.int64}
    assert not model.counts.keys() & model.state_dict().keys()
    assert all(count.sum() > 0 for count in model.counts.values())
    odds = case.config.routing_odds
    assert bool(model.counts) == bool(odds), "Model.counts has to hold what was drawn, with Config.routing_odds alone"
    assert sum(odds) == pytest.approx(1 if odds else 0)


def test_class_features_have_the_declared_shape_and_unit_norm(case: Case) -> None:
    """Those of every prompt are not normalised."""
    spec, classes_CD = backbone(BACKBONE), case.build().eval().embed_classes(PROMPTS)
    assert classes_CD.shape == (C, *case.config.class_shape(spec, P))
    if classes_CD.ndim == 2:
        torch.testing.assert_close(classes_CD.norm(dim=-1), torch.ones(C))


def test_texts_of_a_step_follow_from_its_generator(case: Case, inputs: Inputs) -> None:
    model = case.build()
    first, second = (model.draw_texts(PROMPTS, torch.Generator().manual_seed(5)) for _ in range(2))
    assert (
        first == second
        and len(first) == C
        and all(own and {*own} <= {*every} for own, every in zip(first, PROMPTS, strict=True))
    )
    assert model.generator is None
    if case.config.texts_inside:
        rows = B if case.config.texts_of_labels else C
        assert len(model.training_texts(PROMPTS, inputs.labels_B, torch.Generator().manual_seed(5))) == rows
        assert model.generator is None


def test_config_and_inference_survive_json(case: Case) -> None:
    for value in (case.config, case.inference(clip_alpha=0.99)):
        assert type(value).model_validate_json(value.model_dump_json()) == value
        with pytest.raises(ValidationError):
            type(value).model_validate({**value.model_dump(), "mistyped": 1})


def test_parameters_in_closed_form(case: Case, inputs: Inputs) -> None:
    model, declared = case.build(), case.config.head_parameters(backbone(BACKBONE), case.inference())
    predictor = model.deploy(case.inference(), inputs.sources_CD)
    bound = case.config.class_bound_parameters(backbone(BACKBONE), C)
    inside = case.config.inside_cost(backbone(BACKBONE), 1) + case.config.text_cost(backbone(BACKBONE))
    assert declared.stored + bound == head_size(model)
    deployed = sum(p.numel() for p in predictor.parameters()) + (bound if case.config.texts_inside else 0)
    assert declared.active + bound == deployed + inside.parameters  # what is bound to classes answers, or makes texts
    assert case.config.has_head == (declared.stored + bound > 0)


def test_flops_in_closed_form(case: Case, inputs: Inputs) -> None:
    """Closed forms of all parts and of their sum agree with the counter; FLOPs outside all parts are negligible."""
    shape, predictor = backbone(BACKBONE), case.build().deploy(case.inference(), inputs.sources_CD)
    closed = case.config.head_modules(shape, T, case.inference())
    counts = counting.head(predictor, case.config, closed, shape, T, C, P)
    assert {part: counts.get(part, 0) for part in closed} == pytest.approx(closed, rel=0.01)
    head = case.config.head_flops(shape, T, case.inference())
    assert sum(counts.values()) - counts[counting.CLASSES] == pytest.approx(head, rel=0.01)
    assert counts[counting.CLASSES] == pytest.approx(C * case.config.class_flops(shape, T, P), rel=0.01)
    # Without a gradient, attention takes a fused path that the counter does not see.
    encoded = mapped(Tensor.requires_grad_, counting.encodings(case.config, shape, 1, T))
    with FlopCounterMode(display=False) as counter:
        predictor(encoded, inputs.classes_CD)
    assert sum(counts.values()) == counter.get_total_flops()


def test_shares_of_experts_add_up(case: Case, inputs: Inputs) -> None:
    model, experts = case.build(), case.config.experts
    encoded = encode(model, inputs)
    choices = case.config.expert_choices(case.inference()) or {"own": case.inference()}
    for name, choice in choices.items():
        shares_BE = model.deploy(choice, inputs.sources_CD).shares(encoded, inputs.classes_CD)
        if shares_BE is None:
            continue
        assert shares_BE.shape == (B, experts)
        torch.testing.assert_close(shares_BE.sum(dim=1), torch.ones(B))
        if name.startswith("expert "):
            assert (shares_BE[:, int(name.removeprefix("expert "))] == 1).all()


def test_flops_of_towers_in_closed_form(case: Case) -> None:
    """`encode` also has to work on `meta` tensors, which have no values."""
    model, shape = case.build().eval(), backbone(BACKBONE)
    inside, text = case.config.inside_flops(shape, T), case.config.text_flops(shape)
    if case.config.tower_inside or not case.variant:
        counts = counting.tower(model, T)
        assert sum(counts.values()) == pytest.approx(shape.view_flops(T) + inside, rel=0.01)
        assert counts.get(counting.INSIDE, 0) == pytest.approx(inside, rel=0.01)
    assert case.config.tower_inside or inside == 0
    assert text == shape.text_flops() or counting.text(model) == pytest.approx(text, rel=0.01)


def test_flops_of_experts(case: Case) -> None:
    """All experts have FLOPs of their own, and an ensemble runs all of them."""
    config, shape, inference = case.config, backbone(BACKBONE), case.inference()
    assert len(config.expert_flops(shape, T)) == len(config.expert_passes) == config.experts
    assert all(flops > 0 for flops in config.expert_flops(shape, T))
    for choice in config.ensembles(inference).values():
        config.check(choice)
        single = config.head_flops(shape, T, config.expert_choices(inference)["expert 0"])
        assert config.head_flops(shape, T, choice) >= single + sum(config.expert_flops(shape, T)[1:])


# ---------------------------------------------------------------------------------------------------------------------
# Training


def test_gradients_reach_trained_parameters_alone(case: Case, inputs: Inputs) -> None:
    """After three steps, because a layer that starts at zero keeps those below it from a gradient."""
    model = train(case.build(), inputs, steps=3) if case.config.trains else case.build()
    model.zero_grad()
    total = loss(model, inputs, torch.Generator().manual_seed(0))["total"]
    assert total.requires_grad == case.config.trains
    if case.config.trains:
        total.backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable - model.unused_parameters() <= reached <= trainable
    assert model.unused_parameters() <= trainable
    grouped = [p for group in model.parameter_groups().values() for p in group]
    assert sum(p.numel() for p in grouped) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_target_that_is_all_of_one_class_is_its_label(case: Case, inputs: Inputs) -> None:
    """A loss of soft targets takes shares of every class, [B, C]; a smoothed one is another loss."""
    if not case.config.soft_targets:
        return
    whole_BC = F.one_hot(inputs.labels_B, C).float()
    totals = [
        loss(case.build(), replace(inputs, labels_B=targets), torch.Generator().manual_seed(0))["total"]
        for targets in (inputs.labels_B, whole_BC, 0.9 * whole_BC + 0.1 / C)
    ]
    torch.testing.assert_close(totals[1], totals[0])
    assert abs(totals[2] - totals[0]) > 1e-4


@pytest.mark.trained
def test_only_the_method_moves_a_teacher_and_no_record_holds_it(case: Case, inputs: Inputs) -> None:
    model = case.build()
    assert (model.teacher is not None) == case.config.teacher
    if model.teacher is None:
        return
    before = bits(model.teacher.state_dict())
    train(model, inputs)
    assert bits(model.teacher.state_dict()) == before and not model.teacher.training
    assert not [name for name in model.trained_state() if name.startswith("teacher.")]


@pytest.mark.trained
def test_same_seed_same_bits(case: Case, inputs: Inputs) -> None:
    first, second = (train(case.build(seed=3), inputs, seed=4) for _ in range(2))
    assert bits(first.trained_state()) == bits(second.trained_state())


@pytest.mark.trained
def test_another_seed_initialises_another_head(case: Case) -> None:
    first, second = (case.build(seed) for seed in (3, 4))
    assert (bits(first.trained_state()) != bits(second.trained_state())) == case.config.has_head


@pytest.mark.trained
def test_tensors_learnt_from_source_videos_are_saved(case: Case) -> None:
    first, again, other = (bits(case.build(source=source).trained_state()) for source in (2, 2, 3))
    assert first == again
    assert (first != other) == case.config.looks_at_source


def test_building_and_training_leave_the_global_generator_alone(case: Case, inputs: Inputs) -> None:
    before = torch.get_rng_state()
    model = case.build()
    if case.config.trains:
        train(model, inputs)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.trained
def test_trained_state_round_trip(case: Case, inputs: Inputs, tmp_path: Path) -> None:
    model = train(case.build(seed=3), inputs)
    save_file(model.trained_state(), tmp_path / "weights.safetensors")
    other = case.build(seed=4)
    other.load_trained(load_file(tmp_path / "weights.safetensors"))
    assert bits(other.state_dict()) == bits(model.state_dict())
    assert set(other.trained_state()) >= {name for name, p in model.named_parameters() if p.requires_grad}
    first, second = (
        predict(each.eval(), each.deploy(case.inference(), inputs.sources_CD), inputs) for each in (model, other)
    )
    assert torch.equal(first.cosines_BC, second.cosines_BC)


@pytest.mark.trained
def test_a_training_inits_from_weights_of_other_classes(case: Case, inputs: Inputs) -> None:
    trained, model = train(case.build(seed=3), inputs).trained_state(), case.build(seed=4, classes=C + 2)
    before = bits(model.trained_state())
    model.init_from(trained)
    expected = {name: before[name] if name in model.class_bound else own for name, own in bits(trained).items()}
    assert bits(model.trained_state()) == expected
    assert case.config.open_vocabulary <= (not model.class_bound)
    name = next(iter(trained.keys() - model.class_bound), "")
    if name:
        with pytest.raises(KeyError, match=name):
            model.init_from({key: value for key, value in trained.items() if key != name})


@pytest.mark.trained
def test_weights_of_another_model_are_refused(case: Case) -> None:
    state = case.build().trained_state()
    name = next(iter(state))
    with pytest.raises(KeyError, match=name):
        case.build().load_trained({key: value for key, value in state.items() if key != name})


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation


def test_evaluation_leaves_no_trace(case: Case, inputs: Inputs) -> None:
    model = case.build().train()

    def trace() -> tuple[object, ...]:
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        flags = [(each.training, [p.requires_grad for p in each.parameters()]) for each in model.modules()]
        return torch.get_rng_state().numpy().tobytes(), bits(model.state_dict()), bits(gradients), flags

    before = trace()
    predict(model, model.deploy(case.inference(), inputs.sources_CD), inputs)
    assert trace() == before


def test_a_predictor_is_frozen_and_shares_no_memory(case: Case, inputs: Inputs) -> None:
    model = case.build()
    predictor = model.deploy(case.inference(), inputs.sources_CD)
    assert not memory(predictor) & (memory(model) | {inputs.sources_CD.untyped_storage().data_ptr()})
    assert not any(p.requires_grad for p in predictor.parameters())
    assert not any(module.training for module in predictor.modules())


def test_a_video_is_judged_alone(case: Case, inputs: Inputs) -> None:
    if case.config.depends_on_batch:
        pytest.xfail("a declared quirk")
    model = case.build()
    predictor = model.deploy(case.inference(), inputs.sources_CD)
    together = predict(model, predictor, inputs)
    for i in range(B):
        alone = predict(
            model,
            predictor,
            Inputs(inputs.clips_BT3HW[i : i + 1], inputs.labels_B, inputs.classes_CD, inputs.sources_CD),
        )
        torch.testing.assert_close(alone.cosines_BC[0], together.cosines_BC[i], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone.features["z"][0], together.features["z"][i], atol=1e-5, rtol=0)


@pytest.mark.trained
def test_weight_interpolation_goes_from_clip_to_the_tuned_weights(case: Case, inputs: Inputs) -> None:
    model, clip = train(case.build(), inputs), pretrained()
    tuned, plain = (bits(each.state_dict()) for each in (model.clip, clip))
    assert {part_of(name) for name in plain if tuned[name] != plain[name]} <= case.config.tuned
    assert (tuned == plain) != bool(case.config.tuned)
    model.interpolate(clip, 1.0)
    assert bits(model.clip.state_dict()) == tuned
    model.interpolate(clip, 0.5)
    halfway = bits(model.clip.state_dict())
    assert {name for name in plain if halfway[name] != tuned[name]} == {
        name for name in plain if tuned[name] != plain[name]
    }
    model.interpolate(clip, 0.0)
    assert bits(model.clip.state_dict()) == plain
    assert model.scale == pytest.approx(float(clip.logit_scale.detach().exp()))


def test_experts_are_inference_choices(case: Case, inputs: Inputs) -> None:
    choices = case.config.expert_choices(case.inference())
    assert list(choices) == (
        ["merged", *(f"expert {i}" for i in range(case.config.experts))] if case.config.experts else []
    )
    # Experts may start as copies, so they are trained first: draws make them differ.
    model = train(case.build(), inputs) if case.config.trains else case.build()
    for choice in choices.values():
        case.config.check(choice)
    answers = [
        predict(model, model.deploy(choice, inputs.sources_CD), inputs).cosines_BC for choice in choices.values()
    ]
    assert all(not torch.equal(one, other) for i, one in enumerate(answers) for other in answers[:i])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_gpu_agrees_with_cpu(case: Case, inputs: Inputs) -> None:
    def run(device: str) -> tuple[Tensor, Tensor]:
        move: Callable[[Tensor], Tensor] = lambda tensor: tensor.to(device)  # noqa: E731
        moved = Inputs(*map(move, (inputs.clips_BT3HW, inputs.labels_B, inputs.classes_CD, inputs.sources_CD)))
        model = case.build().to(device)
        total = loss(model, moved, torch.Generator().manual_seed(0))["total"]
        return total.cpu(), predict(model, model.deploy(case.inference(), moved.sources_CD), moved).cosines_BC.cpu()

    torch.testing.assert_close(run("cuda"), run("cpu"), atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Towers that give one feature a clip


def test_a_video_tower_serves_the_method_or_is_refused(case: Case, inputs: Inputs) -> None:
    shape = backbone(VIDEO)
    if case.config.needs_frames:
        with pytest.raises(UserError, match=f"'{case.method.name}' works on features of single frames"):
            refuse_video(case.method.name, case.config, shape)
        return
    refuse_video(case.method.name, case.config, shape)
    try:
        case.config.fits(shape, T)
    except ValueError as refused:
        assert "; allowed: " in str(refused)
        return
    model = case.build(clip=video_clip()).eval()
    sizes = C, *case.config.class_shape(shape, P)
    classes_CD = F.normalize(torch.randn(sizes, generator=torch.Generator().manual_seed(0)), dim=-1)
    predictor = model.deploy(case.inference(), classes_CD)
    for frames in (1, T, 3 * T):
        clips_BT3HW = inputs.clips_BT3HW.repeat(1, 3, 1, 1, 1)[:, :frames]
        clip_B1D = model.encode(clips_BT3HW)
        assert clip_B1D.shape == (B, 1, shape.embed_dim)
        assert predictor(clip_B1D, classes_CD).cosines_BC.shape == (B, C)
        assert frames == 1 or not torch.allclose(model.encode(clips_BT3HW.flip(1)), clip_B1D, atol=1e-3)
        counted = sum(counting.tower(model, frames).values())
        assert counted == pytest.approx(shape.view_flops(frames) + case.config.inside_flops(shape, frames), rel=0.01)
    if case.config.trains:
        model.train()
        texts_CD = model.embed_classes(PROMPTS) if case.config.texts_inside else classes_CD
        generator = torch.Generator().manual_seed(0)
        model.loss(model.encode(inputs.clips_BT3HW), inputs.labels_B, texts_CD, generator)["total"].backward()
        reached = model.clip.visual.temporal_positional_embedding.grad
        assert (reached is not None and bool(reached.any())) == (case.config.tower == "tuned")

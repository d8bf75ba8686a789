"""Profiles of small methods on the tiny tower: what a record holds, and that its parts fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.core.errors import Interrupted, StageError
from bench.graph.kinds import profile_stage
from bench.graph.stage import as_json
from bench.measure import costs, timing
from bench.measure.costs import named_choices
from bench.models.backbones import backbone
from bench.models.clip import load_clip
from bench.stages.profile import run
from bench.stages.work import Compute, Work
from bench.suite.file import Measurement
from methods.registry import method

SHOWN = {"frames": 2, "views": 2, "classes": 6}
TRAINING = {"frames": 2, "checkpointing": False, "texts": 1, "batch": 12}


def profiled(name: str, config: dict[str, Any], stopping: bool = False, **changes: Any) -> dict[str, Any]:
    kind, told = method(name), list[tuple[int, int, str]]()
    measurement = Measurement(seconds=1e-3, **{"batches": (1,), **changes})
    shape, settings = backbone("glyph-vit"), kind.config.model_validate(config)
    training = {**TRAINING, "cached": settings.shares_encodings}
    stage = profile_stage(name, settings, kind.inference(), shape, SHOWN, training, measurement, "a profile")
    nowhere = Path("nowhere")
    work = Work(
        *(as_json(stage.spec), stage.context, {}, nowhere, nowhere, Compute("cpu")),
        *(lambda *state: told.append(state), print, lambda: stopping),
    )
    found = run(work)
    total = told[-1][1] if told else 0
    assert (
        told == [(min(done, total), total, "measurements") for done in range(1, len(told) + 1)] and len(told) >= total
    )
    return found


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the machine does."""
    monkeypatch.setattr(timing, "disturbance", lambda *told: (0.0, ""))
    monkeypatch.setattr(costs, "contradiction", lambda found: "")


def test_disturbed_latencies_say_so_in_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    calm = profiled("mote", {"layers": 1, "num_experts": 2})
    assert not any("disturbed" in line for line in [*calm["latency"], *(each["latency"] for each in calm["choices"])])
    monkeypatch.setattr(timing, "disturbance", lambda *told: (2.0, "others took 1.5 of 2"))
    found = profiled("mote", {"layers": 1, "num_experts": 2})
    lines = [*found["latency"], *(each["latency"] for each in found["choices"])]
    assert len(lines) == 8 and {line["disturbed"] for line in lines} == {"others took 1.5 of 2"}


def test_parts_that_contradict_the_whole_are_measured_again_and_then_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "contradiction", lambda found: "the tower is no video")
    found = profiled("clip_mean", {}, batches=(1, 2))
    assert [line["disturbed"] for line in found["latency"]] == ["the tower is no video"] * 6
    answers = ["the tower is no video", ""]
    monkeypatch.setattr(costs, "contradiction", lambda found: answers.pop(0))
    assert not any("disturbed" in line for line in profiled("clip_mean", {})["latency"]) and not answers


def test_a_record_of_a_mixture() -> None:
    found = profiled("mote", {"layers": 1, "num_experts": 2}, precisions=("fp32", "bf16"))
    shape, view, modules = backbone("glyph-vit"), found["flops"]["view"], found["modules"]
    assert {name: found[name] for name in SHOWN} == SHOWN
    for way in ("counted", "closed"):
        assert sum(line[way] for line in modules) == view[way]
        assert found["flops"]["video"][way] == 2 * view[way]
    assert view["counted"] == pytest.approx(view["closed"], rel=0.01)
    assert [line["name"] for line in modules[:3]] == ["visual tower", "attention", "experts"]

    sizes, expert = found["parameters"], 8 * shape.embed_dim**2 + 5 * shape.embed_dim
    assert sizes["expert"] == found["experts"][0]["parameters"] == expert
    clip = load_clip("glyph-vit", "random:0")
    visual, every = (sum(p.numel() for p in part.parameters()) for part in (clip.visual, clip))
    assert sizes["towers"] == {"visual": visual, "text": every - visual}
    assert sizes["total"] == sum(sizes["towers"].values()) + sizes["head"]
    assert sizes["trainable"] == sizes["head"] and sizes["active"] == visual + sizes["head"] - expert

    assert [choice["name"] for choice in found["choices"]] == ["merged", "expert 0", "expert 1", "ensemble"]
    merged, first, _, ensemble = found["choices"]
    assert ensemble["flops"]["closed"] - first["flops"]["closed"] == pytest.approx(first["flops"]["closed"], rel=0.01)
    assert ensemble["parameters"] - merged["parameters"] == expert
    assert all(choice["latency"]["p50"] > 0 for choice in found["choices"])

    cells = [(line["precision"], line["batch"], line["part"]) for line in found["latency"]]
    parts = ("video", "tower", "head", "training step")
    assert cells == [(precision, 1, part) for precision in ("fp32", "bf16") for part in parts]
    for line in found["latency"]:
        assert 0 < line["p50"] <= line["p95"] and line["runs"] >= 3
        assert line["throughput"] == pytest.approx(line["batch"] / line["p50"])
    assert found["machine"]["torch"] == torch.__version__ and found["machine"]["threads"] == 1


def test_a_record_of_adapters_in_both_towers() -> None:
    found = profiled("msta", {"bottleneck": 8})
    names = [line["name"] for line in found["modules"]]
    assert names == ["visual tower", "inside the tower", "classification"]
    assert all(line["counted"] == pytest.approx(line["closed"], rel=0.01) for line in found["modules"])
    assert found["flops"]["text"]["closed"] > backbone("glyph-vit").text_flops()
    assert found["experts"] == [] and [choice["name"] for choice in found["choices"]] == ["deployed"]


def test_a_record_of_learnt_contexts_of_single_classes() -> None:
    config = {"head": "none", "classifier": "coop", "context": 2, "context_of": "class"}
    found, shape = profiled("text4vis", config), backbone("glyph-vit")
    assert found["parameters"]["bound"] == SHOWN["classes"] * 2 * shape.text_width == found["parameters"]["trainable"]
    assert found["flops"]["text"]["closed"] == shape.text_flops()
    assert found["flops"]["text"]["counted"] == pytest.approx(shape.text_flops(), rel=0.01)
    assert [line["part"] for line in found["latency"]] == ["video", "tower", "head", "training step"]


def test_what_is_not_trained_has_no_training_step() -> None:
    found = profiled("clip_mean", {}, batches=(2,))
    assert found["flops"]["training"]["counted"] == 0 == found["parameters"]["trainable"]
    assert [(line["part"], line["batch"]) for line in found["latency"]] == [("video", 2), ("tower", 2), ("head", 2)]


def test_without_batches_nothing_is_timed() -> None:
    found = profiled("mote", {"layers": 1, "num_experts": 2, "tower": "tuned"}, batches=())
    assert found["latency"] == [] and {choice["latency"] for choice in found["choices"]} == {None}
    tower = found["modules"][0]["counted"]
    assert 2.5 * tower < found["flops"]["training"]["counted"] < 3.1 * tower


def test_a_profile_is_interrupted_between_measurements() -> None:
    with pytest.raises(Interrupted):
        profiled("clip_mean", {}, stopping=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(StageError, match="cuda:1"):
        profiled("clip_mean", {}, device="cuda:1")


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ({}, "merged"),
        ({"tfm": False, "merge_temperature": 0.5}, "merged"),
        ({"aggregation": "ensemble"}, "ensemble"),
        ({"expert": 2}, "expert 2"),
        ({"aggregation": "random_routing"}, "deployed"),
    ],
)
def test_the_own_choice_comes_first_under_its_name(own: dict[str, Any], name: str) -> None:
    kind = method("mote")
    inference = kind.inference.model_validate(own)
    choices = named_choices(kind.config(), inference)
    ways = {"merged", "ensemble", *(f"expert {i}" for i in range(4))}
    assert next(iter(choices.items())) == (name, inference)
    assert set(choices) == ways | {name}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_record_from_a_gpu() -> None:
    found = profiled("mote", {"layers": 1, "num_experts": 2}, device="cuda", precisions=("fp16",))
    assert found["machine"]["device"] == torch.cuda.get_device_name() and found["machine"]["cuda"]
    assert all(line["memory"] > 0 for line in found["latency"])

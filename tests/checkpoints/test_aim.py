"""AIM's official checkpoints: read, answered alike and given back; other towers and unfinished files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.checkpoints.heads import HEADS, _aim
from bench.models.clip import load_clip
from bench.models.state_dicts import State
from bench.store.records import Store
from methods.aim.config import Config
from methods.aim.model import Model
from methods.contract import build_model
from methods.settings import Inference
from tests.checkpoints.test_imported import give, same, saved, take, the_record

CLASSES = 5
OWN = {"ln_post.": "backbone.ln_post.", "temporal_embedding": "backbone.temporal_embedding", "fc.": "cls_head.fc_cls."}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def build(classes: int = CLASSES, **choices: Any) -> Model:
    """A model whose own tensors are drawn."""
    config = Config.model_validate({"head": "linear", "frames": 4, **choices})
    model = build_model(Model, config, load_clip("glyph-vit", "random:0"), 0, classes)
    assert isinstance(model, Model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def official(model: Model) -> dict[str, Any]:
    """As the official trainer saves it: all of the tower but its projection, and no text tower."""
    state = State()
    for name, tensor in load_clip("glyph-vit", "random:0").visual.state_dict().items():
        if name != "proj" and not name.startswith("ln_post."):
            state[f"backbone.{name}"] = tensor
    for name, tensor in model.head.state_dict().items():
        start = next((own for own in OWN if name.startswith(own)), "blocks.")
        state[OWN.get(start, "backbone.transformer.resblocks.") + name.removeprefix(start)] = tensor
    return {"meta": {"epoch": 30, "config": "model = dict()"}, "state_dict": state, "optimizer": {"state": {}}}


@torch.no_grad()
def answers(model: Model) -> Tensor:
    clips_BT3HW = torch.randn(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    classes_CD = torch.zeros(CLASSES, 128)
    scores_BC: Tensor = model.deploy(Inference(), classes_CD)(model.encode(clips_BT3HW), classes_CD).cosines_BC
    return scores_BC


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"temporal_adapters": 2, "scale": 1.0},
        {"parts": ["spatial", "joint"], "ratio": 0.125},
        {"frames": 0, "parts": ["temporal"]},
    ],
)
def test_a_file_is_answered_alike_and_comes_back(choices: dict[str, Any], tmp_path: Path, store: Store) -> None:
    model = build(**choices)
    checkpoint = official(model)
    assert take(saved(tmp_path, checkpoint), store, "--name", "released", method="aim") == 0
    record, folder = the_record(store)
    again = build(**record["spec"]["config"])
    weights = load_file(folder / "weights.safetensors")
    assert all(name.startswith("head.") for name in weights)  # the frozen tower is CLIP's
    again.load_trained(weights)
    assert torch.equal(answers(again), answers(model)) and again.config == model.config
    assert give("released", tmp_path / "back.pth", store) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert same(back["state_dict"], checkpoint["state_dict"])


def test_the_classes_of_ssv2_tell_the_scale_that_no_file_holds(tmp_path: Path, store: Store) -> None:
    assert take(saved(tmp_path, official(build(classes=174))), store, method="aim") == 0
    assert the_record(store)[0]["spec"]["config"]["scale"] == 1.0


def test_an_export_names_a_scale_that_an_import_would_not_find(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = official(build(temporal_adapters=2, scale=1.0))
    assert take(saved(tmp_path, checkpoint), store, "--name", "released", method="aim") == 0
    assert give("released", tmp_path / "alike.pth", store) == 0
    assert "does not say" not in "".join(capsys.readouterr())
    monkeypatch.setitem(HEADS, "aim", HEADS["aim"]._replace(choices=lambda head: {**_aim(head), "scale": 0.5}))
    assert give("released", tmp_path / "other.pth", store) == 0
    assert "the file does not say scale: 1.0, and an import of it takes scale: 0.5" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone.conv1.weight": 1.0}, "its frozen tower is not that of the pretrained weights: 1 tensors differ"),
        ({"backbone.proj": None}, "1 unexpected tensors: visual.proj"),
        ({"backbone.ln_pre.bias": None}, "1 tensors are missing: visual.ln_pre.bias"),
        ({"cls_head.fc_cls.weight": None}, "no adapters or no linear layer"),
        ({"backbone.ln_post.bias": None}, "not a head of 'aim'"),
    ],
)
def test_other_towers_and_parts_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = official(build())
    for name, value in change.items():
        state = checkpoint["state_dict"]
        if name not in state:
            state[name] = torch.zeros(128, 128)
        elif value is None:
            del state[name]
        else:
            state[name] = state[name] + value
    assert take(saved(tmp_path, checkpoint), store, method="aim") == 2
    assert message in capsys.readouterr().err
    assert not store.known("train")

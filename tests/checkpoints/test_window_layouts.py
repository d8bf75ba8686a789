"""Checkpoints of Open-VCLIP and FROSTER: read, evaluated and given back; other text towers and heads are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.models.clip import load_clip
from bench.store.records import Store
from methods.contract import Model, build_model
from methods.registry import method
from tests.checkpoints.test_imported import give, same, saved, take, the_record, trained
from tests.official_files import tuned

PROMPTS = [["a video of a star", "star"], ["a video of a heart", "heart"]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def open_vclip_file(**more: Any) -> dict[str, Any]:
    """As the tool that averages epochs writes it: a whole CLIP."""
    return {"model_state": {f"model.{name}": tensor for name, tensor in tuned().state_dict().items()}, **more}


def froster_file(teacher: bool, **more: Any) -> dict[str, Any]:
    """A file of an epoch, with the teacher, or of a mean over epochs. Both towers are tuned."""
    clips = {"model.": load_clip("glyph-vit", "random:7")}
    if teacher:
        clips["raw_model."] = load_clip("glyph-vit", "random:0")
    state = {f"{start}{name}": tensor for start, clip in clips.items() for name, tensor in clip.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for name in ("projector_v.0", "projector_v.2", "projector_t.0", "projector_t.2"):
        state[f"{name}.weight"] = torch.randn(128, 128, generator=generator)
    return {"model_state": state, **more}


def answers(model: Model) -> Tensor:
    clips_BT3HW = torch.randn(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        classes_CD = model.eval().embed_classes(PROMPTS)
        predictor = model.deploy(method("froster").inference(), classes_CD)
        cosines_BC: Tensor = predictor(model.encode(clips_BT3HW), classes_CD).cosines_BC
    return cosines_BC


@pytest.mark.parametrize(
    ("name", "checkpoint"),
    [
        ("open_vclip", open_vclip_file()),
        ("open_vclip", open_vclip_file(epoch=21, optimizer_state={"state": {}}, scaler_state={})),
        ("froster", froster_file(teacher=False)),
        ("froster", froster_file(teacher=True, epoch=11)),
    ],
    ids=["open-vclip-mean", "open-vclip-epoch", "froster-mean", "froster-epoch"],
)
def test_a_file_is_evaluated_with_its_weights_and_comes_back(
    name: str, checkpoint: dict[str, Any], tmp_path: Path, store: Store
) -> None:
    file = saved(tmp_path, checkpoint)
    assert take(file, store, "--name", "released", method=name) == 0
    registered, model = method(name), trained(store, "random:0")
    plain = build_model(registered.model, registered.config(), load_clip("glyph-vit", "random:0"), 0)
    state = checkpoint["model_state"]
    plain.clip.load_state_dict({key[6:]: own for key, own in state.items() if key.startswith("model.")})
    assert torch.equal(answers(model), answers(plain))
    assert give("released", tmp_path / "back.pt", store) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert same(back["model_state"], state) and back.get("epoch") == checkpoint.get("epoch")
    assert back.keys() - {"epoch"} == {"model_state"}


def test_open_vclip_is_mixed_with_clip_at_the_test(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert take(saved(tmp_path, open_vclip_file()), store, method="open_vclip") == 0
    assert "inference: {clip_alpha: 0.5}" in capsys.readouterr().out


def test_an_own_training_is_given_with_the_text_tower_that_official_code_needs(tmp_path: Path, store: Store) -> None:
    bare = open_vclip_file()
    texts = {
        key: own for key, own in bare["model_state"].items() if not key.startswith(("model.visual", "model.logit"))
    }
    for key in texts:
        del bare["model_state"][key]
    assert take(saved(tmp_path, bare), store, "--name", "mine", method="open_vclip") == 0
    assert give("mine", tmp_path / "back.pt", store) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)["model_state"]
    assert same(back, bare["model_state"] | texts)


def test_a_tuned_text_tower_is_none_of_open_vclip(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = open_vclip_file()
    checkpoint["model_state"]["model.ln_final.bias"] += 1
    assert take(saved(tmp_path, checkpoint), store, method="open_vclip") == 2
    assert "its text tower is not that of the pretrained weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("left", "distil"),
    [
        (("projector_v.", "projector_t."), "both"),
        (("projector_v.",), "video"),
        (("projector_t.",), "text"),
        ((), "none"),
    ],
)
def test_projectors_tell_what_was_held_to_clip(
    left: tuple[str, ...], distil: str, tmp_path: Path, store: Store
) -> None:
    checkpoint = froster_file(teacher=False)
    state = checkpoint["model_state"]
    checkpoint["model_state"] = {key: own for key, own in state.items() if key.startswith(("model.", *left))}
    assert take(saved(tmp_path, checkpoint), store, method="froster") == 0
    assert the_record(store)[0]["spec"]["config"].get("distil", "both") == distil


def test_a_projector_of_another_form_is_refused(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = froster_file(teacher=False)
    checkpoint["model_state"]["projector_v.2.bias"] = F.normalize(torch.ones(128), dim=0)
    assert take(saved(tmp_path, checkpoint), store, method="froster") == 2
    assert "not a head of 'froster'" in capsys.readouterr().err

"""TACO's checkpoints, a whole tuned CLIP and a projection: in, measured and out again with the same tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.commands.app import main
from bench.models.clip import load_clip
from bench.models.state_dicts import HEAD, TOWER
from bench.store.records import Store
from methods.contract import build_model
from methods.taco.config import Config, Inference
from methods.taco.model import Model

PROMPTS = [["a flag", "a photo of a flag"], ["a king", "a photo of a king"]]


def checkpoint(seed: int = 1) -> dict[str, Any]:
    """As the official trainer saves it, with the prefix of a data-parallel wrapper in front of CLIP's names."""
    model = build_model(Model, Config(), load_clip("glyph-vit", f"random:{seed}"), seed)
    generator = torch.Generator().manual_seed(seed)
    head = {
        name.removeprefix("head."): torch.randn(tensor.shape, generator=generator) / 10
        for name, tensor in model.state_dict().items()
        if name.startswith("head.")
    }
    whole = {f"module.{name}": tensor for name, tensor in model.clip.state_dict().items()}
    return {"epoch": 14, TOWER: whole, HEAD: head, "optimizer_state_dict": {"param_groups": [{"lr": 5e-5}]}}


def command(store: Store, *words: str) -> int:
    return main([*words, "--store", str(store.root)])


def take(file: Path, content: object, store: Store) -> int:
    torch.save(content, file)
    fixed = ("--method", "taco", "--backbone", "glyph-vit", "--pretrained", "random:0")
    return command(store, "import", str(file), *fixed, "--name", "released")


def test_it_is_measured_as_it_was_and_comes_back_with_the_same_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, official = Store(tmp_path / "runs"), checkpoint()
    assert take(tmp_path / "official.pt", official, store) == 0
    assert "config: {tower: tuned}" in capsys.readouterr().out
    (identity,) = store.known("train")
    model = build_model(Model, Config(), load_clip("glyph-vit", "random:0"), 0)
    model.load_trained(load_file(store.folder("train", identity) / "weights.safetensors"))
    model.eval()
    clip, head = load_clip("glyph-vit", "random:1"), official[HEAD]
    frames_BTD = torch.randn(3, 2, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        classes_CD = model.embed_classes(PROMPTS)
        texts_CPD = clip.encode_prompts(PROMPTS).unflatten(0, (2, 2))
        expected_CD = texts_CPD.mean(dim=1)
        torch.testing.assert_close(classes_CD, expected_CD / expected_CD.norm(dim=-1, keepdim=True))
        answer = model.deploy(Inference(), classes_CD)(frames_BTD, classes_CD)
    mean_BD = frames_BTD.mean(dim=1)
    torch.testing.assert_close(answer.features["z"], mean_BD + _projected(mean_BD, head))
    assert command(store, "export", "released", str(tmp_path / "back.pt")) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back.keys() == {"epoch", TOWER, HEAD} and back["epoch"] == 14
    for part in (TOWER, HEAD):
        expected = {name.removeprefix("module."): own for name, own in official[part].items()}
        assert back[part].keys() == expected.keys()
        assert all(torch.equal(own, expected[name]) for name, own in back[part].items())


def _projected(mean_BD: Tensor, head: dict[str, Tensor]) -> Tensor:
    inner_BE = mean_BD @ head["vision_proj.linear_A.weight"].T + head["vision_proj.linear_A.bias"]
    return inner_BE @ head["vision_proj.linear_B.weight"].T + head["vision_proj.linear_B.bias"]


@pytest.mark.parametrize(
    ("part", "without", "message"),
    [
        (HEAD, "vision_proj.", "the head has no projection"),
        (HEAD, "vision_proj.linear_B.bias", "1 tensors are missing: vision_proj.linear_B.bias"),
        (TOWER, "module.text_projection", "1 tensors are missing: text_projection"),
        (TOWER, "module.transformer.", "tensors are missing: transformer.resblocks.0."),
    ],
)
def test_parts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, without: str, message: str
) -> None:
    store, content = Store(tmp_path / "runs"), checkpoint()
    content[part] = {name: own for name, own in content[part].items() if not name.startswith(without)}
    assert take(tmp_path / "official.pt", content, store) == 2
    assert message in capsys.readouterr().err and not store.known("train")

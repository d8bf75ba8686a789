"""Backbones by name: closed forms against the real modules, identities of weights, and no torch on the way."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.core.errors import UserError
from bench.models import backbones
from bench.models.backbones import Backbone, Part, backbone
from bench.models.clip import Clip, part_of
from bench.models.weights import BUILTIN_FILE, weights_identity
from tests.errors import refused
from tests.imports import imported_by

# Layer scale, unusual MLP ratios and head widths: each of these differs from ViT-B-16 in one such way.
PARTS: tuple[Part, ...] = ("visual", "text", "tokens", "scale")
SHAPES = ("glyph-vit", "ViT-B-16", "ViT-L-14-336-quickgelu", "ViT-S-32-alt", "ViT-bigG-14")


def empty_clip(spec: Backbone) -> Clip:
    """The real modules without memory or arithmetic."""
    with torch.device("meta"):
        return Clip(spec, backbones.model_config(spec.name))


@pytest.mark.parametrize("name", ["glyph-vit", "ViT-B-16", "ViT-H-14"])
def test_flops_equal_the_counter(name: str) -> None:
    spec = backbone(name)
    clip = empty_clip(spec)
    frames = torch.empty(2, 3, spec.image_size, spec.image_size, device="meta")
    tokens = torch.zeros(2, spec.context_length, dtype=torch.long, device="meta")
    for expected, tower, argument in (
        (spec.view_flops(1), clip.encode_frames, frames),
        (spec.text_flops(), clip.encode_text, tokens),
    ):
        # Gradients on and attention unfused: what a fused kernel does is invisible to the counter.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            tower(argument)
        assert 2 * expected == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_known_figures_of_vit_b_16() -> None:
    """86.2 M and 63.4 M parameters, 17.6 GMAC a frame: the figures usually given for CLIP ViT-B/16."""
    spec = backbone("ViT-B-16")
    sizes = {name: parameter.numel() for name, parameter in empty_clip(spec).named_parameters()}
    tower = sum(size for name, size in sizes.items() if name.startswith("visual."))
    assert (tower, sum(sizes.values()) - tower - 1) == (86192640, 63428096)  # without the logit scale
    assert (spec.parameters("visual"), spec.parameters("text") + spec.parameters("tokens")) == (86192640, 63428096)
    assert spec.view_flops(1) / 2 == pytest.approx(17.56e9, rel=0.01)


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_of_each_part_in_closed_form(name: str) -> None:
    counted: dict[Part, int] = dict.fromkeys(PARTS, 0)
    for each, parameter in empty_clip(backbone(name)).named_parameters():
        counted[part_of(each)] += parameter.numel()
    assert {part: backbone(name).parameters(part) for part in PARTS} == counted


def test_parameters_that_papers_count_are_sums_of_parts() -> None:
    """Trained ones of ViFi-CLIP, FROSTER without projectors and Open-VCLIP; the last two also with ViT-L/14."""
    b_16, l_14 = ([backbone(name).parameters(part) for part in PARTS] for name in ("ViT-B-16", "ViT-L-14"))
    assert b_16 == [86192640, 38131200, 25296896, 1] and l_14 == [303966208, 85704960, 37945344, 1]


def test_every_plain_vit_of_open_clip_is_known() -> None:
    plain = [backbone(name).name for name in backbones.supported_names()]
    for name in set(backbones.backbone_names()) - set(plain):
        with pytest.raises(UserError, match=name):
            backbone(name)
    assert {"glyph-vit", "ViT-B-32", "ViT-B-16-quickgelu", "ViT-L-14", "ViT-g-14"} <= set(plain)
    assert len(plain) >= 33


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RN50", "no ViT tower"),
        ("convnext_base", "no ViT tower"),
        ("roberta-ViT-B-32", "not a plain CLIP: its config sets hf_model_name"),
        ("coca_ViT-B-32", "not a plain CLIP"),
        ("VIT-B-16", "did you mean 'ViT-B-16'"),
    ],
)
def test_other_towers_are_refused_with_a_reason(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        backbone(name)


def test_planning_imports_no_torch() -> None:
    code = (
        "from bench.models import backbones as b, weights as w\n"
        "for name in ('glyph-vit', 'ViT-B-16'): b.backbone(name).view_flops(8)\n"
        "w.weights_identity('glyph-vit', 'builtin')"
    )
    assert imported_by(code).isdisjoint({"torch", "open_clip", "numpy"})


def test_identity_of_a_file_follows_its_content(tmp_path: Path) -> None:
    file, copy = tmp_path / "a.pt", tmp_path / "b.pt"
    file.write_bytes(b"weights")
    copy.write_bytes(b"weights")
    first = weights_identity("ViT-B-16", str(file))
    assert first == weights_identity("ViT-B-16", str(copy))
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(1, 1))
    assert weights_identity("ViT-B-16", str(file)) != first


def test_identity_of_declared_weights() -> None:
    assert weights_identity("ViT-B-16", "openai") == "open_clip:ViT-B-16/openai"
    assert weights_identity("glyph-vit", "random:3") != weights_identity("glyph-vit", "random:4")
    assert weights_identity("glyph-vit", "builtin") == weights_identity("glyph-vit", str(BUILTIN_FILE))


def test_where_the_file_of_a_tag_lies_is_no_identity() -> None:
    tagged = weights_identity("ViT-B-16", "laion2b_s34b_b88k@/cache/of/me@home/open_clip_model.safetensors")
    assert tagged == weights_identity("ViT-B-16", "laion2b_s34b_b88k")


@pytest.mark.parametrize("path", ["a@b.pt", "me@home/clip.pt", "./a@/clip.pt", "clip.pt@/clip.safetensors"])
def test_a_path_with_an_at_sign_is_a_path(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_bytes(b"weights")
    for spelling in (path, str(tmp_path / path)):
        assert weights_identity("ViT-B-16", spelling) == f"sha256:{hashlib.sha256(b'weights').hexdigest()}"


def test_weights_that_cannot_be(tmp_path: Path) -> None:
    with refused("does not exist", where="absent.safetensors"):
        weights_identity("glyph-vit", str(tmp_path / "absent.safetensors"))
    with refused("'ViT-B-16'", "built-in"):
        weights_identity("ViT-B-16", "builtin")
    with pytest.raises(UserError, match="whole number"):
        weights_identity("glyph-vit", "random:x")

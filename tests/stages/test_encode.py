from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.errors import Interrupted
from bench.graph.build import build_graph
from bench.launch.work import Order, execute
from bench.models.backbones import backbone
from bench.stages import encode
from bench.stages.work import Compute
from bench.store.records import Store
from bench.suite.resolve import load_suite
from tests.videos import write_tiny_dataset

SUITE = """\
title: Encoded
datasets: {tiny: {root: ., classes: classes.csv, splits: {test: test.txt}}}
protocol: {templates: glyphs, views: {frames: 2}}
protocols: {closed-set: {role: closed-set, dataset: tiny}}
rows: {plain: {method: clip_mean}}
"""


def test_one_that_is_asked_to_stop_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BATCH", 2)
    monkeypatch.setattr(encode, "SHARD", 4)
    write_tiny_dataset(tmp_path, train=0, test=7)
    (tmp_path / "suite.yaml").write_text(SUITE)
    stages = build_graph(load_suite(tmp_path / "suite.yaml")).stages.values()
    order = next(Order.of(stage) for stage in stages if stage.kind == "encode")
    whole, cut = Store.create(tmp_path / "whole"), Store.create(tmp_path / "cut")
    compute = Compute("cpu", loader_workers=0)
    assert execute(order, whole, compute, {}) is None
    saved = []
    for stop_at in (1, 2, 1):
        asked = iter([False] * (stop_at - 1) + [True])
        with pytest.raises(Interrupted) as early:
            execute(order, cut, compute, {}, asked.__next__)
        saved.append((str(early.value), early.value.done))
    assert saved == [(f"saved {done} of 7 videos", done) for done in (2, 6, 7)]
    assert execute(order, cut, compute, {}) is None
    files = [store.folder(*order.key) / "features.safetensors" for store in (whole, cut)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("at_once", [1, 10, 1000])
def test_frames_meet_those_of_their_own_view_only(at_once: int) -> None:
    """An encoder that gives each frame the mean of all that it sees together, whatever number that is."""
    pixels_NVT3HW = torch.randint(256, (5, 2, 4, 3, 2, 2), dtype=torch.uint8)

    def mixing(views_MT3HW: Tensor) -> Tensor:
        return views_MT3HW.double().mean(dim=(1, 3, 4), keepdim=True).squeeze((3, 4)).expand(-1, 4, -1)

    features_NVTD = encode._encode(mixing, pixels_NVT3HW, at_once)["features"]
    own_NV3 = pixels_NVT3HW.double().mean(dim=(2, 4, 5)).float()
    torch.testing.assert_close(features_NVTD, own_NV3[:, :, None].expand(-1, -1, 4, -1))


def encoded(folder: Path, **recipe: object) -> tuple[str, Tensor]:
    """The identity and the features of the suite's videos under settings of the recipe."""
    file = folder / "suite.yaml"
    file.write_text(SUITE)
    stages = build_graph(load_suite(file, tuple(f"recipe.{name}={value}" for name, value in recipe.items()))).stages
    order = next(Order.of(stage) for stage in stages.values() if stage.kind == "encode")
    store = Store.create(folder / "store")
    assert execute(order, store, Compute("cpu", loader_workers=0), {}) is None
    return order.key[1], load_file(store.folder(*order.key) / "features.safetensors")["features"]


def test_precision_of_encoding_is_part_of_what_was_encoded(tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path, train=0, test=3)
    (plain, whole), (other, half) = encoded(tmp_path), encoded(tmp_path, encoding="bf16")
    assert encoded(tmp_path, encoding="fp32")[0] == plain != other
    assert half.dtype == torch.float32 and not torch.equal(half, whole)
    torch.testing.assert_close(F.normalize(half, dim=-1), F.normalize(whole, dim=-1), atol=0.02, rtol=0)


def test_compiled_blocks_encode_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing is what is tested, so a backend that needs no compiler of C++ takes the place of the usual one."""
    blocks: list[nn.Module] = []

    def compile(block: nn.Module) -> None:
        blocks.append(block)
        original(block, backend="eager")

    original = nn.Module.compile
    write_tiny_dataset(tmp_path, train=0, test=3)
    (plain, whole) = encoded(tmp_path)
    monkeypatch.setattr(nn.Module, "compile", compile)
    (other, compiled) = encoded(tmp_path, compile="true")
    assert other != plain and len(blocks) == backbone("glyph-vit").vision_layers
    torch.testing.assert_close(compiled, whole)

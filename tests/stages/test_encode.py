from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.core.errors import Interrupted
from bench.graph.build import build_graph
from bench.launch.work import Order, execute
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

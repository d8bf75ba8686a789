"""From records to what is said of experts: trials that share a stage are one, and what is not there yet is left out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bench.graph.build import ProbeCell
from bench.store.records import Store
from reports.collect_experts import collect_distances, collect_maps, collect_routing

CLASSES = ("star rising", "star falling")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def _trial(seed: int = 0, **point: object) -> Any:
    config = SimpleNamespace(routing_odds=(0.25, 0.75))
    return SimpleNamespace(row="mote", label="MoTE", point=tuple(point.items()), seed=seed, config=config)


def _stage(kind: str, identity: str) -> Any:
    texts = SimpleNamespace(context={"class_names": CLASSES})
    named = {"kind": kind, "identity": identity, "key": (kind, identity)}
    return SimpleNamespace(**named, spec={"feature": "t_frames"}, inputs={"texts": texts})


def _record(store: Store, stage: Any, result: dict[str, Any], **tensors: np.ndarray) -> None:
    with store.writing(stage.kind, stage.identity, {"result": result}) as out:
        save_file(tensors, out / f"{'counts' if stage.kind == 'train' else stage.kind}.safetensors")


def test_maps_have_class_names(store: Store) -> None:
    stage = _stage("maps", "m0")
    result = {"names": ["merged", "expert 0"], "videos": ["a.mp4"], "labels": [1], "predictions": [[1, 0]]}
    pixels, cosines = np.zeros((1, 4, 3, 8, 8), np.uint8), np.zeros((1, 2, 4, 2, 2), np.float32)
    _record(store, stage, result, pixels=pixels, cosines=cosines)
    (maps,) = collect_maps(
        [ProbeCell(_trial(), "K600", stage), ProbeCell(_trial(), "K600", _stage("maps", "m1"))], store
    )
    assert (maps.row, maps.seed, maps.protocol, maps.feature) == ("mote", 0, "K600", "t_frames")
    (clip,) = maps.clips
    assert (clip.video, clip.shown, clip.predicted) == ("a.mp4", "star falling", ("star falling", "star rising"))
    assert clip.pixels.shape == (4, 3, 8, 8) and clip.cosines.shape == (2, 4, 2, 2)


def test_points_that_share_a_training_are_one_named_by_what_they_share(store: Store) -> None:
    shared, other = _stage("weights", "w0"), _stage("weights", "w1")
    for stage in (shared, other):
        result = {"groups": ["all layers"], "parameters": [10], "experts": 2}
        _record(store, stage, result, distance=np.zeros((1, 2, 2)), cosine=np.ones((1, 2, 2)))
    cells = [ProbeCell(_trial(layers=4, alpha=alpha), "", shared) for alpha in (0.5, 1.0)]
    found = list(collect_distances([*cells, ProbeCell(_trial(layers=6, alpha=1.0), "", other)], store))
    assert [own.point for own in found] == ["layers 4", "layers 6, alpha 1.0"]
    assert found[0].groups == ("all layers",) and found[0].cosine.shape == (1, 2, 2)


def test_routing_is_every_pool_that_was_drawn_from(store: Store) -> None:
    stage, imported = _stage("train", "t0"), _stage("train", "t1")
    counts = np.array([[1, 3]])
    _record(store, stage, {}, routing=counts, routing_down=2 * counts, routing_never=0 * counts, clipped=counts)
    with store.writing(imported.kind, imported.identity, {"result": {}}):
        pass
    found = list(collect_routing([(_trial(), stage), (_trial(), stage), (_trial(), imported)], store))
    assert [own.pool for own in found] == ["routing", "routing_down"]
    assert found[1].counts.tolist() == [[2, 6]] and found[0].odds == (0.25, 0.75)

"""Launches for tests of submitting: stages that do nothing."""

from __future__ import annotations

from typing import Any

from bench.launch.launches import Launch, PlannedStage, create
from bench.launch.work import Order
from bench.store.records import Store

RESOURCES = {"time": 60, "cpus": 1}
SITE = {"signal": 20, "pack": 10, "pack_most": 100, "attempts": 3, "max_array": 1000}


def stage(name: str, *inputs: PlannedStage, kind: str = "train", seconds: float = 1.0, **more: Any) -> PlannedStage:
    keys = tuple(other.key for other in inputs)
    return PlannedStage(kind, name, f"{kind} {name}", keys, seconds, **{"resources": RESOURCES, **more})


def launched(store: Store, *stages: PlannedStage, suite: str = "tiny", **site: Any) -> Launch:
    """A launch on Slurm before its first submission."""
    from bench.launch.site import Site

    about = {
        "suite": suite,
        "file": f"/suites/{suite}.yaml",
        "folder": "/",
        "overrides": [],
        "compute": {"threads": 1},
        "provenance": {},
        "cached": 0,
        "on": "slurm",
        "environment": {},
        "site": Site(**{**SITE, **site}).model_dump(mode="json"),
        "driver": RESOURCES,
    }
    orders = [Order(s.kind, s.identity, s.title, {}, {}, {}, 1.0, (), "") for s in stages]
    return create(store, about, list(stages), orders)


def finish(store: Store, planned: PlannedStage) -> None:
    """Leave a record."""
    with store.writing(*planned.key, {}):
        pass

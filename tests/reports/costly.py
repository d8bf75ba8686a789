"""Costs of rows of the synthetic suites, in the format of a profile's record; numbers of no experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from reports.facts import Cost, Subject, TrainingCost
from reports.results import Results
from tests.reports import synthetic

MACHINE = {"device": "cpu (AVX512)", "threads": 2, "torch": "2.9.0", "clocks_mhz": None, "driver": None}
PRICES = {  # row: GFLOPs per video, ms per video, trainable parameters in millions
    "clip": (140.0, 210.0, 0.0),
    "mean": (140.5, 212.0, 86.2),
    "dense": (141.0, 230.0, 98.8),
    "mote": (141.3, 231.0, 111.4),
    "adapter": (152.0, 300.0, 7.1),
    "hostile": (282.0, 460.0, 0.3),
}


def profile(gflops: float = 141.0, ms: float = 230.0, trainable: float = 98.8, experts: int = 0) -> dict[str, Any]:
    """The result of a profile of one view; the head is a hundredth of it."""
    view = {"counted": round(gflops * 1e9), "closed": round(gflops * 1e9 / 1.001)}
    head = {"counted": round(gflops * 1e7), "closed": round(gflops * 1e7)}
    own = round(trainable * 1e6 / (experts + 1))
    seconds = {"p50": ms / 1000, "p95": ms / 900}
    shared = {"parameters": own, "flops": head, "latency": {"p50": ms / 1e5, "p95": ms / 9e4}}
    names = ["merged", *(f"expert {i}" for i in range(experts))] if experts else ["deployed"]
    choices = [{"name": name, **shared} for name in names]
    if experts:
        all_of_them = {kind: experts * flops for kind, flops in head.items()}
        choices.append({**shared, "name": "ensemble", "parameters": experts * own, "flops": all_of_them})
    entry = {"part": "video", "precision": "fp32", "batch": 1, **seconds, "runs": 20, "throughput": 1000 / ms}
    larger = {**entry, "batch": 8, "p50": 6 * ms / 1000, "p95": 7 * ms / 1000, "memory": 3 * 2**30}
    return {
        **{"backbone": "ViT-B-16", "frames": 8, "views": 1, "classes": 400},
        "parameters": {
            **{"total": 150_000_000, "towers": {"visual": 86_000_000, "text": 63_000_000}, "head": 12_600_000},
            **{"bound": 0, "trainable": round(trainable * 1e6), "active": 98_800_000, "expert": own if experts else 0},
        },
        "flops": {
            **{"view": view, "video": dict(view), "text": {"counted": 5_900_000_000, "closed": 5_900_000_000}},
            "training": {"counted": 3 * view["counted"]},
        },
        "modules": [
            {"name": "visual tower", **{kind: view[kind] - head[kind] for kind in view}},
            {"name": "head", **head},
        ],
        "experts": [
            {"name": f"expert {i}", "parameters": own, "training": 3 * head["counted"] * (i + 1) // 10}
            for i in range(experts)
        ],
        "choices": choices,
        "latency": [larger, {**entry, "memory": 2**30}, {**entry, "precision": "bf16", "p50": 0.1, "memory": 2**29}],
        "machine": MACHINE,
    }


def cost(row: str, point: str = "", label: str = "", **prices: Any) -> Cost:
    """A cost of a row; what is not given is that of a plain one."""
    result = profile(**prices)
    subject = Subject(row, label or synthetic.ROWS[row][0], point, f"profile-{row}-{point}")
    return Cost(subject, result, result["machine"])


def training(row: str, seed: int = 0, hours: float = 2.0, point: str = "", sharing: Sequence[str] = ()) -> TrainingCost:
    subject = Subject(row, synthetic.ROWS[row][0], point, f"{row}-{point}-{seed}", seed)
    return TrainingCost(subject, 3600 * hours, 3, "RTX 4090", tuple(sharing))


def costly() -> Results:
    """The plain suite with costs of all rows, experts of one, and the trainings of three seeds."""
    costs = [
        cost(row, gflops=gflops, ms=ms, trainable=trainable, experts=4 * (row == "mote"))
        for row, (gflops, ms, trainable) in PRICES.items()
    ]
    rows = product(("mean", "dense", "mote"), range(3))
    trainings = [training(row, seed, 2.0 + 0.1 * seed + 0.5 * (row == "mote")) for row, seed in rows]
    return replace(synthetic.plain(), costs=tuple(costs), trainings=tuple(trainings))

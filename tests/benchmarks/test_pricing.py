"""How true prices without records are: `python -m pytest tests/benchmarks/test_pricing.py --benchmark-only -s`.

Parts of suites of the embedded world in this process on one thread, whose processor time is compared with the price of
each kind of stage, so that other work on the machine counts little. Takes about 15 minutes on an idle core.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.graph.build import build_graph
from bench.graph.price import Speed, price
from bench.graph.stage import Stage
from bench.launch import local
from bench.launch.work import Order, execute
from bench.stages.work import Compute
from bench.store.records import Store
from bench.suite.resolve import SUITES, load_suite

PARTS = {  # suite, overrides, titles
    "quickstart": ("quickstart", (), ""),
    "depth": ("depth", ("recipe.epochs=10", "recipe.warmup_epochs=1"), "world=narrow layers=(1|4) seed 0"),
    "few-shot-table": (
        "few-shot-table",
        ("world=glyphs", "recipe.epochs=1"),
        "(train (msta|vidprism|dense|mote)|evaluate (msta|vidprism)) target=HMDB-51 shots=2 seed 0",
    ),
    "mote-table1": (
        "mote-table1",
        ("world=glyphs", "seeds=[0]", "recipe.epochs=4", "recipe.warmup_epochs=1"),
        "seed 0",
    ),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.create(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("part", PARTS)
def test_prices_are_true_within_a_factor_of_two(
    part: str, benchmark: BenchmarkFixture, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, overrides, titles = PARTS[part]
    graph, chosen = build_graph(load_suite(SUITES / f"{suite}.yaml", overrides)), dict[str, Stage]()

    def choose(stage: Stage) -> None:
        for other in stage.inputs.values():
            choose(other)
        chosen[stage.identity] = stage

    for stage in graph.stages.values():
        if re.search(titles, stage.title) and not store.done(*stage.key):
            choose(stage)
    for name in {stage.context["dataset"] for stage in chosen.values() if "dataset" in stage.context}:
        data: Any = graph.datasets[name]
        if data.missing():
            data.build(lambda *told: None, 1)
    priced, taken, counts = defaultdict[str, float](float), defaultdict[str, float](float), defaultdict[str, int](int)
    seconds = price([own for own in chosen.values() if not store.done(*own.key)], [], Speed("cpu"), 1).seconds

    def timed(order: Order, *more: Any) -> str | None:
        began = time.process_time()
        failed = execute(order, *more)
        taken[order.kind] += time.process_time() - began
        priced[order.kind] += seconds[order.identity]
        counts[order.kind] += 1
        return failed

    monkeypatch.setattr(local, "execute", timed)
    arguments: Any = [*chosen.values()], store, Compute("cpu"), 0, {}, lambda run: None
    assert not benchmark.pedantic(local.run_local, arguments, rounds=1).failed
    for kind, count in counts.items():
        print(f"\n{part:12} {kind:10} n {count:3}  priced {priced[kind]:6.1f} s  taken {taken[kind]:6.1f} s", end="")
    assert 0.5 < sum(priced.values()) / sum(taken.values()) < 2

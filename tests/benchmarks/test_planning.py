"""How fast planning is: `python -m pytest tests/benchmarks --benchmark-only`."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.graph import build_graph
from bench.identity import source_fingerprint
from bench.plan import make_plan
from bench.records import Store
from bench.suite import load_suite
from tests.suites import many_trials, write_suite


@pytest.mark.benchmark(group="planning")
def test_plan_of_10000_trials(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    suite = write_suite(tmp_path, text=many_trials())

    def plan() -> int:
        loaded = load_suite(suite)
        make_plan(build_graph(loaded), Store(tmp_path / "runs"))
        return len(loaded.trials)

    assert benchmark.pedantic(plan, rounds=3) == 10_000


@pytest.mark.benchmark(group="planning")
def test_fingerprint_of_a_training(benchmark: BenchmarkFixture) -> None:
    from bench import identity

    def fresh() -> str:
        for cached in (source_fingerprint, identity._file, identity._parse):
            cached.cache_clear()
        return source_fingerprint("bench.stages.train", "methods.mote.model")

    assert len(benchmark(fresh)) == 32

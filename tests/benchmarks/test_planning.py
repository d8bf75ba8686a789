"""How fast planning is: `python -m pytest tests/benchmarks --benchmark-only`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.core.identity import source_fingerprint
from bench.graph.build import build_graph
from bench.graph.plan import make_plan
from bench.graph.stage import identify
from bench.store.records import Store
from bench.suite.resolve import load_suite
from tests.suites import many_trials, write_suite

# Processor time, whatever else the machine does; without garbage collection, as the command plans.
TIMED = pytest.mark.benchmark(group="planning", timer=time.process_time, disable_gc=True)


@TIMED
def test_plan_of_10000_trials(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    suite = write_suite(tmp_path, text=many_trials())

    def plan() -> int:
        loaded = load_suite(suite)
        make_plan(build_graph(loaded), Store.create(tmp_path / "runs"))
        return len(loaded.trials)

    assert benchmark.pedantic(plan, rounds=3) == 10_000


@TIMED
def test_identity_of_a_stage(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Of an evaluation, whose fingerprint is known and whose parts are not."""
    stages = build_graph(load_suite(write_suite(tmp_path))).stages.values()
    evaluation = next(stage for stage in stages if stage.kind == "evaluate" and stage.spec["method"] == "mote")
    assert len(benchmark(lambda: identify(evaluation))) == 32


@TIMED
def test_fingerprint_of_a_training(benchmark: BenchmarkFixture) -> None:
    from bench.core import identity

    def fresh() -> str:
        identity.read_sources_again()
        identity._counted.cache_clear()
        return source_fingerprint("bench.stages.train", "methods.mote.model")

    assert len(benchmark(fresh)) == 32

"""The store and the report: `python -m pytest tests/benchmarks/test_records.py --benchmark-only -s`."""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import Path

import pandas as pd
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import video_transfer_bench as vtb
from bench.store.records import Store
from reports.collect import collect
from reports.page import write_report
from tests.reports import synthetic

TIMED = pytest.mark.benchmark(group="records", timer=time.process_time)  # whatever else the machine does

CONTEXT = {"class_names": [f"class {number}" for number in range(400)], "selection": ["kinetics-400", "val"]}


def write(store: Store, identity: str) -> None:
    """A record of an evaluation on 5,000 videos."""
    with store.writing("evaluate", identity, {"title": "one", "spec": {}, "context": CONTEXT, "inputs": {}}) as folder:
        (folder / "predictions.parquet").write_bytes(b"0" * 100_000)
        (folder / "scores.safetensors").write_bytes(b"0" * 1_000_000)


@TIMED
def test_writing_a_record(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    store, numbers = Store.create(tmp_path), count()
    benchmark.pedantic(lambda: write(store, f"{next(numbers):032x}"), rounds=50, warmup_rounds=2)
    assert len(store.known("evaluate")) == 52


@TIMED
def test_reading_a_record(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    write(store, "a" * 32)
    assert benchmark(lambda: store.read("evaluate", "a" * 32))["title"] == "one"


@TIMED
def test_verifying_a_file_of_256_MB(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Once in a process; after that it costs as little as reading the record."""
    store = Store.create(tmp_path)
    with store.writing("encode", "b" * 32, {}) as folder:
        (folder / "features.safetensors").write_bytes(bytes(256_000_000))
    file = store.folder("encode", "b" * 32) / "features.safetensors"
    times = count(1)
    benchmark.pedantic(
        lambda: store.read("encode", "b" * 32, None), setup=lambda: os.utime(file, (0, next(times))), rounds=5
    )


@TIMED
def test_a_report_of_10000_records(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """1,000 trials on 10 protocols: the table collected from the store, and its page."""
    suite, graph, store = synthetic.many_records(tmp_path)

    def report() -> Path:
        return write_report(collect(suite, graph, store, dict(synthetic.PROVENANCE)), tmp_path / "report")

    page = benchmark.pedantic(report, rounds=1)
    print(f"\n  the page has {page.stat().st_size / 1e6:.1f} MB")
    assert len(graph.cells) == 10_000


@TIMED
def test_a_frame_of_10000_results(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """What `vtb.results` takes after the first time: the suite is read and planned, and no record is."""
    synthetic.many_records(tmp_path)

    def results() -> pd.DataFrame:
        return vtb.results(tmp_path / "many.yaml", store=tmp_path / "runs").results

    first = results()
    assert benchmark.pedantic(results, rounds=3).equals(first) and len(first) == 10_000

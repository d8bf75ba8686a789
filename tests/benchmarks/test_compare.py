"""Runs of the benchmarks against each other: only of one machine, benchmark by benchmark."""

from __future__ import annotations

from typing import Any

import pytest

from tests.benchmarks.compare import Line, lines

CPU = {"brand_raw": "Xeon", "count": 2}


def run(when: int, node: str = "here", python: str = "3.11.7", **seconds: float) -> dict[str, Any]:
    """A saved run, as pytest-benchmark writes it."""
    return {
        "datetime": f"2026-01-0{when}T00:00:00",
        "machine_info": {"node": node, "cpu": CPU, "python_version": python},
        "benchmarks": [
            {"fullname": f"tests/benchmarks/test_it.py::{name}", "stats": {"min": least}, "extra_info": {}}
            for name, least in seconds.items()
        ],
    }


def test_each_benchmark_meets_the_last_run_that_has_it() -> None:
    found = lines([run(3, plan=1.0, read=2.0), run(1, plan=4.0, read=5.0, gone=1.0), run(2, plan=2.0)])
    assert found == [Line("test_it.py::plan", 2.0, 1.0, None), Line("test_it.py::read", 5.0, 2.0, None)]
    assert [line.ratio for line in found] == [0.5, 0.4]


@pytest.mark.parametrize("other", [("there", "3.11.7"), ("here", "3.12.0")])
def test_other_machines_are_not_compared_with(other: tuple[str, str]) -> None:
    (line,) = lines([run(1, *other, plan=4.0), run(2, plan=1.0)])
    assert line.last is None and line.ratio is None


def test_competitors_are_told_by_their_ratio_and_our_own_time() -> None:
    newest = run(1, head=9.0)
    newest["benchmarks"][0]["extra_info"] = {"ms": [250.0, 500.0], "ratio": 0.5}
    assert lines([newest]) == [Line("test_it.py::head", None, 0.25, 0.5)]
    assert lines([]) == []

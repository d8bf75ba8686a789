from __future__ import annotations

from typing import Any

from bench.store.attempts import Attempts, attempts_from


def attempts(*events: dict[str, Any]) -> Attempts:
    counted = [{"identity": "a", "time": float(time), **event} for time, event in enumerate(events)]
    return attempts_from(counted)["a"]


START, FAILED, DIED = {"event": "start"}, {"event": "failure", "final": False}, {"event": "death"}


def interrupted(done: int) -> dict[str, Any]:
    return {"event": "interrupted", "done": done}


def test_failures_and_deaths_count() -> None:
    found = attempts(START, FAILED, START, DIED)
    assert (found.spent, found.fatal, found.running) == (2, False, None)
    assert found.failure is not None
    assert found.failure["event"] == "death"


def test_an_attempt_that_left_no_outcome_counts_when_the_next_one_starts() -> None:
    found = attempts(START, START)
    assert found.spent == 1
    assert found.running is not None
    assert found.running["time"] == 1.0


def test_interruptions_count_only_without_progress() -> None:
    assert attempts(START, interrupted(5), START, interrupted(9)).spent == 0
    assert attempts(START, interrupted(5), START, interrupted(5), START, interrupted(4)).spent == 2


def test_a_failure_that_repeats_itself_is_fatal() -> None:
    assert attempts(START, {"event": "failure", "final": True}).fatal


def test_success_and_notes_cost_nothing() -> None:
    found = attempts(START, {"event": "note"}, {"event": "end"})
    assert (found.spent, found.running, found.failure) == (0, None, None)
    assert found.last is not None
    assert found.last["event"] == "end"

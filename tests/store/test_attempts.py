from __future__ import annotations

from typing import Any

from bench.store.attempts import History, collected


def history(*events: dict[str, Any]) -> History:
    told = [{"identity": "a", "time": float(time), **event} for time, event in enumerate(events)]
    return collected(told)["a"]


START, FAILED, DIED = {"event": "start"}, {"event": "failure", "final": False}, {"event": "death"}


def interrupted(done: int) -> dict[str, Any]:
    return {"event": "interrupted", "done": done}


def test_failures_and_deaths_count() -> None:
    found = history(START, FAILED, START, DIED)
    assert (found.spent, found.hopeless, found.started) == (2, False, None)
    assert found.failure is not None
    assert found.failure["event"] == "death"


def test_an_attempt_that_ended_without_a_word_counts_when_the_next_one_starts() -> None:
    found = history(START, START)
    assert found.spent == 1
    assert found.started is not None
    assert found.started["time"] == 1.0


def test_interruptions_count_only_without_progress() -> None:
    assert history(START, interrupted(5), START, interrupted(9)).spent == 0
    assert history(START, interrupted(5), START, interrupted(5), START, interrupted(4)).spent == 2


def test_a_failure_that_would_repeat_itself_is_hopeless() -> None:
    assert history(START, {"event": "failure", "final": True}).hopeless


def test_success_and_notes_cost_nothing() -> None:
    found = history(START, {"event": "note"}, {"event": "end"})
    assert (found.spent, found.started, found.failure) == (0, None, None)
    assert found.last is not None
    assert found.last["event"] == "end"

from __future__ import annotations

from typing import Any

import pytest

from bench.store.attempts import Attempts, attempts_from


def attempts(*events: dict[str, Any]) -> Attempts:
    counted = [{"identity": "a", "time": float(time), **event} for time, event in enumerate(events)]
    return attempts_from(counted)["a"]


START, FAILED, DIED = {"event": "start"}, {"event": "failure", "final": False}, {"event": "death"}


def interrupted(done: int, startup: float = 0.0, compute: float = 100.0) -> dict[str, Any]:
    return {"event": "interrupted", "done": done, "startup": startup, "compute": compute}


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


def test_an_interruption_that_was_mostly_start_up_counts_also_if_it_got_further() -> None:
    short = [each for step in (1, 2, 3) for each in (START, interrupted(step, startup=30.0, compute=9.0))]
    found = attempts(*short)
    assert found.spent == 3 and found.over(3) and found.failure == {**short[-1], "identity": "a", "time": 5.0}
    assert found.minutes_for(saving=180.0) == 5  # 4 x 30 s + 180 s
    assert attempts(START, interrupted(1, startup=30.0, compute=11.0)).spent == 0  # more than a quarter


def test_an_interruption_that_was_worth_its_start_up_makes_good_for_those_before() -> None:
    short, long = interrupted(1, startup=30.0, compute=5.0), interrupted(9, startup=30.0, compute=500.0)
    found = attempts(START, FAILED, START, short, START, long)
    assert (found.spent, found.over(2)) == (1, False)  # the failure stays
    assert attempts(START, short, START, long).failure is None


def test_what_all_attempts_took_is_known() -> None:
    used = {"startup": 20.0, "compute": 5.0, "memory": 3 << 30}
    found = attempts(
        {**START, "memory_asked": 4096},
        {**FAILED, **used},
        {**START, "memory_asked": 8192},
        {"event": "end", "startup": 4.0, "compute": 60.0, "memory": 1 << 30},
    )
    assert (found.started, found.startup, found.compute) == (2, 24.0, 65.0)
    assert (found.longest, found.slowest, found.memory, found.memory_asked) == (64.0, 20.0, 3 << 30, 4096)


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [
        ({**DIED, "state": "OUT_OF_MEMORY"}, 1),
        ({**DIED, "state": "NODE_FAIL"}, 0),
        ({**DIED, "reason": "ended without an error in job 7 (OUT_OF_MEMORY)"}, 1),
        ({**FAILED, "reason": "Traceback ...\nMemoryError"}, 1),
        ({**FAILED, "reason": "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory"}, 1),
        ({**FAILED, "reason": "torch.OutOfMemoryError: CUDA out of memory"}, 0),  # more of the host's is no help
        ({**FAILED, "reason": "KeyError: 'x'"}, 0),
    ],
)
def test_attempts_that_ran_out_of_memory_are_counted(outcome: dict[str, Any], counts: int) -> None:
    found = attempts(START, outcome)
    assert (found.out_of_memory, found.spent) == (counts, 1)


def test_what_a_fault_of_the_machine_ended_is_not_spent() -> None:
    found = attempts(START, {**DIED, "machine": True}, START, {**FAILED, "machine": True})
    assert (found.spent, found.running, found.failure, found.started) == (0, None, None, 2)


def test_what_was_before_a_retry_tells_of_memory_and_costs_nothing() -> None:
    asked: dict[str, Any] = {"event": "start", "memory_asked": 1000}
    killed: dict[str, Any] = {"event": "death", "state": "OUT_OF_MEMORY", "memory": 7}
    events = [asked, killed, asked, killed, {"event": "failure", "final": True}, START, killed]
    counted = [{"identity": "a", "time": float(time), **event} for time, event in enumerate(events)]
    found = attempts_from(counted, since=5.0)["a"]
    assert (found.out_of_memory, found.forgiven, found.memory, found.memory_asked) == (3, 2, 7, 1000)
    assert (found.started, found.spent, found.fatal) == (1, 1, False)
    assert found.over(1) and not found.over(1, grows=True)

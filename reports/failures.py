"""What failed on the way to a suite's results, from the log of attempts: a failure is never a record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.shown import Grid

if TYPE_CHECKING:
    from reports.results import Results

HEADS = {"Stage": False, "Attempts": True, "Failed": True, "Now": False, "Last reason": False}
CAPTION = (
    "Stages of this suite that failed at least once, from the store's log of attempts, with the last line of what the "
    "last failure said."
)


@dataclass(frozen=True)
class Failure:
    """A stage that failed `failures` times in `attempts`; `reason`: the last line of the last one's message.

    `done`: whether a later attempt left its record.
    """

    title: str
    attempts: int
    failures: int
    reason: str
    done: bool


def failure_grids(results: Results) -> Iterator[Grid]:
    """The failures as a table, those without a record first; nothing if there are none."""
    failures = sorted(results.failures, key=lambda failure: failure.done)
    rows = tuple(
        (own.title, str(own.attempts), str(own.failures), "done" if own.done else "no record", own.reason)
        for own in failures
    )
    if rows:
        yield Grid("missing", "failures", CAPTION, HEADS, rows)

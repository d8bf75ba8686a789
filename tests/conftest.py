"""Order of the tests: whole suites last, so that a small mistake shows within seconds; and what many of them need."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

LONGEST = "test_interruption"  # three minutes, which others can fill if it does not come last


def pytest_configure() -> None:
    """Interrupts reach what tests start, even if pytest itself was started where they are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ("integration" in item.nodeid, LONGEST not in item.nodeid))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Equal bits are promised at equal thread counts only; trainings ask for deterministic algorithms."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)

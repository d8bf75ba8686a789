"""Order of the tests: whole suites last, so that a small mistake shows within seconds; and what many of them need."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.scenes import EVALUATE, OTHER, TEXTS, TRAIN, Scene

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


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Texts in job 1, two trainings in an array 2, an evaluation in job 3, the finalizer in 9; none is in the queue."""
    scene = Scene(tmp_path, monkeypatch, TEXTS, TRAIN, OTHER, EVALUATE)
    scene.submit("1", [0])
    scene.submit("2", [1], [2])
    scene.submit("3", [3])
    scene.submit("9", [], finalizer=True)
    return scene

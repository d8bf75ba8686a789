"""Shared by all tests: folders and settings of their own, the order, the mark `slow`, fixtures of several rooms."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.scenes import EVALUATE, OTHER, TEXTS, TRAIN, Scene
from tests.trained import Trained, train

# Folders and modules that train, decode in processes that hang or die, draw figures by the dozen, or run whole suites.
SLOW = (
    *(
        "benchmarks/",
        "care/",
        "checkpoints/",
        "contract/",
        "integration/",
        "stages/",
        "tools/",
        "video_transfer_bench/",
    ),
    *(
        "video/test_loader",
        "video/test_pool",
        "video/test_robustness",
        "commands/test_profile",
        "commands/test_predict",
        "measure/test_flops",
    ),
    *(f"reports/test_{module}" for module in ("cost_figures", "experts", "figures", "page", "print", "table")),
)
LONGEST = ("test_contract", "test_end_to_end", "test_template", "test_interruption")  # minutes, which the others fill

CACHE = os.environ.get("VTB_CACHE")


def pytest_configure() -> None:
    """Interrupts reach what tests start, even if pytest itself was started where they are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a small mistake shows within seconds. Then the longest files, so that none ends alone."""
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: (item.get_closest_marker("slow") is not None, item.path.stem not in LONGEST))


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test meets the user's cache, store, datasets or site, or finds what another run left there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("VTB_DATA", "VTB_SITE", "VTB_STORE"):
            patch.delenv(name, raising=False)
        patch.setenv("VTB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(os, "execve", None)  # it would put a command in the place of the tests
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("settings")))
        yield


@pytest.fixture
def users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """For suites of the embedded world at its real size, whose videos take half a minute to make."""
    monkeypatch.setenv("VTB_CACHE", CACHE) if CACHE else monkeypatch.delenv("VTB_CACHE")


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without pictures, which take most of a small suite's time; for what is about everything else."""
    from reports import page

    monkeypatch.setattr(page, "FIGURES", ())


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A finished store of four rows, one of them tuned, on a tiny dataset; only to be read."""
    from reports import page

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "FIGURES", ())
        return train(tmp_path_factory.mktemp("trained"))


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
    """Texts in job 1, two trainings in an array 2, an evaluation in job 3, the driver in 9; none is in the queue."""
    scene = Scene(tmp_path, monkeypatch, TEXTS, TRAIN, OTHER, EVALUATE)
    scene.submit("1", [0])
    scene.submit("2", [1], [2])
    scene.submit("3", [3])
    scene.submit("9", [], driver=True)
    return scene

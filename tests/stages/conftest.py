"""What all tests of trainings start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from methods.registry import PLUGINS, methods
from tests.stages.trainings import prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs of trainings in miniature."""
    made = tmp_path_factory.mktemp("trainings")
    prepare(made)
    return made


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The method with a teacher, here and in processes that a test starts."""
    monkeypatch.setenv(PLUGINS, "tests.stages.taught")
    methods.cache_clear()
    yield
    methods.cache_clear()

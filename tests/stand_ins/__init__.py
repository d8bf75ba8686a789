"""Methods that are shipped nowhere, for what the contract allows and no built-in method does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from methods.registry import PLUGINS, methods, use_plugins

PACKAGES = ("tests.stand_ins.both_towers", "tests.stand_ins.every_prompt", "tests.stand_ins.taught")


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All of them are registered while a test runs."""
    with monkeypatch.context() as patch:
        patch.setenv(PLUGINS, "")
        use_plugins(PACKAGES)
        yield
    methods.cache_clear()

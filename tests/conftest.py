"""Order of the tests: whole suites last, so that a small mistake shows within seconds."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "integration" in item.nodeid)

"""What all tests of trainings start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.trainings import prepare
from tests.stand_ins import stand_ins

__all__ = ["stand_ins"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs of trainings in miniature."""
    made = tmp_path_factory.mktemp("trainings")
    prepare(made)
    return made

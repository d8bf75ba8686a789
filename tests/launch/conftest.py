"""What tests of launches start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.scenes import EVALUATE, OTHER, TEXTS, TRAIN, Scene


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Texts in job 1, two trainings in an array 2, an evaluation in job 3, 9 to close; none is in the queue."""
    scene = Scene(tmp_path, monkeypatch, TEXTS, TRAIN, OTHER, EVALUATE)
    scene.submit("1", [0])
    scene.submit("2", [1], [2])
    scene.submit("3", [3])
    scene.submit("9", [], closing=True)
    return scene

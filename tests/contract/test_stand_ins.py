"""Methods that use all that the contract allows keep it as well; `--plugin` finds what is installed nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stand_ins import PACKAGES


@pytest.mark.slow
def test_they_keep_the_contract() -> None:
    chosen = [word for package in PACKAGES for word in ("--plugin", package, "--method", package.rpartition(".")[2])]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conformance.plugin", *chosen, "--pyargs", "conformance"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert " passed" in done.stdout

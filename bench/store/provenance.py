"""Provenance of records: revision, command, versions, host. Never part of an identity."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "open_clip_torch", "decord", "av", "numpy", "pandas", "video-transfer-bench")
DECISIVE = ("torch", "open_clip_torch")  # half a training by one version and half by another has no meaning

Provenance = dict[str, Any]


def provenance() -> Provenance:
    """The part of the provenance that all stages of a launch share."""
    return {
        "revision": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def other_versions(recorded: Mapping[str, str]) -> str:
    """How the versions of DECISIVE packages differ from recorded ones; empty if the releases are the same.

    Builds of one release, such as 2.9.0+cpu and 2.9.0+cu128, count as the same.
    """
    now = {name: _version(name) or "not installed" for name in DECISIVE if name in recorded}
    return ", ".join(
        f"{name} {recorded[name]} then, {own} now"
        for name, own in now.items()
        if own.partition("+")[0] != recorded[name].partition("+")[0]
    )


def decisive_versions() -> dict[str, str]:
    """The versions of DECISIVE packages now."""
    return {name: found for name in DECISIVE if (found := _version(name))}


def _git(*arguments: str) -> str | None:
    """Output of a git command in the project's checkout; None if there is no checkout."""
    try:
        run = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

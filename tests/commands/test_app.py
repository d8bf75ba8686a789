"""The command line apart from suites: lists, help, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.commands.app import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("methods", ["clip_mean", "text4vis", "dense_temporal", "mote"]),
        ("suites", ["quickstart", "depth", "interpolation"]),
        ("datasets", ["glyphs-narrow", "glyphs-broad-both", "ucf101  train1 9,537", "$VTB_DATA is not set"]),
        ("protocols", ["mote/...", ".../ucf101-3split", "mean over test1, test2, test3"]),
    ],
)
def test_list(
    what: str, expected: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VTB_DATA", raising=False)
    assert main(["list", what]) == 0
    printed = capsys.readouterr().out
    assert [name for name in expected if name not in printed] == []


@pytest.mark.parametrize("arguments", [["plan"], ["list", "everything"], ["plan", "quickstart", "--jobs"]])
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_help_lists_and_gc_import_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from bench.commands.app import main; main(['--help']); main(['list', 'methods']); "
        f"main(['gc', '--store', {str(tmp_path)!r}, '--cache', 'none', '--dry-run']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'submitit')))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "Usage" in run.stdout and "mote" in run.stdout and "nothing to remove" in run.stdout

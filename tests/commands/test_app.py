"""The command line apart from suites: lists, help, exit codes."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.commands.app import main
from bench.core.processes import Stopped
from tests.errors import says

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


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lst", "did you mean the command 'list'?"),
        ("quikstart", "did you mean the suite 'quickstart'?"),
        ("main-tabel", "did you mean the suite 'main-table'?"),
        ("xyzzy", "`list suites` shows"),
    ],
)
def test_a_word_that_is_neither_command_nor_suite(word: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word, "methods"]) == 2
    says(capsys.readouterr().err, f"'{word}'", "allowed: run, plan", meant)


def test_help_lists_and_gc_import_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from bench.commands.app import main; main(['--help']); main(['list', 'methods']); "
        f"main(['gc', '--store', {str(tmp_path)!r}, '--cache', 'none', '--dry-run']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'submitit')))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "Usage" in run.stdout and "mote" in run.stdout and "nothing to remove" in run.stdout


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ["No space left"]),
        (OSError(errno.EROFS, "Read-only file system", "/store/launches"), ["/store/launches", "Read-only"]),
        (PermissionError(errno.EACCES, "Permission denied", "/cache"), ["/cache", "denied"]),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/store/x"), ["/store/x"]),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 300), ["n" * 300]),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    error: OSError, named: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("bench.commands.suites.open_suite", fail)
    assert main(["plan", "quickstart"]) == 2
    message = capsys.readouterr().err
    says(message, "error: ", *named)
    assert message.count("\n") == 1


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "No such file", "x"), OSError("odd"), KeyError("x")])
def test_errors_of_the_program_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("bench.commands.suites.open_suite", fail)
    with pytest.raises(type(error)):
        main(["plan", "quickstart"])


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ([], "to go on, run it again:\n  vtb plan quickstart\n"),
        (["retry", "a", "--here"], "to go on:\n  vtb retry a --here\n"),
    ],
)
def test_what_a_signal_stops_says_how_to_go_on(
    instead: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*arguments: object) -> None:
        raise Stopped(signal.SIGINT, instead)

    monkeypatch.setattr("bench.commands.suites.open_suite", stop)
    monkeypatch.setattr(sys, "argv", ["vtb"])
    monkeypatch.setattr("bench.core.words.which", lambda name: name)
    assert main(["plan", "quickstart"]) == 130
    assert capsys.readouterr().err == f"stopped by SIGINT; {said}"

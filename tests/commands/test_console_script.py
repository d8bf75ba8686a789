"""The program `vtb`: its name in what it prints, its version, completion, and what its wheel holds."""

from __future__ import annotations

import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from setuptools import Distribution

from bench.commands.app import main
from bench.commands.options import shipped
from bench.core.words import typed

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_console_script_is_the_command_line() -> None:
    module, _, name = PROJECT["scripts"]["vtb"].partition(":")
    assert getattr(import_module(module), name) is main


@pytest.mark.parametrize("script", ["/somewhere/bin/vtb", "run_suite.py"])
def test_help_names_the_program_as_typed(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "plan", "--help"])
    assert main() == 0
    assert f"Usage: {Path(script).name} plan " in capsys.readouterr().out


def test_commands_to_paste_name_the_script_that_the_shell_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/vtb"])
    monkeypatch.setattr("bench.core.words.which", {"vtb": "/somewhere/bin/vtb"}.get)
    assert typed("status", "a b") == "vtb status 'a b'"
    monkeypatch.setattr("bench.core.words.which", {"vtb": "/other/bin/vtb"}.get)
    assert typed("status") == "/somewhere/bin/vtb status"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"video-transfer-bench {PROJECT['version']}\n"


@pytest.mark.parametrize(("line", "words"), [("vtb pl", ["plan"]), ("vtb plan quick", ["quickstart"])])
def test_shells_complete_commands_and_suites(
    line: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vtb"])
    for name, value in {
        "_VTB_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": len(line.split()) - 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    assert main() == 0
    assert capsys.readouterr().out.split() == words
    assert "quickstart" in shipped()


def test_the_wheel_holds_every_file_of_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    wheel = Distribution({"script_name": "setup.py"})
    wheel.parse_config_files()
    wheel.get_command_obj("egg_info").egg_base = str(tmp_path)
    build = wheel.get_command_obj("build_py")
    build.build_lib = str(tmp_path / "lib")
    build.ensure_finalized()
    held = {Path(path).relative_to(tmp_path / "lib").as_posix() for path in build.get_outputs(include_bytecode=False)}
    files = [
        path
        for top in ("bench", "conformance", "methods", "reports", "suites", "video_transfer_bench")
        for path in Path(top).rglob("*.*")
    ]
    files = [path for path in files if path.is_file() and "__pycache__" not in path.parts]
    assert held == {*map(Path.as_posix, files), "run_suite.py"}
